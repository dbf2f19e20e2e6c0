//! Memory and load of the machine while a run goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use duologue_bench::resources::{GpuUsage, gpu_now, resident_now_mib};
use duologue_model::Device;
use serde::Serialize;

const INTERVAL: Duration = Duration::from_millis(500);

/// What a run needed.
#[derive(Debug, Default, Serialize)]
pub struct Memory {
    /// Largest resident size of this process, MiB.
    rss_mib: u64,
    /// Largest use of the GPU's memory by all processes, MiB; none without a GPU or nvidia-smi.
    gpu_mib: Option<u64>,
    /// Mean of the GPU's utilisation as nvidia-smi sees it, percent, while at least one kernel ran.
    gpu_busy_percent: Option<f64>,
}

/// Looks at the memory until it is asked.
#[derive(Debug)]
pub struct MemoryWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

impl MemoryWatch {
    /// Begins.
    pub fn start(device: Device) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut memory = Memory::default();
            let mut busy = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                memory.rss_mib = memory.rss_mib.max(resident_now_mib().map_or(0, |mib| mib as u64));
                if let Device::Cuda(ordinal) = device
                    && let Some(GpuUsage { used_mib, busy_percent }) = gpu_now(ordinal)
                {
                    memory.gpu_mib = memory.gpu_mib.max(Some(used_mib as u64));
                    busy.extend((busy_percent > 0.0).then_some(busy_percent));
                }
                thread::sleep(INTERVAL);
            }
            if !busy.is_empty() {
                memory.gpu_busy_percent = Some(busy.iter().sum::<f64>() / busy.len() as f64);
            }
            memory
        });
        Self { stop, thread }
    }

    /// Ends, and says what was seen.
    pub fn finish(self) -> Memory {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("looking does not panic. This is a bug.")
    }
}
