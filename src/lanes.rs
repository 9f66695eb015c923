//! Elements of any type and layout on their way into floats of one type, and back.
//!
//! For what is computed per element and is no plain selection: up to a word of elements at a time is widened into a
//! buffer of `f32` or `f64`, and rounded once on its way out. A complex number is two floats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::apply::{Element, LARGEST, copy};
use crate::gelu::Arithmetic;
use crate::simd::WORD;

/// The floats that elements are computed in.
pub(crate) trait Real: Arithmetic + Default + Send + Sync {
    fn from_halves<T>(_: &[T], _: &mut [Self])
    where
        [T]: HalfFloatSliceExt,
    {
        unreachable!("float16 and bfloat16 are computed in f32")
    }
    fn to_halves<T>(_: &[Self], _: &mut [T])
    where
        [T]: HalfFloatSliceExt,
    {
        unreachable!("float16 and bfloat16 are computed in f32")
    }
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
}

impl Real for f64 {}

/// Room for a word of elements of any type.
#[repr(align(64))]
struct Bytes([u8; WORD * LARGEST]);

/// How an operand's elements lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) element: Element,
    /// In the other byte order than this CPU's.
    pub(crate) swapped: bool,
    /// From one element to the next, in bytes.
    pub(crate) step: isize,
}

impl Layout {
    /// Floats per element.
    pub(crate) fn parts(self) -> usize {
        match self.element {
            Element::Complex64 | Element::Complex128 => 2,
            _ => 1,
        }
    }

    fn swap(self, bytes: &mut [u8]) {
        if self.swapped {
            for part in bytes.chunks_exact_mut(self.element.part_size()) {
                part.reverse();
            }
        }
    }

    /// Reads `to.len()` floats: a word of elements at most.
    ///
    /// # Safety
    /// The elements must be readable from `src` on, and R be the float that they are computed in.
    pub(crate) unsafe fn load<R: Real>(self, src: *const u8, to: &mut [R]) {
        let size = self.element.size();
        let len = to.len() / self.parts();
        let mut buffer = Bytes([0; WORD * LARGEST]);
        let bytes = &mut buffer.0[..len * size];
        // SAFETY: the caller vouches for the elements; the buffer is not one of them.
        unsafe { copy(src, self.step, bytes.as_mut_ptr(), size as isize, size, len) };
        self.swap(bytes);
        // SAFETY: the buffer is aligned for any type, holds `len` elements, and any bits are such.
        unsafe {
            match self.element {
                Element::F16 => R::from_halves::<f16>(std::slice::from_raw_parts(bytes.as_ptr().cast(), len), to),
                Element::Bf16 => R::from_halves::<bf16>(std::slice::from_raw_parts(bytes.as_ptr().cast(), len), to),
                _ => to.as_mut_ptr().copy_from_nonoverlapping(bytes.as_ptr().cast(), to.len()),
            }
        }
    }

    /// Writes `from`: a word of elements at most.
    ///
    /// # Safety
    /// The elements must be writeable from `dst` on, and R be the float that they are computed in.
    pub(crate) unsafe fn store<R: Real>(self, from: &[R], dst: *mut u8) {
        let size = self.element.size();
        let len = from.len() / self.parts();
        let mut buffer = Bytes([0; WORD * LARGEST]);
        let bytes = &mut buffer.0[..len * size];
        // SAFETY: the buffer is aligned for any type, holds `len` elements, and any bits are such.
        unsafe {
            let to = bytes.as_mut_ptr();
            match self.element {
                Element::F16 => R::to_halves::<f16>(from, std::slice::from_raw_parts_mut(to.cast(), len)),
                Element::Bf16 => R::to_halves::<bf16>(from, std::slice::from_raw_parts_mut(to.cast(), len)),
                _ => to.cast::<R>().copy_from_nonoverlapping(from.as_ptr(), from.len()),
            }
        }
        self.swap(bytes);
        // SAFETY: the caller vouches for the elements; the buffer is not one of them.
        unsafe { copy(bytes.as_ptr(), size as isize, dst, self.step, size, len) };
    }
}
