//! The Gaussian error linear unit x Phi(x) and its slope (Hendrycks and Gimpel, arXiv:1606.08415, 2016), exact or with
//! the paper's approximation by tanh.
//!
//! The code is written once for both precisions. It uses only additions, multiplications, divisions and bit operations,
//! so that the compiler can vectorise it at any level with the same result. It has no branches. Infinities and NaN come
//! out as the formulas say.

#![allow(clippy::excessive_precision, reason = "coefficients as they were fitted")]

use super::real::{Arithmetic, even, polynomial};

/// A precision that has a GELU.
pub(crate) trait Tail: Arithmetic {
    /// Coefficients of Q(z) e^(z^2 / 2) / t as a polynomial in t - 1/8, for t = 1 / (z + 17/4). Q(z) is the probability
    /// that a standard normal number is above z >= 0.
    const TAIL: &'static [Self];
}

// Minimax fits of the relative error, like those of the powers of 2, accurate to 1.3e-7 and 1.4e-16. 33.35 is raised by
// one ulp, so that Q(0) comes out as 1/2.
impl Tail for f32 {
    const TAIL: &'static [Self] = even(&[
        0.800_313_771,
        5.780_652_52,
        33.351_627,
        148.983_963,
        476.714_294,
        835.309_082,
        -738.349_182,
        -6_767.805_18,
    ]);
}
impl Tail for f64 {
    const TAIL: &'static [Self] = even(&[
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
    ]);
}

/// Two numbers: e^(-x^2 / 2); and the probability that a standard normal number is above |x|, divided by the first.
#[inline(always)]
fn tail<R: Tail>(x: R) -> [R; 2] {
    let z = if x < R::from_f64(0.0) { -x } else { x };
    let t = R::from_f64(1.0) / (z + R::from_f64(4.25));
    let bell = (R::from_f64(-0.5 * std::f64::consts::LOG2_E) * (x * x)).exp2();
    [bell, t * polynomial(t - R::from_f64(0.125), R::TAIL)]
}

/// The probability that a standard normal number is below x.
#[inline(always)]
fn phi<R: Tail>(x: R) -> R {
    let [bell, ratio] = tail(x);
    let above = bell * ratio;
    if x < R::from_f64(0.0) { above } else { R::from_f64(1.0) - above }
}

/// 2 sqrt(2 / pi), and the paper's coefficient of x^3.
const TWO_ROOT: f64 = 1.595_769_121_605_730_8;
const CUBIC: f64 = 0.044_715;

/// 1 + e^-v for v = 2 sqrt(2 / pi) (x + 0.044715 x^3): Phi(x) is about its reciprocal, (1 + tanh(v / 2)) / 2.
#[inline(always)]
fn reciprocal_tanh<R: Tail>(x: R) -> R {
    const LINEAR: f64 = -TWO_ROOT * std::f64::consts::LOG2_E;
    let v = x * (R::from_f64(LINEAR) + R::from_f64(LINEAR * CUBIC) * (x * x));
    R::from_f64(1.0) + v.exp2()
}

/// x Phi(x)
#[inline(always)]
pub(crate) fn gelu<R: Tail, const TANH: bool>(x: R) -> R {
    if TANH { x / reciprocal_tanh(x) } else { x * phi(x) }
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn slope<R: Tail, const TANH: bool>(x: R) -> R {
    // Beyond this, the slope is 0 or 1 in either precision, and products would be infinity times 0.
    let far = R::from_f64(50.0);
    let x = if x > far { far } else { x };
    let x = if x < -far { -far } else { x };
    let [zero, one] = [0.0, 1.0].map(R::from_f64);
    if TANH {
        let s = one / reciprocal_tanh(x);
        let inner = x * (R::from_f64(TWO_ROOT) + R::from_f64(3.0 * TWO_ROOT * CUBIC) * (x * x));
        s * (one + inner * (one - s))
    } else {
        // For a negative x: Phi(x) + x times the normal density, 1 / sqrt(2 pi) e^(-x^2 / 2). Otherwise: 1 minus the
        // slope at -x.
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

    /// Rounding x^2 / 2 causes an error in the result: 18 units in the last place at x = -6.
    #[test]
    fn phi_is_that_of_tables() {
        for (x, expected) in PHI {
            assert!((phi(x) / expected - 1.0).abs() < 1e-14, "{x}: {}", phi(x));
            assert!((f64::from(phi(x as f32)) / expected - 1.0).abs() < 5e-6, "{x}: {}", phi(x as f32));
        }
        assert_eq!((phi(0.0f32), phi(0.0f64)), (0.5, 0.5));
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
