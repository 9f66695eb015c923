//! What is copied out of the caller's arrays, and back: in any layout and dtype.

use std::f64::consts::LOG2_E;
use std::ops::Range;

use half::{bf16, f16};

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
    /// Floats in C order, with so many heads, rows and columns.
    pub(super) fn of_floats<R: Number>(first: *mut R, [heads, rows, columns]: [usize; 3]) -> Self {
        let step = size_of::<R>();
        let steps = [heads * rows * columns * step, rows * columns * step, columns * step, step];
        let format = Format { element: R::ELEMENT, swapped: false };
        Self { first: first.cast(), format, steps: steps.map(|step| step as isize) }
    }

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

    /// The first element of a row of floats.
    pub(super) fn row<R>(&self, row: usize) -> *const R {
        self.address(row, 0).cast()
    }

    /// The same without its first columns.
    pub(super) fn columns_from(self, column: usize) -> Self {
        Self { first: self.address(0, column), ..self }
    }

    pub(super) fn transposed(self) -> Self {
        let Layout { format, step } = self.layout;
        Self { row: step, layout: Layout { format, step: self.row }, ..self }
    }

    /// The element type, if vectors of these rows can be loaded and stored.
    fn in_vectors<R: Number>(&self, rows: &Range<usize>) -> Option<Element> {
        let Layout { format: Format { element, swapped }, step } = self.layout;
        let size = element.size();
        let half = R::ELEMENT == Element::F32 && matches!(element, Element::F16 | Element::Bf16);
        let aligned = self.address(rows.start, 0).addr().is_multiple_of(size)
            && (rows.len() == 1 || self.row.unsigned_abs().is_multiple_of(size));
        let fits = (element == R::ELEMENT || half) && !swapped && step == size as isize && aligned;
        fits.then_some(element)
    }

    /// Writes rows of `width` elements, or adds to them.
    ///
    /// # Safety
    /// The rows must be writeable, and nobody else may touch them; the results must be there.
    pub(super) unsafe fn store<R: Number>(&self, level: Level, rows: Range<usize>, width: usize, results: Results<R>) {
        let Results { from, stride, factor, adds } = results;
        let (to, count) = (self.address(rows.start, 0), rows.len());
        let places = Places { row: self.row, count, width, stride, factor };
        match self.in_vectors::<R>(&rows) {
            // The floats that halves are computed in are these.
            Some(Element::F16) => level.run(Stores::<f32, f16> { from: from.cast(), to: to.cast(), places, adds }),
            Some(Element::Bf16) => level.run(Stores::<f32, bf16> { from: from.cast(), to: to.cast(), places, adds }),
            Some(_) => level.run(Stores::<R, R> { from, to: to.cast(), places, adds }),
            None => {
                let factor = R::from_f64(factor);
                for (at, row) in rows.enumerate() {
                    for first in (0..width).step_by(WORD) {
                        let mut buffer = [R::default(); WORD];
                        let part = &mut buffer[..WORD.min(width - first)];
                        let address = self.address(row, first);
                        // SAFETY: the caller guarantees the elements.
                        unsafe {
                            if adds {
                                self.layout.load(address, 1, part);
                            }
                            for (column, sum) in part.iter_mut().enumerate() {
                                let new = *from.add(at * stride + first + column) * factor;
                                *sum = if adds { *sum + new } else { new };
                            }
                            self.layout.store(part, address);
                        }
                    }
                }
            }
        }
    }

    /// Copies rows of `width` elements, times `factor`, to rows of `stride` floats. Floats up to a whole vector become 0.
    ///
    /// # Safety
    /// The rows must be readable, and `to` must have room for whole vectors.
    pub(super) unsafe fn pack<R: Number>(
        &self,
        level: Level,
        rows: Range<usize>,
        width: usize,
        factor: f64,
        (to, stride): (*mut R, usize),
    ) {
        let (from, count) = (self.address(rows.start, 0), rows.len());
        let places = Places { row: self.row, count, width, stride, factor };
        match self.in_vectors::<R>(&rows) {
            // As in `store`.
            Some(Element::F16) => level.run(Loads::<f32, f16> { from: from.cast(), to: to.cast(), places }),
            Some(Element::Bf16) => level.run(Loads::<f32, bf16> { from: from.cast(), to: to.cast(), places }),
            Some(_) => level.run(Loads::<R, R> { from: from.cast(), to, places }),
            None => {
                let factor = R::from_f64(factor);
                for (at, row) in rows.enumerate() {
                    // SAFETY: the caller guarantees the room and the elements.
                    unsafe {
                        let to = std::slice::from_raw_parts_mut(to.add(at * stride), padded(width));
                        for (part, to) in to[..width].chunks_mut(WORD).enumerate() {
                            self.layout.load(self.address(row, part * WORD), 1, to);
                            to.iter_mut().for_each(|number| *number = *number * factor);
                        }
                        to[width..].fill(R::default());
                    }
                }
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
        factor: f64,
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
                    self.pack(level, start..start + count, width, factor, (buffer, stride));
                }
                if count < SIDE {
                    let rest = (SIDE - count) * stride;
                    std::slice::from_raw_parts_mut(buffer.add(count * stride), rest).fill(R::default());
                }
                let to = to.add(first / PANEL * PANEL * width + first % PANEL);
                for k in 0..width {
                    let column = std::slice::from_raw_parts_mut(to.add(k * PANEL), SIDE);
                    for (row, number) in column.iter_mut().enumerate() {
                        *number = *buffer.add(row * stride + k);
                    }
                }
            }
        }
    }

    /// Copies biases, in units of log 2, to rows of `stride` floats; a boolean bias is -inf where it is false. Returns
    /// the step from one row to the next: rows that share biases are copied once.
    ///
    /// # Safety
    /// The biases must be readable, and `to` must have room for whole vectors of them.
    pub(super) unsafe fn pack_bias<R: Number>(
        &self,
        level: Level,
        rows: Range<usize>,
        columns: Range<usize>,
        (to, stride): (*mut R, usize),
    ) -> usize {
        let (rows, step) = if self.row == 0 { (rows.start..rows.start + 1, 0) } else { (rows, stride) };
        let (biases, width) = (self.columns_from(columns.start), columns.len());
        let element = self.layout.format.element;
        let wide = element.is_double() && !R::ELEMENT.is_double();
        if element != Element::Bool && !wide {
            // SAFETY: the obligations are the same.
            unsafe { biases.pack(level, rows, width, LOG2_E, (to, stride)) };
            return step;
        }
        for (at, row) in rows.enumerate() {
            // SAFETY: the caller guarantees the room and the elements.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.add(at * stride), width);
                if wide {
                    let mut wide = [0.0; WORD];
                    for (part, to) in to.chunks_mut(WORD).enumerate() {
                        let wide = &mut wide[..to.len()];
                        self.layout.load(biases.address(row, part * WORD), 1, wide);
                        to.iter_mut().zip(wide).for_each(|(to, bias)| *to = R::from_f64(*bias * LOG2_E));
                    }
                } else {
                    for (column, to) in to.iter_mut().enumerate() {
                        let takes_part = *biases.address(row, column) != 0;
                        *to = if takes_part { R::default() } else { R::from_f64(f64::NEG_INFINITY) };
                    }
                }
            }
        }
        step
    }
}

/// Rows that are transposed together.
const SIDE: usize = 8;
const _: () = assert!(SIDE * WIDEST <= QUERIES * PART, "they fit a tile");

/// Vectors of the floats that are computed with.
type Vector<R, S> = <<R as Number>::Level<S> as Floats<R>>::F;

/// Elements that are loaded and stored as vectors of R.
trait Packed<R: Number>: Copy + Default {
    /// # Safety
    /// A vector of elements must be readable.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> Vector<R, S>;
    /// # Safety
    /// A vector of elements must be writeable.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: Vector<R, S>);
}

impl<R: Number> Packed<R> for R {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> Vector<R, S> {
        // SAFETY: the obligations are the same.
        unsafe { R::floats(simd).load_floats(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: Vector<R, S>) {
        // SAFETY: the obligations are the same.
        unsafe { R::floats(simd).store_floats(to, a) };
    }
}

macro_rules! halves {
    ($($half:ty, $load:ident, $store:ident;)+) => {$(
        impl Packed<f32> for $half {
            #[inline(always)]
            unsafe fn load<S: Simd>(simd: S, from: *const Self) -> Vector<f32, S> {
                // SAFETY: the obligations are the same.
                unsafe { simd.$load(from) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: Vector<f32, S>) {
                // SAFETY: the obligations are the same.
                unsafe { simd.$store(to, a) };
            }
        }
    )+};
}
halves! {
    f16, load_f16, store_f16;
    bf16, load_bf16, store_bf16;
}

/// Rows of elements in memory, and as many of floats.
#[derive(Clone, Copy)]
struct Places {
    /// From one row of elements to the next, in bytes.
    row: isize,
    count: usize,
    width: usize,
    /// From one row of floats to the next.
    stride: usize,
    /// What is copied is multiplied with this.
    factor: f64,
}

/// Rows to prefetch: each may be on a page of its own.
const AHEAD: isize = 12;

/// Copies elements to floats, with zeros up to a whole vector.
struct Loads<R, T> {
    from: *const T,
    to: *mut R,
    places: Places,
}

impl<R: Number, T: Packed<R>> Kernel for Loads<R, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Places { row, count, width, stride, factor } = self.places;
        let (floats, lanes) = (R::floats(simd), R::Level::<S>::LANES);
        let factor = floats.splat_float(R::from_f64(factor));
        let whole = width - width % lanes;
        for at in 0..count {
            let from = self.from.wrapping_byte_offset(at as isize * row);
            let ahead = from.wrapping_byte_offset(AHEAD * row).cast::<u8>();
            for line in (0..width * size_of::<T>()).step_by(LINE) {
                simd.prefetch(ahead.wrapping_add(line));
            }
            // SAFETY: the caller of `pack` guarantees the room and the elements.
            unsafe {
                let to = self.to.add(at * stride);
                for column in (0..whole).step_by(lanes) {
                    floats.store_floats(to.add(column), floats.times(T::load(simd, from.add(column)), factor));
                }
                if whole < width {
                    let mut rest = [T::default(); PARTS];
                    rest.as_mut_ptr().copy_from_nonoverlapping(from.add(whole), width - whole);
                    floats.store_floats(to.add(whole), floats.times(T::load(simd, rest.as_ptr()), factor));
                    if whole + lanes < padded(width) {
                        floats.store_floats(to.add(whole + lanes), floats.splat_float(R::default()));
                    }
                }
            }
        }
    }
}

/// Copies floats to elements, or adds them.
struct Stores<R, T> {
    from: *const R,
    to: *mut T,
    places: Places,
    adds: bool,
}

impl<R: Number, T: Packed<R>> Kernel for Stores<R, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Places { row, count, width, stride, .. } = self.places;
        let lanes = R::Level::<S>::LANES;
        let whole = width - width % lanes;
        for at in 0..count {
            let to = self.to.wrapping_byte_offset(at as isize * row);
            let ahead = to.wrapping_byte_offset(AHEAD * row).cast::<u8>();
            for line in (0..width * size_of::<T>()).step_by(LINE) {
                simd.prefetch_write(ahead.wrapping_add(line));
            }
            // SAFETY: the caller of `store` guarantees the rows.
            unsafe {
                let from = self.from.add(at * stride);
                for column in (0..whole).step_by(lanes) {
                    self.vector(simd, from.add(column), to.add(column));
                }
                if whole < width {
                    let (mut floats, mut rest) = ([R::default(); PARTS], [T::default(); PARTS]);
                    floats.as_mut_ptr().copy_from_nonoverlapping(from.add(whole), width - whole);
                    rest.as_mut_ptr().copy_from_nonoverlapping(to.add(whole), width - whole);
                    self.vector(simd, floats.as_ptr(), rest.as_mut_ptr());
                    to.add(whole).copy_from_nonoverlapping(rest.as_ptr(), width - whole);
                }
            }
        }
    }
}

impl<R: Number, T: Packed<R>> Stores<R, T> {
    /// # Safety
    /// A vector must be readable and writeable.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, simd: S, from: *const R, to: *mut T) {
        let floats = R::floats(simd);
        // SAFETY: the obligations are the same.
        unsafe {
            let factor = floats.splat_float(R::from_f64(self.places.factor));
            let mut sum = floats.times(floats.load_floats(from), factor);
            if self.adds {
                sum = floats.plus(T::load(simd, to), sum);
            }
            T::store(simd, to, sum);
        }
    }
}
