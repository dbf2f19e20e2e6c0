//! Asserted here: a graph that also carries the operators as functions runs the kernels and not the functions; alpha may
//! be one number or one a channel, another count is refused by name; long tensors, which are cut for the threads of a
//! session, come back whole.
//!
//! `which.onnx` takes `x` [B, C, 1, T] and `alpha` [N, 1, 1] and gives `snake` = Snake(x, alpha) and `sine` = Sine(x). Its
//! functions are wrong on purpose (alpha x, and -x): the numbers tell what ran.

use std::ffi::CString;

use ort::session::Session;

use crate::golden;
use crate::raw::{Tensor, TensorMut, run};
use crate::runtime::{Device, SessionSettings};

fn session() -> Session {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("which.onnx");
    std::fs::write(&path, include_bytes!("which.onnx")).expect("write");
    let settings = SessionSettings { device: Device::Cpu, memory_pattern: false, cpu_nodes: true, spinning: false };
    golden::runtime().session(&path, settings).expect("the graph loads")
}

/// (snake, sine) of `x` [1, channels, 1, row].
fn both(x: &[f32], channels: usize, alpha: &[f32]) -> Result<(Vec<f32>, Vec<f32>), String> {
    let size = |len: usize| i64::try_from(len).expect("small");
    let shape = [1, size(channels), 1, size(x.len() / channels)];
    let names = |names: [&str; 2]| names.map(|name| CString::new(name).expect("no zero"));
    let (mut snake, mut sine) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
    run(
        &mut session(),
        &names(["x", "alpha"]),
        &[Tensor::new(x, &shape), Tensor::new(alpha, &[size(alpha.len()), 1, 1])],
        &names(["snake", "sine"]),
        &mut [TensorMut::new(&mut snake, &shape), TensorMut::new(&mut sine, &shape)],
    )?;
    Ok((snake, sine))
}

fn ramp(len: usize) -> Vec<f32> {
    // The period divides no row, so a piece in the wrong place shows.
    (0..len).map(|index| (index % 977) as f32 * 1e-2 - 5.0).collect()
}

#[track_caller]
fn assert_right(x: &[f32], channels: usize, alpha: &[f32]) {
    let (snake, sine) = both(x, channels, alpha).expect("runs");
    let row = x.len() / channels;
    for (index, &x) in x.iter().enumerate() {
        let u = x * alpha[(index / row) % alpha.len()];
        assert!((snake[index] - (u + u.sin().powi(2))).abs() < 1e-5, "snake of {u} at {index} is {}", snake[index]);
        assert!((sine[index] - x.sin()).abs() < 1e-6, "sine of {x} at {index} is {}", sine[index]);
    }
}

#[test]
fn the_kernels_run_and_not_the_functions() {
    assert_right(&ramp(12), 3, &[1.0, 0.5, -2.0]);
    assert_right(&ramp(12), 3, &[0.7]);
}

#[test]
fn long_tensors_are_cut_and_put_together_again() {
    assert_right(&ramp(70_000), 5, &[1.0, 0.5, -2.0, 0.1, 3.0]);
}

#[test]
fn a_wrong_count_of_factors_is_refused() {
    let reason = both(&ramp(12), 3, &[1.0, 2.0]).expect_err("two factors for three channels");
    assert!(reason.contains("Snake: 2 factors for 3 channels"), "{reason}");
}

#[test]
fn no_numbers_are_no_error() {
    assert_eq!(both(&[], 3, &[1.0]), Ok((Vec::new(), Vec::new())));
}
