//! The Gaussian error linear unit x Phi(x) and its slope (Hendrycks and Gimpel, arXiv:1606.08415, 2016), exact or with
//! the paper's approximation by tanh.
//!
//! Made of additions, multiplications, divisions and operations on bits, for both precisions once, so that the
//! compiler can put it into the lanes of any level, with the same result. No branches; infinities and NaN come out as
//! the formulas say.

#![allow(clippy::excessive_precision, reason = "coefficients as they were published")]

use std::ops::{Add, Div, Mul, Neg, Sub};

/// The arithmetic of one precision.
pub(crate) trait Arithmetic:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// Terms of [`ERFC`] that this precision needs.
    const TERMS: usize;
    fn from_f64(x: f64) -> Self;
    fn from_f32(x: f32) -> Self;
    /// e^x; 0 and infinity where that is out of range.
    fn exp(self) -> Self;
}

macro_rules! arithmetic {
    ($float:ty, $bits:ty, terms: $terms:expr, degree: $degree:expr, low: $low:expr, high: $high:expr,
     ln2: [$ln2_high:expr, $ln2_low:expr], log2_e: $log2e:expr) => {
        impl Arithmetic for $float {
            const TERMS: usize = $terms;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                x.into()
            }

            #[inline(always)]
            fn exp(self) -> Self {
                const DIGITS: u32 = <$float>::MANTISSA_DIGITS - 1;
                const BIAS: $bits = <$float>::MAX_EXP as $bits - 1;
                // Added to a small number, this leaves the nearest integer in the lowest bits.
                const ROUNDER: $float = (3 as $bits << (DIGITS - 1)) as $float;
                // 1 / n!, for n from the degree down.
                const TAYLOR: [$float; $degree + 1] = {
                    let mut terms = [1.0; $degree + 1];
                    let mut n = 1;
                    while n <= $degree {
                        terms[n] = terms[n - 1] / n as $float;
                        n += 1;
                    }
                    terms
                };
                // Comparisons rather than min and max, so that NaN stays.
                let x = if self < $low { $low } else { self };
                let x = if x > $high { $high } else { x };
                let rounded = x * $log2e + ROUNDER;
                let n = rounded - ROUNDER;
                let r = x - n * $ln2_high - n * $ln2_low;
                let y = TAYLOR.iter().rev().copied().reduce(|sum, term| sum * r + term).unwrap_or(1.0);
                let power = <$float>::from_bits(rounded.to_bits().wrapping_add(BIAS) << DIGITS);
                let y = y * power;
                let y = if self > $high { <$float>::INFINITY } else { y };
                if self < $low { 0.0 } else { y }
            }
        }
    };
}

// ln 2 in two parts: the first has so few digits that its product with n is exact.
arithmetic!(f32, u32, terms: 12, degree: 7, low: -87.0, high: 88.0,
    ln2: [0.693_359_375, -2.121_944_4e-4], log2_e: std::f32::consts::LOG2_E);
arithmetic!(f64, u64, terms: 28, degree: 13, low: -708.0, high: 709.0,
    ln2: [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10], log2_e: std::f64::consts::LOG2_E);

/// Chebyshev coefficients of ln(erfc(z) / t) + z^2 over y = 2 t - 1, where t = 2 / (2 + z) and z >= 0 (the form of
/// Press et al., "Numerical recipes", 3rd ed., section 6.2.2; computed to 60 digits).
const ERFC: [f64; 28] = [
    -0.651_326_859_890_854_7,
    0.641_969_792_356_490_3,
    0.019_476_473_204_185_836,
    -0.009_561_514_786_808_632,
    -9.465_953_444_820_369e-4,
    3.668_394_978_527_615e-4,
    4.252_332_480_690_777e-5,
    -2.027_857_811_253_424e-5,
    -1.624_290_004_647_025_5e-6,
    1.303_655_835_580_523_2e-6,
    1.562_644_172_206_614_3e-8,
    -8.523_809_591_492_654e-8,
    6.529_054_439_098_851e-9,
    5.059_343_495_551_469e-9,
    -9.913_641_564_930_33e-10,
    -2.273_651_222_931_835_9e-10,
    9.646_791_102_015_526e-11,
    2.394_038_083_039_114_7e-12,
    -6.886_027_526_497_553e-12,
    8.944_879_273_090_726e-13,
    3.130_921_399_342_958e-13,
    -1.127_082_236_125_239_5e-13,
    3.810_905_255_189_232e-16,
    7.106_097_613_609_237e-15,
    -1.523_028_201_457_104_3e-15,
    -9.457_494_571_291_234e-17,
    1.210_237_189_224_279e-16,
    -2.816_663_087_747_177e-17,
];

/// The probability that a standard normal number is below x.
#[inline(always)]
fn phi<R: Arithmetic>(x: R) -> R {
    let [zero, one, two] = [0.0, 1.0, 2.0].map(R::from_f64);
    let z = if x < zero { -x } else { x } * R::from_f64(std::f64::consts::FRAC_1_SQRT_2);
    let t = two / (two + z);
    let y = two * t - one;
    // Clenshaw's recurrence.
    let [mut last, mut sum] = [zero, zero];
    for coefficient in ERFC[1..R::TERMS].iter().rev() {
        [last, sum] = [sum, two * y * sum - last + R::from_f64(*coefficient)];
    }
    let logarithm = y * sum - last + R::from_f64(ERFC[0]) - z * z;
    let upper = R::from_f64(0.5) * t * logarithm.exp();
    if x < zero { upper } else { one - upper }
}

/// 2 sqrt(2 / pi), and the paper's coefficient of x^3.
const TWO_ROOT: f64 = 1.595_769_121_605_730_8;
const CUBIC: f64 = 0.044_715;

/// 1 / (1 + e^-v) for v = 2 sqrt(2 / pi) (x + 0.044715 x^3), which is (1 + tanh(v / 2)) / 2.
#[inline(always)]
fn phi_tanh<R: Arithmetic>(x: R) -> R {
    let one = R::from_f64(1.0);
    let v = R::from_f64(TWO_ROOT) * x * (one + R::from_f64(CUBIC) * x * x);
    one / (one + (-v).exp())
}

/// x Phi(x)
#[inline(always)]
pub(crate) fn gelu<R: Arithmetic, const TANH: bool>(x: R) -> R {
    x * if TANH { phi_tanh(x) } else { phi(x) }
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn slope<R: Arithmetic, const TANH: bool>(x: R) -> R {
    // Beyond this it is 0 or 1 in either precision, and products would be infinity times 0.
    let far = R::from_f64(50.0);
    let x = if x > far { far } else { x };
    let x = if x < -far { -far } else { x };
    let one = R::from_f64(1.0);
    if TANH {
        let s = phi_tanh(x);
        let inner = R::from_f64(TWO_ROOT) * (one + R::from_f64(3.0 * CUBIC) * x * x);
        s + x * s * (one - s) * inner
    } else {
        // The normal density: 1 / sqrt(2 pi) e^(-x^2 / 2).
        let density = R::from_f64(0.398_942_280_401_432_7) * (-R::from_f64(0.5) * x * x).exp();
        phi(x) + x * density
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x, Phi(x), from tables (DLMF, section 7).
    const PHI: [(f64, f64); 5] = [
        (-6.0, 9.865_876_450_376_98e-10),
        (-1.0, 0.158_655_253_931_457_05),
        (0.0, 0.5),
        (0.5, 0.691_462_461_274_013_1),
        (3.0, 0.998_650_101_968_369_9),
    ];

    /// The rounding of z^2 is an error of the result, 18 units at x = -6.
    #[test]
    fn phi_is_wrong_beyond_rounding() {
        for (x, expected) in PHI {
            assert!((phi(x) / expected - 1.0).abs() < 1e-14, "{x}: {}", phi(x));
            assert!((f64::from(phi(x as f32)) / expected - 1.0).abs() < 5e-6, "{x}: {}", phi(x as f32));
        }
    }

    #[test]
    fn the_exponential_is_wrong_beyond_rounding() {
        for i in -6900..6900 {
            let x = f64::from(i) * 0.1;
            assert!((Arithmetic::exp(x) / x.exp() - 1.0).abs() < 4e-16, "{x}");
            let x = (x / 8.0) as f32;
            assert!((f64::from(Arithmetic::exp(x)) / f64::from(x).exp() - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!(
            [f64::INFINITY, f64::NEG_INFINITY, 710.0, -800.0].map(Arithmetic::exp),
            [f64::INFINITY, 0.0, f64::INFINITY, 0.0]
        );
        assert!(Arithmetic::exp(f32::NAN).is_nan());
    }

    #[test]
    fn a_slope_is_not_that_of_its_function() {
        for i in -80..80 {
            let (x, h) = (f64::from(i) * 0.1, 1e-6);
            let exact = (gelu::<f64, false>(x + h) - gelu::<f64, false>(x - h)) / (2.0 * h);
            assert!((slope::<f64, false>(x) - exact).abs() < 1e-9, "{x}");
            let tanh = (gelu::<f64, true>(x + h) - gelu::<f64, true>(x - h)) / (2.0 * h);
            assert!((slope::<f64, true>(x) - tanh).abs() < 1e-9, "{x}");
        }
        for x in [1e30f32, f32::INFINITY] {
            assert_eq!([slope::<f32, true>(x), slope::<f32, false>(x)], [1.0; 2]);
            assert_eq!([slope::<f32, true>(-x), slope::<f32, false>(-x)], [0.0; 2]);
        }
    }
}
