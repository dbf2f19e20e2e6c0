//! The user of a conversation: what the microphone takes, 20 ms at a time.
//!
//! Pure: whoever has a clock asks for a packet every 20 ms and says how long a reply has been heard.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;

use crate::scenario::{Interruption, Scenario};
use crate::voice::{Line, PACKET, WIRE_RATE_HZ};

/// Length of a packet.
pub const PACKET_TIME: Duration = Duration::from_millis(20);

/// 20 ms of the microphone.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// [`PACKET`] samples.
    pub samples: Vec<i16>,
    /// Voices that begin or end in it.
    pub marks: Vec<Mark>,
}

/// A voice begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which of the things said, from 0.
    pub said: usize,
    /// Its first voiced sample, or its last.
    pub edge: Edge,
    /// Where in the packet that sample ends.
    pub at: Duration,
}

/// An end of a voice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The first voiced sample.
    First,
    /// The last one.
    Last,
}

/// See the module.
#[derive(Debug)]
pub struct Speaker<'a> {
    turns: VecDeque<Turn<'a>>,
    state: State,
    said: usize,
    skipped: usize,
    given: usize,
    /// Packets at least: who has said everything stays and listens.
    stays: usize,
}

#[derive(Debug)]
struct Turn<'a> {
    line: Option<&'a Line>,
    interrupts: Option<Interruption>,
    quiet_packets: usize,
}

#[derive(Debug)]
enum State {
    /// Silent for so many packets more.
    Quiet(usize),
    /// Listening for a reply to interrupt, for so many packets already.
    Waiting(usize),
    /// The next sample of the line is this one.
    Saying(usize),
}

impl<'a> Speaker<'a> {
    /// Somebody who will say all of a scenario; `random` draws the pauses.
    pub fn new(scenario: &'a Scenario, random: &mut impl Rng) -> Self {
        let mut turns = VecDeque::new();
        for (entry, line) in scenario.file.user.iter().zip(&scenario.lines) {
            for _ in 0..entry.repeat {
                let quiet_s = entry.quiet_s + entry.quiet_jitter_s * random.random::<f64>();
                turns.push_back(Turn {
                    line: line.as_ref(),
                    interrupts: entry.interrupts,
                    quiet_packets: (quiet_s / PACKET_TIME.as_secs_f64()).round() as usize,
                });
            }
        }
        let mut speaker = Self { turns, state: State::Quiet(0), said: 0, skipped: 0, given: 0, stays: 0 };
        speaker.begin();
        speaker
    }

    /// The same, who stays for so long at least, in silence if need be.
    #[must_use]
    pub fn staying(self, time: Duration) -> Self {
        Self { stays: time.div_duration_f64(PACKET_TIME).ceil() as usize, ..self }
    }

    /// Interruptions that found nothing to interrupt and were not said.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// What the last packet belongs to interrupts a reply.
    pub fn interrupts(&self) -> bool {
        self.turns.front().is_some_and(|turn| turn.interrupts.is_some())
    }

    /// The next 20 ms; `None` when all is said. `heard`: for how long the reply that sounds now has been heard.
    pub fn next(&mut self, heard: Option<Duration>) -> Option<Packet> {
        self.skip_quiet();
        let silence = Packet { samples: vec![0; PACKET], marks: vec![] };
        self.given += 1;
        let Some(Turn { line, interrupts, quiet_packets }) = self.turns.front() else {
            return (self.given <= self.stays).then_some(silence);
        };
        match &mut self.state {
            State::Quiet(left) => {
                *left -= 1;
                Some(silence)
            }
            State::Waiting(packets) => {
                let Interruption { after_s, wait_s } = interrupts.expect("only interruptions wait. This is a bug.");
                *packets += 1;
                if heard.is_some_and(|heard| heard.as_secs_f64() >= after_s) {
                    self.state = State::Saying(0);
                } else if PACKET_TIME.as_secs_f64() * *packets as f64 >= wait_s {
                    // Nothing to interrupt: nothing is said.
                    self.skipped += 1;
                    self.state = State::Quiet(*quiet_packets);
                }
                Some(silence)
            }
            State::Saying(at) => {
                let line = line.expect("silence says nothing. This is a bug.");
                let packet = packet_of(line, *at, self.said);
                *at += PACKET;
                if *at >= line.samples.len() {
                    self.said += 1;
                    self.state = State::Quiet(*quiet_packets);
                }
                Some(packet)
            }
        }
    }

    /// Goes on to what is said next, past turns without a packet.
    fn skip_quiet(&mut self) {
        while matches!(self.state, State::Quiet(0)) && !self.turns.is_empty() {
            self.turns.pop_front();
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.state = match self.turns.front() {
            Some(Turn { interrupts: Some(_), .. }) => State::Waiting(0),
            Some(Turn { line: Some(_), .. }) => State::Saying(0),
            Some(turn) => State::Quiet(turn.quiet_packets),
            None => State::Quiet(0),
        };
    }
}

fn packet_of(line: &Line, from: usize, said: usize) -> Packet {
    let to = line.samples.len().min(from + PACKET);
    let mut samples = line.samples[from..to].to_vec();
    samples.resize(PACKET, 0);
    let edges = [(Edge::First, line.voiced.start), (Edge::Last, line.voiced.end - 1)];
    let marks = edges.into_iter().filter(|(_, sample)| (from..from + PACKET).contains(sample)).map(|(edge, sample)| {
        let at = Duration::from_secs_f64((sample - from + 1) as f64 / f64::from(WIRE_RATE_HZ));
        Mark { said, edge, at }
    });
    Packet { samples, marks: marks.collect() }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::scenario::ScenarioFile;

    fn scenario(users: &str, line: &Line) -> Scenario {
        let file = ScenarioFile::parse(&format!("about = \"x\"\n{users}")).unwrap();
        let lines = file.user.iter().map(|entry| entry.wav.as_ref().map(|_| line.clone())).collect();
        Scenario { name: "x".into(), file, lines, picture: None }
    }

    fn line() -> Line {
        Line { samples: vec![1; 1_000], voiced: 100..990 }
    }

    fn packets(scenario: &Scenario, heard: impl Fn(usize) -> Option<Duration>) -> Vec<Packet> {
        let mut speaker = Speaker::new(scenario, &mut ChaCha8Rng::seed_from_u64(1));
        (0..).map_while(|index| speaker.next(heard(index))).collect()
    }

    #[test]
    fn a_line_is_said_whole_and_its_edges_are_marked() {
        let line = line();
        let scenario = scenario("[[user]]\nwav = \"a\"\nquiet_s = 0.1\nrepeat = 2\n", &line);
        let all = packets(&scenario, |_| None);
        assert_eq!(all.len(), 2 * (3 + 5));
        let sound: usize = all.iter().flat_map(|packet| &packet.samples).filter(|&&sample| sample == 1).count();
        assert_eq!(sound, 2_000);
        let marks: Vec<_> = all
            .iter()
            .enumerate()
            .flat_map(|(index, packet)| packet.marks.iter().map(move |mark| (index, mark.said, mark.edge)))
            .collect();
        assert_eq!(marks, [(0, 0, Edge::First), (2, 0, Edge::Last), (8, 1, Edge::First), (10, 1, Edge::Last)]);
        assert_eq!(all[2].marks[0].at, Duration::from_secs_f64(30.0 / 24_000.0));
    }

    #[test]
    fn an_interruption_waits_for_a_reply_or_is_left_out() {
        let line = line();
        let text = "[[user]]\nwav = \"a\"\nquiet_s = 0.1\ninterrupts = { after_s = 0.1, wait_s = 0.4 }\n";
        let scenario = scenario(text, &line);
        let mut patient = Speaker::new(&scenario, &mut ChaCha8Rng::seed_from_u64(1));
        while patient.next(None).is_some() {}
        assert_eq!(patient.skipped(), 1);
        let in_vain = packets(&scenario, |_| None);
        assert_eq!((in_vain.len(), in_vain.iter().all(|packet| packet.marks.is_empty())), (20 + 5, true));
        let heard = packets(&scenario, |index| (index >= 4).then(|| PACKET_TIME * (index as u32 - 4)));
        let begins = heard.iter().position(|packet| !packet.marks.is_empty());
        assert_eq!((begins, heard.len()), (Some(10), 10 + 3 + 5));
    }

    #[test]
    fn who_has_said_everything_stays() {
        let line = line();
        let scenario = scenario("[[user]]\nquiet_s = 0.1\n", &line);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for (stays_ms, packets) in [(0, 5), (90, 5), (400, 20)] {
            let mut speaker = Speaker::new(&scenario, &mut random).staying(Duration::from_millis(stays_ms));
            assert_eq!(std::iter::from_fn(|| speaker.next(None)).count(), packets);
        }
    }

    #[test]
    fn pauses_are_drawn_and_repeat_with_the_seed() {
        let line = line();
        let scenario = scenario("[[user]]\nquiet_s = 0.1\nquiet_jitter_s = 1.0\nrepeat = 8\n", &line);
        let count = |seed| {
            let mut speaker = Speaker::new(&scenario, &mut ChaCha8Rng::seed_from_u64(seed));
            std::iter::from_fn(|| speaker.next(None)).count()
        };
        assert_eq!(count(1), count(1));
        assert_ne!(count(1), count(2));
        assert!((8 * 5..=8 * 56).contains(&count(3)));
    }
}
