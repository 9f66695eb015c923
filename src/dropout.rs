//! The driver: lays out a walk over input, output and mask, cuts it into units, and has the threads draw and
//! apply tile after tile.

use smallvec::SmallVec;

use crate::apply::{Apply, Element, Float, PREFETCH_BYTES, Run};
use crate::bernoulli::{Sampler, Soon};
use crate::bits::{Bits, Keep, REPEATED, TILE, Window, repeat_inside};
use crate::error::Error;
use crate::fused;
use crate::mask::{Interrupt, Mask};
use crate::packed::{Packed, joins};
use crate::pool;
use crate::simd::Level;
use crate::turned::{Turned, TurnedBuffers};
use crate::walk::{Axes, Axis, Cursor, MORE, Place, normalize, positions};

/// Elements that a thread takes at a time.
const UNIT: usize = 1 << 15;
/// Below this many elements no other thread is woken: it would cost more than the work.
const PARALLEL: usize = 1 << 19;
/// Elements between two looks at the interrupt: some milliseconds, where each has bits of its own to be drawn more.
const BATCH: usize = 1 << 23;
/// Outputs of this many bytes do not fit the caches that matter; they are written past them.
const STREAM_BYTES: usize = 1 << 24;

/// The arrays of a call: addresses of the first elements, and how the input's and output's bytes are ordered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrays {
    pub(crate) src: *const u8,
    /// Further inputs, if the operation has any.
    pub(crate) more: [*const u8; MORE],
    pub(crate) dst: *mut u8,
    pub(crate) element: Element,
    /// The first input's, the output's, the further inputs' bytes are in the other order than this CPU's.
    pub(crate) swapped: [bool; 2 + MORE],
}

impl Arrays {
    /// One input.
    pub(crate) fn new(src: *const u8, dst: *mut u8, element: Element) -> Self {
        Self { src, more: [std::ptr::null(); MORE], dst, element, swapped: [false; 2 + MORE] }
    }

    /// The same arrays from another place on.
    fn at(self, place: Place) -> Self {
        Self {
            src: self.src.wrapping_offset(place.src),
            more: std::array::from_fn(|input| self.more[input].wrapping_offset(place.more[input])),
            dst: self.dst.wrapping_offset(place.dst),
            ..self
        }
    }
}

// SAFETY: `run` asks that nobody else touches the arrays, so it does not matter which thread works on them.
unsafe impl Send for Arrays {}
// SAFETY: threads share them in `run` only, where units write disjoint elements.
unsafe impl Sync for Arrays {}

impl Mask {
    /// `kept ? x * scale : 0` for all elements in C order; scale `None` is 1 / (1 - p).
    ///
    /// ```
    /// use fastdrop::{Key, Mask};
    /// let mask = Mask::new(&[8], 0.5, Key::from_bytes([7; 16]))?;
    /// let mut y = [0.0f32; 8];
    /// mask.apply(&[1.0; 8], &mut y, None)?;
    /// assert!(y.iter().all(|y| *y == 0.0 || *y == 2.0));
    /// # Ok::<(), fastdrop::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if a slice has another size than the mask; an error of the environment's settings.
    pub fn apply<T: Float>(&self, x: &[T], out: &mut [T], scale: Option<f64>) -> Result<(), Error> {
        self.check_length("x", x.len())?;
        self.check_length("out", out.len())?;
        self.apply_slice(x.as_ptr(), out.as_mut_ptr(), scale)
    }

    /// As [`Mask::apply`], into the input.
    ///
    /// # Errors
    /// As [`Mask::apply`].
    pub fn apply_in_place<T: Float>(&self, x: &mut [T], scale: Option<f64>) -> Result<(), Error> {
        self.check_length("x", x.len())?;
        let x = x.as_mut_ptr();
        self.apply_slice(x, x, scale)
    }

    fn check_length(&self, what: &'static str, got: usize) -> Result<(), Error> {
        let (expected, got) = (self.size(), got as u64);
        if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
    }

    /// The callers have borrowed as many elements as the mask has.
    fn apply_slice<T: Float>(&self, src: *const T, dst: *mut T, scale: Option<f64>) -> Result<(), Error> {
        let arrays = Arrays::new(src.cast(), dst.cast(), T::ELEMENT);
        let (origin, steps) = self.indices();
        let mut axes = Axes::new();
        let mut step = size_of::<T>() as isize;
        for (len, bit) in self.shape().iter().zip(&steps).rev() {
            axes.insert(0, Axis { len: *len as usize, src: step, dst: step, bit: *bit as isize, ..Axis::default() });
            step = step.wrapping_mul(*len as isize);
        }
        let scale = scale.unwrap_or_else(|| self.probability().inverted_scale());
        if !scale.is_finite() {
            return Err(Error::Scale(scale));
        }
        // SAFETY: the slices hold the elements of the mask's shape in C order, which is what the axes reach.
        unsafe { run(arrays, axes, Bits::drawn(self, origin), Operation::Scale(scale), &|| false) }
    }
}

/// What kept and dropped elements become.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    /// `kept ? x * scale : 0`
    Scale(f64),
    /// Any other.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "only Python asks for it"))]
    Fused(fused::Operation),
}

/// Applies `bits` to the elements that `axes` reach.
///
/// # Safety
/// All elements that the axes reach from `src` and `dst` must be readable and writeable, and nobody else may
/// touch them meanwhile. No two positions of the walk may share bytes of the output, and the input's element at
/// a position must be the same as the output's there or overlap no element of the output. For given bits, what
/// `Given::new` asks.
pub(crate) unsafe fn run(
    arrays: Arrays,
    mut axes: Axes,
    bits: Bits,
    operation: Operation,
    interrupt: Interrupt<'_>,
) -> Result<(), Error> {
    let total = positions(&axes);
    if total == 0 {
        return Ok(());
    }
    let level = Level::current()?;
    let threads = if total < PARALLEL { 1 } else { pool::num_threads()? };
    if let Bits::Constant(_) = bits {
        axes.iter_mut().for_each(|axis| axis.bit = 0);
    }
    normalize(&mut axes);
    let large = total * arrays.element.size() >= STREAM_BYTES;
    let apply = Apply {
        level,
        element: arrays.element,
        scale: if let Operation::Scale(scale) = operation { scale } else { 1.0 },
        swapped: [arrays.swapped[0], arrays.swapped[1]],
        ahead: PREFETCH_BYTES,
        stream: large && arrays.src != arrays.dst,
    };
    let fused = match operation {
        Operation::Scale(_) => None,
        Operation::Fused(operation) => Some(operation),
    };
    let many = axes.last().is_some_and(|last| last.bit == 1 && last.len > REPEATED);
    let drawn = matches!(bits, Bits::Drawn(..));
    let call = Call { arrays, apply, fused, large, bits, threads, interrupt };
    if many && drawn && axes.iter().any(|axis| axis.bit == 0) {
        for (mut axes, place) in cut_repeated(&axes) {
            call.clone().shift(place).walk(&mut axes)?;
        }
        Ok(())
    } else {
        call.walk(&mut axes)
    }
}

/// Cuts the last axis where bits that come again are too many to keep: into stretches, and what is left over.
fn cut_repeated(axes: &Axes) -> SmallVec<[(Axes, Place); 2]> {
    let last = axes.last().copied().unwrap_or_default();
    let stretches = last.len / REPEATED;
    let outer = &axes[..axes.len() - 1];
    let with = |inner: &[Axis]| outer.iter().chain(inner).copied().collect::<Axes>();
    let scaled = |n: usize| Place::default().along(&last, n);
    let step = scaled(REPEATED);
    let main = [step_axis(step, stretches), Axis { len: REPEATED, ..last }];
    let rest = Axis { len: last.len % REPEATED, ..last };
    [(with(&main), Place::default()), (with(&[rest]), scaled(last.len - rest.len))]
        .into_iter()
        .filter(|(axes, _)| positions(axes) > 0)
        .collect()
}

/// An axis whose elements are `step` apart.
fn step_axis(step: Place, len: usize) -> Axis {
    Axis { len, src: step.src, more: step.more, dst: step.dst, bit: step.bit }
}

/// What stays the same through a call.
#[derive(Clone)]
struct Call<'a> {
    arrays: Arrays,
    apply: Apply,
    fused: Option<fused::Operation>,
    /// Whether the output does not fit the caches that matter.
    large: bool,
    bits: Bits,
    threads: usize,
    interrupt: Interrupt<'a>,
}

/// The part of a call that threads share.
struct Worker {
    arrays: Arrays,
    apply: Apply,
    fused: Option<fused::Operation>,
    inner: Axis,
}

impl Worker {
    /// Applies keep bits to the elements from `place` on.
    #[inline]
    fn apply(&self, place: Place, keep: Keep<'_>, len: usize) {
        let arrays = self.arrays.at(place);
        let Axis { src: src_step, dst: dst_step, more, .. } = self.inner;
        let run = Run { src: arrays.src, dst: arrays.dst, src_step, dst_step, len };
        // SAFETY: `run` vouches for all places of the walk, and units are disjoint.
        unsafe {
            if let Some(operation) = self.fused {
                let (words, offset) = keep.bits();
                return fused::run(
                    self.apply,
                    operation,
                    arrays,
                    [src_step, dst_step, more[0], more[1]],
                    words,
                    offset,
                    len,
                );
            }
            if let Keep::None = keep {
                self.apply.zero(run);
            } else {
                let (words, offset) = keep.bits();
                self.apply.run(words, offset, run);
            }
        }
    }
}

impl Call<'_> {
    /// The same call from another place on.
    fn shift(mut self, place: Place) -> Self {
        self.arrays = self.arrays.at(place);
        if let Bits::Drawn(_, origin) = &mut self.bits {
            *origin = origin.wrapping_add_signed(place.bit as i64);
        }
        self
    }

    fn walk(&self, axes: &mut Axes) -> Result<(), Error> {
        match (&self.bits, axes.last()) {
            (Bits::Drawn(sampler, origin), Some(inner)) if inner.bit > 1 && inner.len > 1 => {
                self.columns(axes, sampler, *origin)
            }
            _ => self.rows(axes),
        }
    }

    /// The last axis follows the mask (or the mask is no stream): runs along it.
    fn rows(&self, axes: &mut Axes) -> Result<(), Error> {
        let Self { ref bits, apply, fused, arrays, .. } = *self;
        let drawn = matches!(bits, Bits::Drawn(..));
        let repeated = drawn && repeat_inside(axes);
        let axes = &*axes;
        let inner = axes.last().copied().unwrap_or_default();
        let join = joins(axes);
        let piece = if repeated { REPEATED } else { TILE };
        // A thread that keeps bits for later rows takes whole rows.
        let unit_size = if repeated { UNIT.next_multiple_of(inner.len) } else { UNIT };
        let total = positions(axes);
        let phase = apply.phase(arrays.dst);
        let soon = if repeated { None } else { self.soon(inner) };
        let worker = Worker { arrays, apply, fused, inner };
        let visit = |place: Place, keep: Keep<'_>, len| worker.apply(place, keep, len);
        self.batches(total.div_ceil(unit_size), unit_size, |units| {
            let mut window = Window::new(bits, apply.level, soon);
            let mut packed = join.then(Packed::new);
            for unit in units {
                let range = unit * unit_size..total.min((unit + 1) * unit_size);
                match &mut packed {
                    // A row goes with the unit that it ends in.
                    Some(packed) => {
                        packed.walk(&mut window, axes, range.start / inner.len..range.end / inner.len, visit);
                    }
                    None => window.walk(axes, range, piece, phase, visit),
                }
            }
            apply.fence();
        })
    }

    /// The memory to ask for while bits are drawn: where both take their time.
    fn soon(&self, inner: Axis) -> Option<Soon> {
        let Self { ref bits, apply, arrays, large, .. } = *self;
        let size = apply.element.size();
        let takes_time = matches!(bits, Bits::Drawn(sampler, _) if sampler.takes_time());
        if !takes_time || !large || inner.bit != 1 {
            return None;
        }
        let address = |address: usize, step: isize| if step == size as isize { address } else { 0 };
        let [a, b] = [0, 1].map(|input| address(arrays.more[input].addr(), inner.more[input]));
        Some(Soon { inputs: [address(arrays.src.addr(), inner.src), a, b], size })
    }

    /// The last axis goes across the mask: blocks, whose bits are turned.
    fn columns(&self, axes: &Axes, sampler: &Sampler, origin: u64) -> Result<(), Error> {
        let Self { mut apply, fused, arrays, .. } = *self;
        let mut outer = axes.clone();
        let inner = outer.pop().unwrap_or_default();
        let lanes = match outer.iter().position(|axis| axis.bit == 1) {
            Some(position) => outer.remove(position),
            None => Axis { len: 1, ..Axis::default() },
        };
        // Rows that are cut into blocks do not follow each other in one.
        let join = inner.len <= Turned::SIDE && joins(&[lanes, inner]);
        let [lane_side, inner_side] = [Turned::most_lanes(&inner), Turned::SIDE];
        apply.stream &= join || inner.len > inner_side;
        // If one run of blocks starts at a line and the steps are whole lines, then all do.
        let lines = axes.iter().all(|axis| axis.dst == inner.dst || apply.whole_lines(axis.dst));
        let before = if lines && !join { (inner_side - apply.phase(arrays.dst)) % inner_side } else { 0 };
        if !join {
            // The next run is not behind this one.
            apply.ahead = lanes.src;
        }
        let [lane_blocks, inner_blocks] = [lanes.len.div_ceil(lane_side), (before + inner.len).div_ceil(inner_side)];
        let block_axis = |axis: &Axis, side: usize, len: usize| step_axis(Place::default().along(axis, side), len);
        outer.extend([block_axis(&lanes, lane_side, lane_blocks), block_axis(&inner, inner_side, inner_blocks)]);
        let worker = Worker { arrays, apply, fused, inner };
        self.batches(positions(&outer), lane_side.min(lanes.len) * inner_side.min(inner.len), |units| {
            let mut buffers = TurnedBuffers::default();
            let mut packed = join.then(Packed::new);
            for unit in units {
                let (column, row) = (unit % inner_blocks * inner_side, unit / inner_blocks % lane_blocks * lane_side);
                // The first block begins `before` elements ahead of the axis, and is cut short.
                let cut = before.saturating_sub(column);
                let corner = Cursor::at(&outer, unit).place().along(&inner.reversed(), before - cut);
                let first = origin.wrapping_add_signed(corner.bit as i64);
                let end = (column + inner_side).min(before + inner.len);
                let inner = Axis { len: end - column - cut, ..inner };
                let lanes = Axis { len: lane_side.min(lanes.len - row), ..lanes };
                let turned = Turned { sampler, level: apply.level, first, lanes, inner };
                turned.walk(&mut buffers, packed.as_mut(), |place, keep, len| {
                    worker.apply(place.from(corner), keep, len);
                });
            }
            apply.fence();
        })
    }

    /// Shares units among the threads, with a look at the interrupt now and then.
    fn batches(&self, units: usize, unit_size: usize, work: impl Fn(pool::Units<'_>) + Sync) -> Result<(), Error> {
        pool::batches(units, (BATCH / unit_size).max(1), self.threads, self.interrupt, work)
    }
}
