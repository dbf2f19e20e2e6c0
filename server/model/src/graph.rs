//! One ONNX graph: its session, checked against the contract, and the two ways to run it.
//!
//! Owns: names, types and shapes at the border of a graph. Must not: know what a graph computes (the modules below do).

pub mod apm;
mod decoder;
pub mod flow;
pub mod hift;
pub mod kv_compact;
pub mod llm;
mod placement;
pub mod tts;
mod tts_condition;
pub mod vision;
pub mod voice_frontends;

use std::collections::BTreeMap;
use std::ffi::CString;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::bundle::{Bundle, MANIFEST};
use crate::error::{ModelError, Result};
use crate::manifest::{IoType, Target};
use crate::raw::{self, Arena, Binding, Kind, Place, Tensor, TensorMut, View, run};
use crate::runtime::{Device, Runtime, SessionSettings};

use placement::Placement;

/// A dimension that changes from call to call.
pub(crate) const ANY: i64 = -1;

/// What the contract says about one input or output: name, element type, shape with [`ANY`] for free dimensions.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    name: String,
    kind: Kind,
    shape: Vec<i64>,
}

impl Port {
    /// Its name as ONNX Runtime takes it.
    pub(crate) fn c_name(&self) -> CString {
        CString::new(self.name.as_str()).expect("port names hold no zero. This is a bug.")
    }
}

/// Shorthand for the tables of ports in the graph modules.
pub(crate) fn port(name: impl Into<String>, kind: Kind, shape: &[i64]) -> Port {
    Port { name: name.into(), kind, shape: shape.to_vec() }
}

/// A size as ONNX Runtime counts it.
pub(crate) fn dim(size: usize) -> i64 {
    i64::try_from(size).expect("no tensor is that large. This is a bug.")
}

/// Element type of the tensors marked "io" in BUNDLE.md.
pub(crate) fn io_kind(io: IoType) -> Kind {
    match io {
        IoType::Float32 => Kind::F32,
        IoType::Float16 => Kind::F16,
    }
}

/// How a graph is used, which decides its session settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Runs for every token with the same shapes; does no arithmetic on shapes, so every node runs on the device.
    Step,
    /// Runs once per unit or less, with changing shapes.
    Chunk,
    /// Runs once per voice, always on the CPU.
    Once,
}

/// A loaded graph.
#[derive(Debug)]
pub(crate) struct Graph {
    name: String,
    session: Session,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    place: Place,
}

impl Graph {
    /// Loads `file` of the bundle and checks that it has exactly these inputs and outputs, that the manifest says the
    /// same, and that fixed dimensions agree. Tensors are later passed in the order of the two lists. Nodes that compute on
    /// the CPU although the graph runs on a device are named in a warning.
    ///
    /// # Errors
    /// [`ModelError::DeviceMismatch`] when the bundle was made for another kind of device,
    /// [`ModelError::GraphContract`] naming the input or output, [`ModelError::GraphLoad`].
    pub(crate) fn load(
        runtime: &Runtime,
        bundle: &Bundle,
        file: &str,
        usage: Use,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<Graph> {
        let path = bundle.path(file);
        let refuse = |reason: String| ModelError::GraphContract { path: path.clone(), reason };
        let manifest = bundle.manifest();
        require_device(bundle, runtime.device())?;
        let entry =
            manifest.graphs.get(file).ok_or_else(|| refuse("the manifest has no entry under graphs".to_owned()))?;
        let device = if usage == Use::Once { Device::Cpu } else { runtime.device() };
        let step = usage == Use::Step;
        let settings = SessionSettings { device, memory_pattern: step, cpu_nodes: !step, spinning: step };
        let session = runtime.session(&path, settings)?;
        check_ports("input", session.inputs(), inputs).map_err(refuse)?;
        check_ports("output", session.outputs(), outputs).map_err(refuse)?;
        check_stated("input", inputs, &entry.inputs).map_err(refuse)?;
        check_stated("output", outputs, &entry.outputs).map_err(refuse)?;
        let names = |ports: &[Port]| ports.iter().map(Port::c_name).collect();
        let place = if usage == Use::Once { Place::Host } else { runtime.place() };
        if device != Device::Cpu {
            tell_strays(file, device, raw::placement(&session));
        }
        tracing::debug!(file, device = %device, "graph loaded");
        Ok(Graph { name: file.to_owned(), session, inputs: names(inputs), outputs: names(outputs), place })
    }

    /// Where its kernels run and its caches should lie.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Runs over borrowed slices.
    pub(crate) fn run(&mut self, inputs: &[Tensor<'_>], outputs: &mut [TensorMut<'_>]) -> Result<()> {
        run(&mut self.session, &self.inputs, inputs, &self.outputs, outputs).map_err(|reason| self.failed(reason))
    }

    /// An empty binding for [`Graph::run_bound`].
    pub(crate) fn binding(&self, arena: &Arena) -> Result<Binding> {
        let on_device = self.place != Place::Host;
        Binding::new(&self.session, arena, self.inputs.len(), self.outputs.len(), on_device)
            .map_err(|reason| self.failed(reason))
    }

    /// Binds input number `index`.
    pub(crate) fn bind_input(&self, binding: &mut Binding, index: usize, arena: &Arena, view: &View<'_>) -> Result<()> {
        binding.input(index, &self.inputs[index], arena, view).map_err(|reason| self.failed(reason))
    }

    /// Binds output number `index`.
    pub(crate) fn bind_output(
        &self,
        binding: &mut Binding,
        index: usize,
        arena: &Arena,
        view: &View<'_>,
    ) -> Result<()> {
        binding.output(index, &self.outputs[index], arena, view).map_err(|reason| self.failed(reason))
    }

    /// Runs over bound buffers.
    pub(crate) fn run_bound(&mut self, binding: &mut Binding, arena: &mut Arena) -> Result<()> {
        binding.run(&mut self.session, &self.inputs, arena).map_err(|reason| self.failed(reason))
    }

    fn failed(&self, reason: String) -> ModelError {
        ModelError::GraphRun { graph: self.name.clone(), reason }
    }
}

/// Names nodes that compute on the CPU although the graph runs on a device.
fn tell_strays(file: &str, device: Device, nodes: std::result::Result<Vec<raw::Placed>, String>) {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(reason) => return tracing::warn!(file, reason, "where the nodes of the graph run is not known"),
    };
    let Placement { on_device, shapes, strays } = Placement::of(&nodes);
    tracing::debug!(file, on_device, shapes, "nodes of the graph");
    if !strays.is_empty() {
        let (count, names) = (strays.len(), strays.join(", "));
        tracing::warn!(file, %device, count, names, "nodes run on the CPU, and every run waits for them");
    }
}

/// Refuses a bundle that was made for another kind of device.
fn require_device(bundle: &Bundle, device: Device) -> Result<()> {
    let target = bundle.manifest().target;
    let (reason, other) = match (target, device) {
        (Target::Cpu, Device::Cpu) | (Target::Cuda, Device::Cuda(_)) => return Ok(()),
        (Target::Cuda, Device::Cpu) => ("its float16 graphs are made for a GPU only", Target::Cpu),
        (Target::Cpu, Device::Cuda(_)) => ("CUDA has no float32 kernel of GroupQueryAttention", Target::Cuda),
    };
    let path = bundle.path(MANIFEST);
    Err(ModelError::DeviceMismatch { path, target, device, reason, other })
}

/// Compares a graph's inputs or outputs with the contract: exactly these names, types and fixed dimensions.
pub(crate) fn check_ports(side: &str, found: &[Outlet], wanted: &[Port]) -> Result<(), String> {
    for port in wanted {
        let Some(outlet) = found.iter().find(|outlet| outlet.name() == port.name) else {
            let names: Vec<&str> = found.iter().map(|outlet| outlet.name()).collect();
            return Err(format!("{side} {} is missing; the graph has {}", port.name, names.join(", ")));
        };
        let (kind, shape) = describe(outlet.dtype());
        if kind != port.kind.name() {
            return Err(format!("{side} {} is {kind}, expected {}", port.name, port.kind.name()));
        }
        let fits = |(found, wanted): (&i64, &i64)| *found == ANY || *wanted == ANY || found == wanted;
        if shape.len() != port.shape.len() || !shape.iter().zip(&port.shape).all(fits) {
            let (found, wanted) = (show(&shape), show(&port.shape));
            return Err(format!("{side} {} has shape {found}, expected {wanted}", port.name));
        }
    }
    if let Some(extra) = found.iter().find(|outlet| !wanted.iter().any(|port| port.name == outlet.name())) {
        return Err(format!("{side} {} is unknown to this program", extra.name()));
    }
    Ok(())
}

/// Compares the contract with what the manifest says about a graph.
fn check_stated(side: &str, wanted: &[Port], manifest: &BTreeMap<String, String>) -> Result<(), String> {
    for Port { name, kind, .. } in wanted {
        let kind = kind.name();
        match manifest.get(name) {
            Some(stated) if *stated == kind => {}
            Some(stated) => return Err(format!("{side} {name} is {kind}, the manifest says {stated}")),
            None => return Err(format!("{side} {name} is not in the manifest's graphs")),
        }
    }
    Ok(())
}

fn describe(dtype: &ValueType) -> (String, Vec<i64>) {
    match dtype {
        ValueType::Tensor { ty, shape, .. } => {
            let name = match ty {
                TensorElementType::Float32 => "float32".to_owned(),
                TensorElementType::Float16 => "float16".to_owned(),
                TensorElementType::Int32 => "int32".to_owned(),
                TensorElementType::Int64 => "int64".to_owned(),
                other => format!("{other}"),
            };
            (name, shape.to_vec())
        }
        other => (format!("{other}"), Vec::new()),
    }
}

fn show(shape: &[i64]) -> String {
    let text: Vec<String> =
        shape.iter().map(|&size| if size == ANY { "?".to_owned() } else { size.to_string() }).collect();
    format!("[{}]", text.join(", "))
}

#[cfg(test)]
mod tests;
