//! Sessions in real time: each hears a second of noise per second and waits for nothing but the clock.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use duologue_engine::{Conversation, Engine, EngineError, FinishedUnit, OpenOptions, UnitInput};
use duologue_session::SessionConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Level of the noise that the sessions hear: a room, not a voice.
const NOISE: f32 = 0.01;

/// How many sessions, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub sessions: usize,
    /// Units before those that count.
    pub warm_up: usize,
    pub units: usize,
    pub seed: u64,
}

/// What one unit took; times in ms.
#[derive(Debug, Serialize)]
pub struct UnitRow {
    session: usize,
    unit: usize,
    speaks: bool,
    /// From the chunk's last sample to the finalized unit with its last audio, the time that it waited for the unit before
    /// included.
    unit_ms: f64,
    /// To the first samples of a reply, in its first unit.
    ttfb_ms: Option<f64>,
    /// The unit was not finished within its length.
    pub missed: bool,
    mel_ms: f64,
    apm_ms: f64,
    prefill_ms: f64,
    llm_ms: f64,
    finalize_ms: f64,
    tts_ms: f64,
    flow_ms: f64,
    hift_ms: f64,
    /// Tokens fed one by one.
    tokens: usize,
    codes: usize,
    samples: usize,
    kv_tokens: usize,
}

/// Runs all sessions to their end. Their phases are spread evenly over a unit, as those of people are. `begun` is called when all
/// are prepared.
///
/// # Errors
/// The first session that failed.
pub fn run(
    engine: &Engine,
    config: &SessionConfig,
    options: &OpenOptions,
    pace: Pace,
    begun: impl Fn() + Sync,
) -> Result<Vec<UnitRow>> {
    let ready = Barrier::new(pace.sessions);
    thread::scope(|scope| {
        let sessions: Vec<_> = (0..pace.sessions)
            .map(|number| {
                let (ready, begun) = (&ready, &begun);
                scope.spawn(move || -> Result<Vec<UnitRow>, EngineError> {
                    let config = SessionConfig { seed: pace.seed + number as u64, ..config.clone() };
                    let conversation = Conversation::begin(engine, &config, options.clone());
                    // A session that failed must not keep the others waiting.
                    if ready.wait().is_leader() {
                        begun();
                    }
                    converse(engine, conversation?, number, pace)
                })
            })
            .collect();
        let mut rows = Vec::new();
        for session in sessions {
            rows.extend(session.join().expect("a session's thread does not panic. This is a bug.")?);
        }
        Ok(rows)
    })
}

fn converse(
    engine: &Engine,
    mut conversation: Conversation,
    number: usize,
    pace: Pace,
) -> Result<Vec<UnitRow>, EngineError> {
    let duplex = &engine.bundle().manifest().duplex;
    let chunk = Duration::from_millis(u64::from(duplex.chunk_ms));
    let samples = (u64::from(duplex.sample_rate_hz) * u64::from(duplex.chunk_ms) / 1000) as usize;
    let mut random = ChaCha8Rng::seed_from_u64(pace.seed + number as u64);
    let mut due = Instant::now() + chunk.mul_f64(number as f64 / pace.sessions as f64);
    let mut rows = Vec::with_capacity(pace.units);
    for unit in 0..pace.warm_up + pace.units {
        let audio = (0..samples).map(|_| random.random_range(-NOISE..NOISE)).collect();
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let waited = due.elapsed();
        let replies = conversation.turn_open();
        let done = conversation.unit(UnitInput { audio, ..UnitInput::default() })?;
        let row = row(&done, waited, number, unit, !replies, chunk);
        if unit >= pace.warm_up {
            rows.push(row);
        }
        // People go on talking: a session that is late stays late until it has caught up.
        due += chunk;
    }
    Ok(rows)
}

fn row(
    done: &FinishedUnit,
    waited: Duration,
    session: usize,
    unit: usize,
    opens_turn: bool,
    chunk: Duration,
) -> UnitRow {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let timings = &done.report.timings;
    UnitRow {
        session,
        unit,
        speaks: done.report.end.speaks(),
        unit_ms: ms(waited + done.unit_time),
        ttfb_ms: done.first_sound.filter(|_| opens_turn).map(|first| ms(waited + first)),
        missed: waited + done.unit_time > chunk,
        mel_ms: ms(timings.mel),
        apm_ms: ms(timings.apm),
        prefill_ms: ms(timings.prefill),
        llm_ms: ms(timings.generate),
        finalize_ms: ms(timings.finalize),
        tts_ms: ms(done.speech.tts),
        flow_ms: ms(done.speech.flow),
        hift_ms: ms(done.speech.hift),
        // The terminator is fed with the unit's end.
        tokens: done.report.end.tokens.len() - 1,
        codes: done.codes.len(),
        samples: done.samples.len(),
        kv_tokens: done.report.kv_final,
    }
}
