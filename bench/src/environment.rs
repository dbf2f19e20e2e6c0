//! Where a figure comes from: without it no figure means anything.

use std::process::Command;

use duologue_proto::live::BundleInfo;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Machine, program and server of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When it began, UTC (RFC 3339).
    pub began: String,
    /// The command line, without keys.
    pub command: String,
    /// Version of this program.
    pub version: String,
    /// Commit of the folder it was started in, not of the program, with `+` when files of it are changed.
    pub commit: Option<String>,
    /// The processor's name.
    pub cpu: Option<String>,
    /// Processor cores this process may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_gib: Option<f64>,
    /// Its GPUs with their driver, as nvidia-smi names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Kernel.
    pub kernel: Option<String>,
    /// Processes that ran or wanted to, on average over the minute before it began: the machine was not idle.
    pub load_before: Option<f64>,
    /// The server.
    pub server: ServerFacts,
    /// The model, as the server names it; `None` until a session was opened.
    pub bundle: Option<BundleInfo>,
}

/// What is known of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// It ran in this process, so memory and processor are its own and the clients'.
    pub in_process: bool,
    /// Its address.
    pub address: String,
    /// Version of ONNX Runtime; only known in this process.
    pub onnxruntime: Option<String>,
    /// Execution provider of every graph but those that analyse a new voice, which always run on the CPU; only known in this
    /// process.
    pub provider: Option<String>,
    /// Threads of each graph; only known in this process.
    pub threads: Option<usize>,
    /// Places for sessions; only known in this process.
    pub slots: Option<usize>,
    /// A voice detector listens beside the model; only known in this process.
    pub voice_detector: Option<bool>,
    /// Words with which a reply begins to be spoken, 0 for all of its first unit; only known in this process.
    #[serde(default)]
    pub first_words: Option<usize>,
}

impl Environment {
    /// Looks at this machine. `arguments` is the command line, `key` what must not appear in it.
    pub fn look(arguments: impl Iterator<Item = String>, key: Option<&str>, server: ServerFacts) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            began: now(),
            command: command(arguments, key),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            cpu: read("/proc/cpuinfo").and_then(|text| field(&text, "model name")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: read("/proc/meminfo").and_then(|text| memory_gib(&text)),
            gpu: gpu(),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            load_before: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            server,
            bundle: None,
        }
    }
}

/// To the second.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

fn command(arguments: impl Iterator<Item = String>, key: Option<&str>) -> String {
    let hidden = |argument: String| match key {
        Some(key) if !key.is_empty() => argument.replace(key, "KEY"),
        _ => argument,
    };
    arguments.map(hidden).collect::<Vec<_>>().join(" ")
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

fn gpu() -> Option<String> {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(query).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; "))
}

/// The first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib(meminfo: &str) -> Option<f64> {
    let total = field(meminfo, "MemTotal")?;
    Some(total.strip_suffix(" kB")?.parse::<f64>().ok()? / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_get_into_a_report() {
        let arguments = ["duologue", "bench", "a.toml", "--key=sk-secret", "--key", "sk-secret"].map(str::to_owned);
        assert_eq!(command(arguments.into_iter(), Some("sk-secret")), "duologue bench a.toml --key=KEY --key KEY");
    }

    #[test]
    fn proc_is_read() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A B\n", "model name").as_deref(), Some("A B"));
        assert_eq!(memory_gib("MemTotal:       2097152 kB\n"), Some(2.0));
    }
}
