//! Memory and processor time of this process, out of /proc, and what nvidia-smi says of a GPU.

use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// A GPU is looked at so many times more rarely: nvidia-smi takes processor time itself.
const GPU_LOOKS: u32 = 4;
/// /proc counts in hundredths of a second on every Linux there is (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// A look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory.
    pub resident_mib: f64,
    /// Processor time since the look before, in percent of one core; `None` at the first one.
    pub cpu_percent: Option<f64>,
    /// The machine's first GPU, by all processes; `None` where there is none, and at three looks of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuUsage>,
}

/// What a GPU is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GpuUsage {
    /// Memory in use, MiB.
    pub used_mib: f64,
    /// Share of the time in which a kernel ran, percent.
    pub busy_percent: f64,
}

/// Looks again and again. Sees nothing where there is no /proc.
#[derive(Debug, Default)]
pub struct Meter {
    before: Option<(Instant, f64)>,
    without_gpu: bool,
    looks: u32,
}

impl Meter {
    /// A look now.
    pub fn look(&mut self) -> Option<Usage> {
        let (now, seconds) = (Instant::now(), cpu_seconds_now()?);
        let cpu_percent = self
            .before
            .replace((now, seconds))
            .map(|(then, before)| 100.0 * (seconds - before) / now.duration_since(then).as_secs_f64().max(1e-3));
        self.looks += 1;
        let gpu = if self.without_gpu || self.looks % GPU_LOOKS != 1 { None } else { gpu_now(0) };
        self.without_gpu |= self.looks == 1 && gpu.is_none();
        Some(Usage { resident_mib: resident_now_mib()?, cpu_percent, gpu })
    }
}

/// Looks at a GPU; `None` without one, or without nvidia-smi.
pub fn gpu_now(ordinal: u32) -> Option<GpuUsage> {
    let query = ["--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits", "-i"];
    let output = Command::new("nvidia-smi").args(query).arg(ordinal.to_string()).output().ok()?;
    gpu_usage(&String::from_utf8(output.stdout).ok()?)
}

fn gpu_usage(text: &str) -> Option<GpuUsage> {
    let (used, busy) = text.trim().split_once(',')?;
    Some(GpuUsage { used_mib: used.trim().parse().ok()?, busy_percent: busy.trim().parse().ok()? })
}

/// Processor time of this process so far; `None` where there is no /proc.
pub fn cpu_seconds_now() -> Option<f64> {
    cpu_seconds(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Resident memory of this process in MiB; `None` where there is no /proc.
pub fn resident_now_mib() -> Option<f64> {
    resident_mib(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// User and system time. The program's name, in brackets, may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(resident_mib("Name:\tx\nVmRSS:\t    2048 kB\nVmData: 1 kB\n"), Some(2.0));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!((resident_mib(""), cpu_seconds("7 (x) S 1")), (None, None));
    }

    #[test]
    fn nvidia_smi_is_read() {
        assert_eq!(gpu_usage("20480, 37\n"), Some(GpuUsage { used_mib: 20_480.0, busy_percent: 37.0 }));
        assert_eq!(gpu_usage("[N/A], 37"), None);
    }
}
