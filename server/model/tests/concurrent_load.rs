//! Sessions made at once by many threads of a fresh process: entering the operators' domain used to be a race that the
//! second thread lost ("the domain is already exist"). One test, alone in its binary, so that no other has loaded before.

use std::sync::Barrier;

use duologue_model::{Runtime, RuntimeOptions};

const THREADS: usize = 16;

#[test]
fn the_first_sessions_of_a_process_may_be_made_at_once() {
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = Runtime::load(&RuntimeOptions::default()).expect("the library of the test set-up");
                barrier.wait();
                let cpu = runtime.usable_providers().swap_remove(0);
                assert_eq!(cpu.problem, None, "{}", cpu.name);
            });
        }
    });
}
