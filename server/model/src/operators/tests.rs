//! Asserted here: a graph that also carries the operators as functions runs the kernels and not the functions; alpha may
//! be one number or one a channel, another count is refused by name; long tensors, which are cut for the threads of a
//! session, come back whole; an operator without a kernel (this processor lacks what it needs, or the program is older than
//! the graph) runs as its function.
//!
//! `which.onnx` takes `x` [B, C, 1, T] and `alpha` [N, 1, 1] and gives `snake` = Snake(x, alpha) and `sine` = Sine(x). Its
//! functions are wrong on purpose (alpha x, and -x): the numbers tell what ran. `convolve.onnx` takes `x` [B, 3, 1, T] and gives
//! `y` = Convolve(x, w, b) [B, 9, 1, T] with seven taps, three apart; w counts (37 i mod 19) / 10 - 0.9 and b o / 4 - 1. Its
//! function gives -y. `later.onnx`: `y` = Later(x), a function that gives -x.

use std::ffi::CString;

use ort::session::Session;

use crate::golden;
use crate::raw::{Tensor, TensorMut, run};
use crate::runtime::{Device, SessionSettings};

fn session(graph: &[u8], threads: usize) -> Session {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("graph.onnx");
    std::fs::write(&path, graph).expect("write");
    let settings = SessionSettings { device: Device::Cpu, memory_pattern: false, cpu_nodes: true, spinning: false };
    golden::runtime().with_threads(threads).session(&path, settings).expect("the graph loads")
}

fn names<const N: usize>(names: [&str; N]) -> [CString; N] {
    names.map(|name| CString::new(name).expect("no zero"))
}

/// (snake, sine) of `x` [1, channels, 1, row].
fn both(x: &[f32], channels: usize, alpha: &[f32]) -> Result<(Vec<f32>, Vec<f32>), String> {
    let size = |len: usize| i64::try_from(len).expect("small");
    let shape = [1, size(channels), 1, size(x.len() / channels)];
    let (mut snake, mut sine) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
    run(
        &mut session(include_bytes!("which.onnx"), 1),
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

#[cfg(target_arch = "x86_64")]
#[test]
fn convolutions_of_any_length_and_batch_run_in_the_kernel() {
    if !super::winograd::usable() {
        return;
    }
    const TAPS: usize = 7;
    const APART: usize = 3;
    let weight =
        |output: usize, input: usize, tap: usize| (((output * 3 + input) * TAPS + tap) * 37 % 19) as f32 / 10.0 - 0.9;
    for threads in [1, 2] {
        let mut session = session(include_bytes!("convolve.onnx"), threads);
        // The longest one is cut into tiles.
        for (batch, length) in [(1, 1), (2, 40), (2, 50_000), (1, 0)] {
            let x = ramp(batch * 3 * length);
            let mut y = vec![0.0f32; batch * 9 * length];
            let shape = |channels: i64| [batch as i64, channels, 1, length as i64];
            run(
                &mut session,
                &names(["x"]),
                &[Tensor::new(&x, &shape(3))],
                &names(["y"]),
                &mut [TensorMut::new(&mut y, &shape(9))],
            )
            .expect("runs");
            for (index, &got) in y.iter().enumerate() {
                let (row, t) = (index / length, index % length);
                let (entry, output) = (row / 9, row % 9);
                let mut wanted = output as f32 / 4.0 - 1.0;
                for input in 0..3 {
                    let x = &x[(entry * 3 + input) * length..][..length];
                    for tap in 0..TAPS {
                        let place = (t + tap * APART).checked_sub(TAPS / 2 * APART);
                        wanted += place.and_then(|place| x.get(place)).map_or(0.0, |x| x * weight(output, input, tap));
                    }
                }
                assert!((got - wanted).abs() < 1e-3, "{batch} x {length}: {index} is {got} instead of {wanted}");
            }
        }
    }
}

#[test]
fn an_operator_without_a_kernel_runs_as_its_function() {
    let x = ramp(7);
    let mut y = vec![0.0f32; 7];
    let mut session = session(include_bytes!("later.onnx"), 1);
    let (inputs, outputs) = (names(["x"]), names(["y"]));
    run(&mut session, &inputs, &[Tensor::new(&x, &[7])], &outputs, &mut [TensorMut::new(&mut y, &[7])]).expect("runs");
    assert!(x.iter().zip(&y).all(|(x, y)| *y == -x), "{y:?}");
}
