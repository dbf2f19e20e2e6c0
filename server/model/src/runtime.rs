//! ONNX Runtime itself: loading the library, choosing the device, creating sessions.
//!
//! Owns: the one environment of the process and the rule that a device asked for is used or refused. Must not: know
//! which graphs exist.

mod library;

use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::{CPU, CUDA};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::error::{ModelError, Result};
use crate::manifest::Target;
use crate::operators;
use crate::raw::{self, Place, Tensor, TensorMut};

pub use library::LIBRARY_VARIABLE;

/// Variable that keeps ONNX Runtime from collecting telemetry (on by default in its Linux wheels since 1.29). It is read
/// when the library is loaded, so `main` sets it to "1" before any thread exists.
pub const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// One node that copies a number: enough to find out whether a device can run anything.
const PROBE: &[u8] = include_bytes!("runtime/probe.onnx");

/// The device a user asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// This CUDA device or an error; never a fallback.
    Cuda(u32),
    /// CUDA device 0 if it works, else the CPU, with the reason in the log. With a bundle at hand its target decides, see
    /// [`DeviceChoice::for_target`].
    Auto,
}

impl DeviceChoice {
    /// The choice for a bundle made for `target`: it settles [`DeviceChoice::Auto`], as a bundle runs on one kind of
    /// device only. A device asked for by name stays, and is refused when the first graph is loaded if it does not fit.
    pub fn for_target(self, target: Target) -> DeviceChoice {
        match (self, target) {
            (DeviceChoice::Auto, Target::Cpu) => DeviceChoice::Cpu,
            (DeviceChoice::Auto, Target::Cuda) => DeviceChoice::Cuda(0),
            (named, _) => named,
        }
    }
}

/// The device in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A CUDA device by number.
    Cuda(u32),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceChoice::Auto => f.write_str("auto"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "auto" => Ok(DeviceChoice::Auto),
            other => other
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| ModelError::DeviceName(other.to_owned())),
        }
    }
}

/// How to load ONNX Runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The library file; searched for when absent.
    pub library: Option<PathBuf>,
    /// The device.
    pub device: DeviceChoice,
    /// Threads of each graph, at least 1.
    pub threads: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions { library: None, device: DeviceChoice::Cpu, threads: 1 }
    }
}

/// A loaded ONNX Runtime with a chosen device; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
    version: String,
    device: Device,
    threads: usize,
}

/// One way of running graphs, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The user's name of the device.
    pub name: String,
    /// Why it cannot be used; `None` if a graph ran on it.
    pub problem: Option<String>,
}

/// How a graph's session is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionSettings {
    /// Where it runs.
    pub(crate) device: Device,
    /// Reuse the layout of temporary memory: right when shapes repeat. A layout is kept for every combination of shapes
    /// ever seen, so graphs with a growing cache switch it off or they would grow for ever.
    pub(crate) memory_pattern: bool,
    /// On a device, accept nodes that ONNX Runtime puts on the CPU: it does so with arithmetic on shapes, which is right,
    /// and with every node that has no kernel there, which makes each run copy and wait. Graphs without such arithmetic
    /// switch it off, and a missing kernel is then an error of loading.
    pub(crate) cpu_nodes: bool,
    /// Let idle worker threads spin: faster steps for a graph that runs all the time, stolen time for all others.
    pub(crate) spinning: bool,
}

struct Loaded {
    environment: Environment,
    library: PathBuf,
    version: String,
}

/// ONNX Runtime allows one environment per process; it lives until the process ends.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

impl Runtime {
    /// Finds and loads ONNX Runtime and settles the device.
    ///
    /// # Errors
    /// The `Library*` variants of [`ModelError`], or [`ModelError::DeviceUnusable`] when CUDA was asked for and cannot run.
    pub fn load(options: &RuntimeOptions) -> Result<Runtime> {
        let library = library::find(options.library.as_deref())?;
        // One file has many names (links, relative paths); a missing one is reported by the version check below.
        let library = library.canonicalize().unwrap_or(library);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_none() {
            let version = library::version(&library)?;
            let environment = create_environment(&library)?;
            tracing::info!(library = %library.display(), version, "onnx runtime loaded");
            *loaded = Some(Loaded { environment, library: library.clone(), version });
        }
        let loaded = loaded.as_ref().expect("filled above. This is a bug.");
        if loaded.library != library {
            // A wrong file is told as such even when another one is in use.
            library::version(&library)?;
            return Err(ModelError::LibraryLoaded { loaded: loaded.library.clone(), asked: library });
        }
        let mut runtime = Runtime {
            environment: loaded.environment.clone(),
            library: loaded.library.clone(),
            version: loaded.version.clone(),
            device: Device::Cpu,
            threads: options.threads.max(1),
        };
        runtime.device = runtime.settle(options.device)?;
        Ok(runtime)
    }

    /// The library in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Its version, such as "1.31.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The device in use.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Threads of each graph.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tries every device this program can use by running a tiny graph on it.
    pub fn usable_providers(&self) -> Vec<Provider> {
        [Device::Cpu, Device::Cuda(0)]
            .into_iter()
            .map(|device| Provider { name: device.to_string(), problem: self.probe(device).err() })
            .collect()
    }

    /// The same, with another number of threads for the graphs loaded through it.
    pub(crate) fn with_threads(&self, threads: usize) -> Runtime {
        Runtime { threads, ..self.clone() }
    }

    /// The same, claiming another device: for refusals that come before the device is touched.
    #[cfg(test)]
    pub(crate) fn claiming(&self, device: Device) -> Runtime {
        Runtime { device, ..self.clone() }
    }

    pub(crate) fn place(&self) -> Place {
        match self.device {
            Device::Cpu => Place::Host,
            Device::Cuda(ordinal) => Place::Cuda(ordinal),
        }
    }

    /// Loads a graph from a file.
    pub(crate) fn session(&self, path: &Path, settings: SessionSettings) -> Result<Session> {
        let refused =
            |error: ort::Error| ModelError::GraphLoad { path: path.to_path_buf(), reason: error.message().to_owned() };
        self.builder(settings).and_then(|mut builder| builder.commit_from_file(path)).map_err(refused)
    }

    fn settle(&self, choice: DeviceChoice) -> Result<Device> {
        match choice {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(ordinal) => match self.probe(Device::Cuda(ordinal)) {
                Ok(()) => Ok(Device::Cuda(ordinal)),
                Err(reason) => Err(ModelError::DeviceUnusable {
                    device: choice.to_string(),
                    library: self.library.clone(),
                    reason,
                }),
            },
            DeviceChoice::Auto => match self.probe(Device::Cuda(0)) {
                Ok(()) => Ok(Device::Cuda(0)),
                Err(reason) => {
                    tracing::info!(reason, "device auto: cuda is not usable, using the cpu");
                    Ok(Device::Cpu)
                }
            },
        }
    }

    fn probe(&self, device: Device) -> Result<(), String> {
        let settings = SessionSettings { device, memory_pattern: false, cpu_nodes: false, spinning: false };
        let made = self.builder(settings).and_then(|mut builder| builder.commit_from_memory(PROBE));
        let mut session = made.map_err(|error| error.message().to_owned())?;
        let names = |name: &str| [CString::new(name).expect("no zero in it. This is a bug.")];
        let (sent, mut received) = ([1.5f32], [0.0f32]);
        raw::run(
            &mut session,
            &names("x"),
            &[Tensor::new(&sent, &[1])],
            &names("y"),
            &mut [TensorMut::new(&mut received, &[1])],
        )?;
        match received == sent {
            true => Ok(()),
            false => Err(format!("a graph that copies {sent:?} gave {received:?}")),
        }
    }

    fn builder(&self, settings: SessionSettings) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?
            // ort opens its environment at the most verbose level; formatting lines that nobody reads costs more than a
            // small graph.
            .with_log_level(LogLevel::Warning)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads)?
            .with_inter_threads(1)?
            .with_memory_pattern(settings.memory_pattern)?
            .with_intra_op_spinning(settings.spinning)?
            .with_config_entry(raw::RECORD_PLACEMENT, "1")?
            .with_no_environment_execution_providers()?;
        let builder = match settings.device {
            Device::Cpu => builder
                .with_operators(operators::domain()?)?
                .with_execution_providers([CPU::default().build().error_on_failure()])?,
            Device::Cuda(ordinal) => {
                let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
                let builder = match settings.cpu_nodes {
                    true => builder,
                    false => builder.with_disable_cpu_fallback()?,
                };
                builder
                    .with_execution_providers([CUDA::default().with_device_id(ordinal).build().error_on_failure()])?
            }
        };
        Ok(builder)
    }
}

fn create_environment(library: &Path) -> Result<Environment> {
    let unusable = |reason: String| ModelError::LibraryUnusable {
        path: library.to_path_buf(),
        reason,
        wanted: library::oldest_version(),
    };
    let builder = ort::init_from(library).map_err(|error| unusable(error.to_string()))?;
    let environment = builder
        .with_name("duologue")
        .with_telemetry(false)
        .build()
        .map_err(|error| unusable(error.message().to_owned()))?;
    environment.set_log_level(LogLevel::Warning);
    register_operators(&environment).map_err(|error| unusable(error.message().to_owned()))?;
    Ok(environment)
}

/// Makes the process's first session. It enters the domain of our operators into a table of the whole process, by a look
/// and an insert that two sessions made at once can interleave; the second insert is an error. Later ones find the entry.
fn register_operators(environment: &Environment) -> ort::Result<()> {
    Session::builder(environment)?.with_operators(operators::domain()?)?.commit_from_memory(PROBE).map(drop)
}

#[cfg(test)]
mod tests;
