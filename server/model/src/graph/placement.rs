//! Nodes that run on the CPU although a device was asked for.
//!
//! Owns: what of that is right. ONNX Runtime leaves arithmetic on shapes on the CPU, where shapes are known; every other node there
//! makes each run copy to the host, wait, and copy back. The two are told apart by the operator, so a sum or a copy of numbers
//! that are no shapes goes unnoticed.

use crate::raw::Placed;

/// ONNX Runtime's name of the CPU.
pub(crate) const HOST_PROVIDER: &str = "CPUExecutionProvider";

/// Operators that arithmetic on shapes consists of.
const SHAPE_OPERATORS: &[&str] = &[
    "Add",
    "And",
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "Greater",
    "Identity",
    "Less",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Not",
    "Range",
    "ReduceMax",
    "ReduceProd",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Squeeze",
    "Sub",
    "Unsqueeze",
    "Where",
];

/// Where the nodes of a graph run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Nodes on the device.
    pub(crate) on_device: usize,
    /// Arithmetic on shapes on the CPU.
    pub(crate) shapes: usize,
    /// Other nodes on the CPU, as `name (operator)`.
    pub(crate) strays: Vec<String>,
}

impl Placement {
    pub(crate) fn of(nodes: &[Placed]) -> Self {
        let mut placement = Self::default();
        for Placed { provider, name, operator } in nodes {
            if provider != HOST_PROVIDER {
                placement.on_device += 1;
            } else if SHAPE_OPERATORS.contains(&operator.as_str()) {
                placement.shapes += 1;
            } else {
                placement.strays.push(format!("{name} ({operator})"));
            }
        }
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computing_on_the_cpu_is_told_from_arithmetic_on_shapes() {
        let node = |provider: &str, name: &str, operator: &str| Placed {
            provider: provider.to_owned(),
            name: name.to_owned(),
            operator: operator.to_owned(),
        };
        let nodes = [
            node("CUDAExecutionProvider", "conv.1", "Conv"),
            node("CUDAExecutionProvider", "add.1", "Add"),
            node(HOST_PROVIDER, "size.1", "Shape"),
            node(HOST_PROVIDER, "scan.1", "Scan"),
        ];
        let found = Placement::of(&nodes);
        assert_eq!(found, Placement { on_device: 2, shapes: 1, strays: vec!["scan.1 (Scan)".to_owned()] });
    }
}
