//! Drives every call: plans a walk over the arrays and their random values, splits it into units, and lets the threads
//! draw and apply the values tile by tile.

use crate::error::Error;
use crate::kernel::{LINE, Memory, Operation, PREFETCH_BYTES, Run};
use crate::operand::{Element, Operands};
use crate::simd::Level;
use crate::stream::bernoulli::Sampler;
use crate::threads::batches::{self, Interrupt};
use crate::threads::room::has_memory;
use crate::threads::{lends_team, threads_of_call};
use crate::walk::short_rows::{ShortRows, joins};
use crate::walk::source::{Drawn, Source, TileBuffer};
use crate::walk::transposed::{Buffers, Transposed};
use crate::walk::{
    Axes, Axis, Cursor, Place, REPEATED, TILE, along_the_stream, blocks_of, cut_repeated, normalize, positions,
    repeat_inside,
};

/// An output of at least this many bytes does not fit the caches that matter. It is written with streaming stores,
/// which bypass them.
const STREAM_BYTES: usize = 1 << 24;

/// A new output of at least this many bytes has no pages mapped yet, because Linux's C library reuses only smaller
/// blocks. The system zeroes each page on first touch, which leaves its lines in the cache, where streaming stores are
/// slower.
const UNMAPPED_BYTES: usize = 1 << 25;

/// More bytes than a thread ever needs in addition to the arrays.
const SCRATCH: usize = 3 << 16;

/// How work is split, in elements. A thread takes one `unit` at a time. Below `parallel`, waking
/// another thread would cost more than the work. The interrupt is polled after each batch, of `batch`
/// elements at most.
struct Sizes {
    unit: usize,
    parallel: usize,
    batch: usize,
}

impl Sizes {
    /// Keep bits applied to elements: about 0.1 ns each.
    const APPLIED: Self = Self { unit: 4 * TILE, parallel: 64 * TILE, batch: 1024 * TILE };
    /// The same on OpenMP's threads: they are awake, and their caches have some of the elements.
    const APPLIED_BY_TEAM: Self = Self { unit: TILE, parallel: 4 * TILE, ..Self::APPLIED };
    /// Keep bits alone: a tenth of that.
    const BITS: Self = Self { unit: 32 * TILE, parallel: 256 * TILE, batch: 1024 * TILE };
    /// Normals and uniforms: tens of operations each.
    const VALUES: Self = Self { unit: TILE / 2, parallel: 4 * TILE, batch: 128 * TILE };

    fn of(source: &Source, operation: &Operation<'_>, total: usize) -> Self {
        match (source, operation) {
            (Source::Normals(..) | Source::Uniforms(..), _) => Self::VALUES,
            (_, Operation::Pack | Operation::Count(_)) => Self::BITS,
            _ if (Self::APPLIED_BY_TEAM.parallel..Self::APPLIED.parallel).contains(&total) && lends_team() => {
                Self::APPLIED_BY_TEAM
            }
            _ => Self::APPLIED,
        }
    }
}

/// Applies `operation`, with values drawn from `source`, to the elements that `axes` reach.
///
/// # Safety
/// In each of the operation's arrays, all elements that the axes reach must be readable and, in the
/// output, writeable; nobody else may touch them during the call. No two positions of the walk may
/// share output bytes, except by packed bits, or in a call that uses one thread. An input element must be the output
/// element at the same position, or overlap no output element. A given mask must meet the requirements of
/// `MaskArray::new`.
pub(crate) unsafe fn run(
    source: &Source,
    operation: Operation<'_>,
    operands: Operands,
    axes: &mut Axes,
    interrupt: Interrupt<'_>,
) -> Result<(), Error> {
    let total = positions(axes);
    if total == 0 {
        return Ok(());
    }
    let sizes = Sizes::of(source, &operation, total);
    let threads = if total < sizes.parallel { 1 } else { threads_of_call()? };
    // `rows` makes at most this many units, so at most this many threads get one.
    if total >= sizes.parallel && !has_memory(threads.min(total.div_ceil(sizes.unit)) * SCRATCH) {
        return Err(Error::Memory);
    }
    if let Source::Constant(_) = source {
        axes.iter_mut().for_each(|axis| axis.bit = 0);
    }
    for axis in axes.iter_mut() {
        // Absent arrays must not keep axes from merging.
        axis.steps[1 + operation.inputs()..].fill(0);
    }
    normalize(axes);
    let bytes = total * operands.element().size();
    let large = bytes >= STREAM_BYTES && !(operands.fresh && bytes >= UNMAPPED_BYTES);
    let in_place = operation.inputs() > 0 && operands.first[0] == operands.first[1];
    let memory = Memory {
        level: Level::current()?,
        stream: large && !in_place && operation.streams(),
        ahead: [PREFETCH_BYTES; 4],
    };
    let call = Call { source, operation, operands, memory, sizes, threads };
    let many = axes.last().is_some_and(|last| last.bit == 1 && last.len > REPEATED);
    if many && matches!(source, Source::Drawn(..)) && axes.iter().any(|axis| axis.bit == 0) {
        for (mut axes, place) in cut_repeated(axes) {
            let source = source.from(place);
            let mut operands = operands;
            for (first, offset) in operands.first.iter_mut().zip(place.offsets) {
                *first = first.wrapping_offset(offset);
            }
            Call { source: &source, operands, sizes: Sizes { ..call.sizes }, ..call }.walk(&mut axes, interrupt)?;
        }
        Ok(())
    } else {
        call.walk(axes, interrupt)
    }
}

/// What stays constant during a call.
struct Call<'a> {
    source: &'a Source,
    operation: Operation<'a>,
    operands: Operands,
    memory: Memory,
    sizes: Sizes,
    threads: usize,
}

impl Call<'_> {
    fn walk(&self, axes: &mut Axes, interrupt: Interrupt<'_>) -> Result<(), Error> {
        match (self.source, &axes[..]) {
            // What `rows` does for a single run, without its setup, which is measurable in small calls.
            (Source::Drawn(sampler, origin), [axis]) if axis.bit == 1 && axis.len <= TILE => {
                let mut buffer = TileBuffer::new(self.source, self.memory.level);
                let (words, offset) = buffer.draw(sampler, *origin, axis.len, axis.len);
                self.tile(&self.memory, axis, Place::default(), Drawn::Bits(words, offset), axis.len);
                Ok(())
            }
            (Source::Drawn(sampler, origin), [.., inner])
                if inner.bit > 1 && inner.len > 1 && !self.operation.is_ordered() =>
            {
                self.columns(axes, sampler, *origin, interrupt)
            }
            (Source::Normals(..) | Source::Uniforms(..), _) => {
                along_the_stream(axes);
                self.rows(axes, interrupt)
            }
            _ => self.rows(axes, interrupt),
        }
    }

    /// Applies the operation to `len` elements from `place` on, with the values drawn for them.
    #[inline]
    fn tile(&self, memory: &Memory, inner: &Axis, place: Place, drawn: Drawn<'_>, len: usize) {
        let run = Run { operands: &self.operands, place, steps: inner.steps, len };
        // SAFETY: `run` guarantees all places of the walk, and units are disjoint.
        unsafe { self.operation.run(memory, drawn, &run) };
    }

    /// Works in runs along the last axis, which follows the mask (or the source is not a stream).
    fn rows(&self, axes: &mut Axes, interrupt: Interrupt<'_>) -> Result<(), Error> {
        let Self { source, operation, ref memory, ref sizes, .. } = *self;
        let drawn = matches!(source, Source::Drawn(..));
        let repeated = drawn && repeat_inside(axes);
        let axes = &*axes;
        let inner = axes.last().copied().unwrap_or_default();
        let join = match source {
            Source::Constant(_) | Source::Given(_) => joins(axes),
            Source::Drawn(..) => inner.bit <= 1 && joins(axes),
            Source::Normals(..) | Source::Uniforms(..) => false,
        };
        let piece = if repeated { REPEATED } else { TILE };
        // A thread that keeps bits for later rows takes whole rows. One that packs bits takes whole bytes, which joined
        // rows fill eight at a time.
        let unit_size = match operation {
            _ if repeated => sizes.unit.next_multiple_of(inner.len),
            Operation::Pack if join => sizes.unit.next_multiple_of(8 * inner.len),
            _ => sizes.unit,
        };
        let total = positions(axes);
        let phase = self.phase();
        let visit = |place: Place, drawn: Drawn<'_>, len| self.tile(memory, &inner, place, drawn, len);
        batches::run(total.div_ceil(unit_size), sizes.batch / unit_size, self.threads, interrupt, |units| {
            let mut buffer = TileBuffer::new(source, memory.level);
            let mut short_rows = join.then(ShortRows::new);
            for unit in units {
                let range = unit * unit_size..total.min((unit + 1) * unit_size);
                match &mut short_rows {
                    // A row belongs to the unit in which it ends.
                    Some(rows) => rows.walk(&mut buffer, axes, range.start / inner.len..range.end / inner.len, visit),
                    None => buffer.walk(axes, range, piece, phase, visit),
                }
            }
            self.fence();
        })
    }

    /// Works in blocks with transposed bits, because the last axis crosses the mask.
    fn columns(&self, axes: &Axes, sampler: &Sampler, origin: u64, interrupt: Interrupt<'_>) -> Result<(), Error> {
        let mut memory = self.memory;
        let mut outer = axes.clone();
        let inner = outer.pop().unwrap_or_default();
        let lanes = match outer.iter().position(|axis| axis.bit == 1) {
            Some(position) => outer.remove(position),
            None => Axis { len: 1, ..Axis::default() },
        };
        // Rows that span several blocks are not adjacent within one.
        let join = inner.len <= Transposed::SIDE && joins(&[lanes, inner]);
        let [lane_side, inner_side] = [Transposed::most_lanes(&inner), Transposed::SIDE];
        memory.stream &= join || inner.len > inner_side;
        // If one run of blocks starts on a cache line and the steps are whole lines, all runs do.
        let whole_lines = |step: isize| step.unsigned_abs().is_multiple_of(LINE);
        let lines = axes.iter().all(|axis| axis.steps[0] == inner.steps[0] || whole_lines(axis.steps[0]));
        let before = if lines && !join { (inner_side - self.phase()) % inner_side } else { 0 };
        if !join {
            // The next run lies one step along `lanes` away, and does not follow this one in memory.
            memory.ahead = lanes.steps;
        }
        let [lane_blocks, inner_blocks] = [lanes.len.div_ceil(lane_side), (before + inner.len).div_ceil(inner_side)];
        outer.extend([blocks_of(&lanes, lane_side, lane_blocks), blocks_of(&inner, inner_side, inner_blocks)]);
        let unit_size = lane_side.min(lanes.len) * inner_side.min(inner.len);
        let units = positions(&outer);
        // Even small calls allocate these buffers on the heap.
        if !has_memory(self.threads.min(units) * SCRATCH) {
            return Err(Error::Memory);
        }
        batches::run(units, self.sizes.batch / unit_size, self.threads, interrupt, |units| {
            let mut buffers = Buffers::default();
            let mut short_rows = join.then(ShortRows::new);
            for unit in units {
                let (column, row) = (unit % inner_blocks * inner_side, unit / inner_blocks % lane_blocks * lane_side);
                // The first block starts `before` elements ahead of the axis, and is truncated.
                let cut = before.saturating_sub(column);
                let corner = Cursor::at(&outer, unit).place().along(&inner.reversed(), before - cut);
                let first = origin.wrapping_add_signed(corner.bit as i64);
                let end = (column + inner_side).min(before + inner.len);
                let inner = Axis { len: end - column - cut, ..inner };
                let lanes = Axis { len: lane_side.min(lanes.len - row), ..lanes };
                let transposed = Transposed { sampler, level: memory.level, first, lanes, inner };
                transposed.walk(&mut buffers, short_rows.as_mut(), |place, drawn, len| {
                    self.tile(&memory, &inner, place.from(corner), drawn, len);
                });
            }
            self.fence();
        })
    }

    /// Elements from the start of the output to the first place where streaming stores can begin.
    fn phase(&self) -> usize {
        match self.operands.element() {
            Element::Bit => 0,
            element => self.operands.first[0].addr().wrapping_neg() % LINE / element.size(),
        }
    }

    /// Makes this thread's streaming stores visible to the others.
    fn fence(&self) {
        if self.memory.stream {
            self.memory.level.fence();
        }
    }
}
