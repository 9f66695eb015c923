//! The Gaussian error linear unit x Phi(x) and its slope (Hendrycks and Gimpel, arXiv:1606.08415, 2016), exact or with
//! the paper's approximation by tanh.
//!
//! Written once for both precisions, with additions, multiplications, divisions and bit operations,
//! so that the compiler can vectorise it at any level with the same result. No branches; infinities
//! and NaN come out as the formulas say.

#![allow(clippy::excessive_precision, reason = "coefficients as they were fitted")]

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
    + 'static
{
    /// Coefficients of 2^x for x in [-1/2, 1/2], with a constant term of 1.
    const POWER: &'static [Self];
    /// Coefficients in t - 1/8 of Q(z) e^(z^2 / 2) / t, where Q(z) is the probability that a standard normal number is above
    /// z >= 0, and t = 1 / (z + 17/4).
    const TAIL: &'static [Self];
    fn from_f64(x: f64) -> Self;
    fn from_f32(x: f32) -> Self;
    /// 2^x, and infinity above the range. Below the smallest normal number it falls to 0 twice as
    /// fast, so that subnormal numbers need no special treatment.
    fn exp2(self) -> Self;
}

macro_rules! arithmetic {
    ($float:ty, $bits:ty, $power:expr, $tail:expr) => {
        impl Arithmetic for $float {
            const POWER: &'static [Self] = even(&$power);
            const TAIL: &'static [Self] = even(&$tail);

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                x.into()
            }

            #[inline(always)]
            fn exp2(self) -> Self {
                const DIGITS: u32 = <$float>::MANTISSA_DIGITS - 1;
                const HIGH: $float = <$float>::MAX_EXP as $float;
                const LOW: $float = 1.0 - HIGH;
                // Added to a small number, this leaves the nearest integer in the lowest bits.
                const ROUNDER: $float = (3 as $bits << (DIGITS - 1)) as $float;
                // Comparisons rather than min and max, so that NaN propagates.
                let x = if self < LOW { LOW } else { self };
                let x = if x > HIGH { HIGH } else { x };
                let rounded = x + ROUNDER;
                let y = polynomial(x - (rounded - ROUNDER), Self::POWER);
                // Added to the exponent. At the limits y is 1, and the sums are the bits of 0 and infinity.
                Self::from_bits(y.to_bits().wrapping_add(rounded.to_bits() << DIGITS))
            }
        }
    };
}

/// The coefficients of [`polynomial`], which takes them in pairs.
const fn even<T>(coefficients: &[T]) -> &[T] {
    assert!(coefficients.len().is_multiple_of(2));
    coefficients
}

/// (c0 + x c1) + x^2 ((c2 + x c3) + x^2 (...)), with shorter dependency chains than Horner's.
#[inline(always)]
fn polynomial<R: Arithmetic>(x: R, c: &[R]) -> R {
    let square = x * x;
    let pairs = c.as_chunks::<2>().0.iter().rev().map(|[even, odd]| *even + x * *odd);
    pairs.reduce(|sum, pair| pair + square * sum).unwrap_or(x)
}

// Single precision: minimax fits of the relative error by linear programming over Chebyshev points.
// Coefficients were rounded from the lowest power up, and the others refitted after each. They are
// accurate to 1e-7 and 1.3e-7. 33.35 is raised by one ulp, so that Q(0) comes out as 1/2.
arithmetic!(
    f32,
    u32,
    [1.0, 0.693_147_000_37, 0.240_222_468_97, 0.055_507_108_57, 0.009_671_291_34, 0.001_326_952_13],
    [0.800_313_771, 5.780_652_52, 33.351_627, 148.983_963, 476.714_294, 835.309_082, -738.349_182, -6_767.805_18]
);
// Double precision: interpolation at Chebyshev points, to 50 digits. They are accurate to 2e-17 and
// 1.4e-16.
arithmetic!(
    f64,
    u64,
    [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_97,
        0.055_504_108_664_821_6,
        0.009_618_129_107_606_888,
        0.001_333_355_814_641_693_6,
        0.000_154_035_304_417_360_5,
        1.525_273_382_983_612e-5,
        1.321_544_258_792_169e-6,
        1.017_806_244_584_577_4e-7,
        7.072_585_949_269_223e-9,
        4.454_960_598_186_518_6e-10,
    ],
    [
        0.800_313_677_083_625_6,
        5.780_655_648_794_364,
        33.352_037_097_598_725,
        148.977_766_868_922_97,
        476.378_236_997_642_3,
        838.486_064_024_660_2,
        -650.865_795_414_010_7,
        -7_445.150_643_541_601,
        -7_727.780_902_306_553,
        54_615.385_547_225_414,
        119_715.657_415_463_17,
        -484_890.040_324_376_43,
        -1_336_372.000_891_361_4,
        5_603_291.610_423_109,
        12_979_300.720_901_476,
        -76_842_503.970_977_92,
        -92_537_086.091_688_02,
        1_060_294_580.451_939_1,
        93_579_441.721_534_58,
        -11_876_057_799.786_222,
        5_719_327_562.703_034,
        72_802_465_121.627_66,
    ]
);

/// e^(-x^2 / 2), and the probability that a standard normal number is above |x|, divided by it.
#[inline(always)]
fn tail<R: Arithmetic>(x: R) -> [R; 2] {
    let z = if x < R::from_f64(0.0) { -x } else { x };
    let t = R::from_f64(1.0) / (z + R::from_f64(4.25));
    let bell = (R::from_f64(-0.5 * std::f64::consts::LOG2_E) * (x * x)).exp2();
    [bell, t * polynomial(t - R::from_f64(0.125), R::TAIL)]
}

/// The probability that a standard normal number is below x.
#[inline(always)]
fn phi<R: Arithmetic>(x: R) -> R {
    let [bell, ratio] = tail(x);
    let above = bell * ratio;
    if x < R::from_f64(0.0) { above } else { R::from_f64(1.0) - above }
}

/// 2 sqrt(2 / pi), and the paper's coefficient of x^3.
const TWO_ROOT: f64 = 1.595_769_121_605_730_8;
const CUBIC: f64 = 0.044_715;

/// 1 + e^-v for v = 2 sqrt(2 / pi) (x + 0.044715 x^3): Phi(x) is about its reciprocal, (1 + tanh(v / 2)) / 2.
#[inline(always)]
fn reciprocal_tanh<R: Arithmetic>(x: R) -> R {
    const LINEAR: f64 = -TWO_ROOT * std::f64::consts::LOG2_E;
    let v = x * (R::from_f64(LINEAR) + R::from_f64(LINEAR * CUBIC) * (x * x));
    R::from_f64(1.0) + v.exp2()
}

/// x Phi(x)
#[inline(always)]
pub(crate) fn gelu<R: Arithmetic, const TANH: bool>(x: R) -> R {
    if TANH { x / reciprocal_tanh(x) } else { x * phi(x) }
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn slope<R: Arithmetic, const TANH: bool>(x: R) -> R {
    // Beyond this the slope is 0 or 1 in either precision, and products would be infinity times 0.
    let far = R::from_f64(50.0);
    let x = if x > far { far } else { x };
    let x = if x < -far { -far } else { x };
    let [zero, one] = [0.0, 1.0].map(R::from_f64);
    if TANH {
        let s = one / reciprocal_tanh(x);
        let inner = x * (R::from_f64(TWO_ROOT) + R::from_f64(3.0 * TWO_ROOT * CUBIC) * (x * x));
        s * (one + inner * (one - s))
    } else {
        // Phi(x) + x times the normal density, 1 / sqrt(2 pi) e^(-x^2 / 2), for a negative x;
        // otherwise 1 minus that of -x.
        let [bell, ratio] = tail(x);
        let z = if x < zero { -x } else { x };
        let below = bell * (ratio - z * R::from_f64(0.398_942_280_401_432_7));
        if x < zero { below } else { one - below }
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

    /// Rounding x^2 / 2 causes an error in the result, 18 units at x = -6.
    #[test]
    fn phi_is_that_of_tables() {
        for (x, expected) in PHI {
            assert!((phi(x) / expected - 1.0).abs() < 1e-14, "{x}: {}", phi(x));
            assert!((f64::from(phi(x as f32)) / expected - 1.0).abs() < 5e-6, "{x}: {}", phi(x as f32));
        }
        assert_eq!((phi(0.0f32), phi(0.0f64)), (0.5, 0.5));
    }

    #[test]
    fn powers_are_right_to_rounding_and_reach_both_limits() {
        for i in -10_210..10_230 {
            let x = f64::from(i) * 0.1;
            assert!((Arithmetic::exp2(x) / x.exp2() - 1.0).abs() < 3e-16, "{x}");
            let x = (x / 8.125) as f32;
            assert!((f64::from(Arithmetic::exp2(x)) / f64::from(x).exp2() - 1.0).abs() < 2e-7, "{x}");
        }
        let (high, low) = ([128.0, 1e30, f32::INFINITY], [-127.0, -1e30, f32::NEG_INFINITY]);
        assert_eq!([high, low].map(|x| x.map(Arithmetic::exp2)), [[f32::INFINITY; 3], [0.0; 3]]);
        let (high, low) = ([1024.0, f64::INFINITY], [-1023.0, f64::NEG_INFINITY]);
        assert_eq!([high, low].map(|x| x.map(Arithmetic::exp2)), [[f64::INFINITY; 2], [0.0; 2]]);
        for i in 0..=100 {
            let y = Arithmetic::exp2(-126.0 - 0.01 * i as f32);
            assert!((0.0..=f32::MIN_POSITIVE).contains(&y), "{i}: {y:e}");
        }
    }

    #[test]
    fn a_slope_is_that_of_its_function() {
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
