//! Barge-in on sound: Silero VAD and the rules, frame by frame, while the agent speaks.
//!
//! 1. Twenty coughs, throat clearings and backchannels stop nothing, whatever comes back of the agent's own speech;
//! 2. every interruption that is clearly louder than the echo pauses playback within 130 ms of its first voiced sample (the
//!    way to the ear takes the rest of 200 ms) and stops it: half of them within 600 ms, all within 760;
//! 3. clicks and knocks do not even pause it;
//! 4. the agent's echo alone never stops it, and pauses it only in the first seconds, until it is learnt.
//!
//! `tests/audio/make.py` made the recordings. The agent's voice is the golden sessions' recording; held speech is not
//! played, so its echo ends too. Times are counted in frames of sound, until the frame that decides is complete: they are
//! the same on every machine.
// The figures are read with `--nocapture`.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use duologue_audio::level::rms_dbfs;
use duologue_audio::wav;
use duologue_model::vad::{FRAME_SAMPLES, RATE_HZ, find};
use duologue_model::{Runtime, RuntimeOptions, VoiceDetector};
use duologue_session::barge_in::FRAME;
use duologue_session::{Action, BargeIn, BargeInConfig, FrameEvidence, Playing};

const AGENT_DBFS: f32 = -20.0;
const NOISE_DBFS: f32 = -65.0;
/// From playing to the microphone: client's buffer, loudspeaker, air, network.
const ECHO_DELAY: usize = RATE_HZ as usize * 150 / 1000;
/// Return of the echo: a headset, two echo cancellers, a loudspeaker without one.
const ECHOES_DB: [f32; 4] = [f32::NEG_INFINITY, -30.0, -25.0, -20.0];
/// When the user begins, in ms after the agent's first speech, at any place in a frame: while the echo is not known yet.
const EARLY_MS: [usize; 2] = [330, 1000];
/// When it is.
const LATE_MS: [usize; 4] = [2511, 4122, 6033, 7904];
/// Level from which a voice must be heard at once although the echo is not known yet.
const CLEAR_DBFS: f32 = -24.0;
/// The same when it is known, over its mean: its loudest frames are some 8 dB above it, the rules ask for 3 dB more, and the
/// first syllable of a voice may be 7 dB below its mean.
const CLEAR_OVER_ECHO_DB: f32 = 18.0;
const PAUSE_WITHIN: Duration = Duration::from_millis(130);
/// For half of them, and at the worst: pauses between words do not count as voice ("no, tell me more").
const STOP_WITHIN: Duration = Duration::from_millis(600);
const STOP_AT_WORST: Duration = Duration::from_millis(760);

fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

struct Recording {
    name: String,
    samples: Vec<f32>,
    level_dbfs: f32,
    first_voiced: usize,
}

fn read(path: &Path) -> Vec<f32> {
    let pcm = wav::read_mono(path, wav::Limits { min_seconds: 0.0, max_seconds: 60.0 });
    let pcm = pcm.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pcm.rate_hz, RATE_HZ, "{}", path.display());
    pcm.samples
}

/// The recordings of a kind, as `tests/audio/index.json` lists them.
fn recordings(kind: &str) -> Vec<Recording> {
    let folder = tests_folder().join("audio");
    let text = std::fs::read_to_string(folder.join("index.json")).expect("the index is part of the repository");
    let index: Vec<serde_json::Value> = serde_json::from_str(&text).expect("json");
    let of_kind = index.iter().filter(|line| line["file"].as_str().expect("a name").starts_with(kind));
    of_kind
        .map(|line| Recording {
            name: line["file"].as_str().expect("a name").to_owned(),
            samples: read(&folder.join(line["file"].as_str().expect("a name"))),
            level_dbfs: line["level_dbfs"].as_f64().expect("a level") as f32,
            first_voiced: line["first_voiced_sample"].as_u64().unwrap_or(0) as usize,
        })
        .collect()
}

/// The agent's speech at [`AGENT_DBFS`], from its first word on.
fn agent() -> Vec<f32> {
    let mut samples = read(&tests_folder().join("golden/inputs/public_input.wav"));
    samples.drain(..RATE_HZ as usize * 6 / 10);
    let gain = 10f32.powf((AGENT_DBFS - rms_dbfs(samples.iter().copied())) / 20.0);
    samples.iter_mut().for_each(|sample| *sample *= gain);
    samples
}

fn detector() -> VoiceDetector {
    let runtime = Runtime::load(&RuntimeOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let file = find(None).unwrap_or_else(|error| panic!("{error}"));
    VoiceDetector::load(&runtime, &file).unwrap_or_else(|error| panic!("{error}"))
}

/// White noise, the same every time (a linear congruential generator).
fn noise(count: usize, level_dbfs: f32) -> impl Iterator<Item = f32> {
    let peak = 10f32.powf(level_dbfs / 20.0) * 3f32.sqrt();
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as f32 / u32::MAX as f32 * 2.0 - 1.0) * peak
    })
    .take(count)
}

/// Plays the agent against `user` (silence and one recording); returns the orders with their times.
fn run(detector: &VoiceDetector, agent: &[f32], user: &[f32], echo_db: f32) -> Vec<(Duration, Action)> {
    let mut rules = BargeIn::new(BargeInConfig::default()).expect("the defaults are valid");
    let mut stream = detector.stream();
    let gain = 10f32.powf(echo_db / 20.0);
    let mut noise = noise(user.len(), NOISE_DBFS);
    let mut speech = agent.chunks_exact(FRAME_SAMPLES);
    let (mut played, mut held, mut stopped) = (vec![0.0; ECHO_DELAY], false, false);
    let mut orders = Vec::new();
    for (number, user) in (1u32..).zip(user.chunks_exact(FRAME_SAMPLES)) {
        let silence = &[0.0; FRAME_SAMPLES][..];
        let piece = if held || stopped { silence } else { speech.next().expect("the agent speaks long enough") };
        played.extend_from_slice(piece);
        let echo = &played[played.len() - FRAME_SAMPLES - ECHO_DELAY..][..FRAME_SAMPLES];
        let heard: Vec<f32> = user.iter().zip(echo).zip(&mut noise).map(|((u, e), n)| u + gain * e + n).collect();
        let energy_dbfs = rms_dbfs(piece.iter().copied());
        let playing = (!stopped).then_some(Playing { since: Duration::ZERO, energy_dbfs });
        let mut frame = None;
        stream.push(&heard, &mut |voice| frame = Some(voice)).unwrap_or_else(|error| panic!("{error}"));
        let voice = frame.expect("a whole frame was pushed");
        let now = FRAME * number;
        for action in rules.push(now, FrameEvidence { voice, playing }) {
            match action {
                Action::Hold => held = true,
                Action::Unhold => held = false,
                Action::Interrupt => stopped = true,
                Action::VoiceStart | Action::VoiceEnd => continue,
            }
            orders.push((now, action));
        }
    }
    orders
}

/// The recording among silence, one second after it included.
fn begins_at(recording: &Recording, ms: usize) -> (Vec<f32>, Duration) {
    let start = ms * RATE_HZ as usize / 1000;
    let mut user = vec![0.0; start + recording.samples.len() + RATE_HZ as usize];
    user[start..start + recording.samples.len()].copy_from_slice(&recording.samples);
    let first_voiced = (start + recording.first_voiced) as f64 / f64::from(RATE_HZ);
    (user, Duration::from_secs_f64(first_voiced))
}

#[test]
fn coughs_and_backchannels_stop_nothing() {
    let (detector, agent, recordings) = (detector(), agent(), recordings("backchannel"));
    assert_eq!(recordings.len(), 20);
    let (mut runs, mut pauses) = (0, Vec::new());
    for recording in &recordings {
        for echo_db in ECHOES_DB {
            for begin in EARLY_MS.into_iter().chain(LATE_MS) {
                let (user, _) = begins_at(recording, begin);
                let orders = run(&detector, &agent, &user, echo_db);
                let case = format!("{} at {begin} ms, echo {echo_db} dB: {orders:?}", recording.name);
                for pair in orders.chunks(2) {
                    let [(from, Action::Hold), (to, Action::Unhold)] = pair else { panic!("{case}") };
                    pauses.push(*to - *from);
                }
                runs += 1;
            }
        }
    }
    println!("{runs} coughs and backchannels: 0 stops; pauses {}", spread(&mut pauses));
}

#[test]
fn interruptions_pause_and_stop_in_time() {
    let (detector, agent, recordings) = (detector(), agent(), recordings("interruption"));
    assert_eq!(recordings.len(), 8);
    let (mut pauses, mut stops, mut faint) = (Vec::new(), Vec::new(), 0);
    for recording in &recordings {
        for echo_db in ECHOES_DB {
            let over_echo_db = recording.level_dbfs - (AGENT_DBFS + echo_db);
            let early = EARLY_MS.map(|begin| (begin, recording.level_dbfs >= CLEAR_DBFS));
            let late = LATE_MS.map(|begin| (begin, over_echo_db >= CLEAR_OVER_ECHO_DB));
            for (begin, clear) in early.into_iter().chain(late) {
                let (user, first_voiced) = begins_at(recording, begin);
                let orders = run(&detector, &agent, &user, echo_db);
                if !clear {
                    faint += 1;
                    continue;
                }
                let case =
                    format!("{} at {begin} ms ({first_voiced:?}), echo {echo_db} dB: {orders:?}", recording.name);
                let [(pause, Action::Hold), .., (stop, Action::Interrupt)] = orders[..] else { panic!("{case}") };
                // An unvoiced consonant before it counts as voice for the detector.
                let (pause, stop) = (pause.saturating_sub(first_voiced), stop - first_voiced);
                assert!(pause <= PAUSE_WITHIN && stop <= STOP_AT_WORST, "{case}");
                pauses.push(pause);
                stops.push(stop);
            }
        }
    }
    println!("from the first voiced sample to the pause {}", spread(&mut pauses));
    println!("from the first voiced sample to the stop  {}", spread(&mut stops));
    assert!(stops[stops.len() / 2] <= STOP_WITHIN, "half of the stops took longer than {STOP_WITHIN:?}");
    println!("{faint} voices were too near to the echo to be judged");
    assert!(pauses.len() >= 120, "{} judged", pauses.len());
}

/// Bursts of noise that die away: a key, a pen, a cup on the table.
#[test]
fn clicks_and_knocks_pause_nothing() {
    let (detector, agent) = (detector(), agent());
    for fades_in_ms in [2, 10, 30] {
        for level_dbfs in [-30.0, -20.0, -10.0] {
            for begin in EARLY_MS.into_iter().chain(LATE_MS) {
                let fades_in = (RATE_HZ as usize * fades_in_ms / 1000) as f32;
                let start = begin * RATE_HZ as usize / 1000;
                let mut user = vec![0.0; start + RATE_HZ as usize];
                for (n, (sample, burst)) in user[start..].iter_mut().zip(noise(16_000, level_dbfs)).enumerate() {
                    *sample = burst * (-(n as f32) / fades_in).exp();
                }
                let orders = run(&detector, &agent, &user, f32::NEG_INFINITY);
                assert_eq!(orders, [], "{fades_in_ms} ms, {level_dbfs} dBFS, at {begin} ms");
            }
        }
    }
}

#[test]
fn the_agents_echo_alone_does_nothing() {
    let (detector, agent) = (detector(), agent());
    for echo_db in ECHOES_DB {
        let orders = run(&detector, &agent, &vec![0.0; RATE_HZ as usize * 30], echo_db);
        println!("echo {echo_db} dB: {orders:?}");
        assert!(orders.iter().all(|(_, action)| *action != Action::Interrupt));
        // An echo louder than expected is learnt from the first pauses.
        assert!(orders.len() <= 4 && orders.iter().all(|(at, _)| at.as_secs() < 3), "echo {echo_db} dB: {orders:?}");
    }
}

/// Count, median, 95th percentile and worst.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_millis();
    format!("p50 {} ms, p95 {} ms, max {} ms (n {})", at(0.5), at(0.95), at(1.0), times.len())
}
