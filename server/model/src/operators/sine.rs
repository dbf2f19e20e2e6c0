//! sin and u + sin(u)^2 over slices, in the widest vectors that this processor has.
//!
//! Owns: the arithmetic. Must not: depend on fused multiplication, so that every processor gives the same bits.

/// 1.5 * 2^23: adding it rounds to a whole number, which then is in the lowest bits. Holds below 2^22.
const ROUNDER: f32 = 12_582_912.0;
/// pi in three parts. The first two have 10 bits: their products with whole numbers below 2^14 are exact.
const PI: [f32; 3] = [3.140_625, 9.670_257_6e-4, 6.278_329_5e-7];
/// (sin(r) - r) / r^3 over r^2, |r| <= pi / 2: least maximum of the error of sin, 5e-9.
const POLYNOMIAL: [f32; 4] = [-0.166_666_57, 8.333_017e-3, -1.980_660_2e-4, 2.600_024_4e-6];

/// sin(u) up to the sign (-1)^n, and n in the lowest bit. Within 2e-7 of sin while |u| < 5e4 (n < 2^14); beyond, where
/// neighbouring float32 numbers are 0.004 and more apart, still in [-1, 1].
#[inline(always)]
fn folded_sine(u: f32) -> (f32, u32) {
    let shifted = u * std::f32::consts::FRAC_1_PI + ROUNDER;
    let n = shifted - ROUNDER;
    let r = ((u - n * PI[0]) - n * PI[1]) - n * PI[2];
    let s = r * r;
    let p = ((POLYNOMIAL[3] * s + POLYNOMIAL[2]) * s + POLYNOMIAL[1]) * s + POLYNOMIAL[0];
    ((r + r * (s * p)).clamp(-1.0, 1.0), shifted.to_bits())
}

#[inline(always)]
fn snake_body(x: &[f32], alpha: f32, y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        let u = x * alpha;
        let (sine, _) = folded_sine(u);
        *y = u + sine * sine;
    }
}

#[inline(always)]
fn sine_body(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        let (sine, n) = folded_sine(x);
        *y = f32::from_bits(sine.to_bits() ^ (n << 31));
    }
}

/// `$name` runs `$body` compiled for the best instruction set at hand.
macro_rules! for_this_processor {
    ($(#[$text:meta])* $name:ident, $body:ident, ($($argument:ident: $kind:ty),*)) => {
        $(#[$text])*
        pub(super) fn $name($($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn wide($($argument: $kind),*) {
                    $body($($argument),*);
                }
                #[target_feature(enable = "avx2")]
                fn middle($($argument: $kind),*) {
                    $body($($argument),*);
                }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has avx512f.
                    return unsafe { wide($($argument),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has avx2.
                    return unsafe { middle($($argument),*) };
                }
            }
            $body($($argument),*);
        }
    };
}

for_this_processor!(
    /// y = u + sin(u)^2 with u = alpha x.
    snake, snake_body, (x: &[f32], alpha: f32, y: &mut [f32])
);
for_this_processor!(
    /// y = sin(x).
    sine, sine_body, (x: &[f32], y: &mut [f32])
);

#[cfg(test)]
mod tests {
    //! Asserted here: both are within 2e-7 (and a rounding of u) of the values in double precision from 0 to 5e4, stay
    //! bounded beyond, pass NaN on, and give the same bits in every vector width.

    use super::*;

    fn inputs() -> Vec<f32> {
        let scales = [1e-30f32, 1e-6, 0.1, 1.0, 3.0, 30.0, 1e3, 5e4];
        let steps = (-2000i16..=2000).map(|step| f32::from(step) / 2000.0);
        steps.flat_map(|step| scales.map(|scale| scale * step)).collect()
    }

    #[test]
    fn sine_is_accurate_over_its_range() {
        let x = inputs();
        let mut y = vec![0.0; x.len()];
        sine(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let exact = f64::from(x).sin();
            assert!((f64::from(y) - exact).abs() <= 2e-7, "sin({x}) = {exact}, got {y}");
        }
    }

    #[test]
    fn snake_is_accurate_over_its_range() {
        let x = inputs();
        let mut y = vec![0.0; x.len()];
        for alpha in [1.0f32, 0.37] {
            snake(&x, alpha, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let u = f64::from(x * alpha);
                let exact = u + u.sin().powi(2);
                assert!((f64::from(y) - exact).abs() <= 4e-7 + u.abs() * 1e-7, "snake({u}) = {exact}, got {y}");
            }
        }
    }

    #[test]
    fn huge_numbers_stay_bounded_and_nan_is_passed_on() {
        let x = [1e6f32, -3e8, 1e20, f32::MAX, f32::NAN, f32::INFINITY];
        let mut y = [0.0; 6];
        sine(&x, &mut y);
        assert!(y[..4].iter().all(|y| y.abs() <= 1.0), "{y:?}");
        assert!(y[4].is_nan() && y[5].is_nan());
    }

    #[test]
    fn every_vector_width_gives_the_same_bits() {
        let x = inputs();
        let (mut best, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        sine(&x, &mut best);
        sine_body(&x, &mut plain);
        assert_eq!(best, plain);
        snake(&x, 1.3, &mut best);
        snake_body(&x, 1.3, &mut plain);
        assert_eq!(best, plain);
    }
}
