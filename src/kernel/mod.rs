//! What a call does to its elements: one run along an axis at a time, with the values drawn for it.

mod activation;
pub(crate) mod convert;
mod element;
mod flags;
pub(crate) mod formula;
pub(crate) mod gelu;
mod noise;
pub(crate) mod real;
pub(crate) mod relaxed;
pub(crate) mod select;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::formula::{Formula, Numbers};
use self::real::Real;
use self::relaxed::Relaxed;
use crate::operand::{Each, Element, Format, Operands};
use crate::simd::{Level, WORD};
use crate::walk::Place;
use crate::walk::source::Drawn;
use crate::words;

/// Prefetch distance, in bytes, for reads from beyond the caches.
pub(crate) const PREFETCH_BYTES: isize = 4096;
/// Prefetch distance, in bytes, for writes to the output. It hides most of the cost of vectors that straddle two lines:
/// NumPy's arrays start 16 bytes after a line.
pub(crate) const WRITE_AHEAD: usize = 512;
/// Size of a cache line in bytes. Streaming stores start at multiples of it.
pub(crate) const LINE: usize = 64;

/// How kernels use the CPU and its memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) level: Level,
    /// Write with streaming stores; a fence must follow.
    pub(crate) stream: bool,
    /// Offset in bytes from an input's element to the one to prefetch.
    pub(crate) ahead: Each<isize>,
}

/// A run: equally spaced elements of each array.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) operands: &'a Operands,
    /// Position of the first element.
    pub(crate) place: Place,
    /// Step from one element to the next, for each array.
    pub(crate) steps: Each<isize>,
    pub(crate) len: usize,
}

impl Run<'_> {
    /// Address of the first element in an array. Array 0 is the output.
    #[inline(always)]
    fn address(&self, which: usize) -> *mut u8 {
        self.operands.first[which].wrapping_offset(self.place.offsets[which])
    }

    /// How an array's elements lie in memory.
    fn layout(&self, which: usize) -> convert::Layout {
        convert::Layout { format: self.operands.format(which), step: self.steps[which] }
    }

    /// Whether an array has contiguous elements of this type in this CPU's byte order.
    fn has(&self, which: usize, element: Element) -> bool {
        self.operands.format(which) == Format { element, swapped: false }
            && self.steps[which] == element.size() as isize
    }

    /// Whether the output and `inputs` inputs hold contiguous elements of `size` bytes, of one type in
    /// this CPU's byte order.
    fn is_contiguous(&self, size: usize, inputs: usize) -> bool {
        self.steps[..=inputs].iter().all(|step| *step == size as isize) && self.operands.are_alike()
    }
}

/// What a call does to its elements.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation<'a> {
    /// A formula of the table in [`formula`], with its numbers.
    Formula(Formula, Numbers),
    /// `x * (1 + std * z)` with drawn normals z, in the precision of the computation.
    Noise { std: f64 },
    /// `x` times a function of a drawn uniform.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python relax decisions"))]
    Relaxed(Relaxed),
    /// The same with the first input, a gradient. The second input becomes the terms of the logit's gradient: it times the
    /// gradient and the derivative of the function.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python relax decisions"))]
    Slopes(Relaxed),
    /// Stores the drawn values: keep bits as bytes, numbers rounded to the element type, normals or uniforms in a
    /// contiguous array.
    Store,
    /// Stores the bits `one` where an element is dropped, and 0 elsewhere. The element type gives only the size.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
    Flags { one: u64 },
    /// Stores the bits `one` where a drawn uniform is below the probability in the input, and 0 elsewhere.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
    Below { one: u64 },
    /// Clears the flag unless every element of the output, which is only read, is a probability.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
    Check(&'a AtomicBool),
    /// Stores keep bits as bits, with output offsets in bits. Runs must come in output order.
    Pack,
    /// Counts the kept elements.
    Count(&'a AtomicU64),
}

impl Operation<'_> {
    /// `kept ? x * scale : 0`, for a finite scale.
    pub(crate) const fn select(scale: f64) -> Self {
        Self::Formula(Formula::Select, Numbers::scale(scale))
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        match self {
            Self::Formula(formula, _) => formula.inputs(),
            Self::Noise { .. } | Self::Relaxed(_) | Self::Below { .. } => 1,
            Self::Slopes(_) => 2,
            Self::Store | Self::Flags { .. } | Self::Check(_) | Self::Pack | Self::Count(_) => 0,
        }
    }

    /// Whether a large output is written with streaming stores.
    pub(crate) fn streams(&self) -> bool {
        matches!(self, Self::Formula(..))
    }

    /// Whether runs must come in the walk's order.
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self, Self::Pack | Self::Count(_))
    }

    /// Handles a run.
    ///
    /// # Safety
    /// The run's elements must be readable and writeable, by this thread alone. An input's elements
    /// must be those of the output, or not overlap them. The second input of `Slopes` is written: its
    /// elements must overlap no others.
    #[inline]
    pub(crate) unsafe fn run(&self, memory: &Memory, drawn: Drawn<'_>, run: &Run<'_>) {
        // SAFETY: the obligations are the same.
        unsafe {
            match *self {
                Self::Formula(Formula::Select, _) if matches!(drawn, Drawn::None) => select::zero(memory, run),
                Self::Formula(Formula::Select, Numbers { scale, .. }) => {
                    let (words, offset) = drawn.bits();
                    select::run(memory, scale, words, offset, run);
                }
                Self::Formula(formula, numbers) => {
                    let (words, offset) = drawn.bits();
                    formula.run(numbers, memory, words, offset, run);
                }
                Self::Noise { std } => match drawn {
                    Drawn::Normals(&[normal]) => {
                        let (words, offset) = drawn.bits();
                        let scale = noise::shared_factor(std, normal, run.operands.element());
                        select::run(memory, scale, words, offset, run);
                    }
                    Drawn::Normals(normals) => noise::run(memory, std, normals, run),
                    _ => unreachable!("noise is made of normals"),
                },
                Self::Relaxed(relaxed) => match (relaxed.constant(), drawn) {
                    (Some(false), _) => select::zero(memory, run),
                    (Some(true), _) => {
                        let (words, offset) = drawn.bits();
                        select::run(memory, 1.0, words, offset, run);
                    }
                    (None, Drawn::Uniforms(uniforms)) => relaxed::run(memory, relaxed, uniforms, run),
                    _ => unreachable!("decisions are relaxed by uniforms"),
                },
                Self::Slopes(relaxed) => match drawn {
                    Drawn::Uniforms(uniforms) => relaxed::run_slopes(memory, relaxed, uniforms, run),
                    _ => unreachable!("decisions are relaxed by uniforms"),
                },
                Self::Store => match drawn {
                    Drawn::Uniforms(values) => {
                        run.address(0).cast::<u64>().copy_from_nonoverlapping(values[..run.len].as_ptr(), run.len);
                    }
                    Drawn::Normals(values) => {
                        run.address(0).cast::<f32>().copy_from_nonoverlapping(values[..run.len].as_ptr(), run.len);
                    }
                    Drawn::Singles(values) => store(values, run),
                    Drawn::Doubles(bits) => store_doubles(bits, run),
                    _ => {
                        let (words, offset) = drawn.bits();
                        select::run(memory, 1.0, words, offset, run);
                    }
                },
                Self::Flags { one } => {
                    let (words, offset) = drawn.bits();
                    flags::run(memory, one, words, offset, run);
                }
                Self::Below { one } => match drawn {
                    Drawn::Uniforms(uniforms) => flags::below(memory, one, uniforms, run),
                    _ => unreachable!("probabilities are compared with uniforms"),
                },
                Self::Check(valid) => flags::check(memory, valid, run),
                Self::Pack => {
                    let (words, offset) = drawn.bits();
                    pack(words, offset, run);
                }
                Self::Count(total) => {
                    let (words, offset) = drawn.bits();
                    let kept = words::words_at(words, offset, run.len).map(|word| u64::from(word.count_ones())).sum();
                    total.fetch_add(kept, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Writes numbers, one for each element, rounded once.
///
/// # Safety
/// See [`Operation::run`].
#[inline(never)] // the frame of calls that only drop stays small
unsafe fn store<R: Real>(numbers: &[R], run: &Run<'_>) {
    assert!(numbers.len() == run.len);
    for (at, numbers) in (0..).step_by(WORD).zip(numbers.chunks(WORD)) {
        // SAFETY: the numbers from `at` on belong to the run, and the caller guarantees its elements.
        unsafe { run.layout(0).store(numbers, run.address(0).wrapping_offset(at as isize * run.steps[0])) };
    }
}

/// [`store`] for the bits of doubles.
///
/// # Safety
/// See [`Operation::run`].
#[inline(never)] // the frame of calls that only drop stays small
unsafe fn store_doubles(bits: &[u64], run: &Run<'_>) {
    let mut numbers = [0.0; WORD];
    for (at, bits) in (0..run.len).step_by(WORD).zip(bits.chunks(WORD)) {
        for (x, bits) in numbers.iter_mut().zip(bits) {
            *x = f64::from_bits(*bits);
        }
        let mut run = Run { len: bits.len(), ..*run };
        run.place.offsets[0] = run.place.offsets[0].wrapping_add(at as isize * run.steps[0]);
        // SAFETY: these are as many elements of the run, and the caller guarantees them.
        unsafe { store(&numbers[..bits.len()], &run) };
    }
}

/// Writes keep bits as bits.
///
/// # Safety
/// See [`Operation::run`].
unsafe fn pack(words: &[u64], offset: usize, run: &Run<'_>) {
    let first = run.place.offsets[0] as usize;
    // SAFETY: the caller guarantees the output's bits from `first` on, which begin in this byte.
    let bytes = unsafe {
        let begin = run.operands.first[0].add(first / 8);
        std::slice::from_raw_parts_mut(begin, (first % 8 + run.len).div_ceil(8))
    };
    let mut at = first % 8;
    // Whole words first, if the source starts at a word and the output at a byte.
    let whole = if offset.is_multiple_of(64) && at == 0 { run.len / 64 } else { 0 };
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&words[offset / 64..]).take(whole) {
        *bytes = word.to_le_bytes();
    }
    let done = whole * 64;
    at += done;
    for (i, word) in words::words_at(words, offset + done, run.len - done).enumerate() {
        let from = 64 * i;
        words::put_bits(bytes, at + from, (run.len - done - from).min(64), word);
    }
}
