//! One-dimensional convolution with half the multiplications, after Winograd (Lavin and Gray 2015, arXiv:1509.09308): four
//! neighbouring outputs of four taps are seven products instead of sixteen. The tables are Cook and Toom's for the points
//! 0, 1, -1, 2, -2, -1/2 and infinity.
//!
//! Owns: the arithmetic, in 512-bit vectors; with narrower ones ONNX Runtime's own convolution is as fast. Must not: know
//! threads.
//!
//! ```text
//! y = x * w:   x --BT--> windows t [7, inputs, columns]        (a column: four outputs)
//!              w --G---> [7, segments, inputs, outputs]        (a segment: four taps, the last one filled up with zeros)
//!              m [7, outputs, columns] = sum over segments s and inputs of w[s] t[column + s]  --AT--> y
//! ```
//! A segment is as long as the step between columns, so its windows are those of the next column and transformed once. A
//! dilated convolution is one over each of the `dilation` interleaved sequences of x, called phases here; their columns stand
//! behind each other in one row, each with the windows that only its last segments need.

use std::arch::x86_64::{
    __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::marker::PhantomData;
use std::ops::Range;

/// Outputs of a column, and taps of a segment.
const STEP: usize = 4;
/// Products of a column and a segment.
const POINTS: usize = 2 * STEP - 1;

const BT: [[f32; POINTS]; POINTS] = [
    [2.0, 4.0, -2.5, -5.0, 0.5, 1.0, 0.0],
    [0.0, -2.0, -6.0, -3.5, 1.5, 1.0, 0.0],
    [0.0, 2.0, 2.0, -4.5, -0.5, 1.0, 0.0],
    [0.0, -1.0, -2.5, 0.0, 2.5, 1.0, 0.0],
    [0.0, 1.0, 1.5, -2.0, -1.5, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, 2.0, 4.0, -2.5, -5.0, 0.5, 1.0],
];

const G: [[f64; STEP]; POINTS] = [
    [1.0 / 2.0, 0.0, 0.0, 0.0],
    [-1.0 / 9.0, -1.0 / 9.0, -1.0 / 9.0, -1.0 / 9.0],
    [1.0 / 3.0, -1.0 / 3.0, 1.0 / 3.0, -1.0 / 3.0],
    [1.0 / 60.0, 1.0 / 30.0, 1.0 / 15.0, 2.0 / 15.0],
    [-1.0 / 36.0, 1.0 / 18.0, -1.0 / 9.0, 2.0 / 9.0],
    [-32.0 / 45.0, 16.0 / 45.0, -8.0 / 45.0, 4.0 / 45.0],
    [0.0, 0.0, 0.0, 1.0],
];

const AT: [[f32; POINTS]; STEP] = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, -0.5, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.25, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, -0.125, 1.0],
];

/// Numbers in a vector.
const LANES: usize = 16;
/// Output channels and columns of a product that stays in registers: 8 x 2 sums of the 32 there are.
const ROWS: usize = 8;
const VECTORS: usize = 2;
const PANEL: usize = VECTORS * LANES;
/// Bytes of windows that a tile may have, rows' ends aside, so that they stay in the second-level cache.
const TILE_BYTES: usize = 400_000;

/// Whether this processor can run it.
pub(super) fn usable() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// The weights of a convolution, transformed.
#[derive(Debug)]
pub(super) struct Filter {
    inputs: usize,
    outputs: usize,
    taps: usize,
    segments: usize,
    dilation: usize,
    /// `[outputs / ROWS, POINTS, segments, inputs, ROWS]`
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Of a panel of columns and a group of output channels.
type Products = [[[f32; PANEL]; POINTS]; ROWS];

/// Memory of one tile, to be used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[POINTS, inputs, row]`
    windows: Vec<f32>,
    /// Per panel.
    products: Vec<Products>,
    /// A stretch of one phase of one channel, and the same by place in a column.
    line: Vec<f32>,
    quarters: [Vec<f32>; STEP],
}

/// Neighbouring columns of one phase within a tile.
#[derive(Debug, Clone, Copy)]
struct Run {
    phase: usize,
    /// Of the phase's columns.
    first: usize,
    /// In the tile.
    place: usize,
    count: usize,
}

/// The output of one batch entry, `[outputs, length]`, which tiles write at different places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output<'y> {
    data: *mut f32,
    len: usize,
    memory: PhantomData<&'y mut [f32]>,
}

// SAFETY: who shares an output promises that nobody else writes the columns they write (`Filter::run`).
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'y> Output<'y> {
    pub(super) fn new(y: &'y mut [f32]) -> Self {
        Output { data: y.as_mut_ptr(), len: y.len(), memory: PhantomData }
    }

    /// Writes `from` to `first`, `first + step`, ...
    ///
    /// # Safety
    /// Nobody else may use these places meanwhile.
    unsafe fn put(self, first: usize, step: usize, from: &[f32]) {
        assert!(first + (from.len() - 1) * step < self.len, "a column behind the end. This is a bug.");
        // SAFETY: inside by the assertion, ours by the caller's promise.
        unsafe {
            let place = self.data.add(first);
            if step == 1 {
                place.copy_from_nonoverlapping(from.as_ptr(), from.len());
            } else {
                from.iter().enumerate().for_each(|(index, &value)| place.add(index * step).write(value));
            }
        }
    }
}

impl Filter {
    /// `weights` `[outputs, inputs, taps]` with an odd number of taps, `bias` `[outputs]`.
    pub(super) fn new(weights: &[f32], bias: &[f32], inputs: usize, taps: usize, dilation: usize) -> Filter {
        let outputs = bias.len();
        assert_eq!(weights.len(), outputs * inputs * taps, "weights are [outputs, inputs, taps]. This is a bug.");
        let segments = taps.div_ceil(STEP);
        let mut transformed = vec![0.0; outputs.div_ceil(ROWS) * POINTS * segments * inputs * ROWS];
        for (index, kernel) in weights.chunks_exact(taps).enumerate() {
            let (output, input) = (index / inputs, index % inputs);
            for (point, row) in G.iter().enumerate() {
                for (segment, taps) in kernel.chunks(STEP).enumerate() {
                    let sum: f64 = taps.iter().zip(row).map(|(&tap, factor)| f64::from(tap) * factor).sum();
                    let group = (output / ROWS * POINTS + point) * segments + segment;
                    transformed[(group * inputs + input) * ROWS + output % ROWS] = sum as f32;
                }
            }
        }
        Filter { inputs, outputs, taps, segments, dilation, weights: transformed, bias: bias.to_vec() }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Cuts the columns of `length` outputs a channel into tiles.
    pub(super) fn tiles(&self, length: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let total: usize = self.phases(length).map(|phase| self.windows(length, phase)).sum();
        let most = (TILE_BYTES / (size_of::<f32>() * POINTS * self.inputs) / PANEL).max(1) * PANEL;
        (0..total).step_by(most).map(move |first| first..(first + most).min(total))
    }

    /// Computes the outputs of one tile of `x` `[inputs, length]`, with zeros around it so that there are `length` of them a
    /// channel.
    ///
    /// # Safety
    /// [`usable`] must have said so, and tiles that run at the same time on one `y` must be different ones of [`Filter::tiles`].
    pub(super) unsafe fn run(
        &self,
        x: &[f32],
        length: usize,
        tile: Range<usize>,
        scratch: &mut Scratch,
        y: Output<'_>,
    ) {
        assert!(x.len() == self.inputs * length && y.len == self.outputs * length, "other sizes. This is a bug.");
        // The last columns' later segments read windows behind the tile.
        let runs = self.runs(length, tile.start..tile.end + self.segments - 1);
        let panels = tile.len().div_ceil(PANEL);
        let row = panels * PANEL + self.segments - 1 + LANES;
        // SAFETY: the caller has asked `usable`.
        unsafe {
            self.transform(x, length, &runs, row, scratch);
            for group in 0..self.outputs.div_ceil(ROWS) {
                self.multiply(group, row, panels, scratch);
                self.finish(group, length, &runs, tile.len(), scratch, y);
            }
        }
    }

    fn phases(&self, length: usize) -> Range<usize> {
        0..self.dilation.min(length)
    }

    /// Numbers of a phase.
    fn phase_length(&self, length: usize, phase: usize) -> usize {
        (length - phase).div_ceil(self.dilation)
    }

    fn windows(&self, length: usize, phase: usize) -> usize {
        self.phase_length(length, phase).div_ceil(STEP) + self.segments - 1
    }

    fn runs(&self, length: usize, tile: Range<usize>) -> Vec<Run> {
        let mut start = 0;
        let phases = self.phases(length).filter_map(|phase| {
            let begin = start;
            start += self.windows(length, phase);
            let (first, end) = (tile.start.max(begin), tile.end.min(start));
            let run = || Run { phase, first: first - begin, place: first - tile.start, count: end - first };
            (first < end).then(run)
        });
        phases.collect()
    }

    /// Windows of all runs.
    #[target_feature(enable = "avx512f")]
    fn transform(&self, x: &[f32], length: usize, runs: &[Run], row: usize, scratch: &mut Scratch) {
        let Scratch { windows, line, quarters, .. } = scratch;
        let plane = self.inputs * row;
        if windows.len() < POINTS * plane {
            windows.resize(POINTS * plane, 0.0);
        }
        for (channel, x) in x.chunks_exact(length).enumerate() {
            for run in runs {
                self.read(x, length, *run, line);
                for quarter in quarters.iter_mut() {
                    // What lies behind the run's windows is computed with, and never read.
                    quarter.resize((run.count + 1 + LANES).max(quarter.len()), 0.0);
                }
                let [zero, one, two, three] = quarters;
                let places = zero.iter_mut().zip(one).zip(two).zip(three);
                for (numbers, (((zero, one), two), three)) in line.as_chunks::<STEP>().0.iter().zip(places) {
                    (*zero, *one, *two, *three) = (numbers[0], numbers[1], numbers[2], numbers[3]);
                }
                for column in (0..run.count).step_by(LANES) {
                    let mut window = [[0.0f32; LANES]; POINTS];
                    for (index, lanes) in window.iter_mut().enumerate() {
                        lanes.copy_from_slice(&quarters[index % STEP][column + index / STEP..][..LANES]);
                    }
                    for (point, factors) in BT.iter().enumerate() {
                        let out = combine(factors, &window, [0.0; LANES]);
                        windows[point * plane + channel * row + run.place + column..][..LANES].copy_from_slice(&out);
                    }
                }
            }
        }
    }

    /// Fills `line` with the numbers that a run's windows see: those of its phase, and zeros before and behind them.
    fn read(&self, x: &[f32], length: usize, run: Run, line: &mut Vec<f32>) {
        let numbers = STEP * (run.count + 1);
        // Number `begin - pad` of the phase is the first one seen.
        let (begin, pad) = (STEP * run.first, (self.taps - 1) / 2);
        let zeros = pad.saturating_sub(begin).min(numbers);
        let from = (begin + zeros).saturating_sub(pad);
        let there = self.phase_length(length, run.phase).saturating_sub(from).min(numbers - zeros);
        line.clear();
        line.resize(zeros, 0.0);
        if there > 0 {
            let x = &x[from * self.dilation + run.phase..];
            match self.dilation {
                1 => line.extend_from_slice(&x[..there]),
                apart => line.extend(x.iter().step_by(apart).take(there)),
            }
        }
        line.resize(numbers, 0.0);
    }

    /// The products of `ROWS` output channels with all windows.
    #[target_feature(enable = "avx512f")]
    fn multiply(&self, group: usize, row: usize, panels: usize, scratch: &mut Scratch) {
        let Scratch { windows, products, .. } = scratch;
        products.resize(panels.max(products.len()), [[[0.0; PANEL]; POINTS]; ROWS]);
        let size = self.segments * self.inputs * ROWS;
        for point in 0..POINTS {
            let weights = &self.weights[(group * POINTS + point) * size..][..size];
            let windows = &windows[point * self.inputs * row..][..self.inputs * row];
            for (panel, products) in products[..panels].iter_mut().enumerate() {
                self.product(weights, windows, row, panel * PANEL, point, products);
            }
        }
    }

    /// `out[o][point][column]` = sum over segments and inputs of `weights[segment, input, o] * windows[input, at + column + segment]`.
    #[target_feature(enable = "avx512f")]
    fn product(&self, weights: &[f32], windows: &[f32], row: usize, at: usize, point: usize, out: &mut Products) {
        let mut sums: [[__m512; VECTORS]; ROWS] = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for (segment, weights) in weights.chunks_exact(self.inputs * ROWS).enumerate() {
            for (weights, windows) in weights.as_chunks::<ROWS>().0.iter().zip(windows.chunks_exact(row)) {
                let windows = &windows[at + segment..][..PANEL];
                let mut columns = [_mm512_setzero_ps(); VECTORS];
                for (vector, lanes) in columns.iter_mut().zip(windows.as_chunks::<LANES>().0) {
                    // SAFETY: sixteen numbers to read, of any alignment.
                    *vector = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
                }
                for (sums, &weight) in sums.iter_mut().zip(weights) {
                    let weight = _mm512_set1_ps(weight);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(weight, column, *sum);
                    }
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for (lanes, sum) in out[point].as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                // SAFETY: room for sixteen numbers, of any alignment.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) };
            }
        }
    }

    /// Outputs out of products.
    ///
    /// # Safety
    /// As [`Filter::run`].
    #[target_feature(enable = "avx512f")]
    unsafe fn finish(
        &self,
        group: usize,
        length: usize,
        runs: &[Run],
        columns: usize,
        scratch: &Scratch,
        y: Output<'_>,
    ) {
        for output in group * ROWS..((group + 1) * ROWS).min(self.outputs) {
            for (panel, products) in scratch.products[..columns.div_ceil(PANEL)].iter().enumerate() {
                let mut parts = [[self.bias[output]; PANEL]; STEP];
                for (part, factors) in parts.iter_mut().zip(&AT) {
                    *part = combine(factors, &products[output % ROWS], *part);
                }
                let mut woven = [[0.0f32; STEP]; PANEL];
                for (part, numbers) in parts.iter().enumerate() {
                    for (woven, &number) in woven.iter_mut().zip(numbers) {
                        woven[part] = number;
                    }
                }
                let panel = panel * PANEL..((panel + 1) * PANEL).min(columns);
                for run in runs {
                    let (first, end) = (run.place.max(panel.start), (run.place + run.count).min(panel.end));
                    if first >= end {
                        continue;
                    }
                    let begin = STEP * (run.first + first - run.place);
                    let numbers = &woven.as_flattened()[STEP * (first - panel.start)..STEP * (end - panel.start)];
                    // The last columns of a phase reach behind its end, or only have windows.
                    let there = self.phase_length(length, run.phase).saturating_sub(begin).min(numbers.len());
                    if there > 0 {
                        let place = output * length + begin * self.dilation + run.phase;
                        // SAFETY: these outputs belong to columns of this tile alone.
                        unsafe { y.put(place, self.dilation, &numbers[..there]) };
                    }
                }
            }
        }
    }
}

/// `start` plus the sum of `rows` times `factors`. The factors are tables: inlined, those that are 0 cost nothing.
#[inline(always)]
fn combine<const N: usize>(factors: &[f32; POINTS], rows: &[[f32; N]; POINTS], start: [f32; N]) -> [f32; N] {
    let mut out = start;
    for (&factor, row) in factors.iter().zip(rows) {
        if factor != 0.0 {
            for (out, &value) in out.iter_mut().zip(row) {
                *out = value.mul_add(factor, *out);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    //! Asserted here: every shape, of one tile or several, gives the convolution in double precision, to 1e-5 of its largest
    //! number, and writes each output, whatever the scratch memory holds.

    use super::*;

    /// Numbers in [-0.5, 0.5) without a period.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn every_shape_is_the_convolution() {
        if !usable() {
            return;
        }
        let mut scratch = Scratch { windows: vec![f32::NAN; 1 << 18], ..Scratch::default() };
        for (inputs, outputs) in [(1, 1), (3, 9), (16, 8), (40, 17), (256, 9)] {
            for (taps, dilation) in [(1, 1), (3, 1), (3, 2), (7, 1), (7, 3), (11, 1), (11, 5)] {
                for length in [1, 2, 4, 7, 63, 129, 464] {
                    let x = numbers(inputs * length, 1);
                    let weights = numbers(outputs * inputs * taps, 2);
                    let bias = numbers(outputs, 3);
                    let filter = Filter::new(&weights, &bias, inputs, taps, dilation);
                    let mut y = vec![f32::NAN; outputs * length];
                    let out = Output::new(&mut y);
                    for tile in filter.tiles(length) {
                        // SAFETY: asked above; one after the other.
                        unsafe { filter.run(&x, length, tile, &mut scratch, out) };
                    }
                    let wanted = direct(&x, &weights, &bias, length, taps, dilation);
                    let largest = wanted.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                    for (index, (got, wanted)) in y.iter().zip(&wanted).enumerate() {
                        let error = (f64::from(*got) - wanted).abs();
                        assert!(
                            error <= 1e-5 * largest,
                            "{inputs} to {outputs} channels, {taps} taps, dilation {dilation}, length {length}: \
                             output {index} is {got} instead of {wanted}"
                        );
                    }
                }
            }
        }
    }

    fn direct(x: &[f32], weights: &[f32], bias: &[f32], length: usize, taps: usize, dilation: usize) -> Vec<f64> {
        let inputs = x.len() / length;
        let mut y = Vec::with_capacity(bias.len() * length);
        for (kernels, &bias) in weights.chunks_exact(inputs * taps).zip(bias) {
            for t in 0..length {
                let mut sum = f64::from(bias);
                for (kernel, x) in kernels.chunks_exact(taps).zip(x.chunks_exact(length)) {
                    for (tap, &weight) in kernel.iter().enumerate() {
                        let place = (t + tap * dilation).checked_sub((taps - 1) / 2 * dilation);
                        if let Some(&value) = place.and_then(|place| x.get(place)) {
                            sum += f64::from(weight) * f64::from(value);
                        }
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    #[test]
    fn long_inputs_are_cut_into_tiles() {
        let filter = Filter::new(&numbers(256 * 8 * 7, 1), &numbers(8, 2), 256, 7, 3);
        let tiles: Vec<_> = filter.tiles(464).collect();
        assert!(tiles.len() > 3, "{tiles:?}");
        assert_eq!(tiles[0].start, 0);
        assert!(tiles.windows(2).all(|pair| pair[0].end == pair[1].start));
    }
}
