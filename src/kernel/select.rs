//! Applying keep bits to elements: `kept ? x * scale : 0`.
//!
//! All kernels work on words of 64 elements. `simd` defines what a level does with one word; this file has what all
//! levels share: element types, heads and tails.

use super::convert::Buffer;
use super::element::{Stored, with_element};
use super::formula::{Formula, Numbers};
use super::{LINE, Memory, Run, WRITE_AHEAD};
use crate::operand::Element;
use crate::simd::{Kernel, Simd, WORD};
use crate::words::word_at;

/// Pages that streaming stores fill side by side, one word of each at a time. A CPU prefetches within a page, so this
/// keeps more of the memory busy than one page after another.
const PAGES: usize = 4;
/// Bytes in a page of the smallest size.
const PAGE: usize = 4096;

/// Handles one run with the keep bits of `words` from bit `offset` on. `words` must have a spare
/// word.
///
/// # Safety
/// See [`super::Operation::run`].
pub(super) unsafe fn run(memory: &Memory, scale: f64, words: &[u64], offset: usize, run: &Run<'_>) {
    let len = run.len;
    assert!(offset + len <= (words.len() - 1) * 64 || len == 0);
    let element = run.operands.element();
    let size = element.size();
    let inputs = usize::from(element != Element::Bool);
    if run.is_contiguous(size, inputs) || len == 1 && run.operands.are_alike() {
        let (src, dst) = (run.address(1), run.address(0));
        let (stream, ahead) = (memory.stream, memory.ahead[1]);
        return memory.level.run(Contiguous { element, scale, stream, ahead, words, offset, src, dst, len });
    }
    if inputs == 1 && run.operands.format(1).element != element {
        // SAFETY: the obligations are the same.
        return unsafe { Formula::Select.run(Numbers::scale(scale), memory, words, offset, run) };
    }
    let mut buffer = Buffer::new();
    let [output, input] = [0, 1].map(|which| run.layout(which));
    for at in (0..len).step_by(WORD) {
        let len = WORD.min(len - at);
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        // SAFETY: `at + len` is at most the run's length, and the caller guarantees its elements.
        unsafe {
            if inputs == 1 {
                input.read(place(1), len, &mut buffer);
            }
            let side = buffer.as_mut_ptr();
            let offset = offset + at;
            let (src, dst) = (side, side);
            let word = Contiguous { element, scale, stream: false, ahead: 0, words, offset, src, dst, len };
            memory.level.run(word);
            output.write(&mut buffer, len, place(0));
        }
    }
}

/// Zeroes a run whose elements are all dropped, without reading the input.
///
/// # Safety
/// See [`super::Operation::run`].
pub(super) unsafe fn zero(memory: &Memory, run: &Run<'_>) {
    let size = run.operands.element().size();
    let dst = run.address(0);
    if run.steps[0] == size as isize {
        let bytes = run.len * size;
        if memory.stream && bytes >= 2 * LINE {
            return memory.level.run(Zeros { dst, bytes });
        }
        // SAFETY: the caller guarantees `len` contiguous elements at `dst`.
        unsafe { dst.write_bytes(0, bytes) };
    } else {
        for i in 0..run.len as isize {
            // SAFETY: the caller guarantees each element.
            unsafe { dst.offset(i * run.steps[0]).write_bytes(0, size) };
        }
    }
}

/// Bytes to zero with streaming stores. Only [`zero`] makes one, from a run's elements.
struct Zeros {
    dst: *mut u8,
    bytes: usize,
}

impl Kernel for Zeros {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { dst, bytes } = self;
        let head = (dst.addr().wrapping_neg() % LINE).min(bytes);
        let tail = (bytes - head) % LINE;
        // SAFETY: `zero`, which made this, guarantees the bytes. Lines start at multiples of LINE and end within the
        // run.
        unsafe {
            dst.write_bytes(0, head);
            for at in (head..bytes - tail).step_by(LINE) {
                simd.stream_zeros(dst.add(at));
            }
            dst.add(bytes - tail).write_bytes(0, tail);
        }
    }
}

/// Contiguous elements. Only [`run`] makes one, from a run's elements or a buffer; `src` is
/// not read if the elements are the keep bits themselves.
struct Contiguous<'a> {
    element: Element,
    scale: f64,
    stream: bool,
    ahead: isize,
    words: &'a [u64],
    offset: usize,
    src: *const u8,
    dst: *mut u8,
    len: usize,
}

impl Kernel for Contiguous<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        with_element!(self.element, T => self.of::<S, T>(simd));
    }
}

impl Contiguous<'_> {
    #[inline(always)]
    fn of<S: Simd, T: Stored>(self, simd: S) {
        let aligned = self.dst.addr().is_multiple_of(T::SIZE);
        // SAFETY: `run`, which made this, guarantees the elements.
        unsafe {
            if self.stream && aligned {
                self.words::<S, T, true>(simd);
            } else {
                self.words::<S, T, false>(simd);
            }
        }
    }

    /// The word of elements from `at` on.
    ///
    /// # Safety
    /// It must be readable at `src` and writeable at `dst`, and aligned if it is streamed.
    #[inline(always)]
    unsafe fn word<S: Simd, T: Stored, const STREAM: bool>(&self, simd: S, at: usize) {
        let keep = word_at(self.words, self.offset + at);
        // SAFETY: the caller guarantees the word.
        unsafe {
            T::select::<S, STREAM>(simd, keep, self.src.add(at * T::SIZE), self.dst.add(at * T::SIZE), self.scale)
        };
    }

    /// # Safety
    /// `len` elements must be readable at `src` and writeable at `dst`.
    #[inline(always)]
    unsafe fn words<S: Simd, T: Stored, const STREAM: bool>(&self, simd: S) {
        let Self { scale, words, offset, src, dst, len, ahead, .. } = *self;
        let mut at = 0;
        if STREAM {
            let head = dst.addr().wrapping_neg() % LINE / T::SIZE;
            at = head.min(len);
            if at > 0 {
                // SAFETY: these are the first `at` elements.
                unsafe { part::<S, T>(simd, word_at(words, offset), src, dst, at, scale) };
            }
        }
        let whole = (len - at) / WORD;
        let mut done = 0;
        if STREAM {
            let page = PAGE / (WORD * T::SIZE);
            while whole - done >= 2 * page {
                let end = done + ((whole - done) / page).min(PAGES) * page;
                for first in done..done + page {
                    for index in (first..end).step_by(page) {
                        // SAFETY: `WORD` elements are left; the head aligned them, because a word
                        // is whole lines.
                        unsafe { self.word::<S, T, STREAM>(simd, at + index * WORD) };
                    }
                }
                done = end;
            }
        }
        for index in done..whole {
            let at = at + index * WORD;
            for line in (0..WORD * T::SIZE).step_by(LINE) {
                if STREAM {
                    simd.prefetch(src.wrapping_add(at * T::SIZE + line).wrapping_offset(ahead));
                } else {
                    simd.prefetch_write(dst.wrapping_add(at * T::SIZE + line + WRITE_AHEAD));
                }
            }
            // SAFETY: `WORD` elements are left; the head aligned them, because a word is whole
            // lines.
            unsafe { self.word::<S, T, STREAM>(simd, at) };
        }
        at += whole * WORD;
        if at < len {
            // SAFETY: `len - at` elements are left.
            unsafe {
                let (src, dst) = (src.add(at * T::SIZE), dst.add(at * T::SIZE));
                part::<S, T>(simd, word_at(words, offset + at), src, dst, len - at, scale);
            }
        }
    }
}

/// Handles fewer elements than a word, staged in a whole word.
///
/// # Safety
/// `len <= WORD` elements must be readable at `src` and writeable at `dst`.
#[inline(always)]
unsafe fn part<S: Simd, T: Stored>(simd: S, keep: u64, src: *const u8, dst: *mut u8, len: usize, scale: f64) {
    let mut stage = T::STAGE;
    let bytes = len * T::SIZE;
    let stage = (&raw mut stage).cast::<u8>();
    // SAFETY: `bytes` fit the buffer, which holds a word of elements; it overlaps nothing.
    unsafe {
        if T::READS {
            stage.copy_from_nonoverlapping(src, bytes);
        }
        T::select::<S, false>(simd, keep, stage, stage, scale);
        dst.copy_from_nonoverlapping(stage, bytes);
    }
}
