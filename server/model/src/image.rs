//! From an RGB picture to the inputs of vision.onnx: slicing rule, resize, patches, position numbers.
//!
//! Owns: the choice of the grid, the resize (equal to Pillow's antialiased bicubic to the last bit), the patch layout.
//! Must not: decode picture files or run a graph.
//!
//! Reference: processing_minicpmo.py:125-415, modeling_navit_siglip.py:340-364; Pillow's `Resample.c` for the arithmetic.
//! The crate `fast_image_resize` 6.1 was tried first: its 16-bit coefficients give other values than Pillow's 32-bit ones
//! in 7 % of the bytes of the golden pictures (worst difference 6 levels), hence the resize below.

/// Numbers of the manifest's `vision` section that the preprocessing needs.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionParams {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the square whose area a slice is scaled to, in pixels.
    pub image: usize,
    /// Rows (and columns) of the position table.
    pub grid: usize,
    /// `buckets[n - 1][i]`: position row of patch i when a side has n patches (n = 1..=grid). Made by the exporter
    /// with torch, because the float32 rounding of `bucketize` cannot be recomputed reliably elsewhere.
    pub buckets: Vec<Vec<u32>>,
    /// Mean subtracted from values scaled to 0..1.
    pub mean: f32,
    /// Divisor after the mean.
    pub std: f32,
}

/// Why a picture was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A side of zero pixels.
    #[error("the picture is empty ({width}x{height} pixels)")]
    Empty {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// The byte count does not belong to the stated size.
    #[error(
        "an RGB picture of {width}x{height} pixels has {expected} bytes, got {got}; send 8-bit RGB, 3 bytes a pixel"
    )]
    Size {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Bytes that the size asks for.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// No slice may be made at all.
    #[error("max_slices is 0; at least 1 slice is needed to see a picture")]
    NoSlices,
    /// One side has more patches than the position table has rows.
    #[error(
        "a {width}x{height} picture is too elongated: a slice would have {patches} patches on one side, the model knows {limit}; crop it"
    )]
    TooElongated {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Patches on the longer side.
        patches: usize,
        /// Rows of the position table.
        limit: usize,
    },
}

/// One slice, cut into patches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Patches from top to bottom.
    pub h: usize,
    /// Patches from left to right.
    pub w: usize,
    /// `[h * w, 3 * patch * patch]`: patches row by row, each as channel, row, column; 8-bit values after the resize.
    pub patches: Vec<u8>,
}

impl Slice {
    /// Appends the values for vision.onnx's `patches`: `[h * w, 3 * patch * patch]`, `(x / 255 - mean) / std` in float32.
    pub fn normalise_into(&self, params: &VisionParams, out: &mut Vec<f32>) {
        let table: Vec<f32> = (0..=255u8).map(|v| (f32::from(v) / 255.0 - params.mean) / params.std).collect();
        out.extend(self.patches.iter().map(|&v| table[usize::from(v)]));
    }

    /// `[h * w]` rows of the encoder's position table (modeling_navit_siglip.py:340-364).
    pub fn pos_ids(&self, params: &VisionParams) -> Vec<i64> {
        let (rows, columns) = (&params.buckets[self.h - 1], &params.buckets[self.w - 1]);
        let grid = params.grid as i64;
        rows[..self.h]
            .iter()
            .flat_map(|&r| columns[..self.w].iter().map(move |&c| i64::from(r) * grid + i64::from(c)))
            .collect()
    }

    /// `[h * w]` rows of the resampler's fixed position table: row * grid + column.
    pub fn grid_ids(&self, params: &VisionParams) -> Vec<i64> {
        (0..self.h).flat_map(|i| (0..self.w).map(move |j| (i * params.grid + j) as i64)).collect()
    }
}

/// Slices a picture: the overview first, then the cells of the grid row by row (none if the picture is small or
/// `max_slices` is 1). `rgb` is row-major, 3 bytes a pixel.
///
/// # Errors
/// Empty picture, wrong byte count, `max_slices` 0, or a picture too elongated for the position table.
pub fn preprocess(
    rgb: &[u8],
    width: usize,
    height: usize,
    max_slices: usize,
    params: &VisionParams,
) -> Result<Vec<Slice>, ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    let expected = width * height * 3;
    if rgb.len() != expected {
        return Err(ImageError::Size { width, height, expected, got: rgb.len() });
    }
    if max_slices == 0 {
        return Err(ImageError::NoSlices);
    }
    let (w, h) = (width as f64, height as f64);
    let grid = choose_grid(w, h, max_slices, params);
    let overview = best_size(w, h, params, grid.is_none());
    let mut plan = vec![(overview, (1, 1))];
    if let Some((columns, rows)) = grid {
        let refined = (round_to(w, columns), round_to(h, rows));
        let cell = best_size(refined.0 as f64 / columns as f64, refined.1 as f64 / rows as f64, params, true);
        plan.push(((cell.0 * columns, cell.1 * rows), (columns, rows)));
    }

    let mut slices = Vec::new();
    for ((full_w, full_h), (columns, rows)) in plan {
        let (cell_w, cell_h) = (full_w / columns, full_h / rows);
        let patches = (cell_w / params.patch).max(cell_h / params.patch);
        if patches > params.grid {
            return Err(ImageError::TooElongated { width, height, patches, limit: params.grid });
        }
        let resized = resize_bicubic(rgb, (width, height), (full_w, full_h));
        for row in 0..rows {
            for column in 0..columns {
                slices.push(cut(&resized, full_w, (column * cell_w, row * cell_h), (cell_w, cell_h), params.patch));
            }
        }
    }
    Ok(slices)
}

/// `(columns, rows)` of the grid, or none when the picture is taken whole (processing_minicpmo.py:260-293).
fn choose_grid(width: f64, height: f64, max_slices: usize, params: &VisionParams) -> Option<(usize, usize)> {
    let area = (params.image * params.image) as f64;
    let wanted = ((width * height / area).ceil() as usize).min(max_slices);
    if wanted <= 1 {
        return None;
    }
    let log_ratio = (width / height).ln();
    let mut best = (1, 1);
    let mut least = f64::INFINITY;
    for cells in [wanted - 1, wanted, wanted + 1] {
        if cells == 1 || cells > max_slices {
            continue;
        }
        for columns in (1..=cells).filter(|columns| cells % columns == 0) {
            let rows = cells / columns;
            let error = (log_ratio - (columns as f64 / rows as f64).ln()).abs();
            // strictly less: the first of equals wins
            if error < least {
                (best, least) = ((columns, rows), error);
            }
        }
    }
    Some(best)
}

/// Size in pixels, a multiple of the patch on both sides, of about the area the model wants; smaller pictures grow only
/// if `upscale` (processing_minicpmo.py:153-161).
fn best_size(width: f64, height: f64, params: &VisionParams, upscale: bool) -> (usize, usize) {
    let side = params.image as f64;
    let (mut w, mut h) = (width, height);
    if upscale || width * height > side * side {
        let ratio = width / height;
        h = (side / ratio.sqrt()).trunc();
        w = (h * ratio).trunc();
    }
    (round_to(w, params.patch), round_to(h, params.patch))
}

/// The multiple of `step` nearest to `length` (halves go to the even multiple, as python's `round`), at least `step`.
fn round_to(length: f64, step: usize) -> usize {
    (((length / step as f64).round_ties_even() as usize) * step).max(step)
}

/// Cuts one cell out of a picture `stride` pixels wide and lays it out as patches.
fn cut(rgb: &[u8], stride: usize, (x0, y0): (usize, usize), (width, height): (usize, usize), patch: usize) -> Slice {
    let (h, w) = (height / patch, width / patch);
    let mut patches = Vec::with_capacity(3 * width * height);
    for i in 0..h {
        for j in 0..w {
            for channel in 0..3 {
                for y in 0..patch {
                    let start = ((y0 + i * patch + y) * stride + x0 + j * patch) * 3;
                    patches.extend(rgb[start..start + 3 * patch].iter().skip(channel).step_by(3));
                }
            }
        }
    }
    Slice { h, w, patches }
}

/// Fraction bits of the fixed-point coefficients: 32 less 8 for the pixel and 2 for the filter's overshoot
/// (`PRECISION_BITS` of Pillow's Resample.c).
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The taps of one output position: `weights` over the input from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Bicubic kernel with a = -0.5, written in the order in which Pillow evaluates it.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Taps of every output position along one side (`precompute_coeffs` and `normalize_coeffs_8bpc` of Resample.c).
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // antialiasing: the kernel widens with the reduction
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..to)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            // casts truncate towards zero and saturate at 0, as the C code does by hand
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let exact: Vec<f64> = (first..end).map(|i| bicubic((i as f64 - center + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = exact.iter().sum();
            let unit = f64::from(1u32 << PRECISION_BITS);
            let weights = exact
                .iter()
                .map(|&k| k * (1.0 / sum))
                .map(|k| if k < 0.0 { (k * unit - 0.5) as i32 } else { (k * unit + 0.5) as i32 })
                .collect();
            Taps { first, weights }
        })
        .collect()
}

/// Fixed-point sum back to a pixel value.
fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes an RGB picture as `Image.resize(.., BICUBIC)`: columns first, then rows, 8 bits in between. A side that
/// keeps its length is not filtered.
fn resize_bicubic(rgb: &[u8], (from_w, from_h): (usize, usize), (to_w, to_h): (usize, usize)) -> Vec<u8> {
    const HALF: i32 = 1 << (PRECISION_BITS - 1);
    let mut picture = rgb.to_vec();
    if from_w != to_w {
        let columns = taps(from_w, to_w);
        let mut narrowed = Vec::with_capacity(to_w * from_h * 3);
        for row in picture.chunks_exact(from_w * 3) {
            for tap in &columns {
                let mut sum = [HALF; 3];
                for (pixel, &weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                    for (s, &value) in sum.iter_mut().zip(pixel) {
                        *s += i32::from(value) * weight;
                    }
                }
                narrowed.extend(sum.map(to_pixel));
            }
        }
        picture = narrowed;
    }
    if from_h != to_h {
        let stride = to_w * 3;
        let mut shortened = Vec::with_capacity(stride * to_h);
        let mut sums = vec![HALF; stride];
        for tap in taps(from_h, to_h) {
            sums.fill(HALF);
            for (row, &weight) in picture[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
                for (s, &value) in sums.iter_mut().zip(row) {
                    *s += i32::from(value) * weight;
                }
            }
            shortened.extend(sums.iter().map(|&s| to_pixel(s)));
        }
        picture = shortened;
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Golden folder of the project; the variable lets a developer point at the full set.
    fn golden(relative: &str) -> PathBuf {
        let root = std::env::var_os("DUOLOGUE_GOLDEN")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"), PathBuf::from);
        root.join(relative)
    }

    /// The bundle's numbers, with a plain floor table: these tests do not judge the table itself.
    fn params() -> VisionParams {
        let buckets = (1..=70u32).map(|n| (0..n).map(|i| 70 * i / n).collect()).collect();
        VisionParams { patch: 14, image: 448, grid: 70, buckets, mean: 0.5, std: 0.5 }
    }

    fn noise(width: usize, height: usize) -> Vec<u8> {
        let mut state = 1u32;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(width * height * 3)
        .collect()
    }

    /// `[L, 3 * p * p]` as the reference's `[3, p, p * L]` (`reshape_by_patch`).
    fn as_reference(slice: &Slice, patch: usize) -> Vec<u8> {
        let count = slice.h * slice.w;
        let mut out = vec![0; slice.patches.len()];
        for (l, one) in slice.patches.chunks_exact(3 * patch * patch).enumerate() {
            for (k, &value) in one.iter().enumerate() {
                let (plane, column) = (k / patch, k % patch);
                out[plane * patch * count + l * patch + column] = value;
            }
        }
        out
    }

    /// Compares every slice of a picture that the archive holds as `{prefix}patches{K}_u8`; returns how many.
    fn assert_equal_to_golden(png: &str, archive: &str, prefix: &str, first: usize, max_slices: usize) -> usize {
        let picture = image::open(golden(png)).expect("golden picture").to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let slices =
            preprocess(picture.as_raw(), width, height, max_slices, &params()).expect("golden picture is valid");
        let file = std::fs::File::open(golden(archive)).expect("golden archive");
        let mut npz = ndarray_npy::NpzReader::new(file).expect("npz");
        let sizes: ndarray::Array2<i32> = npz.by_name(&format!("{prefix}tgt_sizes")).expect("tgt_sizes");
        for (k, slice) in slices.iter().enumerate() {
            let index = first + k;
            assert_eq!([slice.h as i32, slice.w as i32], [sizes[[index, 0]], sizes[[index, 1]]], "{png} slice {k}");
            let wanted: ndarray::Array3<u8> = npz.by_name(&format!("{prefix}patches{index}_u8")).expect("patches");
            let got = as_reference(slice, 14);
            let wrong = got.iter().zip(wanted.iter()).filter(|(a, b)| a != b).count();
            assert_eq!((got.len(), wrong), (wanted.len(), 0), "{png} slice {k}: values that differ from Pillow's");
        }
        slices.len()
    }

    #[test]
    fn module_pictures_equal_pillow_bit_for_bit() {
        let count = |name: &str, max_slices| {
            assert_equal_to_golden(&format!("modules/{name}.png"), &format!("modules/{name}.npz"), "", 0, max_slices)
        };
        assert_eq!(count("module_vision_1", 1), 1);
        assert_eq!(count("module_vision_2", 1), 1);
        let sliced = "modules/module_vision_sliced.npz";
        assert_eq!(assert_equal_to_golden("modules/module_vision_1.png", sliced, "", 0, 9), 3);
    }

    /// Two frames in one unit, and an upscaled one.
    #[test]
    fn session_frames_equal_pillow_bit_for_bit() {
        let text = std::fs::read_to_string(golden("session_D/session.json")).expect("session.json");
        let session: serde_json::Value = serde_json::from_str(&text).expect("json");
        for (unit, slices) in [(2usize, 2), (5, 1)] {
            let mut compared = 0;
            for frame in session["units"][unit]["frames"].as_array().expect("frames") {
                let png = format!("session_D/{}", frame["file"].as_str().expect("file"));
                let max_slices = frame["max_slice_nums"].as_u64().expect("max_slice_nums") as usize;
                let prefix = format!("u{unit:03}_");
                compared += assert_equal_to_golden(&png, "session_D/session.npz", &prefix, compared, max_slices);
            }
            assert_eq!(compared, slices, "unit {unit}");
        }
    }

    #[test]
    fn same_size_is_untouched_and_flat_colour_stays_flat() {
        let picture = noise(448, 448);
        let slices = preprocess(&picture, 448, 448, 1, &params()).expect("valid");
        assert_eq!((slices.len(), slices[0].h, slices[0].w), (1, 32, 32));
        assert_eq!(slices[0].patches[..14], picture[..42].iter().copied().step_by(3).collect::<Vec<_>>());
        for (width, height) in [(100, 75), (1280, 720), (61, 200)] {
            let flat = vec![200u8; width * height * 3];
            for slice in preprocess(&flat, width, height, 9, &params()).expect("valid") {
                assert!(slice.patches.iter().all(|&v| v == 200), "{width}x{height}");
            }
        }
    }

    #[test]
    fn slices_keep_the_stated_count_and_sizes() {
        for (width, height) in [(640, 480), (1920, 1080), (1080, 1920), (3000, 1000), (37, 29), (449, 448)] {
            let picture = vec![7u8; width * height * 3];
            for max_slices in [1, 2, 5, 9] {
                let slices = preprocess(&picture, width, height, max_slices, &params()).expect("valid");
                assert!(slices.len() <= max_slices + 1, "{width}x{height}: overview and at most {max_slices} cells");
                for slice in &slices {
                    assert_eq!(slice.patches.len(), slice.h * slice.w * 588);
                    assert_eq!(slice.pos_ids(&params()).len(), slice.h * slice.w);
                    assert_eq!(
                        slice.grid_ids(&params()).last(),
                        Some(&((slice.h as i64 - 1) * 70 + slice.w as i64 - 1))
                    );
                }
            }
        }
        let example = preprocess(&noise(640, 480), 640, 480, 1, &params()).expect("valid");
        assert_eq!((example[0].w, example[0].h), (37, 28), "the example of submodules.md 1.3");
    }

    #[test]
    fn normalised_values_span_minus_one_to_one() {
        let mut out = Vec::new();
        Slice { h: 1, w: 1, patches: vec![0, 255, 51] }.normalise_into(&params(), &mut out);
        assert_eq!(out, [-1.0, 1.0, (51.0 / 255.0 - 0.5) / 0.5]);
    }

    #[test]
    fn bad_pictures_are_refused_with_the_reason() {
        let message = |result: Result<Vec<Slice>, ImageError>| result.expect_err("must be refused").to_string();
        assert!(message(preprocess(&[], 0, 5, 1, &params())).contains("empty (0x5"));
        assert!(message(preprocess(&[0; 11], 2, 2, 1, &params())).contains("has 12 bytes, got 11"));
        assert!(message(preprocess(&[0; 12], 2, 2, 0, &params())).contains("max_slices is 0"));
        let ribbon = vec![0u8; 4000 * 20 * 3];
        assert!(message(preprocess(&ribbon, 4000, 20, 1, &params())).contains("too elongated"));
    }
}
