//! Puts the packets of one audio stream back in order and on time.
//!
//! Owns the decision, at every moment a frame is due, which packet is played, which is given up, and how long packets
//! wait for those that are late. Must not decode, read a clock or touch a socket: arrivals carry their time, and who
//! pulls decides when. One pull answers the length of one packet, always, so that the listener's clock never stops.
//!
//! The delay is in packets between the one that is played and the newest. It is raised to what 95 % of the packets of
//! the last five seconds needed, 20 to 120 ms, by leaving out a packet's time, and lowered by playing two packets in the
//! time of one.

use std::collections::BTreeMap;
use std::time::Duration;

mod spread;

use spread::Spread;

/// RTP clock of Opus, whatever the coded rate (RFC 7587 section 4.1).
const RTP_HZ: u64 = 48_000;
/// Samples per millisecond of the decoded sound (16 kHz).
const SAMPLES_PER_MS: usize = 16;
/// Length assumed before the first packet, and of nearly all: 20 ms.
const USUAL_SAMPLES: usize = 320;
/// Longest that a packet waits for others to catch up, apart from one packet of tolerance.
const LONGEST_WAIT: Duration = Duration::from_millis(120);
/// More than this in the buffer is the end of a stall: what is older than the wait would only be heard late.
const OVERFLOW: Duration = Duration::from_millis(240);
/// So many pulls in a row with nothing to play end the talk spurt; the next packet starts a new wait.
const DRY_PULLS: u32 = 5;
/// A jump of more sequence numbers than this is a sender that started again, if the next packet confirms it
/// (RFC 3550 appendix A.1).
const JUMP: i64 = 500;
/// Over so many pulls the buffer must have been too full before a packet is squeezed out: at most 4 % faster.
const SQUEEZE_PULLS: u32 = 25;
/// Over so many pulls it must have been too empty before one waits: sooner, for each of them may lose a packet.
const STRETCH_PULLS: u32 = 10;
/// Losses within so many pulls that make it worth to wait for the next packet, which carries a copy of the lost one.
const LOSS_WINDOW: u32 = 250;
/// How many losses that takes (1 %).
const LOSSES_FOR_COPY: u32 = 3;

/// One received packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// What it decodes to, in samples at 16 kHz.
    pub samples: usize,
    /// Opus.
    pub payload: Vec<u8>,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    /// Play this.
    Packet(Packet),
    /// Play both in the time of the second: the buffer holds more than it needs to.
    Squeeze(Packet, Packet),
    /// The due packet is not there, or waits for others to catch up. With `next`, the packet after it is there, and is
    /// not used up by this.
    Missing {
        /// Payload of the following packet, which may carry a copy of the missing one.
        next: Option<Vec<u8>>,
    },
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets given to [`JitterBuffer::push`].
    pub received: u64,
    /// Packets played, squeezed ones included.
    pub played: u64,
    /// Sequence numbers whose time passed without a packet.
    pub missed: u64,
    /// Packets that came after their time had passed.
    pub late: u64,
    /// Packets that were there already.
    pub duplicate: u64,
    /// Packets dropped because too much arrived at once.
    pub overflowed: u64,
    /// Packets played together with their successor.
    pub squeezed: u64,
    /// Packets that waited for others to catch up.
    pub stretched: u64,
    /// Times that the sender started again.
    pub restarts: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct JitterBuffer {
    packets: BTreeMap<i64, Packet>,
    /// Highest sequence number seen, unwrapped.
    newest: Option<i64>,
    state: State,
    /// The sequence number that is due next; what is below had its time.
    next: Option<i64>,
    spread: Spread,
    counts: Counts,
    /// The sequence number after one that jumped: if it comes, the sender has started again.
    suspect: Option<u16>,
    /// Samples of the newest packet, 0 before the first.
    packet_samples: usize,
    fullness: Fullness,
    losses: LossWindow,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing to play.
    #[default]
    Empty,
    /// `waited` counts the pulls since there is a packet again.
    Filling { waited: usize },
    /// The last `dry` pulls found an empty buffer.
    Playing { dry: u32 },
}

impl JitterBuffer {
    /// Takes a packet that arrived at `now`, on any clock that does not go back.
    pub fn push(&mut self, now: Duration, packet: Packet) {
        self.counts.received += 1;
        let Some(sequence) = self.unwrap(packet.sequence) else { return };
        self.packet_samples = packet.samples.max(1);
        self.spread.arrived(now, packet.timestamp);
        if self.next.is_some_and(|next| sequence < next) {
            self.counts.late += 1;
            return;
        }
        if self.packets.contains_key(&sequence) {
            self.counts.duplicate += 1;
            return;
        }
        self.packets.insert(sequence, packet);
        if matches!(self.state, State::Empty) {
            self.state = State::Filling { waited: 0 };
        }
        self.drop_overflow();
    }

    /// What is due now.
    pub fn pull(&mut self) -> Pull {
        let dry = match &mut self.state {
            State::Empty => return Pull::Missing { next: None },
            State::Filling { waited } => {
                *waited += 1;
                if (*waited).max(self.packets.len()) < self.target() {
                    return Pull::Missing { next: None };
                }
                self.next = self.packets.keys().next().copied();
                0
            }
            State::Playing { dry } => *dry,
        };
        let next = self.next.expect("set when playing began. This is a bug.");
        self.fullness.saw(self.packets.len());
        let Some(&oldest) = self.packets.keys().next() else {
            self.state = if dry + 1 < DRY_PULLS { State::Playing { dry: dry + 1 } } else { State::Empty };
            return Pull::Missing { next: None };
        };
        self.state = State::Playing { dry: 0 };
        let adjust = self.fullness.adjust(self.target());
        if adjust == Adjust::Stretch {
            self.counts.stretched += 1;
            return Pull::Missing { next: None };
        }

        // while the buffer was dry, the packets before `oldest` had their time: they are lost, not due
        let passed = i64::from(dry).min(oldest - next);
        let due = next + passed;
        self.miss(passed as u64);
        self.next = Some(due + 1);
        if due < oldest {
            self.miss(1);
            let next = (due + 1 == oldest).then(|| self.packets[&oldest].payload.clone());
            return Pull::Missing { next };
        }
        let packet = self.packets.remove(&due).expect("it is the oldest. This is a bug.");
        self.counts.played += 1;
        self.losses.pulled(false);
        if adjust != Adjust::Squeeze {
            return Pull::Packet(packet);
        }
        match self.packets.remove(&(due + 1)) {
            Some(second) => {
                self.next = Some(due + 2);
                self.counts.played += 1;
                self.counts.squeezed += 1;
                Pull::Squeeze(packet, second)
            }
            None => Pull::Packet(packet),
        }
    }

    /// Samples at 16 kHz that stand for a missing packet.
    pub fn packet_samples(&self) -> usize {
        if self.packet_samples == 0 { USUAL_SAMPLES } else { self.packet_samples }
    }

    /// How long packets wait at present.
    pub fn depth(&self) -> Duration {
        self.packet_time() * self.packets.len() as u32
    }

    /// How much later than the fastest 95 % of the recent packets came.
    pub fn jitter(&self) -> Duration {
        self.spread.needed()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Forgets the stream, as when its source changes; counts go on.
    pub fn restart(&mut self) {
        let counts = Counts { restarts: self.counts.restarts + 1, ..self.counts };
        *self = Self { counts, ..Self::default() };
    }

    /// The sequence number without wrap, or `None` for one that makes no sense yet.
    fn unwrap(&mut self, sequence: u16) -> Option<i64> {
        let Some(newest) = self.newest else {
            let first = i64::from(sequence);
            self.newest = Some(first);
            return Some(first);
        };
        let ahead = i64::from(sequence.wrapping_sub(newest as u16) as i16);
        if ahead.abs() > JUMP {
            let confirmed = self.suspect.replace(sequence.wrapping_add(1)) == Some(sequence);
            if !confirmed {
                return None;
            }
            self.restart();
            return self.unwrap(sequence);
        }
        self.suspect = None;
        self.newest = Some(newest.max(newest + ahead));
        Some(newest + ahead)
    }

    fn packet_time(&self) -> Duration {
        Duration::from_micros((self.packet_samples() * 1_000 / SAMPLES_PER_MS) as u64)
    }

    /// Packets that should be there when one is played, that one included.
    fn target(&self) -> usize {
        let packet = self.packet_time();
        let late = self.spread.needed().as_micros().div_ceil(packet.as_micros()) as usize;
        let longest = (LONGEST_WAIT.as_micros() / packet.as_micros()).max(1) as usize;
        let for_copy = if self.losses.recent() >= LOSSES_FOR_COPY { 2 } else { 1 };
        (1 + late).max(for_copy).min(longest)
    }

    fn miss(&mut self, packets: u64) {
        self.counts.missed += packets;
        for _ in 0..packets {
            self.losses.pulled(true);
        }
    }

    fn drop_overflow(&mut self) {
        if self.depth() <= OVERFLOW {
            return;
        }
        let keep = self.target() + 1;
        while self.packets.len() > keep {
            let (oldest, _) = self.packets.pop_first().expect("it holds more than it should. This is a bug.");
            self.counts.overflowed += 1;
            self.next = Some(oldest + 1);
        }
    }
}

/// What to do about the number of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adjust {
    Keep,
    Squeeze,
    Stretch,
}

/// How full the buffer was at the last pulls.
#[derive(Debug, Default)]
struct Fullness {
    /// Fewest packets since the last squeeze, and pulls since.
    fewest: (usize, u32),
    /// Most packets since the last stretch, and pulls since.
    most: (usize, u32),
}

impl Fullness {
    fn saw(&mut self, packets: usize) {
        let (fewest, most) = (&mut self.fewest, &mut self.most);
        *fewest = (if fewest.1 == 0 { packets } else { fewest.0.min(packets) }, fewest.1 + 1);
        *most = (most.0.max(packets), most.1 + 1);
    }

    /// One packet above the target is tolerated: without that, a jitter that just crosses a packet's length would make
    /// the buffer squeeze and run dry in turn.
    fn adjust(&mut self, target: usize) -> Adjust {
        if self.most.1 >= STRETCH_PULLS && std::mem::take(&mut self.most).0 < target {
            return Adjust::Stretch;
        }
        if self.fewest.1 >= SQUEEZE_PULLS && std::mem::take(&mut self.fewest).0 > target + 1 {
            return Adjust::Squeeze;
        }
        Adjust::Keep
    }
}

/// Counts the losses of the last one to two windows.
#[derive(Debug, Default)]
struct LossWindow {
    pulls: u32,
    now: u32,
    before: u32,
}

impl LossWindow {
    fn pulled(&mut self, lost: bool) {
        self.now += u32::from(lost);
        self.pulls += 1;
        if self.pulls == LOSS_WINDOW {
            *self = Self { pulls: 0, now: 0, before: self.now };
        }
    }

    fn recent(&self) -> u32 {
        self.now + self.before
    }
}

#[cfg(test)]
mod tests;
