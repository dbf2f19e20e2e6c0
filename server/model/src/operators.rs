//! Operators of the bundle's CPU graphs that are faster than ONNX Runtime's: its Sin takes 5 ns a number on one thread, for it
//! has no vector kernel, and its convolutions do every multiplication.
//!
//! Owns: domain, names and kernels of these operators. Must not: know which graph uses them. The graphs carry each one
//! as a function of standard operators too (BUNDLE.md), so that a program without these kernels computes the same but
//! for rounding.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod convolve;
#[allow(unsafe_code)]
mod sine;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod winograd;

use std::sync::{Mutex, PoisonError};

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

/// Domain of the operators in BUNDLE.md.
const DOMAIN: &str = "duologue";
/// Numbers that are worth another thread's wake-up.
const PIECE: usize = 1 << 14;

/// The operators, to be added to every session on the CPU. One that this processor cannot run faster than ONNX Runtime is not
/// among them.
///
/// # Errors
/// Those of ONNX Runtime.
pub(crate) fn domain() -> ort::Result<OperatorDomain> {
    let domain = OperatorDomain::new(DOMAIN)?.add(Snake)?.add(Sine)?;
    #[cfg(target_arch = "x86_64")]
    if winograd::usable() {
        return domain.add(convolve::Convolve::default());
    }
    Ok(domain)
}

/// `Snake(x, alpha)` = u + sin(u)^2 with u = alpha x; x `[batch, channels, ...]`, alpha `[channels, 1, 1]` or one number.
struct Snake;

/// `Sine(x)` = sin(x).
struct Sine;

struct SnakeKernel;

struct SineKernel;

impl Operator for Snake {
    type Kernel<'attr> = SnakeKernel;

    fn name(&self) -> &str {
        "Snake"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [const { OperatorInput::required(TensorElementType::Float32) }; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(SnakeKernel)
    }
}

impl Operator for Sine {
    type Kernel<'attr> = SineKernel;

    fn name(&self) -> &str {
        "Sine"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(SineKernel)
    }
}

impl Kernel for SnakeKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (x, alpha) = (required(context.input(0)?)?, required(context.input(1)?)?);
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let (_, alpha) = alpha.try_extract_tensor::<f32>()?;
        let mut y = required(context.output(0, shape.to_vec())?)?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        let channels = shape.get(1).and_then(|&size| usize::try_from(size).ok()).unwrap_or(0);
        if alpha.len() != 1 && alpha.len() != channels {
            let reason = format!("Snake: {} factors for {channels} channels of {shape:?}", alpha.len());
            return Err(ort::Error::new(reason));
        }
        let row: usize = shape.iter().skip(2).map(|&size| usize::try_from(size).unwrap_or(0)).product();
        if row == 0 {
            return Ok(());
        }
        let rows = x.chunks_exact(row).zip(y.chunks_exact_mut(row)).zip(alpha.iter().cycle());
        in_pieces(context, x.len(), rows.map(|((x, y), &alpha)| (x, y, alpha)), |(x, y, alpha)| {
            sine::snake(x, *alpha, y);
        })
    }
}

impl Kernel for SineKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = required(context.input(0)?)?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let mut y = required(context.output(0, shape.to_vec())?)?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        in_pieces(context, x.len(), x.chunks(PIECE).zip(y.chunks_mut(PIECE)), |(x, y)| sine::sine(x, y))
    }
}

fn required<T>(value: Option<T>) -> ort::Result<T> {
    value.ok_or_else(|| ort::Error::new("an operator of Duologue was called without one of its tensors"))
}

/// Does the jobs that `total` numbers were cut into: here when they are few, else on the threads of the session.
fn in_pieces<J: Send>(
    context: &ComputeContext,
    total: usize,
    jobs: impl Iterator<Item = J>,
    run: impl Fn(&mut J) + Sync + Send,
) -> ort::Result<()> {
    if total <= PIECE {
        jobs.for_each(|mut job| run(&mut job));
        return Ok(());
    }
    // Each job is taken by one thread; the lock only tells the compiler so.
    let jobs: Vec<Mutex<J>> = jobs.map(Mutex::new).collect();
    let batches = jobs.len().min(total / PIECE);
    context.par_for(jobs.len(), batches, |index| run(&mut jobs[index].lock().unwrap_or_else(PoisonError::into_inner)))
}

#[cfg(test)]
mod tests;
