//! Walks over strided arrays: axes, their order, and the odometer that steps through them.
//!
//! A walk visits the elements of several arrays and of a mask together. [`source`] supplies keep bits in walk order,
//! [`short_rows`] joins rows that are adjacent in memory, and [`transposed`] serves walks that cross the stream.

pub(crate) mod short_rows;
pub(crate) mod source;
pub(crate) mod transposed;

use smallvec::SmallVec;

use crate::operand::Each;
use crate::stream::bernoulli::GROUP;

/// Elements whose bits are drawn and then used together, so that the bits stay in the L1 cache. A multiple of
/// [`GROUP`].
pub(crate) const TILE: usize = 64 * GROUP;
/// Bits kept for reuse where rows repeat.
pub(crate) const REPEATED: usize = 8 * TILE;

/// One axis of a walk. An array that broadcasts along the axis has step 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Axis {
    pub(crate) len: usize,
    /// Steps of the arrays, in bytes.
    pub(crate) steps: Each<isize>,
    /// Step of the mask: in elements of the whole if bits are drawn, in bytes if they are given.
    pub(crate) bit: isize,
}

impl Axis {
    /// The axis traversed from its other end.
    pub(crate) fn reversed(self) -> Self {
        Self { steps: self.steps.map(|step| -step), bit: -self.bit, ..self }
    }
}

/// The axes of a walk, the fastest-varying one last.
pub(crate) type Axes = SmallVec<[Axis; 6]>;

/// Sorts axes into the output's memory order, and merges those that act as one.
pub(crate) fn normalize(axes: &mut Axes) {
    axes.retain(|axis| axis.len != 1);
    // The sort is stable, so axes with equal steps stay in logical order. The check spares sorted axes the sort.
    let step = |axis: &Axis| std::cmp::Reverse(axis.steps[0].unsigned_abs());
    if !axes.is_sorted_by_key(step) {
        axes.sort_by_key(step);
    }
    let mut kept = 0;
    for next in 0..axes.len() {
        let axis = axes[next];
        match axes[..kept].last_mut() {
            Some(outer) if Place::default().along(outer, 1) == Place::default().along(&axis, axis.len) => {
                *outer = Axis { len: outer.len * axis.len, ..axis };
            }
            _ => {
                axes[kept] = axis;
                kept += 1;
            }
        }
    }
    axes.truncate(kept);
    if axes.is_empty() {
        axes.push(Axis { len: 1, ..Axis::default() });
    }
}

/// A position in a walk: the offset of each array, and of the mask, from its first element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) offsets: Each<isize>,
    pub(crate) bit: isize,
}

impl Place {
    /// This place moved by `steps` along `axis`. Past the end of a mask of nearly 2^63 elements, `bit` wraps; such
    /// places are not used.
    #[inline]
    pub(crate) fn along(self, axis: &Axis, steps: usize) -> Self {
        let steps = steps as isize;
        let mut offsets = self.offsets;
        for (offset, step) in offsets.iter_mut().zip(axis.steps) {
            *offset = offset.wrapping_add(step.wrapping_mul(steps));
        }
        Self { offsets, bit: self.bit.wrapping_add(axis.bit.wrapping_mul(steps)) }
    }

    /// The place at this distance from `corner`.
    pub(crate) fn from(self, corner: Self) -> Self {
        let mut offsets = self.offsets;
        for (offset, from) in offsets.iter_mut().zip(corner.offsets) {
            *offset += from;
        }
        Self { offsets, bit: corner.bit.wrapping_add(self.bit) }
    }
}

/// An odometer over axes.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    axes: &'a [Axis],
    index: SmallVec<[usize; 6]>,
    place: Place,
}

impl<'a> Cursor<'a> {
    /// A cursor at position `flat` of the walk.
    pub(crate) fn at(axes: &'a [Axis], mut flat: usize) -> Self {
        let mut index = SmallVec::from_elem(0, axes.len());
        let mut place = Place::default();
        for (axis, digit) in axes.iter().zip(&mut index).rev() {
            *digit = flat % axis.len;
            flat /= axis.len;
            place = place.along(axis, *digit);
        }
        Self { axes, index, place }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Steps to the next position, and from the last one back to the first.
    pub(crate) fn advance(&mut self) {
        for (axis, digit) in self.axes.iter().zip(&mut self.index).rev() {
            *digit += 1;
            if *digit < axis.len {
                self.place = self.place.along(axis, 1);
                return;
            }
            self.place = self.place.along(&axis.reversed(), axis.len - 1);
            *digit = 0;
        }
    }
}

pub(crate) fn positions(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.len).product()
}

/// Moves axes along which bits repeat inside the axes along which they do not. Bits are then drawn once per stretch
/// instead of once per repetition. Returns whether it did.
///
/// Does so only if runs are long enough to be read in any order, and short enough for their bits to be kept.
pub(crate) fn repeat_inside(axes: &mut [Axis]) -> bool {
    let Some((inner, outer)) = axes.split_last_mut() else {
        return false;
    };
    let repeats =
        inner.bit == 1 && (TILE / 8..=REPEATED).contains(&inner.len) && outer.iter().any(|axis| axis.bit == 0);
    if repeats {
        outer.sort_by_key(|axis| axis.bit == 0);
    }
    repeats
}

/// Splits the last axis, whose repeated bits are too many to be kept, into stretches and a remainder.
pub(crate) fn cut_repeated(axes: &Axes) -> SmallVec<[(Axes, Place); 2]> {
    let last = axes.last().copied().unwrap_or_default();
    let stretches = last.len / REPEATED;
    let outer = &axes[..axes.len() - 1];
    let with = |inner: &[Axis]| outer.iter().chain(inner).copied().collect::<Axes>();
    let scaled = |n: usize| Place::default().along(&last, n);
    let main = [blocks_of(&last, REPEATED, stretches), Axis { len: REPEATED, ..last }];
    let rest = Axis { len: last.len % REPEATED, ..last };
    [(with(&main), Place::default()), (with(&[rest]), scaled(last.len - rest.len))]
        .into_iter()
        .filter(|(axes, _)| positions(axes) > 0)
        .collect()
}

/// An axis over `len` blocks, each of `side` elements along `axis`.
pub(crate) fn blocks_of(axis: &Axis, side: usize, len: usize) -> Axis {
    let step = Place::default().along(axis, side);
    Axis { len, steps: step.offsets, bit: step.bit }
}

/// If the walk would cross the stream, moves the axis along which the stream is consecutive to the
/// end.
pub(crate) fn along_the_stream(axes: &mut Axes) {
    if axes.last().is_some_and(|inner| inner.bit > 1)
        && let Some(position) = axes.iter().position(|axis| axis.bit == 1)
    {
        let axis = axes.remove(position);
        axes.push(axis);
    }
}
