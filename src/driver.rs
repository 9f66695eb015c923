//! The driver of every call: lays out a walk over the arrays and what is drawn for them, cuts it into units, and has the
//! threads draw and work tile after tile.

use crate::error::Error;
use crate::kernel::{LINE, Memory, Operation, PREFETCH_BYTES, Run};
use crate::operand::{Element, Operands};
use crate::pool;
use crate::simd::Level;
use crate::stream::bernoulli::Sampler;
use crate::walk::short_rows::{ShortRows, joins};
use crate::walk::source::{Drawn, Source, TileBuffer};
use crate::walk::transposed::{Buffers, Transposed};
use crate::walk::{
    Axes, Axis, Cursor, Place, REPEATED, TILE, along_the_stream, blocks_of, cut_repeated, normalize, positions,
    repeat_inside,
};

/// Asks between pieces of a long call whether to stop; `true` makes it return [`Error::Interrupted`].
pub(crate) type Interrupt<'a> = &'a dyn Fn() -> bool;

/// Outputs of this many bytes do not fit the caches that matter; they are written past them.
const STREAM_BYTES: usize = 1 << 24;

/// New outputs of so many bytes have memory without pages: the C library of Linux keeps smaller blocks for reuse. The
/// system fills a page with zeros as it is touched, so that its lines are in the cache, where writing past it is slower.
const UNMAPPED_BYTES: usize = 1 << 25;

/// More bytes than a thread ever needs beside the arrays.
const SCRATCH: usize = 3 << 16;

/// How work is cut, in elements: what a thread takes at a time; how many there must be to wake another thread, which
/// would cost more than less work; how many come between two looks at the interrupt, some milliseconds.
struct Sizes {
    unit: usize,
    parallel: usize,
    batch: usize,
}

impl Sizes {
    /// Keep bits that are applied: about 0.1 ns per element.
    const APPLIED: Self = Self { unit: 4 * TILE, parallel: 64 * TILE, batch: 1024 * TILE };
    /// Keep bits alone, a tenth of that.
    const BITS: Self = Self { unit: 32 * TILE, parallel: 256 * TILE, batch: 1024 * TILE };
    /// Normals and uniforms: tens of operations each.
    const VALUES: Self = Self { unit: TILE / 2, parallel: 4 * TILE, batch: 128 * TILE };

    fn of(source: &Source, operation: &Operation<'_>) -> Self {
        match (source, operation) {
            (Source::Normals(..) | Source::Uniforms(..), _) => Self::VALUES,
            (_, Operation::Pack | Operation::Count(_)) => Self::BITS,
            _ => Self::APPLIED,
        }
    }
}

/// Does `operation` with what is drawn from `source` to the elements that `axes` reach.
///
/// # Safety
/// All elements that the axes reach in the arrays that the operation has must be readable and, in the output, writeable;
/// nobody else may touch them meanwhile. No two positions of the walk may share bytes of the output, and an input's
/// element at a position must be the same as the output's there or overlap no element of the output. For a given mask,
/// what `MaskArray::new` asks.
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
    let sizes = Sizes::of(source, &operation);
    let threads = if total < sizes.parallel { 1 } else { pool::threads_of_call()? };
    if total >= sizes.parallel && !pool::has_memory(threads * SCRATCH) {
        return Err(Error::Memory);
    }
    if let Source::Constant(_) = source {
        axes.iter_mut().for_each(|axis| axis.bit = 0);
    }
    for axis in axes.iter_mut() {
        // So that arrays that are not there join with any others.
        axis.steps[1 + operation.inputs()..].fill(0);
    }
    normalize(axes);
    let bytes = total * operands.element.size();
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

/// What stays the same through a call.
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
            // What `rows` does with one run, without all that more would need: small calls feel it.
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
            (Source::Normals(..), _) => {
                along_the_stream(axes);
                self.rows(axes, interrupt)
            }
            _ => self.rows(axes, interrupt),
        }
    }

    /// Works on the elements from `place` on with what was drawn for them.
    #[inline]
    fn tile(&self, memory: &Memory, inner: &Axis, place: Place, drawn: Drawn<'_>, len: usize) {
        let run = Run { operands: &self.operands, place, steps: inner.steps, len };
        // SAFETY: `run` vouches for all places of the walk, and units are disjoint.
        unsafe { self.operation.run(memory, drawn, &run) };
    }

    /// The last axis follows the mask (or the source is not a stream): runs along it.
    fn rows(&self, axes: &mut Axes, interrupt: Interrupt<'_>) -> Result<(), Error> {
        let Self { source, ref memory, ref sizes, .. } = *self;
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
        // A thread that keeps bits for later rows takes whole rows.
        let unit_size = if repeated { sizes.unit.next_multiple_of(inner.len) } else { sizes.unit };
        let total = positions(axes);
        let phase = self.phase();
        let visit = |place: Place, drawn: Drawn<'_>, len| self.tile(memory, &inner, place, drawn, len);
        self.batches(total.div_ceil(unit_size), unit_size, interrupt, |units| {
            let mut buffer = TileBuffer::new(source, memory.level);
            let mut short_rows = join.then(ShortRows::new);
            for unit in units {
                let range = unit * unit_size..total.min((unit + 1) * unit_size);
                match &mut short_rows {
                    // A row goes with the unit that it ends in.
                    Some(rows) => rows.walk(&mut buffer, axes, range.start / inner.len..range.end / inner.len, visit),
                    None => buffer.walk(axes, range, piece, phase, visit),
                }
            }
            self.fence();
        })
    }

    /// The last axis goes across the mask: blocks, whose bits are transposed.
    fn columns(&self, axes: &Axes, sampler: &Sampler, origin: u64, interrupt: Interrupt<'_>) -> Result<(), Error> {
        // Buffers on the heap, in small calls too.
        if !pool::has_memory(SCRATCH) {
            return Err(Error::Memory);
        }
        let mut memory = self.memory;
        let mut outer = axes.clone();
        let inner = outer.pop().unwrap_or_default();
        let lanes = match outer.iter().position(|axis| axis.bit == 1) {
            Some(position) => outer.remove(position),
            None => Axis { len: 1, ..Axis::default() },
        };
        // Rows that are cut into blocks do not follow each other in one.
        let join = inner.len <= Transposed::SIDE && joins(&[lanes, inner]);
        let [lane_side, inner_side] = [Transposed::most_lanes(&inner), Transposed::SIDE];
        memory.stream &= join || inner.len > inner_side;
        // If one run of blocks starts at a line and the steps are whole lines, then all do.
        let whole_lines = |step: isize| step.unsigned_abs().is_multiple_of(LINE);
        let lines = axes.iter().all(|axis| axis.steps[0] == inner.steps[0] || whole_lines(axis.steps[0]));
        let before = if lines && !join { (inner_side - self.phase()) % inner_side } else { 0 };
        if !join {
            // The next run is not behind this one.
            memory.ahead = lanes.steps;
        }
        let [lane_blocks, inner_blocks] = [lanes.len.div_ceil(lane_side), (before + inner.len).div_ceil(inner_side)];
        outer.extend([blocks_of(&lanes, lane_side, lane_blocks), blocks_of(&inner, inner_side, inner_blocks)]);
        let unit_size = lane_side.min(lanes.len) * inner_side.min(inner.len);
        self.batches(positions(&outer), unit_size, interrupt, |units| {
            let mut buffers = Buffers::default();
            let mut short_rows = join.then(ShortRows::new);
            for unit in units {
                let (column, row) = (unit % inner_blocks * inner_side, unit / inner_blocks % lane_blocks * lane_side);
                // The first block begins `before` elements ahead of the axis, and is cut short.
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

    /// How many elements from the first of the output it is to a place where streamed writes can start.
    fn phase(&self) -> usize {
        match self.operands.element {
            Element::Bit => 0,
            element => self.operands.first[0].addr().wrapping_neg() % LINE / element.size(),
        }
    }

    /// Ends the streamed writes of a thread.
    fn fence(&self) {
        if self.memory.stream {
            self.memory.level.fence();
        }
    }

    /// Shares units among the threads, with a look at the interrupt now and then.
    fn batches(
        &self,
        units: usize,
        unit_size: usize,
        interrupt: Interrupt<'_>,
        work: impl Fn(pool::Units<'_>) + Sync,
    ) -> Result<(), Error> {
        let batch = (self.sizes.batch / unit_size).max(1);
        for first in (0..units).step_by(batch) {
            pool::share(first..units.min(first + batch), self.threads, &work);
            if first + batch < units && interrupt() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}
