//! Hands speech out at the pace at which it is played, with a bounded lead.
//!
//! The lead is what an interruption cannot take back from a client that knows no flush: small for barge-in, large enough
//! to cover the network. Pure: time comes in, packets go out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How speech is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Length of a packet.
    pub packet: Duration,
    /// How far ahead of playback packets may go.
    pub lead: Duration,
}

/// When a reply starts that is not complete: so late that it does not starve before its second unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplyStart {
    /// By how much the sound of a reply's first unit is shorter than its codes: the vocoder's look-ahead and what it
    /// keeps for the next join. It comes with the last unit.
    pub held_back: Duration,
    /// By how much the codes of a reply's first unit come to more than a unit.
    pub ahead: Duration,
}

impl ReplyStart {
    /// How long the first piece waits that `took` so long to make since its unit was complete. The second unit's first
    /// piece takes longer, as the vocoder waits for twice as many codes, so as much again is added.
    pub fn delay(&self, took: Duration) -> Duration {
        (self.held_back + took).saturating_sub(self.ahead)
    }
}

/// A packet that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The reply it belongs to.
    pub turn: u32,
    /// Its first sample, counted from the reply's beginning.
    pub start: u64,
    /// Samples; the last packet of a piece may be short.
    pub samples: Arc<[i16]>,
}

#[derive(Debug)]
struct Piece {
    turn: u32,
    start: u64,
    samples: Vec<i16>,
    /// Samples handed out already.
    taken: usize,
    /// Not handed out earlier.
    not_before: Duration,
}

/// The outgoing speech of one session.
#[derive(Debug)]
pub struct Pacer {
    /// `None`: everything is due at once (the client paces itself).
    pace: Option<Pace>,
    rate_hz: u32,
    reply_start: ReplyStart,
    pieces: VecDeque<Piece>,
    /// When what was handed out so far will have been played.
    played_at: Duration,
    /// The reply that was handed out last.
    last_turn: u32,
    /// Since when it stands still.
    held_at: Option<Duration>,
}

impl Pacer {
    /// Nothing waits to be handed out.
    ///
    /// # Panics
    /// If the rate is 0 or a packet holds no sample.
    pub fn new(pace: Option<Pace>, rate_hz: u32, reply_start: ReplyStart) -> Self {
        assert!(rate_hz > 0, "a rate of 0 Hz. This is a bug.");
        let (pieces, played_at) = (VecDeque::new(), Duration::ZERO);
        let mut pacer = Self { pace: None, rate_hz, reply_start, pieces, played_at, last_turn: 0, held_at: None };
        pacer.set_pace(pace);
        pacer
    }

    /// Another client has another buffer.
    ///
    /// # Panics
    /// If a packet holds no sample.
    pub fn set_pace(&mut self, pace: Option<Pace>) {
        let holds_samples = pace.is_none_or(|pace| samples_in(pace.packet, self.rate_hz) > 0);
        assert!(holds_samples, "a packet of no samples. This is a bug.");
        self.pace = pace;
    }

    /// Speech of reply `turn`, whose first sample is number `start` of it. `took`: see
    /// [`ReplyStart::delay`]. The queue is bounded by the engine, which makes a few seconds of
    /// speech per unit.
    pub fn push(&mut self, now: Duration, turn: u32, start: u64, samples: Vec<i16>, took: Duration) {
        if !samples.is_empty() {
            let not_before = if start == 0 { now + self.reply_start.delay(took) } else { Duration::ZERO };
            self.pieces.push_back(Piece { turn, start, samples, taken: 0, not_before });
        }
    }

    /// All speech of the newest reply has come: it can start at once.
    pub fn complete(&mut self) {
        self.pieces.iter_mut().for_each(|piece| piece.not_before = Duration::ZERO);
    }

    /// The next packet that is due at `now`.
    pub fn poll(&mut self, now: Duration) -> Option<Packet> {
        if self.due_at().is_none_or(|due| due > now) {
            return None;
        }
        let piece = self.pieces.front_mut()?;
        let most = self.pace.map_or(usize::MAX, |pace| samples_in(pace.packet, self.rate_hz));
        let end = piece.samples.len().min(piece.taken.saturating_add(most));
        let samples: Arc<[i16]> = piece.samples[piece.taken..end].into();
        let packet = Packet { turn: piece.turn, start: piece.start + piece.taken as u64, samples };
        piece.taken = end;
        if end == piece.samples.len() {
            self.pieces.pop_front();
        }
        self.played_at = self.played_at.max(now) + length_of(packet.samples.len(), self.rate_hz);
        self.last_turn = packet.turn;
        Some(packet)
    }

    /// When [`Self::poll`] has something next; `None` while it waits for speech or is held.
    pub fn due_at(&self) -> Option<Duration> {
        let piece = self.pieces.front().filter(|_| self.held_at.is_none())?;
        Some(self.pace.map_or(Duration::ZERO, |pace| self.played_at.saturating_sub(pace.lead).max(piece.not_before)))
    }

    /// Stops handing out; what waits is kept. A client that holds too plays nothing meanwhile.
    pub fn hold(&mut self, now: Duration) {
        self.held_at = Some(now);
        // What the client has not played yet waits there; it is counted again when it goes on.
        self.played_at = self.played_at.max(now);
    }

    /// Goes on after [`Self::hold`]: playback stood still at the client as well.
    pub fn unhold(&mut self, now: Duration) {
        if let Some(held_at) = self.held_at.take() {
            self.played_at += now.saturating_sub(held_at);
        }
    }

    /// The last `samples` that were handed out are handed to another client: it plays them from now on, or from when
    /// playback goes on.
    pub fn repeats(&mut self, now: Duration, samples: usize) {
        self.played_at = self.played_at.max(self.still_at(now) + length_of(samples, self.rate_hz));
    }

    /// `now`, or since when it stands still: the moment up to which the client has played.
    pub fn still_at(&self, now: Duration) -> Duration {
        self.held_at.unwrap_or(now)
    }

    /// Forgets what waits and what the client was to play.
    pub fn flush(&mut self, now: Duration) {
        self.pieces.clear();
        self.held_at = None;
        self.played_at = now;
    }

    /// The reply that the listener hears at `now`, or hears next without further speech coming in. While playback stands
    /// still it is the one that would go on.
    pub fn playing(&self, now: Duration) -> Option<u32> {
        let unplayed = self.played_at > self.still_at(now);
        unplayed.then_some(self.last_turn).or_else(|| self.pieces.front().map(|piece| piece.turn))
    }

    /// When everything handed out will have been played.
    pub fn played_at(&self) -> Duration {
        self.played_at
    }

    /// Samples that were handed out and are not played at `now`.
    pub fn unplayed(&self, now: Duration) -> u64 {
        samples_in(self.played_at.saturating_sub(self.still_at(now)), self.rate_hz) as u64
    }

    /// Nothing waits to be handed out.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

fn samples_in(length: Duration, rate_hz: u32) -> usize {
    (length.as_nanos() as u64 * u64::from(rate_hz) / 1_000_000_000) as usize
}

fn length_of(samples: usize, rate_hz: u32) -> Duration {
    Duration::from_nanos(samples as u64 * 1_000_000_000 / u64::from(rate_hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 24_000;
    const OWES_280: ReplyStart = ReplyStart { held_back: Duration::from_millis(280), ahead: Duration::ZERO };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pacer(lead: u64) -> Pacer {
        Pacer::new(Some(Pace { packet: ms(20), lead: ms(lead) }), RATE, ReplyStart::default())
    }

    /// Runs the clock in steps of a millisecond and notes when each packet left.
    fn run(pacer: &mut Pacer, from: u64, to: u64) -> Vec<(u64, u64, usize)> {
        let mut out = Vec::new();
        for at in from..to {
            while let Some(packet) = pacer.poll(ms(at)) {
                out.push((at, packet.start, packet.samples.len()));
            }
        }
        out
    }

    #[test]
    fn packets_leave_at_the_pace_of_playback_after_the_lead() {
        let mut pacer = pacer(60);
        pacer.push(ms(0), 0, 0, vec![1; 4800], ms(0));
        let packets = run(&mut pacer, 0, 300);
        assert_eq!(packets.len(), 10);
        let times: Vec<u64> = packets.iter().map(|packet| packet.0).collect();
        assert_eq!(times, [0, 0, 0, 0, 20, 40, 60, 80, 100, 120], "60 ms of lead, then one packet every 20 ms");
        assert!(packets.windows(2).all(|pair| pair[1].1 == pair[0].1 + 480), "no sample is lost or doubled");
        assert_eq!((pacer.playing(ms(199)), pacer.playing(ms(200))), (Some(0), None));
    }

    #[test]
    fn a_pause_between_pieces_does_not_make_a_burst() {
        let mut pacer = pacer(0);
        pacer.push(ms(0), 0, 0, vec![1; 480], ms(0));
        run(&mut pacer, 0, 1000);
        pacer.push(ms(1000), 0, 480, vec![1; 1440], ms(0));
        let times: Vec<u64> = run(&mut pacer, 1000, 1100).iter().map(|packet| packet.0).collect();
        assert_eq!(times, [1000, 1020, 1040]);
    }

    #[test]
    fn holding_keeps_what_waits_and_the_rest_follows_later() {
        let mut pacer = pacer(0);
        pacer.push(ms(0), 3, 0, vec![1; 2400], ms(0));
        assert_eq!(run(&mut pacer, 0, 30).len(), 2);
        pacer.hold(ms(30));
        assert_eq!(run(&mut pacer, 30, 500), []);
        assert_eq!(pacer.due_at(), None);
        assert_eq!(pacer.playing(ms(500)), Some(3));
        assert_eq!((pacer.unplayed(ms(30)), pacer.unplayed(ms(500))), (240, 240), "the client stands still as well");
        pacer.unhold(ms(500));
        let packets = run(&mut pacer, 500, 700);
        assert_eq!((packets.len(), packets[0].1), (3, 960));
    }

    #[test]
    fn the_end_of_a_reply_that_is_held_is_still_to_be_heard() {
        let mut pacer = pacer(200);
        pacer.push(ms(0), 3, 0, vec![1; 2400], ms(0));
        assert_eq!(run(&mut pacer, 0, 30).len(), 5, "all of it is at the client");
        pacer.hold(ms(30));
        assert_eq!((pacer.playing(ms(600)), pacer.unplayed(ms(600))), (Some(3), 1680));
        pacer.unhold(ms(600));
        assert_eq!((pacer.playing(ms(669)), pacer.playing(ms(670))), (Some(3), None));
    }

    #[test]
    fn of_two_replies_the_first_is_playing() {
        let mut pacer = pacer(0);
        pacer.push(ms(0), 0, 0, vec![1; 480], ms(0));
        pacer.push(ms(0), 1, 0, vec![1; 480], ms(0));
        assert_eq!(pacer.playing(ms(0)), Some(0));
        run(&mut pacer, 0, 1);
        assert_eq!(pacer.playing(ms(10)), Some(0));
        run(&mut pacer, 20, 21);
        assert_eq!(pacer.playing(ms(25)), Some(1));
    }

    #[test]
    fn what_is_handed_out_again_is_played_again() {
        let mut pacer = pacer(200);
        pacer.push(ms(0), 0, 0, vec![1; 2400], ms(0));
        run(&mut pacer, 0, 30);
        // Nobody was there to play it from 30 on, which was noticed at 5000.
        pacer.hold(ms(5000));
        pacer.repeats(ms(9000), 1680);
        pacer.unhold(ms(9000));
        assert_eq!((pacer.playing(ms(9069)), pacer.playing(ms(9070))), (Some(0), None));
    }

    #[test]
    fn a_flush_while_it_stands_still_does_not_make_the_next_reply_late() {
        let mut pacer = pacer(0);
        pacer.hold(ms(0));
        pacer.flush(ms(60_000));
        pacer.hold(ms(60_000));
        pacer.unhold(ms(61_000));
        pacer.push(ms(61_000), 1, 0, vec![1; 480], ms(0));
        assert_eq!(run(&mut pacer, 61_000, 61_001).len(), 1);
    }

    #[test]
    fn a_flush_leaves_nothing() {
        let mut pacer = pacer(40);
        pacer.push(ms(0), 0, 0, vec![1; 24_000], ms(0));
        run(&mut pacer, 0, 100);
        pacer.flush(ms(100));
        assert!(run(&mut pacer, 100, 2000).is_empty() && pacer.playing(ms(100)).is_none());
        pacer.push(ms(100), 1, 0, vec![1; 480], ms(0));
        assert_eq!(run(&mut pacer, 100, 101).len(), 1, "new speech starts at once");
    }

    #[test]
    fn a_reply_waits_until_it_cannot_starve_and_plays_without_a_gap() {
        let mut pacer = Pacer::new(Some(Pace { packet: ms(20), lead: ms(60) }), RATE, OWES_280);
        // A unit a second; the first one makes 720 ms of sound, the second a whole second.
        pacer.push(ms(1000), 0, 0, vec![1; 720 * 24], ms(0));
        let first = run(&mut pacer, 1000, 2000);
        assert_eq!(first.first().map(|packet| packet.0), Some(1280));
        let played_at = pacer.played_at();
        pacer.push(ms(2000), 0, 720 * 24, vec![1; 24_000], ms(0));
        assert_eq!(run(&mut pacer, 2000, 2001).first().map(|packet| packet.1), Some(720 * 24));
        assert_eq!(pacer.played_at(), played_at + ms(80), "the second unit follows the first without a gap");
    }

    #[test]
    fn a_second_unit_that_takes_longer_to_make_leaves_no_gap() {
        let mut pacer = Pacer::new(Some(Pace { packet: ms(20), lead: ms(0) }), RATE, OWES_280);
        // Units are complete at 1000 and 2000 ms; their first pieces come 80 and 150 ms later.
        pacer.push(ms(1080), 0, 0, vec![1; 720 * 24], ms(80));
        assert_eq!(run(&mut pacer, 1080, 2150).first().map(|packet| packet.0), Some(1440));
        let played_at = pacer.played_at();
        assert!(played_at >= ms(2150), "{played_at:?}");
        pacer.push(ms(2150), 0, 720 * 24, vec![1; 24_000], ms(150));
        assert_eq!(run(&mut pacer, 2150, 2200).first().map(|packet| packet.0), Some(2160));
    }

    #[test]
    fn a_reply_that_begins_ahead_of_the_units_waits_for_nothing() {
        let start = ReplyStart { ahead: ms(400), ..OWES_280 };
        let mut pacer = Pacer::new(Some(Pace { packet: ms(20), lead: ms(0) }), RATE, start);
        // 1400 ms of codes make 1120 ms of sound.
        pacer.push(ms(1080), 0, 0, vec![1; 1120 * 24], ms(80));
        assert_eq!(run(&mut pacer, 1080, 2150).first().map(|packet| packet.0), Some(1080));
        assert!(pacer.played_at() >= ms(2150), "the second unit comes before the first is played");
        assert_eq!(start.delay(ms(150)), ms(30), "a slow machine needs more than it is ahead");
    }

    #[test]
    fn a_reply_that_is_complete_starts_at_once() {
        let mut pacer = Pacer::new(Some(Pace { packet: ms(20), lead: ms(0) }), RATE, OWES_280);
        pacer.push(ms(0), 0, 0, vec![1; 2400], ms(0));
        assert_eq!((pacer.poll(ms(10)), pacer.due_at()), (None, Some(ms(280))));
        pacer.complete();
        assert_eq!(run(&mut pacer, 10, 11).len(), 1);
    }

    #[test]
    fn the_next_reply_does_not_stop_the_one_before() {
        let mut pacer = Pacer::new(Some(Pace { packet: ms(20), lead: ms(0) }), RATE, OWES_280);
        pacer.push(ms(0), 0, 0, vec![1; 2400], ms(0));
        pacer.complete();
        pacer.push(ms(0), 1, 0, vec![1; 480], ms(0));
        let times: Vec<u64> = run(&mut pacer, 0, 400).iter().map(|packet| packet.0).collect();
        assert_eq!(times, [0, 20, 40, 60, 80, 280]);
    }

    #[test]
    fn without_a_pace_a_piece_leaves_whole_and_at_once() {
        let mut pacer = Pacer::new(None, RATE, OWES_280);
        pacer.push(ms(0), 0, 0, vec![1; 24_000], ms(0));
        assert_eq!(pacer.poll(ms(0)).map(|packet| packet.samples.len()), Some(24_000));
        assert_eq!(pacer.poll(ms(0)), None);
        assert_eq!(pacer.playing(ms(999)), Some(0));
    }
}
