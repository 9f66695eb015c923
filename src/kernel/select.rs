//! Applying keep bits to elements: `kept ? x * scale : 0`.
//!
//! A word of 64 elements is the unit of all kernels. What a level does with one word is in `simd`; here is what
//! is the same everywhere: element types, heads and tails. No bits are drawn here.

use super::convert::Buffer;
use super::{LINE, Memory, Run};
use crate::operand::Element;
use crate::simd::{Kernel, Simd, WORD};
use crate::words::{to_bytes, twice, word_at};

/// Handles one run with the keep bits from bit `offset` of `words` on, which must have a word to spare.
///
/// # Safety
/// As for [`super::Operation::run`].
pub(super) unsafe fn run(memory: &Memory, scale: f64, words: &[u64], offset: usize, run: &Run<'_>) {
    let len = run.len;
    assert!(offset + len <= (words.len() - 1) * 64 || len == 0);
    let element = run.operands.element;
    let size = element.size();
    let inputs = usize::from(element != Element::Bool);
    let swapped = run.operands.swapped[..1 + inputs].contains(&true);
    if run.is_contiguous(size, inputs) || len == 1 && !swapped {
        let (src, dst) = (run.address(1), run.address(0));
        let (stream, ahead) = (memory.stream, memory.ahead[1]);
        return memory.level.run(Contiguous { element, scale, stream, ahead, words, offset, src, dst, len });
    }
    let mut buffer = Buffer::new();
    let [output, input] = [0, 1].map(|which| run.layout(which));
    for at in (0..len).step_by(WORD) {
        let len = WORD.min(len - at);
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        // SAFETY: `at + len` is at most the run's length, and the caller vouches for its elements.
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

/// A run that is dropped whole: zeros, without reading the input.
///
/// # Safety
/// As for [`super::Operation::run`].
pub(super) unsafe fn zero(memory: &Memory, run: &Run<'_>) {
    let size = run.operands.element.size();
    let dst = run.address(0);
    if run.steps[0] == size as isize {
        let bytes = run.len * size;
        if memory.stream && bytes >= 2 * LINE {
            return memory.level.run(Zeros { dst, bytes });
        }
        // SAFETY: the caller vouches for `len` contiguous elements at `dst`.
        unsafe { dst.write_bytes(0, bytes) };
    } else {
        for i in 0..run.len as isize {
            // SAFETY: the caller vouches for each element.
            unsafe { dst.offset(i * run.steps[0]).write_bytes(0, size) };
        }
    }
}

/// Bytes to set to zero past the caches. Only [`zero`] makes one, of a run's elements.
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

/// Elements that lie side by side. Only [`run`] makes one, of a run's elements or its own buffer; `src` is not read where
/// the element is a keep bit itself.
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
        match self.element {
            Element::F16 => self.of::<S, Half>(simd),
            Element::Bf16 => self.of::<S, BHalf>(simd),
            Element::F32 => self.of::<S, Single>(simd),
            Element::F64 => self.of::<S, Double>(simd),
            Element::Complex64 => self.of::<S, Pair<Single>>(simd),
            Element::Complex128 => self.of::<S, Pair<Double>>(simd),
            Element::Bool => self.of::<S, Byte>(simd),
            Element::U64 | Element::Bit => unreachable!("uniforms and packed bits are not selected"),
        }
    }
}

impl Contiguous<'_> {
    #[inline(always)]
    fn of<S: Simd, T: Select>(self, simd: S) {
        let aligned = self.dst.addr().is_multiple_of(T::SIZE);
        // SAFETY: whoever made this vouches for the elements.
        unsafe {
            if self.stream && aligned {
                self.words::<S, T, true>(simd);
            } else {
                self.words::<S, T, false>(simd);
            }
        }
    }

    /// # Safety
    /// `len` elements must be readable at `src` and writeable at `dst`.
    #[inline(always)]
    unsafe fn words<S: Simd, T: Select, const STREAM: bool>(self, simd: S) {
        let Self { scale, words, offset, src, dst, len, ahead, .. } = self;
        let mut at = 0;
        if STREAM {
            let head = dst.addr().wrapping_neg() % LINE / T::SIZE;
            at = head.min(len);
            if at > 0 {
                // SAFETY: these are the first `at` elements.
                unsafe { part::<S, T>(simd, word_at(words, offset), src, dst, at, scale) };
            }
        }
        while len - at >= WORD {
            let keep = word_at(words, offset + at);
            // SAFETY: `at + WORD <= len`; streamed words are aligned by the head, since a word is a multiple of
            // LINE bytes.
            unsafe {
                let src = src.add(at * T::SIZE);
                if STREAM {
                    for line in (0..WORD * T::SIZE).step_by(LINE) {
                        simd.prefetch(src.wrapping_offset(ahead).wrapping_add(line));
                    }
                }
                T::select::<S, STREAM>(simd, keep, src, dst.add(at * T::SIZE), scale);
            }
            at += WORD;
        }
        if at < len {
            // SAFETY: `len - at` elements are left.
            unsafe {
                let (src, dst) = (src.add(at * T::SIZE), dst.add(at * T::SIZE));
                part::<S, T>(simd, word_at(words, offset + at), src, dst, len - at, scale);
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

/// The bits as bytes.
struct Byte;

impl Select for Byte {
    const SIZE: usize = 1;
    const READS: bool = false;
    type Stage = [u8; WORD];
    const STAGE: Self::Stage = [0; WORD];

    #[inline(always)]
    unsafe fn select<S: Simd, const STREAM: bool>(_: S, keep: u64, _: *const u8, dst: *mut u8, _: f64) {
        for (i, bits) in keep.to_le_bytes().into_iter().enumerate() {
            // SAFETY: the caller vouches for 64 bytes at `dst`.
            unsafe { dst.add(8 * i).cast::<[u8; 8]>().write(to_bytes(bits)) };
        }
    }
}
