//! Arithmetic on vectors of floats.

use half::{bf16, f16};

/// The floats of one precision, in vectors of 64 bytes at every level. All results are those of IEEE 754, one rounding
/// each, so they are the same everywhere.
pub(crate) trait Floats<R>: Copy {
    type F: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Whether there are registers for 24 sums in vectors, and not only for six.
    const MANY_REGISTERS: bool;

    fn splat_float(self, x: R) -> Self::F;
    /// # Safety
    /// A vector must be readable at `from`, which needs no alignment beyond that of a float.
    unsafe fn load_floats(self, from: *const R) -> Self::F;
    /// # Safety
    /// A vector must be writeable at `to`, which needs no alignment beyond that of a float.
    unsafe fn store_floats(self, to: *mut R, a: Self::F);
    fn plus(self, a: Self::F, b: Self::F) -> Self::F;
    fn minus(self, a: Self::F, b: Self::F) -> Self::F;
    fn times(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fused(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of two; `b` if either is NaN.
    fn larger(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where the lane's bit is set, and +0.0 elsewhere.
    fn kept(self, bits: u32, a: Self::F) -> Self::F;
    /// `a` where the lane's bit is set, and `b` elsewhere.
    fn either(self, bits: u32, a: Self::F, b: Self::F) -> Self::F;
    /// y 2^n, for a `y` in [1/2, 2] and the integer n in the low bits of `n`.
    fn scaled_by_power(self, y: Self::F, n: Self::F) -> Self::F;
}

/// Half precision in memory, of which vectors hold single precision: widened exactly, and rounded once to nearest even.
pub(crate) trait Halves: Floats<f32> {
    /// # Safety
    /// As many elements as a vector holds must be readable at `from`.
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    /// # Safety
    /// As many elements as a vector holds must be readable at `from`.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F;
    /// # Safety
    /// As many elements as a vector holds must be writeable at `to`.
    unsafe fn store_f16(self, to: *mut f16, a: Self::F);
    /// A NaN stays one: it gets the highest bit of its mantissa, as `half` has it.
    /// # Safety
    /// As many elements as a vector holds must be writeable at `to`.
    unsafe fn store_bf16(self, to: *mut bf16, a: Self::F);
}
