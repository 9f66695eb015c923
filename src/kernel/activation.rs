//! Activations made of e^x, and their slopes. GELU has a file of its own, and those of a few comparisons stand in the
//! table of formulas.
//!
//! As in `gelu`, the code is written once for both precisions and has no branches, so that results are the same at any
//! level. The slopes stay finite at infinity.

use super::real::Arithmetic;

#[inline(always)]
fn exp<R: Arithmetic>(x: R) -> R {
    let [power, rest] = x.exp_parts();
    power * (R::from_f64(1.0) + rest)
}

/// e^x - 1, below the largest numbers.
#[inline(always)]
fn exp_m1<R: Arithmetic>(x: R) -> R {
    let [power, rest] = x.exp_parts();
    power * rest - (R::from_f64(1.0) - power)
}

/// `x`, but at least `-limit` and at most `limit`. NaN propagates.
#[inline(always)]
fn clamp<R: Arithmetic>(x: R, limit: f64) -> R {
    let limit = R::from_f64(limit);
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

/// 1 + e^-x, the reciprocal of the logistic sigmoid.
#[inline(always)]
pub(super) fn reciprocal_sigmoid<R: Arithmetic>(x: R) -> R {
    R::from_f64(1.0) + exp(-x)
}

/// The logistic sigmoid s and its slope s (1 - s), without cancellation.
#[inline(always)]
fn sigmoid_and_slope<R: Arithmetic>(x: R) -> [R; 2] {
    let [zero, one] = [0.0, 1.0].map(R::from_f64);
    let t = exp(if x < zero { x } else { -x });
    let q = one / (one + t);
    let below = t * q;
    [if x < zero { below } else { q }, below * q]
}

#[inline(always)]
pub(super) fn sigmoid_slope<R: Arithmetic>(x: R) -> R {
    sigmoid_and_slope(x)[1]
}

/// The slope of x times its sigmoid.
#[inline(always)]
pub(super) fn silu_slope<R: Arithmetic>(x: R) -> R {
    let x = clamp(x, 1e4); // the slope is 0 or 1 from there on, and infinity times 0 would be NaN
    let [s, slope] = sigmoid_and_slope(x);
    s + x * slope
}

#[inline(always)]
pub(super) fn tanh<R: Arithmetic>(x: R) -> R {
    let x = clamp(x, 20.0); // tanh is 1 from there on, in either precision
    let t = exp_m1(x + x);
    if x == R::from_f64(0.0) { x } else { t / (t + R::from_f64(2.0)) } // keeps the sign of a zero
}

#[inline(always)]
pub(super) fn tanh_slope<R: Arithmetic>(x: R) -> R {
    R::from_f64(4.0) * sigmoid_slope(x + x)
}

#[inline(always)]
pub(super) fn elu<R: Arithmetic>(x: R, alpha: R) -> R {
    if x >= R::from_f64(0.0) { x } else { alpha * exp_m1(x) }
}

#[inline(always)]
pub(super) fn elu_slope<R: Arithmetic>(x: R, alpha: R) -> R {
    if x <= R::from_f64(0.0) { alpha * exp(x) } else { R::from_f64(1.0) }
}

/// max(0, min(6, x))
#[inline(always)]
pub(super) fn relu6<R: Arithmetic>(x: R) -> R {
    let [zero, six] = [0.0, 6.0].map(R::from_f64);
    let x = if x < zero { zero } else { x };
    if x > six { six } else { x }
}

#[inline(always)]
pub(super) fn hard_sigmoid<R: Arithmetic>(x: R) -> R {
    relu6(x + R::from_f64(3.0)) * R::from_f64(1.0 / 6.0)
}

#[inline(always)]
pub(super) fn hardswish_slope<R: Arithmetic>(x: R) -> R {
    let [zero, one, three] = [0.0, 1.0, 3.0].map(R::from_f64);
    let inside = x * R::from_f64(1.0 / 3.0) + R::from_f64(0.5);
    let above = if x < three { inside } else { one };
    if x <= -three { zero } else { above }
}
