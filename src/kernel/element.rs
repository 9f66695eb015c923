//! Everything that kernels know about each element type.

use half::{bf16, f16};

use super::real::Real;
use crate::simd::{Simd, WORD};
use crate::words::{to_bytes, twice};

/// Evaluates `$body` with `$type` as the [`Stored`] type of an element.
macro_rules! with_element {
    ($element:expr, $type:ident => $body:expr) => {{
        use $crate::kernel::element::{BHalf, Byte, Double, Half, Pair, Single};
        macro_rules! with {
            ($stored:ty) => {{
                type $type = $stored;
                $body
            }};
        }
        match $element {
            $crate::operand::Element::F16 => with!(Half),
            $crate::operand::Element::Bf16 => with!(BHalf),
            $crate::operand::Element::F32 => with!(Single),
            $crate::operand::Element::F64 => with!(Double),
            $crate::operand::Element::Complex64 => with!(Pair<Single>),
            $crate::operand::Element::Complex128 => with!(Pair<Double>),
            $crate::operand::Element::Bool => with!(Byte),
            $crate::operand::Element::U64 | $crate::operand::Element::Bit => {
                unreachable!("uniforms and packed bits are stored as they are drawn")
            }
        }
    }};
}
pub(super) use with_element;

/// An element type: how a word of elements is selected, and how they are converted to and from the
/// floats that they are computed in.
pub(super) trait Stored {
    const SIZE: usize;
    const READS: bool = true;
    /// Room for a word of elements.
    type Stage: Copy;
    const STAGE: Self::Stage;

    /// # Safety
    /// See [`Simd`]'s methods on elements.
    unsafe fn select<S: Simd, const STREAM: bool>(simd: S, keep: u64, src: *const u8, dst: *mut u8, scale: f64);

    /// Reads `to.len()` floats from contiguous elements.
    ///
    /// # Safety
    /// The elements must be readable at `from` and aligned.
    unsafe fn widen<R: Real>(_from: *const u8, _to: &mut [R]) {
        unreachable!("keep bits are not computed with")
    }

    /// Writes `from` as contiguous elements, rounded once.
    ///
    /// # Safety
    /// The elements must be writeable at `to` and aligned.
    unsafe fn narrow<R: Real>(_from: &[R], _to: *mut u8) {
        unreachable!("keep bits are not computed with")
    }
}

macro_rules! select {
    ($name:ident, $type:ty, $scale:ty, $method:ident, $number:ty, $from:ident, $to:ident) => {
        pub(super) struct $name;
        impl Stored for $name {
            const SIZE: usize = size_of::<$type>();
            type Stage = [$type; WORD];
            const STAGE: Self::Stage = [0 as $type; WORD];
            #[inline(always)]
            unsafe fn select<S: Simd, const STREAM: bool>(
                simd: S,
                keep: u64,
                src: *const u8,
                dst: *mut u8,
                scale: f64,
            ) {
                // SAFETY: the obligations are the same.
                unsafe { simd.$method::<STREAM>(keep, src.cast(), dst.cast(), scale as $scale) };
            }
            unsafe fn widen<R: Real>(from: *const u8, to: &mut [R]) {
                // SAFETY: the caller guarantees that many elements, and any bits are valid.
                R::$from(unsafe { std::slice::from_raw_parts(from.cast::<$number>(), to.len()) }, to);
            }
            unsafe fn narrow<R: Real>(from: &[R], to: *mut u8) {
                // SAFETY: the caller guarantees that many elements, and any bits are valid.
                R::$to(from, unsafe { std::slice::from_raw_parts_mut(to.cast::<$number>(), from.len()) });
            }
        }
    };
}
select!(Half, u16, f32, select_f16, f16, from_halves, to_halves);
select!(BHalf, u16, f32, select_bf16, bf16, from_halves, to_halves);
select!(Single, f32, f32, select_f32, f32, from_singles, to_singles);
select!(Double, f64, f64, select_f64, f64, from_doubles, to_doubles);

/// A complex number: two parts that share a bit.
pub(super) struct Pair<T>(std::marker::PhantomData<T>);

impl<T: Stored> Stored for Pair<T> {
    const SIZE: usize = 2 * T::SIZE;
    type Stage = [T::Stage; 2];
    const STAGE: Self::Stage = [T::STAGE; 2];

    #[inline(always)]
    unsafe fn select<S: Simd, const STREAM: bool>(simd: S, keep: u64, src: *const u8, dst: *mut u8, scale: f64) {
        for half in 0..2 {
            let keep = twice((keep >> (32 * half)) as u32);
            // SAFETY: a word of pairs is two words of parts.
            unsafe {
                let at = half * WORD * T::SIZE;
                T::select::<S, STREAM>(simd, keep, src.add(at), dst.add(at), scale);
            }
        }
    }

    unsafe fn widen<R: Real>(from: *const u8, to: &mut [R]) {
        // SAFETY: the obligations are the same, for the parts.
        unsafe { T::widen(from, to) };
    }
    unsafe fn narrow<R: Real>(from: &[R], to: *mut u8) {
        // SAFETY: the obligations are the same, for the parts.
        unsafe { T::narrow(from, to) };
    }
}

/// The keep bits themselves, as bytes.
pub(super) struct Byte;

impl Stored for Byte {
    const SIZE: usize = 1;
    const READS: bool = false;
    type Stage = [u8; WORD];
    const STAGE: Self::Stage = [0; WORD];

    #[inline(always)]
    unsafe fn select<S: Simd, const STREAM: bool>(_: S, keep: u64, _: *const u8, dst: *mut u8, _: f64) {
        for (i, bits) in keep.to_le_bytes().into_iter().enumerate() {
            // SAFETY: the caller guarantees 64 bytes at `dst`.
            unsafe { dst.add(8 * i).cast::<[u8; 8]>().write(to_bytes(bits)) };
        }
    }
}
