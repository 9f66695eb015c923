//! The two floats that elements are computed in: arithmetic, 2^x, and conversion to and from the stored types.
//!
//! The code uses only additions, multiplications, divisions and bit operations, so that the compiler can vectorise it
//! at any level with the same result.

#![allow(clippy::excessive_precision, reason = "coefficients as they were fitted")]

use std::ops::{Add, Div, Mul, Neg, Sub};

use half::slice::HalfFloatSliceExt;

use crate::simd::WORD;

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
    /// Coefficients of (e^x - 1 - x) / x^2 for |x| <= ln(2) / 2.
    const EXCESS: &'static [Self];
    fn from_f64(x: f64) -> Self;
    fn from_f32(x: f32) -> Self;
    /// 2^x, and infinity above the range. Below the smallest normal number it falls to 0 twice as
    /// fast, so that subnormal numbers need no special treatment.
    fn exp2(self) -> Self;
    /// 2^n and r, so that e^x is 2^n (1 + r), where n is the integer next to x / ln(2). Both e^x and e^x - 1 come from
    /// these to rounding. At infinity 2^n is infinite; below the smallest normal number it is 0.
    fn exp_parts(self) -> [Self; 2];
}

macro_rules! arithmetic {
    ($float:ty, $bits:ty, $power:expr, $excess:expr, $ln_2:expr) => {
        impl Arithmetic for $float {
            const POWER: &'static [Self] = even(&$power);
            const EXCESS: &'static [Self] = even(&$excess);

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

            #[inline(always)]
            fn exp_parts(self) -> [Self; 2] {
                const DIGITS: u32 = <$float>::MANTISSA_DIGITS - 1;
                const ROUNDER: $float = (3 as $bits << (DIGITS - 1)) as $float;
                const LN_2: [$float; 2] = $ln_2;
                const HIGH: $float = <$float>::MAX_EXP as $float * LN_2[0];
                const LOW: $float = (1.0 - <$float>::MAX_EXP as $float) * LN_2[0];
                let x = if self < LOW { LOW } else { self };
                let x = if x > HIGH { HIGH } else { x };
                let rounded = x * Self::from_f64(std::f64::consts::LOG2_E) + ROUNDER;
                let n = rounded - ROUNDER;
                let r = (x - n * LN_2[0]) - n * LN_2[1];
                let power = Self::from_bits((1.0 as $float).to_bits().wrapping_add(rounded.to_bits() << DIGITS));
                [power, r + r * r * polynomial(r, Self::EXCESS)]
            }
        }
    };
}

/// Coefficients for [`polynomial`], which needs an even number of them.
pub(super) const fn even<T>(coefficients: &[T]) -> &[T] {
    assert!(coefficients.len().is_multiple_of(2));
    coefficients
}

/// (c0 + x c1) + x^2 ((c2 + x c3) + x^2 (...)), with shorter dependency chains than Horner's.
#[inline(always)]
pub(super) fn polynomial<R: Arithmetic>(x: R, c: &[R]) -> R {
    let square = x * x;
    let pairs = c.as_chunks::<2>().0.iter().rev().map(|[even, odd]| *even + x * *odd);
    pairs.reduce(|sum, pair| pair + square * sum).unwrap_or(x)
}

// Single precision: a minimax fit of the relative error by linear programming over Chebyshev points. Coefficients were
// rounded from the lowest power up, and the others refitted after each. It is accurate to 1e-7.
// The excess of e^x is interpolated at Chebyshev points: e^x - 1 is accurate to 6e-10 and 5e-17. ln(2) is the sum of two
// numbers, of which the first has bits to spare for an exact product with n (Cody and Waite, "Software manual for the
// elementary functions", 1980).
arithmetic!(
    f32,
    u32,
    [1.0, 0.693_147_000_37, 0.240_222_468_97, 0.055_507_108_57, 0.009_671_291_34, 0.001_326_952_13],
    [
        0.500_000_001_346_580_92,
        0.166_666_666_816_232_31,
        0.041_666_464_925_285_926,
        0.008_333_310_925_480_901,
        0.001_393_364_999_630_925,
        0.000_198_909_908_246_736_54,
    ],
    [0.693_359_375, -2.121_944_400_546_905_8e-4]
);
// Double precision: interpolation at Chebyshev points, to 50 digits, accurate to 2e-17.
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
        0.500_000_000_000_000_1,
        0.166_666_666_666_666_67,
        0.041_666_666_666_624_128,
        0.008_333_333_333_330_062,
        0.001_388_888_891_721_371_7,
        0.000_198_412_698_630_536_17,
        2.480_152_129_595_437_5e-5,
        2.755_726_845_999_706_5e-6,
        2.762_008_844_540_974_8e-7,
        2.510_038_549_551_031_9e-8,
    ],
    [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10]
);

/// The floats that elements are computed in.
pub(crate) trait Real: Arithmetic + Default + Send + Sync {
    fn from_halves<T>(from: &[T], to: &mut [Self])
    where
        [T]: HalfFloatSliceExt;
    fn to_halves<T>(from: &[Self], to: &mut [T])
    where
        [T]: HalfFloatSliceExt;
    fn from_singles(from: &[f32], to: &mut [Self]);
    fn to_singles(from: &[Self], to: &mut [f32]);
    fn from_doubles(from: &[f64], to: &mut [Self]);
    fn to_doubles(from: &[Self], to: &mut [f64]);
}

impl Real for f32 {
    fn from_halves<T>(from: &[T], to: &mut [Self])
    where
        [T]: HalfFloatSliceExt,
    {
        from.convert_to_f32_slice(to);
    }
    fn to_halves<T>(from: &[Self], to: &mut [T])
    where
        [T]: HalfFloatSliceExt,
    {
        to.convert_from_f32_slice(from);
    }
    fn from_singles(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
    fn to_singles(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    fn from_doubles(_: &[f64], _: &mut [Self]) {
        unreachable!("float64 is computed in f64")
    }
    fn to_doubles(_: &[Self], _: &mut [f64]) {
        unreachable!("float64 is computed in f64")
    }
}

impl Real for f64 {
    fn from_halves<T>(from: &[T], to: &mut [Self])
    where
        [T]: HalfFloatSliceExt,
    {
        from.convert_to_f64_slice(to);
    }
    fn to_halves<T>(from: &[Self], to: &mut [T])
    where
        [T]: HalfFloatSliceExt,
    {
        let mut odd = [0.0; 2 * WORD];
        let odd = &mut odd[..from.len()];
        odd.iter_mut().zip(from).for_each(|(odd, from)| *odd = to_odd(*from));
        to.convert_from_f32_slice(odd);
    }
    fn from_singles(from: &[f32], to: &mut [Self]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = Self::from(*from));
    }
    fn to_singles(from: &[Self], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
    }
    fn from_doubles(from: &[f64], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
    fn to_doubles(from: &[Self], to: &mut [f64]) {
        to.copy_from_slice(from);
    }
}

/// The f32 next to `x` whose last bit is 1, or `x` itself. Rounding it to half precision gives what rounding `x` at
/// once does (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE Trans. Comput. 57(4), 2008).
/// Rounding the nearest f32 would round ties twice.
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    if back == x || x.is_nan() || bits & 1 == 1 {
        return nearest;
    }
    f32::from_bits(if back.abs() < x.abs() { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

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
    fn exponentials_are_right_to_rounding_also_minus_one() {
        for i in -70_000..70_000 {
            let x = f64::from(i) * 0.01;
            let [power, rest] = x.exp_parts();
            assert!((power * (1.0 + rest) / x.exp() - 1.0).abs() < 3e-16, "{x}");
            assert!((power * rest - (1.0 - power) - x.exp_m1()).abs() <= 5e-16 * x.exp_m1().abs(), "{x}");
            let x = (x / 8.125) as f32;
            let ([power, rest], exact) = (x.exp_parts(), f64::from(x));
            assert!((f64::from(power * (1.0 + rest)) / exact.exp() - 1.0).abs() < 1.3e-7, "{x}");
            let less = f64::from(power * rest - (1.0 - power));
            assert!((less - exact.exp_m1()).abs() <= 2.4e-7 * exact.exp_m1().abs(), "{x}");
        }
        assert_eq!([f64::INFINITY, 1e30].map(|x| x.exp_parts()[0]), [f64::INFINITY; 2]);
        assert_eq!([f32::NEG_INFINITY, -1e30].map(|x| x.exp_parts()[0]), [0.0; 2]);
    }

    /// Fails for a rounding to f32 in between, and for one that drops the lower bits of a double.
    #[test]
    fn doubles_become_halves_by_one_rounding() {
        let power = |n| 2f64.powi(n);
        let (mut halves, mut brains) = ([f16::ZERO; 3], [bf16::ZERO; 3]);
        for sign in [1.0, -1.0] {
            let signed = |numbers: [f64; 3]| numbers.map(|x| x * sign);
            // A tie between two numbers, and a step from it that is lost in f32; the second is subnormal.
            for (even, next, step) in [(1.0, 1.0 + power(-10), power(-50)), (0.0, power(-24), power(-70))] {
                let tie = (even + next) / 2.0;
                f64::to_halves(&signed([tie - step, tie, tie + step]), &mut halves);
                assert_eq!(halves.map(f16::to_f64), signed([even, even, next]));
            }
            let tie = 1.0 + power(-8);
            f64::to_halves(&signed([tie - power(-50), tie, tie + power(-50)]), &mut brains);
            assert_eq!(brains.map(bf16::to_f64), signed([1.0, 1.0, 1.0 + power(-7)]));
            // Beyond the numbers of f32.
            f64::to_halves(&signed([1e300, f64::INFINITY, 1e-300]), &mut brains);
            assert_eq!(brains.map(bf16::to_f64), signed([f64::INFINITY, f64::INFINITY, 0.0]));
        }
        f64::to_halves(&[f64::NAN], &mut halves[..1]);
        assert!(halves[0].is_nan());
    }
}
