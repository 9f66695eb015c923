//! Applying keep bits to elements: `kept ? x * scale : 0`, one run along one axis at a time.
//!
//! A word of 64 elements is the unit of all kernels. What a level does with one word is in `simd`; here is what
//! is the same everywhere: element types, heads and tails, strides, byte order. No bits are drawn here.

use half::{bf16, f16};
use num_complex::Complex;

use crate::bits::word_at;
use crate::simd::{Kernel, Level, Simd, WORD};

/// How far ahead of its use memory is asked for, where it comes from beyond the caches.
pub(crate) const PREFETCH_BYTES: isize = 4096;
/// Streamed writes start at multiples of this.
const LINE: usize = 64;
/// Size of the largest element.
pub(crate) const LARGEST: usize = 16;

/// What the elements of an array are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    F32,
    F64,
    Complex64,
    Complex128,
    /// The mask itself as bytes 0 and 1; there is no input.
    Bool,
}

impl Element {
    /// Bytes of an element.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::Complex64 => 8,
            Self::Complex128 => 16,
        }
    }

    /// Bytes of what a change of byte order reverses.
    pub(crate) const fn part_size(self) -> usize {
        match self {
            Self::Complex64 | Self::Complex128 => self.size() / 2,
            _ => self.size(),
        }
    }
}

mod sealed {
    pub trait Sealed {
        const ELEMENT: super::Element;
    }
}

/// The element types: `f32`, `f64`, [`half::f16`], [`half::bf16`] and complex numbers of `f32` and `f64`.
pub trait Float: sealed::Sealed + Copy + Send + Sync {}

macro_rules! float {
    ($($type:ty => $element:ident),+) => {$(
        impl sealed::Sealed for $type {
            const ELEMENT: Element = Element::$element;
        }
        impl Float for $type {}
    )+};
}
float!(f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64, Complex<f32> => Complex64, Complex<f64> => Complex128);

/// Elements at equal distances: where the first of them is read and written, and the steps in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) src: *const u8,
    pub(crate) dst: *mut u8,
    pub(crate) src_step: isize,
    pub(crate) dst_step: isize,
    pub(crate) len: usize,
}

/// What is done with each element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Apply {
    pub(crate) level: Level,
    pub(crate) element: Element,
    /// Rounded once, to the precision that the element is computed in. Finite.
    pub(crate) scale: f64,
    /// The input's, the output's bytes are in the other order than this CPU's.
    pub(crate) swapped: [bool; 2],
    /// Where to find, from an element on, what will be read some time later: in bytes.
    pub(crate) ahead: isize,
    /// Write past the caches; [`Apply::fence`] must follow.
    pub(crate) stream: bool,
}

impl Apply {
    /// Handles one run with the keep bits from bit `offset` of `words` on, which must have a word to spare.
    ///
    /// # Safety
    /// The run's elements must be readable at `src` and writeable at `dst`, by this thread alone. They are the
    /// same elements, or do not overlap.
    pub(crate) unsafe fn run(&self, words: &[u64], offset: usize, run: Run) {
        assert!(offset + run.len <= (words.len() - 1) * 64 || run.len == 0);
        let size = self.element.size() as isize;
        let side_by_side = run.dst_step == size && (run.src_step == size || self.element == Element::Bool);
        if (side_by_side || run.len == 1) && self.swapped == [false; 2] {
            self.level.run(Contiguous { apply: *self, words, offset, run });
        } else {
            // SAFETY: the obligations are the same.
            unsafe { self.staged(words, offset, run) };
        }
    }

    /// A run that is dropped whole: zeros, without reading the input.
    ///
    /// # Safety
    /// As for [`Apply::run`].
    pub(crate) unsafe fn zero(&self, run: Run) {
        let size = self.element.size();
        if run.dst_step == size as isize {
            let bytes = run.len * size;
            if self.stream && bytes >= 2 * LINE {
                return self.level.run(Zeros { dst: run.dst, bytes });
            }
            // SAFETY: the caller vouches for `len` contiguous elements at `dst`.
            unsafe { run.dst.write_bytes(0, bytes) };
        } else {
            for i in 0..run.len as isize {
                // SAFETY: the caller vouches for each element.
                unsafe { run.dst.offset(i * run.dst_step).write_bytes(0, size) };
            }
        }
    }

    /// How many elements from `dst` on it is to a place where streamed writes can start.
    pub(crate) fn phase(&self, dst: *mut u8) -> usize {
        dst.addr().wrapping_neg() % LINE / self.element.size()
    }

    /// Whether a step in bytes leads from one place where streamed writes can start to another.
    pub(crate) fn whole_lines(&self, step: isize) -> bool {
        step.unsigned_abs().is_multiple_of(LINE)
    }

    /// Ends a sequence of runs.
    pub(crate) fn fence(&self) {
        if self.stream {
            self.level.run(Fence);
        }
    }

    /// A run whose elements do not lie side by side in this CPU's byte order: through a small buffer.
    ///
    /// # Safety
    /// As for [`Apply::run`].
    unsafe fn staged(&self, words: &[u64], offset: usize, run: Run) {
        let size = self.element.size();
        let mut stage = [0u8; WORD * LARGEST];
        for at in (0..run.len).step_by(WORD) {
            let len = WORD.min(run.len - at);
            let bytes = &mut stage[..len * size];
            // SAFETY: `at < len`, so this is an element of the run.
            let src = unsafe { run.src.offset(at as isize * run.src_step) };
            // SAFETY: the caller vouches for the run's elements; the buffer is not one of them.
            unsafe { copy(src, run.src_step, bytes.as_mut_ptr(), size as isize, size, len) };
            self.swap(self.swapped[0], bytes);
            let inner = Run {
                src: bytes.as_ptr(),
                dst: bytes.as_mut_ptr(),
                src_step: size as isize,
                dst_step: size as isize,
                len,
            };
            let apply = Self { stream: false, ..*self };
            self.level.run(Contiguous { apply, words, offset: offset + at, run: inner });
            self.swap(self.swapped[1], bytes);
            // SAFETY: `at < len`, so this is an element of the run.
            let dst = unsafe { run.dst.offset(at as isize * run.dst_step) };
            // SAFETY: the caller vouches for the run's elements; the buffer is not one of them.
            unsafe { copy(bytes.as_ptr(), size as isize, dst, run.dst_step, size, len) };
        }
    }

    fn swap(&self, swapped: bool, bytes: &mut [u8]) {
        if swapped {
            for part in bytes.chunks_exact_mut(self.element.part_size()) {
                part.reverse();
            }
        }
    }
}

/// Copies `len` elements of `size` bytes between two strides.
///
/// # Safety
/// The elements must be readable and writeable, and must not overlap.
pub(crate) unsafe fn copy(src: *const u8, src_step: isize, dst: *mut u8, dst_step: isize, size: usize, len: usize) {
    /// # Safety
    /// As above, for elements of `SIZE` bytes.
    #[inline(always)]
    unsafe fn sized<const SIZE: usize>(src: *const u8, src_step: isize, dst: *mut u8, dst_step: isize, len: usize) {
        for i in 0..len as isize {
            // SAFETY: the caller vouches for each element; byte arrays need no alignment.
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
            2 => sized::<2>(src, src_step, dst, dst_step, len),
            4 => sized::<4>(src, src_step, dst, dst_step, len),
            8 => sized::<8>(src, src_step, dst, dst_step, len),
            16 => sized::<16>(src, src_step, dst, dst_step, len),
            _ => unreachable!("elements have 2, 4, 8 or 16 bytes here"),
        }
    }
}

/// Bytes to set to zero past the caches. Only [`Apply`] makes one, of a run's elements.
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
        // SAFETY: whoever made this vouches for the bytes; the lines begin at multiples of LINE and end in the run.
        unsafe {
            dst.write_bytes(0, head);
            for at in (head..bytes - tail).step_by(LINE) {
                simd.stream_zeros(dst.add(at));
            }
            dst.add(bytes - tail).write_bytes(0, tail);
        }
    }
}

struct Fence;

impl Kernel for Fence {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.fence();
    }
}

/// A run of elements that lie side by side. Only [`Apply`] makes one, under the obligations of [`Apply::run`].
struct Contiguous<'a> {
    apply: Apply,
    words: &'a [u64],
    offset: usize,
    run: Run,
}

impl Kernel for Contiguous<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.apply.element {
            Element::F16 => self.of::<S, Half>(simd),
            Element::Bf16 => self.of::<S, BHalf>(simd),
            Element::F32 => self.of::<S, Single>(simd),
            Element::F64 => self.of::<S, Double>(simd),
            Element::Complex64 => self.of::<S, Pair<Single>>(simd),
            Element::Complex128 => self.of::<S, Pair<Double>>(simd),
            Element::Bool => self.of::<S, Byte>(simd),
        }
    }
}

impl Contiguous<'_> {
    #[inline(always)]
    fn of<S: Simd, T: Select>(self, simd: S) {
        let aligned = self.run.dst.addr().is_multiple_of(T::SIZE);
        // SAFETY: whoever made this vouches for the run.
        unsafe {
            if self.apply.stream && aligned {
                self.words::<S, T, true>(simd);
            } else {
                self.words::<S, T, false>(simd);
            }
        }
    }

    /// # Safety
    /// As for [`Apply::run`].
    #[inline(always)]
    unsafe fn words<S: Simd, T: Select, const STREAM: bool>(self, simd: S) {
        let Self { apply, words, offset, run } = self;
        let mut at = 0;
        if STREAM {
            let head = run.dst.addr().wrapping_neg() % LINE / T::SIZE;
            at = head.min(run.len);
            if at > 0 {
                // SAFETY: these are the first `at` elements of the run.
                unsafe { part::<S, T>(simd, word_at(words, offset), run.src, run.dst, at, apply.scale) };
            }
        }
        while run.len - at >= WORD {
            let keep = word_at(words, offset + at);
            // SAFETY: `at + WORD <= len`; streamed words are aligned by the head, since a word is a multiple of
            // LINE bytes.
            unsafe {
                let src = run.src.add(at * T::SIZE);
                if STREAM {
                    for line in (0..WORD * T::SIZE).step_by(LINE) {
                        simd.prefetch(src.wrapping_offset(apply.ahead).wrapping_add(line));
                    }
                }
                T::select::<S, STREAM>(simd, keep, src, run.dst.add(at * T::SIZE), apply.scale);
            }
            at += WORD;
        }
        if at < run.len {
            // SAFETY: `len - at` elements are left.
            unsafe {
                let (src, dst) = (run.src.add(at * T::SIZE), run.dst.add(at * T::SIZE));
                part::<S, T>(simd, word_at(words, offset + at), src, dst, run.len - at, apply.scale);
            }
        }
    }
}

/// Fewer elements than a word, by way of a whole word beside them.
///
/// # Safety
/// `len <= WORD` elements must be readable at `src` and writeable at `dst`.
#[inline(always)]
unsafe fn part<S: Simd, T: Select>(simd: S, keep: u64, src: *const u8, dst: *mut u8, len: usize, scale: f64) {
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

/// What a word of one element type takes: a call of the level's method, or two.
trait Select {
    const SIZE: usize;
    const READS: bool = true;
    /// Room for a word of elements.
    type Stage: Copy;
    const STAGE: Self::Stage;

    /// # Safety
    /// As for [`Simd`]'s methods on elements.
    unsafe fn select<S: Simd, const STREAM: bool>(simd: S, keep: u64, src: *const u8, dst: *mut u8, scale: f64);
}

macro_rules! select {
    ($name:ident, $type:ty, $scale:ty, $method:ident) => {
        struct $name;
        impl Select for $name {
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
        }
    };
}
select!(Half, u16, f32, select_f16);
select!(BHalf, u16, f32, select_bf16);
select!(Single, f32, f32, select_f32);
select!(Double, f64, f64, select_f64);

/// A complex number: two parts that share a bit.
struct Pair<T>(std::marker::PhantomData<T>);

impl<T: Select> Select for Pair<T> {
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
}

/// Each bit twice, side by side.
#[inline(always)]
pub(crate) fn twice(bits: u32) -> u64 {
    let mut spread = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread | spread << 1
}

/// The bits as bytes.
struct Byte;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;

impl Select for Byte {
    const SIZE: usize = 1;
    const READS: bool = false;
    type Stage = [u8; WORD];
    const STAGE: Self::Stage = [0; WORD];

    #[inline(always)]
    unsafe fn select<S: Simd, const STREAM: bool>(_: S, keep: u64, _: *const u8, dst: *mut u8, _: f64) {
        for i in 0..8 {
            // Byte j of the product with the mask is bit j alone; adding 0x7F lifts it to the top bit, if set.
            let bits = ((keep >> (8 * i) & 0xFF) * LOW_BITS) & 0x8040_2010_0804_0201;
            let bytes = (bits + 0x7F * LOW_BITS) >> 7 & LOW_BITS;
            // SAFETY: the caller vouches for 64 bytes at `dst`.
            unsafe { dst.add(8 * i).cast::<[u8; 8]>().write(bytes.to_le_bytes()) };
        }
    }
}
