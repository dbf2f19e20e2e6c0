//! `Convolve`: a convolution over the last axis that keeps its length, with half of the multiplications.
//!
//! Owns: the operator, its checks and its threads. The arithmetic is `winograd`'s.

use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, TensorValueType};

use super::required;
use super::winograd::{Filter, Output, Scratch};

/// `Convolve(x, w, b)` = Conv of x `[batch, inputs, 1, length]` with w `[outputs, inputs, 1, taps]` and b `[outputs]`, where
/// taps is odd and the attributes `dilations` [1, d] and `pads` [0, p, 0, p] keep the length.
#[derive(Default)]
pub(super) struct Convolve {
    scratch: Pool,
}

pub(super) struct ConvolveKernel {
    filter: Filter,
    inputs: usize,
    scratch: Pool,
}

/// Shared by all kernels of a session, so that the memory of one is still in the processor's cache for the next. It has one
/// for each thread that has worked at the same time as others.
type Pool = Arc<Mutex<Vec<Scratch>>>;

impl Operator for Convolve {
    type Kernel<'attr> = ConvolveKernel;

    fn name(&self) -> &str {
        "Convolve"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [const { OperatorInput::required(TensorElementType::Float32) }; 3]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let weights = context.constant_input::<TensorValueType<f32>>(1)?;
        let bias = context.constant_input::<TensorValueType<f32>>(2)?;
        let ((shape, weights), (_, bias)) = (weights.extract_tensor(), bias.extract_tensor());
        let attribute = |name: &str| context.get::<Vec<i64>>(name).unwrap_or_default();
        let (dilations, pads) = (attribute("dilations"), attribute("pads"));
        let sizes: Vec<usize> = shape.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        let (&[outputs, inputs, 1, taps], &[1, dilation]) = (&sizes[..], &dilations[..]) else {
            return Err(ort::Error::new(format!("Convolve: weights {shape:?} with dilations {dilations:?}")));
        };
        let pad = i64::try_from(taps / 2).unwrap_or(i64::MAX).saturating_mul(dilation);
        if taps % 2 == 0 || dilation < 1 || pads != [0, pad, 0, pad] {
            let reason = format!("Convolve: {taps} taps, dilation {dilation} and pads {pads:?} do not keep the length");
            return Err(ort::Error::new(reason));
        }
        if inputs == 0 || outputs == 0 || outputs != bias.len() {
            let reason = format!("Convolve: {inputs} to {outputs} channels with {} biases", bias.len());
            return Err(ort::Error::new(reason));
        }
        let filter = Filter::new(weights, bias, inputs, taps, usize::try_from(dilation).unwrap_or(1));
        Ok(ConvolveKernel { filter, inputs, scratch: self.scratch.clone() })
    }
}

impl Kernel for ConvolveKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = required(context.input(0)?)?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let sizes: Vec<usize> = shape.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        let &[batch, inputs, 1, length] = &sizes[..] else {
            return Err(ort::Error::new(format!("Convolve: x is {shape:?}, not [batch, channels, 1, length]")));
        };
        if inputs != self.inputs {
            return Err(ort::Error::new(format!("Convolve: {inputs} channels for weights of {}", self.inputs)));
        }
        let outputs = self.filter.outputs();
        let mut y = required(context.output(0, [batch, outputs, 1, length].map(|size| size as i64))?)?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        if x.is_empty() {
            return Ok(());
        }
        let tiles: Vec<_> = self.filter.tiles(length).collect();
        let entries: Vec<_> = x
            .chunks_exact(inputs * length)
            .zip(y.chunks_exact_mut(outputs * length))
            .map(|(x, y)| (x, Output::new(y)))
            .collect();
        let run = |index: usize| {
            let (x, y) = entries[index / tiles.len()];
            let tile = tiles[index % tiles.len()].clone();
            let pool = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = pool().pop().unwrap_or_default();
            // SAFETY: this operator is only registered where it is usable; every index is another tile or another output.
            unsafe { self.filter.run(x, length, tile, &mut scratch, y) };
            pool().push(scratch);
        };
        let total = entries.len() * tiles.len();
        if total == 1 {
            run(0);
            return Ok(());
        }
        context.par_for(total, total, run)
    }
}
