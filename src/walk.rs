//! Walks over strided arrays: axes, their order, and the odometer that steps through them.
//!
//! A walk visits the elements of some arrays and of a mask together. It knows strides, not what they
//! point to.

use smallvec::SmallVec;

/// How many inputs there can be besides the first.
pub(crate) const MORE: usize = 2;
/// A number for each of them. (Not `[isize; MORE]`: where a closure captures that, rustc 1.95 fails.)
type More = [isize; 2];

/// One axis of a walk. Strides are 0 where an operand is shared along the axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Axis {
    pub(crate) len: usize,
    /// Step of the input, in bytes.
    pub(crate) src: isize,
    /// Steps of further inputs, in bytes.
    pub(crate) more: More,
    /// Step of the output, in bytes.
    pub(crate) dst: isize,
    /// Step of the mask: in elements of the whole where bits are drawn, in bytes where they are given.
    pub(crate) bit: isize,
}

impl Axis {
    /// The same axis from its other end.
    pub(crate) fn reversed(self) -> Self {
        Self { src: -self.src, more: self.more.map(|step| -step), dst: -self.dst, bit: -self.bit, ..self }
    }
}

/// The axes of a walk, the one that turns fastest last.
pub(crate) type Axes = SmallVec<[Axis; 6]>;

/// Orders axes so that the output is walked as it lies in memory, and joins those that act as one.
pub(crate) fn normalize(axes: &mut Axes) {
    axes.retain(|axis| axis.len != 1);
    // Stable, so axes that are equal in memory stay in logical order. In logical order already? Then no work.
    let step = |axis: &Axis| std::cmp::Reverse(axis.dst.unsigned_abs());
    if !axes.is_sorted_by_key(step) {
        axes.sort_by_key(step);
    }
    let mut kept = 0;
    for next in 0..axes.len() {
        let axis = axes[next];
        let len = axis.len as isize;
        match axes[..kept].last_mut() {
            Some(outer)
                if outer.src == axis.src * len
                    && outer.more == axis.more.map(|step| step * len)
                    && outer.dst == axis.dst * len
                    && outer.bit == axis.bit * len =>
            {
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

/// Where a walk stands: the offset of each operand from its first element, in its own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) src: isize,
    pub(crate) more: More,
    pub(crate) dst: isize,
    pub(crate) bit: isize,
}

impl Place {
    /// This place moved by `steps` along `axis`. Past the end of a mask of nearly 2^63 elements, `bit` wraps; such
    /// places are not used.
    #[inline]
    pub(crate) fn along(self, axis: &Axis, steps: usize) -> Self {
        let steps = steps as isize;
        Self {
            src: self.src + axis.src * steps,
            more: std::array::from_fn(|input| self.more[input] + axis.more[input] * steps),
            dst: self.dst + axis.dst * steps,
            bit: self.bit.wrapping_add(axis.bit.wrapping_mul(steps)),
        }
    }

    /// This place as seen from another corner.
    pub(crate) fn from(self, corner: Self) -> Self {
        Self {
            src: corner.src + self.src,
            more: std::array::from_fn(|input| corner.more[input] + self.more[input]),
            dst: corner.dst + self.dst,
            bit: corner.bit.wrapping_add(self.bit),
        }
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
    /// Stands at position `flat` of the walk.
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

    /// Steps to the next position; from the last one to the first.
    pub(crate) fn advance(&mut self) {
        for (axis, digit) in self.axes.iter().zip(&mut self.index).rev() {
            *digit += 1;
            if *digit < axis.len {
                self.place = self.place.along(axis, 1);
                return;
            }
            let back = axis.len as isize - 1;
            self.place.src -= axis.src * back;
            for (place, step) in self.place.more.iter_mut().zip(axis.more) {
                *place -= step * back;
            }
            self.place.dst -= axis.dst * back;
            self.place.bit -= axis.bit * back;
            *digit = 0;
        }
    }
}

/// How many positions `axes` have.
pub(crate) fn positions(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.len).product()
}
