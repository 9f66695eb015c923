//! What becomes of a tile of scores: weights in the forward pass, weights and gradients of scores in the backward pass.
//!
//! Scores are in units of log 2, so that weights are powers of 2.

use super::tiles::{Bits, Edge};
use super::{Number, PARTS};
use crate::simd::{Floats, Kernel, Simd, WORD};

/// 2^x for x that is NaN or not far above 0. Below the smallest normal number it falls to 0 twice as fast.
#[inline(always)]
fn power<R: Number, S: Floats<R>>(simd: S, x: S::F) -> S::F {
    let rounder = simd.splat_float(R::ROUNDER);
    let x = simd.larger(simd.splat_float(R::LOWEST), x);
    let rounded = simd.plus(x, rounder);
    let part = simd.minus(x, simd.minus(rounded, rounder));
    let mut power = R::POWER.len() - 1;
    let mut y = simd.splat_float(R::POWER[power]);
    while power > 0 {
        power -= 1;
        y = simd.fused(y, part, simd.splat_float(R::POWER[power]));
    }
    // The low bits of a NaN are no integer, and must not lead out of the NaNs.
    simd.fused(x, simd.splat_float(R::default()), simd.scaled_by_power(y, rounded))
}

#[inline(always)]
fn larger<R: Number>(a: R, b: R) -> R {
    if a > b { a } else { b }
}

/// [`PARTS`] numbers by halves: the first of each half, the second, and so on.
#[inline(always)]
pub(super) fn folded<R: Copy>(mut parts: [R; PARTS], f: impl Fn(R, R) -> R) -> R {
    let mut half = PARTS / 2;
    while half > 0 {
        for i in 0..half {
            parts[i] = f(parts[i], parts[i + half]);
        }
        half /= 2;
    }
    parts[0]
}

/// The larger numbers of each lane, of a whole row.
#[inline(always)]
fn largest<R: Number, S: Floats<R>>(simd: S, lanes: S::F) -> R {
    let mut parts = [R::from_f64(f64::NEG_INFINITY); PARTS];
    // SAFETY: there is room for a vector of either precision.
    unsafe { simd.store_floats(parts.as_mut_ptr(), lanes) };
    folded(parts, larger)
}

/// The state of online softmax for the rows of a block of queries.
pub(super) struct Running<'a, R> {
    /// The largest score of each row so far.
    pub(super) maxima: &'a mut [R],
    /// [`PARTS`] partial sums of weights for each row.
    pub(super) sums: *mut R,
    /// Whether a weight of the row was kept: any bit.
    pub(super) kept: &'a mut [u64],
    /// Rows of the result so far, each `width` floats.
    pub(super) result: *mut R,
    pub(super) width: usize,
}

/// Turns scores into weights, relative to the largest score so far, adds them up, drops some, and rescales the result.
pub(super) struct Softmax<'a, R> {
    pub(super) scores: *mut R,
    /// From one row of scores to the next, and of biases, which are 0 apart where all rows share them.
    pub(super) row: usize,
    pub(super) bias: Option<(*const R, usize)>,
    pub(super) edge: Edge,
    pub(super) bits: &'a Bits,
    pub(super) running: Running<'a, R>,
    /// Whether these are the first scores of these rows.
    pub(super) first: bool,
}

impl<R: Number> Kernel for Softmax<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let simd = R::floats(simd);
        for row in 0..self.running.maxima.len() {
            self.row(simd, row);
        }
    }
}

impl<R: Number> Softmax<'_, R> {
    #[inline(always)]
    fn row<S: Floats<R>>(&mut self, simd: S, row: usize) {
        let valid = self.edge.valid(row);
        let minus_infinity = simd.splat_float(R::from_f64(f64::NEG_INFINITY));
        // SAFETY: the caller guarantees rows of scores and biases up to whole vectors, and the running state.
        unsafe {
            let scores = self.scores.add(row * self.row);
            let mut maximum = minus_infinity;
            for column in (0..self.edge.columns).step_by(S::LANES) {
                let mut score = simd.load_floats(scores.add(column));
                let whole = column + S::LANES <= valid;
                if let Some((bias, step)) = self.bias {
                    score = simd.plus(score, simd.load_floats(bias.add(row * step + column)));
                }
                if !whole {
                    score = simd.either(low_bits(valid.saturating_sub(column)), score, minus_infinity);
                }
                if !whole || self.bias.is_some() {
                    simd.store_floats(scores.add(column), score);
                }
                maximum = simd.larger(maximum, score);
            }
            let before = self.running.maxima[row];
            let after = larger(before, largest(simd, maximum));
            self.running.maxima[row] = after;
            // Where all scores are -inf, weights are 0.
            let shift = if after == R::from_f64(f64::NEG_INFINITY) { R::default() } else { after };
            let partial = self.running.sums.add(row * PARTS);
            if !self.first && before != after {
                let factor = power(simd, simd.splat_float(before - shift));
                let width = self.running.width;
                for (from, len) in [(self.running.result.add(row * width), width), (partial, PARTS)] {
                    for at in (0..len).step_by(S::LANES) {
                        simd.store_floats(from.add(at), simd.times(simd.load_floats(from.add(at)), factor));
                    }
                }
            }
            let shift = simd.splat_float(shift);
            let mut sums = [simd.load_floats(partial), simd.load_floats(partial.add(PARTS - S::LANES))];
            for first in (0..self.edge.columns).step_by(WORD) {
                let mut bits = self.bits.at(row, first);
                let left = valid.saturating_sub(first);
                self.running.kept[row] |= if left < WORD { bits & ((1 << left) - 1) } else { bits };
                for column in (first..self.edge.columns.min(first + WORD)).step_by(S::LANES) {
                    let weight = power(simd, simd.minus(simd.load_floats(scores.add(column)), shift));
                    let sum = column % PARTS / S::LANES;
                    sums[sum] = simd.plus(sums[sum], weight);
                    simd.store_floats(scores.add(column), simd.kept(bits as u32, weight));
                    bits >>= S::LANES;
                }
            }
            if S::LANES < PARTS {
                simd.store_floats(partial.add(S::LANES), sums[1]);
            }
            simd.store_floats(partial, sums[0]);
        }
    }
}

/// Turns scores into kept weights, and gradients of kept weights into gradients of scores.
pub(super) struct Gradient<'a, R> {
    /// Scores, and then weights.
    pub(super) weights: *mut R,
    /// Gradients with respect to kept weights, and then to scores.
    pub(super) gradients: *mut R,
    pub(super) row: usize,
    pub(super) bias: Option<(*const R, usize)>,
    pub(super) edge: Edge,
    pub(super) bits: &'a Bits,
    /// By row: the logarithm to base 2 of the sum of weights, and what each gradient is less.
    pub(super) sums: &'a [R],
    pub(super) deltas: &'a [R],
    /// 1 / (1 - p).
    pub(super) scale: R,
}

impl<R: Number> Kernel for Gradient<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.rows(R::floats(simd));
    }
}

impl<R: Number> Gradient<'_, R> {
    #[inline(always)]
    fn rows<S: Floats<R>>(&self, simd: S) {
        let scale = simd.splat_float(self.scale);
        for (row, (sum, delta)) in self.sums.iter().zip(self.deltas).enumerate() {
            let valid = self.edge.valid(row);
            let (sum, delta) = (simd.splat_float(*sum), simd.splat_float(-*delta));
            for first in (0..self.edge.columns).step_by(WORD) {
                let mut bits = self.bits.at(row, first);
                for column in (first..self.edge.columns.min(first + WORD)).step_by(S::LANES) {
                    let at = row * self.row + column;
                    // SAFETY: the caller guarantees rows up to whole vectors.
                    unsafe {
                        let mut score = simd.load_floats(self.weights.add(at));
                        if let Some((bias, step)) = self.bias {
                            score = simd.plus(score, simd.load_floats(bias.add(row * step + column)));
                        }
                        let mut weight = power(simd, simd.minus(score, sum));
                        let kept = simd.kept(bits as u32, simd.load_floats(self.gradients.add(at)));
                        let mut gradient = simd.times(weight, simd.fused(kept, scale, delta));
                        if column + S::LANES > valid {
                            let inside = low_bits(valid.saturating_sub(column));
                            weight = simd.kept(inside, weight);
                            gradient = simd.kept(inside, gradient);
                        }
                        simd.store_floats(self.weights.add(at), simd.kept(bits as u32, weight));
                        simd.store_floats(self.gradients.add(at), gradient);
                    }
                    bits >>= S::LANES;
                }
            }
        }
    }
}

/// The `count` lowest bits, all if there are more.
#[inline(always)]
fn low_bits(count: usize) -> u32 {
    if count < 32 { (1 << count) - 1 } else { !0 }
}

/// The logarithm to base 2 of a positive number. The library's differs between systems.
pub(super) fn log2(x: f64) -> f64 {
    if !(x.is_normal() && x > 0.0) {
        return if x == 0.0 { f64::NEG_INFINITY } else { x };
    }
    const ONE: u64 = 1023 << 52;
    // The mantissa in [sqrt(1/2), sqrt(2)), about.
    let exponent = (x.to_bits().wrapping_sub(0x3FE6_A09E_667F_3BCD) as i64) >> 52;
    let mantissa = f64::from_bits(x.to_bits().wrapping_sub((exponent as u64) << 52));
    debug_assert!(mantissa.to_bits().abs_diff(ONE) < 1 << 52);
    // log x = 2 artanh((x - 1) / (x + 1)), by its series.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent as f64 + ratio * series * 2.0 * std::f64::consts::LOG2_E
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_rounding() {
        for i in 1..20_000 {
            for x in [f64::from(i) / 64.0, 1.0 + f64::from(i) * 1e-9, 2f64.powi(i % 2000 - 1000) * f64::from(i)] {
                let error = (log2(x) - x.log2()).abs();
                assert!(error <= 4e-16 * x.log2().abs().max(1.0), "{x}: {error}");
            }
        }
        assert_eq!([log2(0.0), log2(f64::INFINITY)], [f64::NEG_INFINITY, f64::INFINITY]);
        assert!(log2(f64::NAN).is_nan());
    }
}
