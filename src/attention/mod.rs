//! Attention with dropout: y = dropout(softmax(scale q k^T + bias)) v, and its gradients.
//!
//! Nothing of the size of all weights is ever stored: tiles of them are made, used, and made again for the gradients.
//! `call` checks shapes. `forward` and `backward` choose the tiles and share them among threads; `arrays` copies, `tiles` draws keep bits,
//! `products` multiplies, `softmax` does the rest.
//!
//! Results are the same at every level and for every number of threads. Sums over an inner index are taken in order, sums of weights
//! as [`PARTS`] partial sums by column, and scores are rescaled after each [`KEYS`] keys, wherever a unit of work begins.

mod arrays;
mod backward;
mod call;
mod forward;
mod gradients;
mod products;
mod softmax;
mod tiles;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::kernel::LINE;
use crate::kernel::real::Real;
use crate::operand::Element;
use crate::simd::{Floats, Level, Simd};
use crate::threads::batches::{self, Interrupt};
use crate::threads::room::has_memory;
use crate::threads::{Units, threads_of_call};
pub(crate) use arrays::Array;
pub(crate) use backward::{Gradients, backward};
pub(crate) use call::{Axes, Call, Operand};
pub(crate) use forward::forward;
pub(crate) use gradients::{Upstream, bias_gradient};
pub(crate) use tiles::Dropout;

/// Queries in a tile.
const QUERIES: usize = 64;
/// Keys in a tile of the forward pass. The result depends on it.
const KEYS: usize = 256;
/// Keys in a tile of the backward pass, whose sums are added one after the other. The result depends on it.
const PART: usize = 128;
/// The most features of a query or a value.
pub(crate) const WIDEST: usize = 256;
/// Partial sums of a row of weights. The result depends on it.
const PARTS: usize = 16;

/// The floats that attention is computed in.
pub(crate) trait Number: Real {
    /// A level's vectors of these floats.
    type Level<S: Simd>: Floats<Self>;
    fn floats<S: Simd>(simd: S) -> Self::Level<S>;
    fn to_f64(self) -> f64;
    const ELEMENT: Element;
    /// Added to a small number, this leaves the nearest integer in the lowest bits.
    const ROUNDER: Self;
    /// The largest integer whose power of 2 is no normal number.
    const LOWEST: Self;
}

macro_rules! number {
    ($float:ty, $element:ident) => {
        impl Number for $float {
            type Level<S: Simd> = S;
            #[inline(always)]
            fn floats<S: Simd>(simd: S) -> S {
                simd
            }
            fn to_f64(self) -> f64 {
                self.into()
            }
            const ELEMENT: Element = Element::$element;
            const ROUNDER: Self = 1.5 * (1u64 << (<$float>::MANTISSA_DIGITS - 1)) as $float;
            const LOWEST: Self = (<$float>::MIN_EXP - 2) as $float;
        }
    };
}
number!(f32, F32);
number!(f64, F64);

/// Rounded up to whole vectors.
fn padded(width: usize) -> usize {
    width.next_multiple_of(PARTS)
}

/// Memory of one thread: floats on cache lines of their own.
struct Scratch<R> {
    first: *mut R,
    layout: Layout,
    /// Floats that were taken.
    used: usize,
    bits: Box<tiles::Bits>,
}

// SAFETY: the memory belongs to it alone.
unsafe impl<R: Send> Send for Scratch<R> {}

impl<R: Number> Scratch<R> {
    fn new(floats: usize) -> Option<Self> {
        let bytes = floats.checked_mul(size_of::<R>())?.max(LINE);
        let layout = Layout::from_size_align(bytes, LINE).ok()?;
        // SAFETY: the size is not 0.
        let first = unsafe { alloc_zeroed(layout) }.cast::<R>();
        (!first.is_null()).then(|| Self { first, layout, used: 0, bits: Box::new(tiles::Bits::new()) })
    }

    /// Room for this many floats, a multiple of [`PARTS`]. It stays until the scratch does.
    fn take(&mut self, floats: usize) -> *mut R {
        let at = self.used;
        self.used += floats;
        assert!(self.used * size_of::<R>() <= self.layout.size(), "scratch memory is counted before it is allocated");
        self.first.wrapping_add(at)
    }
}

impl<R> Drop for Scratch<R> {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.first.cast(), self.layout) };
    }
}

/// How a call is split: units, and the multiplications of one.
struct Split {
    units: usize,
    products: usize,
}

/// More multiplications than these are worth another thread.
const PARALLEL: usize = 1 << 20;
/// Multiplications of a unit: a millisecond.
const UNIT: usize = 1 << 26;
/// Most multiplications between two polls of the interrupt; a quarter of them come before the first.
const BATCH: usize = 1 << 31;

/// Runs units of work, each thread with scratch memory for so many floats.
fn run<R: Number>(
    split: &Split,
    floats: usize,
    interrupt: Interrupt<'_>,
    work: impl Fn(Level, Units<'_>, &mut Scratch<R>) + Sync,
) -> Result<(), Error> {
    let level = Level::current()?;
    // Fused multiply-adds without an instruction take that much longer.
    let slowness = if level == Level::portable() { 64 } else { 1 };
    let all = split.units.saturating_mul(split.products).saturating_mul(slowness);
    let threads = if all < PARALLEL { 1 } else { threads_of_call()?.min(split.units).max(1) };
    // What helpers and their stacks need besides.
    const OTHERS: usize = 1 << 16;
    if !has_memory(threads.saturating_mul(floats * size_of::<R>() + OTHERS)) {
        return Err(Error::Memory);
    }
    let scratches: Option<Vec<_>> = (0..threads).map(|_| Scratch::new(floats)).collect();
    let scratches = Mutex::new(scratches.ok_or(Error::Memory)?);
    let lock = || scratches.lock().unwrap_or_else(PoisonError::into_inner);
    let at_once = BATCH / split.products.saturating_mul(slowness).max(1);
    batches::run(split.units, at_once.max(threads), threads, interrupt, |units| {
        // There is one for each thread.
        let Some(mut scratch) = lock().pop() else { return };
        scratch.used = 0;
        work(level, units, &mut scratch);
        lock().push(scratch);
    })
}

/// The number of threads that a call of any size may use, to choose units.
fn threads() -> Result<usize, Error> {
    threads_of_call()
}
