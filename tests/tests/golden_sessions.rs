//! The recorded sessions of the official code, replayed through the program as a user would.
//!
//! For every unit of every session these must be equal: tokens, sampler choices, why the unit ended, listen and end-of-turn flags,
//! text, audio tokens, terminator, the four cache lengths and the window's bookkeeping; the waveform must have the recorded length,
//! correlate by at least 0.999 and differ by at most 0.02. A session cannot pass by luck: one wrong token changes all that follow.

use duologue_tests::{bundle, golden, judge, succeed};

fn replay(session: &str) {
    let recorded = golden().join(format!("session_{session}"));
    let out = tempfile::tempdir().unwrap();
    let out_dir = out.path().to_str().unwrap();
    let bundle = bundle();
    let arguments = [
        "replay",
        "--device",
        "cpu",
        "--bundle",
        bundle.to_str().unwrap(),
        "--golden",
        recorded.to_str().unwrap(),
        "--out",
        out_dir,
    ];
    succeed(&arguments);
    let differences = judge(&recorded, out.path());
    assert!(differences.is_empty(), "{} differences, the first: {}", differences.len(), differences[0]);
}

#[test]
fn session_a_audio_without_window() {
    replay("A");
}

#[test]
fn session_b_basic_window() {
    replay("B");
}

#[test]
fn session_c_context_window() {
    replay("C");
}

#[test]
fn session_d_video_frames() {
    replay("D");
}

#[test]
fn session_e_barge_in() {
    replay("E");
}
