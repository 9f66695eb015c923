//! Gaussian dropout: `x * (1 + std * z)` with the normals z of a stream (Srivastava et al., JMLR 15, 2014, section 10).
//!
//! Drawing costs far more than memory here, so elements go through a small buffer, whatever their type and layout.

use std::ops::Range;

use crate::apply::Element;
use crate::ars::Schedule;
use crate::bernoulli::GROUP;
use crate::dropout::Arrays;
use crate::error::Error;
use crate::lanes::{Layout, Real};
use crate::mask::Interrupt;
use crate::normal;
use crate::pool;
use crate::simd::{Kernel, Level, Simd, WORD};
use crate::walk::{Axes, Axis, Cursor, Place, normalize, positions};

/// Elements that a thread takes at a time.
const UNIT: usize = 1 << 12;
/// Below this many elements no other thread is woken.
const PARALLEL: usize = 1 << 15;
/// Elements between two looks at the interrupt.
const BATCH: usize = 1 << 20;

/// Factors of mean 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    pub(crate) schedule: Schedule,
    /// Index of the walk's first element in the stream.
    pub(crate) origin: u64,
    /// Their standard deviation.
    pub(crate) std: f64,
}

/// Multiplies the elements that `axes` reach.
///
/// # Safety
/// As for `dropout::run`; `bit` is the step of the index in the stream.
pub(crate) unsafe fn run(arrays: Arrays, mut axes: Axes, noise: Noise, interrupt: Interrupt<'_>) -> Result<(), Error> {
    let total = positions(&axes);
    if total == 0 {
        return Ok(());
    }
    let level = Level::current()?;
    let threads = if total < PARALLEL { 1 } else { pool::num_threads()? };
    normalize(&mut axes);
    along_the_stream(&mut axes);
    let wide = matches!(arrays.element, Element::F64 | Element::Complex128);
    pool::batches(total.div_ceil(UNIT), BATCH / UNIT, threads, interrupt, |units| {
        let mut factors = Factors { noise, level, group: u64::MAX, normals: [0.0; GROUP] };
        for unit in units {
            let range = unit * UNIT..total.min((unit + 1) * UNIT);
            // SAFETY: the caller vouches for the elements; units are disjoint.
            unsafe {
                if wide {
                    multiply::<f64>(arrays, &axes, range, &mut factors);
                } else {
                    multiply::<f32>(arrays, &axes, range, &mut factors);
                }
            }
        }
    })
}

/// Makes the axis along which the stream is consecutive the one that turns fastest, where it would else be crossed.
fn along_the_stream(axes: &mut Axes) {
    if axes.last().is_some_and(|inner| inner.bit > 1)
        && let Some(position) = axes.iter().position(|axis| axis.bit == 1)
    {
        let axis = axes.remove(position);
        axes.push(axis);
    }
}

/// The factors of one group at a time.
struct Factors {
    noise: Noise,
    level: Level,
    group: u64,
    normals: [f64; GROUP],
}

impl Factors {
    /// The normal number of an element, and of those behind it in its group.
    fn from(&mut self, index: u64) -> &[f64] {
        let group = index / GROUP as u64;
        if group != self.group {
            normal::group(self.level, &self.noise.schedule, group, &mut self.normals);
            self.group = group;
        }
        &self.normals[(index % GROUP as u64) as usize..]
    }

    /// Factors of elements whose indices are `step` apart.
    fn fill<R: Real>(&mut self, mut index: u64, step: isize, parts: usize, factors: &mut [R]) {
        let std = self.noise.std;
        let mut rest = factors;
        while !rest.is_empty() {
            let normals = self.from(index);
            let len = match step {
                0 => rest.len() / parts,
                1 => normals.len().min(rest.len() / parts),
                _ => 1,
            };
            let (now, later) = rest.split_at_mut(len * parts);
            if step == 1 && parts == 1 {
                for (factor, normal) in now.iter_mut().zip(normals) {
                    *factor = R::from_f64(1.0 + std * normal);
                }
            } else {
                let normals = normals.iter().take(if step == 1 { len } else { 1 }).cycle();
                for (factor, normal) in now.chunks_exact_mut(parts).zip(normals) {
                    factor.fill(R::from_f64(1.0 + std * normal));
                }
            }
            index = index.wrapping_add_signed(step as i64 * len as i64);
            rest = later;
        }
    }
}

/// Elements that lie side by side, with the normals that go with them. Only [`multiply`] makes one, of the walk's.
struct Direct<'a, R> {
    std: f64,
    normals: &'a [f64],
    src: *const R,
    dst: *mut R,
}

impl<R: Real> Kernel for Direct<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { std, normals, src, dst } = self;
        let (lines, rest) = normals.as_chunks::<16>();
        for (line, normals) in lines.iter().enumerate() {
            // SAFETY: whoever made this vouches for as many elements as there are normals.
            unsafe {
                let mut x = src.cast::<[R; 16]>().add(line).read_unaligned();
                for (x, normal) in x.iter_mut().zip(normals) {
                    *x = *x * R::from_f64(1.0 + std * normal);
                }
                dst.cast::<[R; 16]>().add(line).write_unaligned(x);
            }
        }
        for (i, normal) in (lines.len() * 16..).zip(rest) {
            // SAFETY: as above.
            unsafe {
                let x = src.add(i).read_unaligned();
                dst.add(i).write_unaligned(x * R::from_f64(1.0 + std * normal));
            }
        }
    }
}

/// Multiplies the elements at `range` of the walk.
///
/// # Safety
/// As for [`run`]; R must be the float that the elements are computed in.
unsafe fn multiply<R: Real>(arrays: Arrays, axes: &[Axis], range: Range<usize>, factors: &mut Factors) {
    let Some((inner, outer)) = axes.split_last() else {
        return;
    };
    let [src, dst] = [(arrays.swapped[0], inner.src), (arrays.swapped[1], inner.dst)].map(|(swapped, step)| Layout {
        element: arrays.element,
        swapped,
        step,
    });
    let parts = src.parts();
    let (level, std) = (factors.level, factors.noise.std);
    let size = size_of::<R>() as isize;
    let direct = arrays.element.size() as isize == size
        && [inner.src, inner.dst, inner.bit] == [size, size, 1]
        && arrays.swapped[..2] == [false; 2];
    let mut x = [R::default(); 2 * WORD];
    let mut by = [R::default(); 2 * WORD];
    let mut at = range.start;
    let mut column = at % inner.len;
    let mut cursor = Cursor::at(outer, at / inner.len);
    while at < range.end {
        let row: Place = cursor.place();
        let end = inner.len.min(column + range.end - at);
        while column < end {
            let place = row.along(inner, column);
            if direct {
                let normals = factors.from(factors.noise.origin.wrapping_add_signed(place.bit as i64));
                let len = normals.len().min(end - column);
                // The place is one of the walk's, for whose elements the caller vouches.
                let src = arrays.src.wrapping_offset(place.src).cast::<R>();
                let dst = arrays.dst.wrapping_offset(place.dst).cast::<R>();
                level.run(Direct { std, normals: &normals[..len], src, dst });
                column += len;
                at += len;
                continue;
            }
            let len = WORD.min(end - column);
            let (x, by) = (&mut x[..len * parts], &mut by[..len * parts]);
            // Where all of a row shares its factor, it is filled in once.
            if inner.bit != 0 || column == 0 || at == range.start {
                factors.fill(factors.noise.origin.wrapping_add_signed(place.bit as i64), inner.bit, parts, by);
            }
            // SAFETY: the place is one of the walk's, for whose elements the caller vouches.
            unsafe {
                src.load(arrays.src.wrapping_offset(place.src), x);
                for (x, by) in x.iter_mut().zip(by) {
                    *x = *x * *by;
                }
                dst.store(x, arrays.dst.wrapping_offset(place.dst));
            }
            column += len;
            at += len;
        }
        column = 0;
        cursor.advance();
    }
}
