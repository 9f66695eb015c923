//! A mask: the recipe (shape, p, key) and, for a part of a larger whole, where the part lies.
//!
//! Nothing is stored per element. Where bits are asked for, they are drawn.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::bernoulli::{Probability, Threshold};
use crate::bits::{Bits, TILE, Window, word_at};
use crate::error::{Error, Extents};
use crate::key::Key;
use crate::pool;
use crate::simd::Level;
use crate::walk::{Axes, Axis, normalize};

/// Extents or positions, one per axis.
pub(crate) type Dims = SmallVec<[u64; 6]>;

/// Asks between pieces of a long call whether to stop; `true` makes it return [`Error::Interrupted`].
pub type Interrupt<'a> = &'a dyn Fn() -> bool;

/// Elements that one thread packs or counts before it takes the next piece.
const UNIT: usize = 1 << 18;
/// Units between two looks at the interrupt.
const BATCH: usize = 8;

/// Which elements of an array of some shape are kept.
///
/// ```
/// use fastdrop::{Key, Mask};
/// let mask = Mask::new(&[4, 6], 0.5, Key::from_bytes([7; 16]))?;
/// let part = mask.region(&[1, 2], &[2, 3])?;
/// assert_eq!(part.shape(), [2, 3]);
/// # Ok::<(), fastdrop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    key: Key,
    p: Probability,
    whole: Dims,
    start: Dims,
    shape: Dims,
}

impl Mask {
    /// The mask of an array of shape `shape` that drops with probability `p`.
    ///
    /// # Errors
    /// [`Error::Probability`], or [`Error::Size`] for 2^63 elements and more.
    pub fn new(shape: &[u64], p: f64, key: Key) -> Result<Self, Error> {
        let p = Probability::new(p)?;
        let size = shape.iter().try_fold(1u64, |size, extent| size.checked_mul(*extent));
        if size.is_none_or(|size| size > i64::MAX as u64) && !shape.contains(&0) {
            return Err(Error::Size(shape.into()));
        }
        let start = SmallVec::from_elem(0, shape.len());
        Ok(Self { key, p, whole: shape.into(), start, shape: shape.into() })
    }

    /// The box of this mask at `start` with extent `shape`: the same elements get the same bits.
    ///
    /// # Errors
    /// [`Error::Region`] if the box is not inside this mask.
    pub fn region(&self, start: &[u64], shape: &[u64]) -> Result<Self, Error> {
        let fits = start.len() == self.shape.len()
            && shape.len() == self.shape.len()
            && (self.shape.iter().zip(start).zip(shape))
                .all(|((whole, start), extent)| start.checked_add(*extent).is_some_and(|end| end <= *whole));
        if !fits {
            let [start, shape, whole] = [start, shape, &self.shape].map(Extents::from);
            return Err(Error::Region { start, shape, whole });
        }
        let start = self.start.iter().zip(start).map(|(outer, inner)| outer + inner).collect();
        Ok(Self { start, shape: shape.into(), whole: self.whole.clone(), ..*self })
    }

    /// The key its bits are drawn with.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// The probability to drop.
    #[must_use]
    pub fn probability(&self) -> Probability {
        self.p
    }

    /// Extent along each axis.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Shape of the whole that this mask is a part of.
    #[must_use]
    pub fn whole(&self) -> &[u64] {
        &self.whole
    }

    /// Position of this mask's first element in the whole.
    #[must_use]
    pub fn start(&self) -> &[u64] {
        &self.start
    }

    /// Number of elements.
    #[must_use]
    pub fn size(&self) -> u64 {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Index in the whole of the first element, and the step of that index along each axis.
    pub(crate) fn indices(&self) -> (u64, Dims) {
        let mut steps: Dims = SmallVec::from_elem(1, self.whole.len());
        for axis in (1..self.whole.len()).rev() {
            steps[axis - 1] = steps[axis].wrapping_mul(self.whole[axis]);
        }
        let first =
            (self.start.iter().zip(&steps)).fold(0u64, |sum, (at, step)| sum.wrapping_add(at.wrapping_mul(*step)));
        (first, steps)
    }

    /// How many elements are kept.
    ///
    /// # Errors
    /// When the configuration in the environment is invalid, or on interrupt.
    pub fn count(&self, interrupt: Interrupt<'_>) -> Result<u64, Error> {
        match self.p.threshold() {
            Threshold::KeepAll => return Ok(self.size()),
            Threshold::DropAll => return Ok(0),
            Threshold::Below(_) => {}
        }
        let total = AtomicU64::new(0);
        self.in_units(interrupt, &|first, size| {
            let mut kept = 0;
            self.runs(first, size, &mut |words, offset, len| {
                kept += words_at(words, offset, len).map(|word| u64::from(word.count_ones())).sum::<u64>();
            })?;
            total.fetch_add(kept, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(total.into_inner())
    }

    /// The keep bits in C order, eight to a byte, the first in the lowest bit; the last byte is filled with 0.
    ///
    /// # Errors
    /// [`Error::Length`] if `bytes` is not a byte per eight elements, rounded up; as [`Mask::count`] otherwise.
    pub fn packbits(&self, bytes: &mut [u8], interrupt: Interrupt<'_>) -> Result<(), Error> {
        let expected = self.size().div_ceil(8);
        if bytes.len() as u64 != expected {
            return Err(Error::Length { what: "bytes", expected, got: bytes.len() as u64 });
        }
        let pieces = Mutex::new(bytes.chunks_mut(UNIT / 8).enumerate());
        self.in_units(interrupt, &|_, _| {
            let Some((unit, piece)) = pieces.lock().ok().and_then(|mut pieces| pieces.next()) else {
                return Ok(());
            };
            let first = unit * UNIT;
            let mut at = 0;
            piece.fill(0);
            self.runs(first, UNIT.min((self.size() - first as u64) as usize), &mut |words, offset, len| {
                // Whole words first, if they begin at words and bytes.
                let whole = if offset % 64 == 0 && at % 8 == 0 { len / 64 } else { 0 };
                let bytes = piece[at / 8..].chunks_exact_mut(8);
                for (bytes, word) in bytes.zip(&words[offset / 64..]).take(whole) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                let done = whole * 64;
                for (i, word) in words_at(words, offset + done, len - done).enumerate() {
                    put_bits(piece, at + done + i * 64, word);
                }
                at += len;
            })
        })
    }

    /// Calls `unit(first, size)` for pieces of the C order, in parallel where it pays.
    fn in_units(
        &self,
        interrupt: Interrupt<'_>,
        unit: &(dyn Fn(usize, usize) -> Result<(), Error> + Sync),
    ) -> Result<(), Error> {
        let size = self.size() as usize;
        let units = size.div_ceil(UNIT);
        let threads = pool::num_threads()?;
        Level::current()?;
        for batch in (0..units).step_by(BATCH) {
            let failed = Mutex::new(Ok(()));
            pool::share(batch..units.min(batch + BATCH), threads, |range| {
                for index in range {
                    let first = index * UNIT;
                    if let Err(error) = unit(first, UNIT.min(size - first))
                        && let Ok(mut failed) = failed.lock()
                    {
                        *failed = Err(error);
                    }
                }
            });
            failed.into_inner().unwrap_or(Ok(()))?;
            if interrupt() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Calls `visit(words, offset, len)` with the keep bits of elements `first..first + size` of the C order.
    fn runs(&self, first: usize, size: usize, visit: &mut dyn FnMut(&[u64], usize, usize)) -> Result<(), Error> {
        let (origin, steps) = self.indices();
        let mut axes: Axes = (self.shape.iter().zip(&steps))
            .map(|(len, step)| Axis { len: *len as usize, bit: *step as isize, ..Axis::default() })
            .collect();
        normalize(&mut axes);
        let bits = Bits::drawn(self, origin);
        let mut window = Window::new(&bits, Level::current()?, None);
        window.walk(&axes, first..first + size, TILE, 0, |_, keep, len| {
            let (words, offset) = keep.bits();
            visit(words, offset, len);
        });
        Ok(())
    }
}

/// The `len` bits at bit `offset` of `words`, 64 at a time; bits past the end are 0.
fn words_at(words: &[u64], offset: usize, len: usize) -> impl Iterator<Item = u64> {
    (0..len).step_by(64).map(move |at| {
        let word = word_at(words, offset + at);
        if len - at < 64 { word & ((1 << (len - at)) - 1) } else { word }
    })
}

/// Sets the bits of `word` in `bytes` from bit `at` on; the bits there are 0, and what lies past the end is 0.
fn put_bits(bytes: &mut [u8], at: usize, word: u64) {
    let shifted = u128::from(word) << (at % 8);
    for (byte, bits) in bytes[at / 8..].iter_mut().zip(shifted.to_le_bytes()).take(9) {
        *byte |= bits;
    }
}
