//! Ten minutes of conversation with a sliding window (600 units).
//!
//! The LLM cache stays within the window's bound; the audio encoder's cache grows by exactly one second per unit and starts anew
//! every 29 units, so mel window and units have not drifted apart by a frame; and the process does not grow: resident memory after the
//! first two minutes and at the end differ by less than 16 MiB.
// The figures are read with `--nocapture`.
#![allow(clippy::print_stdout)]

use std::sync::{Mutex, PoisonError};

use duologue_session::{Mode, WindowMode};
use duologue_tests::sessions::{begin, engine, greedy, heard, user_audio};

const UNITS: usize = 600;
/// Encoder frames of a second of audio, and the seconds after which its 1500 positions are used up.
const FRAMES_PER_UNIT: usize = 50;
const UNITS_PER_APM_CACHE: usize = 29;
const SETTLED: usize = 120;
const GROWTH_LIMIT_KIB: usize = 16 * 1024;

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells a process its memory");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is listed");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("VmRSS in kB")
}

/// Resident memory is the process's: one session at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn ten_minutes(mode: WindowMode, bound: impl Fn(usize) -> usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = engine(1);
    let mut config = greedy(&engine, Mode::Live);
    config.window.mode = mode;
    config.window.basic_high_tokens = 900;
    config.window.basic_low_tokens = 700;
    let mut conversation = begin(&engine, &config);
    let prompt = conversation.prepared().kv_len;
    let (mut settled, mut longest, mut evictions) = (0, 0, 0);
    for (number, audio) in user_audio(0).take(UNITS).enumerate() {
        let unit = conversation.unit(heard(audio)).unwrap();
        assert_eq!(unit.report.unit.0 as usize, number);
        assert_eq!(unit.report.apm_kv[1], FRAMES_PER_UNIT * (number % UNITS_PER_APM_CACHE + 1), "unit {number}");
        longest = longest.max(unit.report.kv_final);
        evictions = unit.report.window.unwrap().events;
        if number == SETTLED {
            settled = resident_kib();
        }
    }
    let end = resident_kib();
    println!(
        "{mode:?}: cache at most {longest} rows, {evictions} evictions, resident {settled} KiB after {SETTLED} units, {end} KiB at the end"
    );
    assert!(evictions > 10, "the window was never at work");
    assert!(longest <= bound(prompt), "{longest} rows in the cache, at most {} expected", bound(prompt));
    assert!(end < settled + GROWTH_LIMIT_KIB, "memory grew from {settled} to {end} KiB");
}

#[test]
fn basic_window() {
    ten_minutes(WindowMode::Basic, |_| 900);
}

/// A unit is at most <unit>, 10 audio rows, 19 tokens, terminator and </unit>.
#[test]
fn context_window() {
    let unit = 1 + 10 + 19 + 2;
    ten_minutes(WindowMode::Context, |prompt| prompt + 500 + 8 + 24 * unit);
}
