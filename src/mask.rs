//! A mask: the recipe (shape, p, key) and, for a part of a larger whole, where the part lies.
//!
//! It stores nothing per element.

use smallvec::SmallVec;

use crate::error::{Error, Extents};
use crate::stream::bernoulli::Probability;
use crate::stream::key::Key;

/// Extents or positions, one per axis.
pub(crate) type Dims = SmallVec<[u64; 6]>;

/// Which elements of an array of some shape are kept.
///
/// ```
/// use fastdrop::{Key, Mask};
/// let mask = Mask::new(&[4, 6], 0.5, Key::from_seed(42))?;
/// let part = mask.region(&[1, 2], &[2, 3])?;
/// assert_eq!(part.shape(), [2, 3]);
/// # Ok::<(), fastdrop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mask {
    key: Key,
    p: Probability,
    /// Shape, shape of the whole, and start in the whole. One vector, because three are measurable in
    /// small calls.
    extents: SmallVec<[u64; 15]>,
}

impl Mask {
    /// The mask of an array of shape `shape`, which drops with probability `p`.
    ///
    /// # Errors
    /// [`Error::Probability`], or [`Error::Size`] for 2^63 or more elements.
    #[inline]
    pub fn new(shape: &[u64], p: f64, key: Key) -> Result<Self, Error> {
        let p = Probability::new(p)?;
        let size = shape.iter().try_fold(1u64, |size, extent| size.checked_mul(*extent));
        if size.is_none_or(|size| size > i64::MAX as u64) && !shape.contains(&0) {
            return Err(Error::Size(shape.into()));
        }
        let mut extents = SmallVec::from_elem(0, 3 * shape.len());
        extents[..shape.len()].copy_from_slice(shape);
        extents[shape.len()..][..shape.len()].copy_from_slice(shape);
        Ok(Self { key, p, extents })
    }

    /// The part of this mask in the box at `start` of shape `shape`. Its elements keep their bits.
    ///
    /// # Errors
    /// [`Error::Region`] if the box is not inside this mask.
    pub fn region(&self, start: &[u64], shape: &[u64]) -> Result<Self, Error> {
        let fits = start.len() == self.shape().len()
            && shape.len() == self.shape().len()
            && (self.shape().iter().zip(start).zip(shape))
                .all(|((whole, start), extent)| start.checked_add(*extent).is_some_and(|end| end <= *whole));
        if !fits {
            let [start, shape, whole] = [start, shape, self.shape()].map(Extents::from);
            return Err(Error::Region { start, shape, whole });
        }
        let start = self.start().iter().zip(start).map(|(outer, inner)| outer + inner);
        let extents = shape.iter().chain(self.whole()).copied().chain(start).collect();
        Ok(Self { extents, ..*self })
    }

    /// The key that its bits are drawn with.
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
        &self.extents[..self.extents.len() / 3]
    }

    /// Shape of the whole that this mask is a part of.
    #[must_use]
    pub fn whole(&self) -> &[u64] {
        &self.extents[self.extents.len() / 3..][..self.extents.len() / 3]
    }

    /// Position of this mask's first element in the whole.
    #[must_use]
    pub fn start(&self) -> &[u64] {
        &self.extents[self.extents.len() / 3 * 2..]
    }

    /// Number of elements.
    #[must_use]
    pub fn size(&self) -> u64 {
        if self.shape().contains(&0) { 0 } else { self.shape().iter().product() }
    }

    /// Step of an element's index in the whole along each axis.
    pub(crate) fn steps(&self) -> Dims {
        let whole = self.whole();
        let mut steps: Dims = SmallVec::from_elem(1, whole.len());
        for axis in (1..whole.len()).rev() {
            steps[axis - 1] = steps[axis].wrapping_mul(whole[axis]);
        }
        steps
    }

    /// Index of the first element in the whole.
    pub(crate) fn origin(&self) -> u64 {
        (self.start().iter().zip(self.whole())).fold(0, |index, (at, len)| index.wrapping_mul(*len).wrapping_add(*at))
    }
}
