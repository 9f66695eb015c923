//! Relaxed decisions of concrete dropout: elements times k = (1 - z) / (1 - p), with a uniform for each.
//!
//! z = 1 / (1 + exp(-a)) with a = (l + log(u / (1 - u))) / t, for the logit l of p and the temperature t. Everything is
//! computed in double precision, and k is rounded once to the precision of the product.

use std::f64::consts::LOG2_E;

use super::real::{Arithmetic, Real, even, polynomial};
use super::{Memory, Run};
use crate::simd::{Kernel, Simd, WORD};

/// The relaxation, or its derivative with respect to the logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Relaxed {
    /// log(p / (1 - p)) of the probability p to drop.
    pub(crate) logit: f64,
    /// In (0, 1].
    pub(crate) temperature: f64,
    /// Number of derivatives, at most 2.
    pub(crate) order: u8,
}

/// Coefficients of 2 artanh(r) / (r log 2) in the square of r, on [0, 1/9]: interpolation at Chebyshev points, to 50
/// digits, accurate to 2e-19.
const SERIES: &[f64] = even(&[
    2.885_390_081_777_926_8,
    0.961_796_693_925_975_9,
    0.577_078_016_355_482_5,
    0.412_198_583_128_363_3,
    0.320_598_896_487_639,
    0.262_308_264_859_527,
    0.221_950_654_809_443_87,
    0.192_410_460_430_206_2,
    0.169_015_686_663_350_07,
    0.158_359_103_893_063_05,
    0.100_705_747_554_126_4,
    0.237_875_683_459_749_94,
]);

/// log2(u / (1 - u)) for a uniform, where 1 - u = (U + 1/2) 2^-64. Its error is less than 3e-16 of the larger of 1 and
/// its size.
#[inline(always)]
fn log2_odds(uniform: u64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const ONE: u64 = 1023 << 52;
    // 2^52, whose lowest bits hold a small integer.
    const INTEGER: u64 = 1075 << 52;
    let [above, below] = [(!uniform) as f64 + 0.5, uniform as f64 + 0.5].map(f64::to_bits);
    let exponent = |bits: u64| f64::from_bits(INTEGER | bits >> 52);
    let mantissa = |bits: u64| f64::from_bits(ONE | bits & MANTISSA);
    let (a, b) = (mantissa(above), mantissa(below));
    // log (a / b) = 2 artanh((a - b) / (a + b)), where the ratio is at most 1/3.
    let ratio = (a - b) / (a + b);
    (exponent(above) - exponent(below)) + ratio * polynomial(ratio * ratio, SERIES)
}

/// Numbers that all elements share.
#[derive(Clone, Copy)]
struct Shared {
    /// p, 1/t, and a factor of k.
    p: f64,
    steepness: f64,
    scale: f64,
    /// log2 of exp(-max(l, 0)), and this number.
    low: f64,
    least: f64,
    logit: f64,
}

impl Relaxed {
    fn shared(self) -> Shared {
        let little = (-self.logit.abs()).exp();
        let logit = self.logit * LOG2_E;
        let (p, least) = if self.logit > 0.0 { (1.0, little) } else { (little, 1.0) };
        let steepness = 1.0 / self.temperature;
        let low = logit.max(0.0);
        Shared { p: p / (1.0 + little), steepness, scale: 1.0 + little, low, least, logit }
    }

    /// Whether it keeps all elements or none, because the logit is infinite.
    pub(super) fn constant(self) -> Option<bool> {
        self.logit.is_infinite().then_some(self.logit < 0.0 && self.order == 0)
    }
}

impl Shared {
    /// k, or its derivative, in double precision; and k.
    ///
    /// k = (1 + exp(l)) / (1 + exp(a)), divided above and below by exp(max(l, 0)), so that nothing overflows but
    /// exp(a), where k is 0.
    #[inline(always)]
    fn factor<const ORDER: u8>(&self, uniform: u64) -> (f64, f64) {
        let power = Arithmetic::exp2((self.logit + log2_odds(uniform)) * self.steepness - self.low);
        let inverse = 1.0 / (self.least + power);
        let k = self.scale * inverse;
        if ORDER == 0 {
            return (k, k);
        }
        let z = if power < self.least { power * inverse } else { 1.0 - self.least * inverse };
        let slope = self.p - z * self.steepness;
        if ORDER == 1 {
            return (k * slope, k);
        }
        let bend = self.p * (1.0 - self.p) - z * self.steepness * ((1.0 - z) * self.steepness);
        (k * (slope * slope + bend), k)
    }
}

/// Multiplies a run by the factors of its uniforms, of which there is one for each element, or one for all.
///
/// # Safety
/// See [`super::Operation::run`].
pub(super) unsafe fn run(memory: &Memory, relaxed: Relaxed, uniforms: &[u64], run: &Run<'_>) {
    assert!(uniforms.len() == run.len || uniforms.len() == 1);
    // SAFETY: the obligations are the same.
    unsafe {
        if run.operands.is_double() {
            run_in::<f64>(memory, relaxed, uniforms, run);
        } else {
            run_in::<f32>(memory, relaxed, uniforms, run);
        }
    }
}

/// # Safety
/// See [`run`]; R must be the float that the elements are computed in.
unsafe fn run_in<R: Real>(memory: &Memory, relaxed: Relaxed, uniforms: &[u64], run: &Run<'_>) {
    debug_assert_eq!(run.operands.element().parts(), 1);
    let shared = relaxed.shared();
    let (mut x, mut few) = ([R::default(); WORD], [0; WORD]);
    for at in (0..run.len).step_by(WORD) {
        let len = WORD.min(run.len - at);
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        match uniforms {
            [one] => few = [*one; WORD],
            several => few[..len].copy_from_slice(&several[at..at + len]),
        }
        // SAFETY: the caller guarantees the run's elements.
        unsafe { run.layout(1).load(place(1), 1, &mut x[..len]) };
        let (x, uniforms) = (&mut x, &few);
        match relaxed.order {
            0 => memory.level.run(Multiply::<R, 0> { shared, uniforms, x }),
            1 => memory.level.run(Multiply::<R, 1> { shared, uniforms, x }),
            _ => memory.level.run(Multiply::<R, 2> { shared, uniforms, x }),
        }
        // SAFETY: as above.
        unsafe { run.layout(0).store(&x[..len], place(0)) };
    }
}

/// Multiplies gradients by the factors of their uniforms, and makes the second input the terms of the logit's gradient.
///
/// # Safety
/// See [`super::Operation::run`].
pub(super) unsafe fn run_slopes(memory: &Memory, relaxed: Relaxed, uniforms: &[u64], run: &Run<'_>) {
    assert!(uniforms.len() == run.len || uniforms.len() == 1);
    // SAFETY: the obligations are the same.
    unsafe {
        if run.operands.is_double() {
            run_slopes_in::<f64>(memory, relaxed, uniforms, run);
        } else {
            run_slopes_in::<f32>(memory, relaxed, uniforms, run);
        }
    }
}

/// # Safety
/// See [`run_slopes`]; R must be the float that the elements are computed in.
unsafe fn run_slopes_in<R: Real>(memory: &Memory, relaxed: Relaxed, uniforms: &[u64], run: &Run<'_>) {
    debug_assert_eq!(run.operands.element().parts(), 1);
    let shared = relaxed.shared();
    let (mut dy, mut x, mut few) = ([R::default(); WORD], [R::default(); WORD], [0; WORD]);
    for at in (0..run.len).step_by(WORD) {
        let len = WORD.min(run.len - at);
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        match uniforms {
            [one] => few = [*one; WORD],
            several => few[..len].copy_from_slice(&several[at..at + len]),
        }
        // SAFETY: the caller guarantees the run's elements.
        unsafe {
            run.layout(1).load(place(1), 1, &mut dy[..len]);
            run.layout(2).load(place(2), 1, &mut x[..len]);
        }
        memory.level.run(Both { shared, uniforms: &few, dy: &mut dy, x: &mut x });
        // SAFETY: as above; those of the second input are this call's own.
        unsafe {
            run.layout(0).store(&dy[..len], place(0));
            run.layout(2).store(&x[..len], place(2));
        }
    }
}

/// Gradients, elements and their uniforms.
struct Both<'a, R> {
    shared: Shared,
    uniforms: &'a [u64; WORD],
    dy: &'a mut [R; WORD],
    x: &'a mut [R; WORD],
}

impl<R: Real> Kernel for Both<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let zero = R::default();
        for ((dy, x), uniform) in self.dy.iter_mut().zip(self.x.iter_mut()).zip(self.uniforms) {
            let (slope, k) = self.shared.factor::<1>(*uniform);
            let (term, product) = (*dy * *x * R::from_f64(slope), *dy * R::from_f64(k));
            let dropped = R::from_f64(k) == zero;
            *x = if dropped { zero } else { term };
            *dy = if dropped { zero } else { product };
        }
    }
}

/// Elements and their uniforms. The number of derivatives is a constant, because a branch would keep the compiler from
/// vectorizing the loop.
struct Multiply<'a, R, const ORDER: u8> {
    shared: Shared,
    uniforms: &'a [u64; WORD],
    x: &'a mut [R; WORD],
}

impl<R: Real, const ORDER: u8> Kernel for Multiply<'_, R, ORDER> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let zero = R::default();
        for (x, uniform) in self.x.iter_mut().zip(self.uniforms) {
            let (factor, k) = self.shared.factor::<ORDER>(*uniform);
            let product = *x * R::from_f64(factor);
            *x = if R::from_f64(k) == zero { zero } else { product };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// k and its first derivative by the formulas of the paper, for a uniform away from both ends.
    fn stated(logit: f64, t: f64, uniform: u64) -> [f64; 2] {
        let below = (uniform as f64 + 0.5) * 2f64.powi(-64);
        let z = 1.0 / (1.0 + (-(logit + ((1.0 - below) / below).ln()) / t).exp());
        let p = 1.0 / (1.0 + (-logit).exp());
        let k = (1.0 - z) / (1.0 - p);
        [k, k * (p - z / t)]
    }

    #[test]
    fn factors_follow_the_formula() {
        for logit in [-6.0, -1.0, 0.0, 0.5, 4.0] {
            for temperature in [0.2, 1.0] {
                for i in 1..2000_u64 {
                    let uniform = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 3 | 1 << 60;
                    let [k, slope] = stated(logit, temperature, uniform);
                    let shared = Relaxed { logit, temperature, order: 0 }.shared();
                    for (got, expected) in [(shared.factor::<0>(uniform).0, k), (shared.factor::<1>(uniform).0, slope)]
                    {
                        assert!((got - expected).abs() <= 1e-10 * expected.abs().max(1e-3), "{got} for {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_logits_and_uniforms_give_finite_factors() {
        for logit in [-745.0, -100.0, 0.0, 100.0, 745.0, 1e4] {
            for temperature in [1e-100, 1e-3, 1.0] {
                for uniform in [0, 1, 1 << 63, !1, !0] {
                    let shared = Relaxed { logit, temperature, order: 0 }.shared();
                    let factors =
                        [shared.factor::<0>(uniform), shared.factor::<1>(uniform), shared.factor::<2>(uniform)];
                    for (order, (factor, k)) in factors.into_iter().enumerate() {
                        assert!(
                            k == 0.0 || k > 0.0 && !factor.is_nan(),
                            "{logit} {temperature} {uniform} {order}: {factor}"
                        );
                    }
                }
            }
        }
    }
}
