//! The page's jitter buffer, played by the clock of whoever calls.

use std::collections::VecDeque;
use std::time::Duration;

use duologue_proto::live::Playback;

use super::{AUDIBLE, Sounds};

/// Audio that must wait before a turn starts; also the lowest adapted delay.
const START_MS: usize = 70;
/// The highest adapted delay.
const MOST_MS: usize = 300;
/// Delay added by a gap. The page takes it back when it has played 10 s without one, this does not.
const GAP_STEP_MS: usize = 25;
/// Length of a fade out.
const FADE_MS: usize = 5;
/// More is never kept: what arrives beyond it is dropped.
const CAPACITY_S: usize = 60;

#[derive(Debug)]
struct Segment {
    turn: u64,
    start_ms: u64,
    samples: Vec<i16>,
    offset: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Buffer {
    rate_hz: usize,
    /// Samples played since the conversation began: the clock.
    clock: u64,
    queue: VecDeque<Segment>,
    buffered: usize,
    /// Audio of turns below is never heard again.
    fence: u64,
    /// Turns below are complete.
    done: u64,
    held: bool,
    playing: bool,
    /// Samples that the queue has been filling for.
    waited: usize,
    target: usize,
    /// The turn that ran dry, and for how many samples already.
    starved: Option<(u64, usize)>,
    /// Turn and milliseconds of it that were played.
    head: Option<(u64, f64)>,
    sounds: Sounds,
}

impl Buffer {
    /// An empty one.
    pub fn new(rate_hz: u32) -> Self {
        let rate_hz = rate_hz as usize;
        Self {
            rate_hz,
            clock: 0,
            queue: VecDeque::new(),
            buffered: 0,
            fence: 0,
            done: 0,
            held: false,
            playing: false,
            waited: 0,
            target: START_MS * rate_hz / 1000,
            starved: None,
            head: None,
            sounds: Sounds::new(),
        }
    }

    /// Audio arrived.
    pub fn push(&mut self, now: Duration, turn: u64, start_ms: u64, samples: Vec<i16>) {
        self.advance(now);
        if turn < self.fence || self.buffered + samples.len() > CAPACITY_S * self.rate_hz {
            return;
        }
        self.sounds.entry(turn).or_default().arrived_at.get_or_insert(now);
        self.buffered += samples.len();
        self.queue.push_back(Segment { turn, start_ms, samples, offset: 0 });
    }

    /// All audio of a turn has come: an empty queue is its end and no gap.
    pub fn done(&mut self, now: Duration, turn: u64) {
        self.advance(now);
        self.done = self.done.max(turn + 1);
        self.starved = self.starved.filter(|(starved, _)| *starved > turn);
    }

    /// Drops all of the turns below `turn`; what sounds fades out.
    pub fn flush(&mut self, now: Duration, turn: u64) {
        self.advance(now);
        self.fence = self.fence.max(turn);
        if self.playing && self.queue.front().is_some_and(|head| head.turn < self.fence) {
            self.fade_out();
            self.waited = 0;
        }
        self.queue.retain(|segment| segment.turn >= self.fence);
        self.buffered = self.queue.iter().map(|segment| segment.samples.len() - segment.offset).sum();
        self.held = false;
        // It had run dry and never went on.
        if let Some((turn, samples)) = self.starved.take_if(|(starved, _)| *starved < self.fence) {
            let gap = Duration::from_secs_f64(samples as f64 / self.rate_hz as f64);
            self.sounds.entry(turn).or_default().gaps.push(gap);
        }
    }

    /// Pauses at once and keeps the queue.
    pub fn hold(&mut self, now: Duration, turn: u64) {
        self.advance(now);
        if turn < self.fence || self.held {
            return;
        }
        self.held = true;
        if self.playing {
            self.fade_out();
            // What was kept may go on at once.
            self.waited = self.target;
        }
    }

    /// Goes on.
    pub fn unhold(&mut self, now: Duration) {
        self.advance(now);
        self.held = false;
    }

    /// Plays up to `now`.
    pub fn advance(&mut self, now: Duration) {
        let until = (now.as_secs_f64() * self.rate_hz as f64) as u64;
        while self.clock < until {
            let left = (until - self.clock) as usize;
            let passed = if self.playing { self.play(left) } else { self.wait(left) };
            self.clock += passed as u64;
        }
    }

    /// The turn that sounds.
    pub fn playing(&self) -> Option<u64> {
        self.head.filter(|_| self.playing).map(|(turn, _)| turn)
    }

    /// The play head.
    pub fn head(&self) -> Option<Playback> {
        let (turn, played_ms) = self.head?;
        let waits = self.queue.iter().filter(|segment| segment.turn == turn);
        let buffered: usize = waits.map(|segment| segment.samples.len() - segment.offset).sum();
        Some(Playback { turn, played_ms, buffered_ms: buffered as f64 * 1e3 / self.rate_hz as f64 })
    }

    /// What was heard so far.
    pub fn sounds(&self) -> &Sounds {
        &self.sounds
    }

    /// Lets at most `left` samples of silence pass, fewer if a turn may start before; returns how many.
    fn wait(&mut self, left: usize) -> usize {
        let passed = match self.queue.front() {
            _ if self.held => left,
            None => left,
            Some(head) if self.buffered >= self.target || self.waited >= self.target || head.turn < self.done => {
                let turn = head.turn;
                self.start(turn);
                0
            }
            Some(_) => {
                let passed = left.min(self.target - self.waited);
                self.waited += passed;
                passed
            }
        };
        if let Some((_, samples)) = self.starved.as_mut().filter(|_| !self.held) {
            *samples += passed;
        }
        passed
    }

    fn start(&mut self, turn: u64) {
        let now = self.time(0);
        let sound = self.sounds.entry(turn).or_default();
        sound.played_at.get_or_insert(now);
        if let Some((starved, samples)) = self.starved.take()
            && starved == turn
        {
            sound.gaps.push(Duration::from_secs_f64(samples as f64 / self.rate_hz as f64));
            self.target = (self.target + GAP_STEP_MS * self.rate_hz / 1000).min(MOST_MS * self.rate_hz / 1000);
        }
        self.waited = 0;
        self.playing = true;
    }

    /// Plays at most `left` samples of what is first in the queue; returns how many.
    fn play(&mut self, left: usize) -> usize {
        let Some(head) = self.queue.front() else {
            self.run_dry();
            return 0;
        };
        let (turn, offset) = (head.turn, head.offset);
        let count = left.min(head.samples.len() - offset);
        let played = &head.samples[offset..offset + count];
        let loud = |sample: &i16| f32::from(*sample).abs() > AUDIBLE * 32_768.0;
        let edges = played.iter().position(loud).zip(played.iter().rposition(loud));
        if let Some((first, last)) = edges {
            let (first, last) = (self.time(first), self.time(last + 1));
            let sound = self.sounds.entry(turn).or_default();
            sound.audible_at.get_or_insert(first);
            sound.silent_at = Some(last);
        }
        self.take(count);
        count
    }

    /// The queue is empty: the end of a turn, or a gap if the turn goes on later.
    fn run_dry(&mut self) {
        self.playing = false;
        self.waited = 0;
        let turn = self.head.map_or(0, |(turn, _)| turn);
        self.starved = (turn >= self.done).then_some((turn, 0));
    }

    /// The next 5 ms are played, and after them nothing.
    fn fade_out(&mut self) {
        let mut left = FADE_MS * self.rate_hz / 1000;
        while left > 0 && !self.queue.is_empty() {
            let count = self.play(left);
            self.clock += count as u64;
            left -= count;
        }
        self.playing = false;
    }

    /// Moves the play head by `count` samples of the first segment.
    fn take(&mut self, count: usize) {
        let Some(head) = self.queue.front_mut() else { return };
        head.offset += count;
        self.buffered -= count;
        let played_ms = head.start_ms as f64 + head.offset as f64 * 1e3 / self.rate_hz as f64;
        self.head = Some((head.turn, played_ms));
        if head.offset == head.samples.len() {
            self.queue.pop_front();
        }
    }

    /// When the sample `ahead` of the next one is played.
    fn time(&self, ahead: usize) -> Duration {
        Duration::from_secs_f64((self.clock + ahead as u64) as f64 / self.rate_hz as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u32 = 24_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_figures_are_those_of_the_page() {
        let page = include_str!("../../../web-client/src/audio/jitter-buffer.ts");
        // Where a name is mentioned as a type, no number follows.
        let number = |name: &str| -> usize {
            let value = page.split(name).find(|after| after.starts_with(|c: char| c.is_ascii_digit()));
            let value = value.unwrap_or_else(|| panic!("the page has no {name}"));
            let end = value.find([',', ';']).expect("the line ends");
            value[..end].replace('_', "").parse().expect("a number follows")
        };
        let page = ["startMs: ", "maxMs: ", "GAP_STEP_MS = ", "fadeMs: ", "capacityMs: "].map(number);
        assert_eq!(page, [START_MS, MOST_MS, GAP_STEP_MS, FADE_MS, CAPACITY_S * 1000]);
    }

    /// Loud sound.
    fn sound(ms: usize) -> Vec<i16> {
        vec![10_000; ms * 24]
    }

    fn close(a: Option<Duration>, b: u64) -> bool {
        a.is_some_and(|a| a.abs_diff(ms(b)) < Duration::from_micros(100))
    }

    #[test]
    fn a_turn_starts_when_enough_waits_or_it_has_waited_enough() {
        for (packets, starts) in [(vec![(100, 20), (110, 60)], 110), (vec![(100, 20)], 170), (vec![(100, 200)], 100)] {
            let mut buffer = Buffer::new(RATE);
            for (at, length) in packets {
                buffer.push(ms(at), 3, 0, sound(length));
            }
            buffer.advance(ms(1_000));
            let heard = &buffer.sounds()[&3];
            assert!(close(heard.arrived_at, 100) && close(heard.played_at, starts), "{starts}: {heard:?}");
            assert_eq!(heard.played_at, heard.audible_at);
        }
    }

    #[test]
    fn a_complete_turn_does_not_wait() {
        let mut buffer = Buffer::new(RATE);
        buffer.push(ms(100), 0, 0, sound(20));
        buffer.done(ms(120), 0);
        buffer.advance(ms(500));
        assert!(close(buffer.sounds()[&0].played_at, 120) && close(buffer.sounds()[&0].silent_at, 140));
        assert!(buffer.sounds()[&0].gaps.is_empty());
    }

    #[test]
    fn running_dry_inside_a_turn_is_a_gap_and_at_its_end_none() {
        let mut buffer = Buffer::new(RATE);
        buffer.push(ms(0), 0, 0, sound(100));
        buffer.push(ms(250), 0, 100, sound(100));
        buffer.done(ms(300), 0);
        buffer.push(ms(900), 1, 0, sound(100));
        buffer.done(ms(900), 1);
        buffer.advance(ms(2_000));
        assert_eq!(buffer.sounds()[&0].gaps.len(), 1);
        assert!(close(buffer.sounds()[&0].gaps.first().copied(), 150), "{:?}", buffer.sounds()[&0]);
        assert!(buffer.sounds()[&1].gaps.is_empty());
    }

    #[test]
    fn a_flush_ends_the_sound_within_a_fade_and_fences_what_comes_late() {
        let mut buffer = Buffer::new(RATE);
        buffer.push(ms(0), 0, 0, sound(1_000));
        buffer.flush(ms(500), 1);
        buffer.push(ms(510), 0, 1_000, sound(1_000));
        buffer.advance(ms(3_000));
        assert!(close(buffer.sounds()[&0].silent_at, 505), "{:?}", buffer.sounds()[&0]);
        assert_eq!(buffer.playing(), None);
    }

    #[test]
    fn a_gap_that_an_interruption_ends_was_heard() {
        let mut buffer = Buffer::new(RATE);
        buffer.push(ms(0), 0, 0, sound(100));
        buffer.flush(ms(500), 1);
        assert_eq!(buffer.sounds()[&0].gaps, [ms(400)]);
    }

    #[test]
    fn a_hold_keeps_what_waits() {
        let mut buffer = Buffer::new(RATE);
        buffer.push(ms(0), 0, 0, sound(1_000));
        buffer.hold(ms(500), 0);
        buffer.advance(ms(900));
        assert!(close(buffer.sounds()[&0].silent_at, 505));
        buffer.unhold(ms(1_000));
        buffer.done(ms(1_000), 0);
        buffer.advance(ms(3_000));
        assert!(close(buffer.sounds()[&0].silent_at, 1_495) && buffer.sounds()[&0].gaps.is_empty());
    }

    proptest! {
        /// What arrives in time is played once, in one go, whenever it is asked about.
        #[test]
        fn nothing_is_lost_or_played_twice(steps in prop::collection::vec(1u64..400, 1..60)) {
            let mut buffer = Buffer::new(RATE);
            for packet in 0..20 {
                buffer.push(ms(packet), 0, packet * 100, sound(100));
            }
            buffer.done(ms(20), 0);
            let mut now = 20;
            for step in steps {
                now += step;
                buffer.advance(ms(now));
                let head = buffer.head().unwrap();
                prop_assert!((head.played_ms + head.buffered_ms - 2_000.0).abs() < 1e-6);
            }
            buffer.advance(ms(now + 3_000));
            prop_assert!(close(buffer.sounds()[&0].silent_at, 2_000), "{:?}", buffer.sounds()[&0]);
            prop_assert!(buffer.sounds()[&0].gaps.is_empty());
        }
    }
}
