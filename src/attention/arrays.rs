//! What is copied out of the caller's arrays, and back: in any layout and dtype.

use std::f64::consts::LOG2_E;
use std::ops::Range;

use super::products::PANEL;
use super::{Number, PART, PARTS, QUERIES, WIDEST, padded};
use crate::kernel::LINE;
use crate::kernel::convert::Layout;
use crate::operand::{Element, Format};
use crate::simd::{Floats, Kernel, Level, Simd, WORD};

/// An array of the caller's: its first element, and the steps in bytes along batch, heads, rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Array {
    pub(crate) first: *mut u8,
    pub(crate) format: Format,
    pub(crate) steps: [isize; 4],
}

impl Array {
    /// One head's rows and columns.
    pub(super) fn matrix(&self, batch: usize, head: usize) -> Matrix {
        let [batches, heads, row, step] = self.steps;
        let first = self.first.wrapping_offset(batch as isize * batches + head as isize * heads);
        Matrix { first, row, layout: Layout { format: self.format, step } }
    }
}

// SAFETY: the caller of a call guarantees that nobody else touches the arrays, so any thread may work on them.
unsafe impl Send for Array {}
// SAFETY: as above; units write disjoint elements.
unsafe impl Sync for Array {}

/// Rows of `stride` floats, to be written times `factor`, or added to what is there: floats that are computed with.
pub(super) struct Results<R> {
    pub(super) from: *const R,
    pub(super) stride: usize,
    pub(super) factor: f64,
    pub(super) adds: bool,
}

/// Rows and columns of one head.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    first: *mut u8,
    row: isize,
    layout: Layout,
}

impl Matrix {
    fn address(&self, row: usize, column: usize) -> *mut u8 {
        self.first.wrapping_offset(row as isize * self.row + column as isize * self.layout.step)
    }

    /// A row whose elements are floats that are computed with, as they are in memory.
    fn plain<R: Number>(&self, row: usize) -> Option<*mut R> {
        let first = self.address(row, 0).cast::<R>();
        let Layout { format, step } = self.layout;
        let plain = format == Format { element: R::ELEMENT, swapped: false } && step == size_of::<R>() as isize;
        (plain && first.is_aligned()).then_some(first)
    }

    /// Reads some columns of a row.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn read<R: Number>(&self, row: usize, first: usize, to: &mut [R]) {
        if let Some(from) = self.plain::<R>(row) {
            // SAFETY: the caller guarantees the elements.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(from.add(first), to.len()) });
            return;
        }
        let from = self.address(row, first);
        let bf16 = Format { element: Element::Bf16, swapped: false };
        if self.layout.format == bf16 && self.layout.step == 2 && from.cast::<u16>().is_aligned() {
            // SAFETY: the caller guarantees the elements.
            let from = unsafe { std::slice::from_raw_parts(from.cast::<u16>(), to.len()) };
            // The upper halves of floats: the compiler vectorises this, and no library does.
            to.iter_mut().zip(from).for_each(|(to, half)| *to = R::from_f32(f32::from_bits(u32::from(*half) << 16)));
            return;
        }
        for (part, to) in to.chunks_mut(WORD).enumerate() {
            // SAFETY: the caller guarantees the elements.
            unsafe { self.layout.load(self.address(row, first + part * WORD), 1, to) };
        }
    }

    /// Writes rows of `width` elements, or adds to them.
    ///
    /// # Safety
    /// The rows must be writeable, and nobody else may touch them; the results must be there.
    pub(super) unsafe fn store<R: Number>(&self, level: Level, rows: Range<usize>, width: usize, results: Results<R>) {
        let Results { from, stride, adds, factor } = results;
        let factor = R::from_f64(factor);
        let [whole, aligned] = [width.is_multiple_of(PARTS), self.row % align_of::<R>() as isize == 0];
        if let Some(to) = self.plain(rows.start)
            && aligned
            && whole
        {
            return level.run(Stores { from, stride, to, row: self.row, count: rows.len(), width, factor, adds });
        }
        for (at, row) in rows.enumerate() {
            for first in (0..width).step_by(WORD) {
                let mut buffer = [R::default(); WORD];
                let part = &mut buffer[..WORD.min(width - first)];
                // SAFETY: the caller guarantees the elements.
                unsafe {
                    if adds {
                        self.read(row, first, part);
                    }
                    for (column, sum) in part.iter_mut().enumerate() {
                        let new = *from.add(at * stride + first + column) * factor;
                        *sum = if adds { *sum + new } else { new };
                    }
                    self.layout.store(part, self.address(row, first));
                }
            }
        }
    }

    /// Adds to some columns of a row, whose elements are floats that are computed with.
    ///
    /// # Safety
    /// The elements must be writeable, and nobody else may touch them.
    pub(super) unsafe fn add<R: Number>(&self, row: usize, first: usize, from: &[R]) {
        let mut sums = [R::default(); WORD];
        for (part, from) in from.chunks(WORD).enumerate() {
            let sums = &mut sums[..from.len()];
            // SAFETY: the caller guarantees the elements.
            unsafe { self.read(row, first + part * WORD, sums) };
            sums.iter_mut().zip(from).for_each(|(sum, from)| *sum = *sum + *from);
            // SAFETY: the caller guarantees the elements.
            unsafe { self.layout.store(sums, self.address(row, first + part * WORD)) };
        }
    }

    /// Copies rows of `width` elements to rows of `stride` floats, of which the others become 0.
    ///
    /// # Safety
    /// The rows must be readable, and `to` must have room for them.
    pub(super) unsafe fn pack<R: Number>(
        &self,
        level: Level,
        rows: Range<usize>,
        width: usize,
        to: *mut R,
        stride: usize,
    ) {
        let aligned = self.row % align_of::<R>() as isize == 0;
        if let Some(from) = self.plain(rows.start)
            && aligned
            && width == stride
            && width.is_multiple_of(PARTS)
        {
            return level.run(Rows { from, row: self.row, count: rows.len(), width, to });
        }
        for (at, row) in rows.enumerate() {
            // SAFETY: the caller guarantees the room and the elements.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.add(at * stride), stride);
                self.read(row, 0, &mut to[..width]);
                to[width..].fill(R::default());
            }
        }
    }

    /// Transposes rows of `width` elements, times `factor`, into panels of columns; columns up to a whole panel become 0.
    ///
    /// # Safety
    /// The rows must be readable, `to` must have room for their panels, and `buffer` for [`SIDE`] rows.
    pub(super) unsafe fn transpose<R: Number>(
        &self,
        level: Level,
        rows: Range<usize>,
        width: usize,
        factor: R,
        to: *mut R,
        buffer: *mut R,
    ) {
        let stride = padded(width);
        for first in (0..rows.len().next_multiple_of(PANEL)).step_by(SIDE) {
            let count = rows.len().saturating_sub(first).min(SIDE);
            // SAFETY: the caller guarantees the room and the elements.
            unsafe {
                if count > 0 {
                    let start = rows.start + first;
                    self.pack(level, start..start + count, width, buffer, stride);
                }
                if count < SIDE {
                    let rest = (SIDE - count) * stride;
                    std::slice::from_raw_parts_mut(buffer.add(count * stride), rest).fill(R::default());
                }
                let to = to.add(first / PANEL * PANEL * width + first % PANEL);
                for k in 0..width {
                    let column = std::slice::from_raw_parts_mut(to.add(k * PANEL), SIDE);
                    for (row, number) in column.iter_mut().enumerate() {
                        *number = *buffer.add(row * stride + k) * factor;
                    }
                }
            }
        }
    }

    /// Copies biases, in units of log 2, to rows of `stride` floats; a boolean bias is -inf where it is false. Returns
    /// the step from one row to the next: rows that share biases are copied once.
    ///
    /// # Safety
    /// The biases must be readable, and `to` must have room for them.
    pub(super) unsafe fn pack_bias<R: Number>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        to: *mut R,
        stride: usize,
    ) -> usize {
        let (rows, step) = if self.row == 0 { (rows.start..rows.start + 1, 0) } else { (rows, stride) };
        for (at, row) in rows.enumerate() {
            // SAFETY: the caller guarantees the room and the elements.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.add(at * stride), columns.len());
                if self.layout.format.element == Element::Bool {
                    for (column, to) in to.iter_mut().enumerate() {
                        let takes_part = *self.address(row, columns.start + column) != 0;
                        *to = if takes_part { R::default() } else { R::from_f64(f64::NEG_INFINITY) };
                    }
                } else if self.layout.format.element.is_double() {
                    let mut wide = [0.0; WORD];
                    for (part, to) in to.chunks_mut(WORD).enumerate() {
                        let wide = &mut wide[..to.len()];
                        self.read::<f64>(row, columns.start + part * WORD, wide);
                        to.iter_mut().zip(wide).for_each(|(to, bias)| *to = R::from_f64(*bias * LOG2_E));
                    }
                } else {
                    self.read(row, columns.start, to);
                    to.iter_mut().for_each(|bias| *bias = *bias * R::from_f64(LOG2_E));
                }
            }
        }
        step
    }
}

/// Copies rows that lie as they are computed with. Those ahead are prefetched: each may be on a page of its own.
struct Rows<R> {
    from: *const R,
    /// From one row to the next, in bytes.
    row: isize,
    count: usize,
    /// A multiple of [`PARTS`].
    width: usize,
    to: *mut R,
}

/// Rows that are transposed together.
const SIDE: usize = 8;
const _: () = assert!(SIDE * WIDEST <= QUERIES * PART, "they fit a tile");
/// Rows to prefetch.
const AHEAD: isize = 12;

impl<R: Number> Kernel for Rows<R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in 0..self.count {
            let from = self.from.wrapping_byte_offset(at as isize * self.row);
            let ahead = from.wrapping_byte_offset(AHEAD * self.row).cast::<u8>();
            for line in (0..self.width * size_of::<R>()).step_by(LINE) {
                simd.prefetch(ahead.wrapping_add(line));
            }
            // SAFETY: the caller of `pack` guarantees the room and the elements.
            unsafe { self.copy(R::floats(simd), from, self.to.add(at * self.width)) };
        }
    }
}

impl<R: Number> Rows<R> {
    /// # Safety
    /// As for `pack`.
    #[inline(always)]
    unsafe fn copy<S: Floats<R>>(&self, simd: S, from: *const R, to: *mut R) {
        for at in (0..self.width).step_by(S::LANES) {
            // SAFETY: the caller guarantees the row, and its width is a multiple of a vector.
            unsafe { simd.store_floats(to.add(at), simd.load_floats(from.add(at))) };
        }
    }
}

/// Writes rows that lie as they are computed with.
struct Stores<R> {
    from: *const R,
    stride: usize,
    to: *mut R,
    /// From one row to the next, in bytes.
    row: isize,
    count: usize,
    /// A multiple of [`PARTS`].
    width: usize,
    factor: R,
    adds: bool,
}

impl<R: Number> Kernel for Stores<R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in 0..self.count {
            let to = self.to.wrapping_byte_offset(at as isize * self.row);
            let ahead = to.wrapping_byte_offset(AHEAD * self.row).cast::<u8>();
            for line in (0..self.width * size_of::<R>()).step_by(LINE) {
                simd.prefetch_write(ahead.wrapping_add(line));
            }
            // SAFETY: the caller of `store` guarantees the rows.
            unsafe { self.store(R::floats(simd), self.from.add(at * self.stride), to) };
        }
    }
}

impl<R: Number> Stores<R> {
    /// # Safety
    /// As for `Matrix::store`.
    #[inline(always)]
    unsafe fn store<S: Floats<R>>(&self, simd: S, from: *const R, to: *mut R) {
        let factor = simd.splat_float(self.factor);
        for at in (0..self.width).step_by(S::LANES) {
            // SAFETY: the caller guarantees the row, and its width is a multiple of a vector.
            unsafe {
                let mut sum = simd.times(simd.load_floats(from.add(at)), factor);
                if self.adds {
                    sum = simd.plus(simd.load_floats(to.add(at)), sum);
                }
                simd.store_floats(to.add(at), sum);
            }
        }
    }
}
