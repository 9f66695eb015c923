//! Reads and writes elements of any layout and byte order: the one path for arrays that are not
//! contiguous.
//!
//! Elements are copied a word at a time into a small buffer, in this CPU's byte order. If an operation computes with
//! them, rather than only selecting, they are widened to floats and rounded once when they are written. A complex
//! number is two floats.

use super::element::{Stored, with_element};
use super::real::Real;
use crate::operand::{Format, LARGEST};
use crate::simd::WORD;

/// Room for a word of elements of any type.
#[repr(align(64))]
pub(crate) struct Buffer([u8; WORD * LARGEST]);

impl Buffer {
    pub(crate) const fn new() -> Self {
        Self([0; WORD * LARGEST])
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// How an array's elements lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    /// Step from one element to the next, in bytes.
    pub(crate) step: isize,
}

impl Layout {
    /// Reads `len` elements, a word at most, into a buffer.
    ///
    /// # Safety
    /// The elements must be readable from `src` on.
    pub(crate) unsafe fn read(self, src: *const u8, len: usize, buffer: &mut Buffer) {
        let size = self.format.element.size();
        let bytes = &mut buffer.0[..len * size];
        // SAFETY: the caller guarantees the elements; the buffer overlaps none of them.
        unsafe { copy(src, self.step, bytes.as_mut_ptr(), size as isize, size, len) };
        self.swap(bytes);
    }

    /// Writes `len` elements, a word at most, from a buffer, whose contents are unspecified afterwards.
    ///
    /// # Safety
    /// The elements must be writeable from `dst` on.
    pub(crate) unsafe fn write(self, buffer: &mut Buffer, len: usize, dst: *mut u8) {
        let size = self.format.element.size();
        let bytes = &mut buffer.0[..len * size];
        self.swap(bytes);
        // SAFETY: the caller guarantees the elements; the buffer overlaps none of them.
        unsafe { copy(bytes.as_ptr(), size as isize, dst, self.step, size, len) };
    }

    /// Whether the elements from `first` on are contiguous, aligned, and in this CPU's byte order.
    fn is_plain(self, first: *const u8) -> bool {
        let Format { element, swapped } = self.format;
        !swapped
            && self.step == element.size() as isize
            && first.addr().is_multiple_of(element.size() / element.parts())
    }

    fn swap(self, bytes: &mut [u8]) {
        if self.format.swapped {
            for part in bytes.chunks_exact_mut(self.format.element.size() / self.format.element.parts()) {
                part.reverse();
            }
        }
    }

    /// Reads `to.len()` floats, `parts` per element, for a word of elements at most. A real number gets 0 as its second
    /// part.
    ///
    /// # Safety
    /// The elements must be readable from `src` on.
    pub(crate) unsafe fn load<R: Real>(self, src: *const u8, parts: usize, to: &mut [R]) {
        let len = to.len() / parts;
        let stored = len * self.format.element.parts();
        let widen = |from: *const u8, to: &mut [R]| {
            // SAFETY: both addresses below are aligned, and have as many elements.
            unsafe { with_element!(self.format.element, T => T::widen(from, to)) };
        };
        if self.is_plain(src) {
            widen(src, &mut to[..stored]);
        } else {
            let mut buffer = Buffer::new();
            // SAFETY: the caller guarantees the elements.
            unsafe { self.read(src, len, &mut buffer) };
            widen(buffer.0.as_ptr(), &mut to[..stored]);
        }
        if stored < to.len() {
            for i in (0..len).rev() {
                (to[2 * i], to[2 * i + 1]) = (to[i], R::default());
            }
        }
    }

    /// Writes `from`: a word of elements at most.
    ///
    /// # Safety
    /// The elements must be writeable from `dst` on.
    pub(crate) unsafe fn store<R: Real>(self, from: &[R], dst: *mut u8) {
        let len = from.len() / self.format.element.parts();
        if self.is_plain(dst) {
            // SAFETY: the caller guarantees the elements, and they are aligned.
            return unsafe { with_element!(self.format.element, T => T::narrow(from, dst)) };
        }
        let mut buffer = Buffer::new();
        // SAFETY: the buffer is aligned for any type, and has room for `len` elements.
        unsafe { with_element!(self.format.element, T => T::narrow(from, buffer.0.as_mut_ptr())) };
        // SAFETY: the caller guarantees the elements.
        unsafe { self.write(&mut buffer, len, dst) };
    }
}

/// Copies `len` elements of `size` bytes from one stride to another.
///
/// # Safety
/// The elements must be readable and writeable, and must not overlap.
unsafe fn copy(src: *const u8, src_step: isize, dst: *mut u8, dst_step: isize, size: usize, len: usize) {
    /// # Safety
    /// `copy` for elements of `SIZE` bytes.
    #[inline(always)]
    unsafe fn sized<const SIZE: usize>(src: *const u8, src_step: isize, dst: *mut u8, dst_step: isize, len: usize) {
        for i in 0..len as isize {
            // SAFETY: the caller guarantees each element; byte arrays need no alignment.
            unsafe {
                let element = src.offset(i * src_step).cast::<[u8; SIZE]>().read();
                dst.offset(i * dst_step).cast::<[u8; SIZE]>().write(element);
            }
        }
    }
    // SAFETY: the obligations are the same, and the sizes are those of `Element::size`.
    unsafe {
        if src_step == size as isize && dst_step == size as isize {
            return dst.copy_from_nonoverlapping(src, len * size);
        }
        match size {
            1 => sized::<1>(src, src_step, dst, dst_step, len),
            2 => sized::<2>(src, src_step, dst, dst_step, len),
            4 => sized::<4>(src, src_step, dst, dst_step, len),
            8 => sized::<8>(src, src_step, dst, dst_step, len),
            16 => sized::<16>(src, src_step, dst, dst_step, len),
            _ => unreachable!("elements have 1, 2, 4, 8 or 16 bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operand::Element;

    #[test]
    fn each_part_of_an_element_has_a_byte_order() {
        for (element, size) in [(Element::F16, 2), (Element::F64, 8), (Element::Complex64, 4), (Element::Complex128, 8)]
        {
            let bytes: [u8; 32] = std::array::from_fn(|i| i as u8);
            for swapped in [false, true] {
                let mut turned = bytes;
                Layout { format: Format { element, swapped }, step: 0 }.swap(&mut turned);
                let from = |i: usize| if swapped { i / size * size + size - 1 - i % size } else { i };
                assert_eq!(turned, std::array::from_fn(|i| bytes[from(i)]), "{element:?} {swapped}");
            }
        }
    }
}
