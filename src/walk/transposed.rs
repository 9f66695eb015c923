//! Keep bits for walks that cross the stream: drawn along it, then transposed.

use smallvec::SmallVec;

use super::short_rows::{ShortRows, rows_at_a_time};
use super::source::{Drawn, GATHERED};
use super::{Axis, Place};
use crate::simd::{Kernel, Level, Simd};
use crate::stream::bernoulli::{GROUP, GROUP_WORDS, Sampler};
use crate::words::{transpose, word_at};

/// A block of a stream's bits, transposed to run along `inner`, whose elements are not adjacent in
/// the stream.
pub(crate) struct Transposed<'a> {
    pub(crate) sampler: &'a Sampler,
    pub(crate) level: Level,
    /// Index of the block's first element.
    pub(crate) first: u64,
    /// The axis along which the stream is consecutive, or one of length 1.
    pub(crate) lanes: Axis,
    pub(crate) inner: Axis,
}

/// Buffers for [`Transposed::walk`], reused between blocks: at most 128 KiB.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Per element along `inner`: where its bits start in `drawn`.
    starts: Vec<u32>,
    drawn: Vec<u64>,
    transposed: Vec<u64>,
}

/// Extra words after the drawn ones: the last lanes are read as a whole word, which reaches past them.
const SPARE: usize = 3;

impl Transposed<'_> {
    /// Maximum length of a block along `inner`.
    pub(crate) const SIDE: usize = 2048;
    /// Maximum number of elements in a block.
    const SIZE: usize = 1 << 19;

    /// Maximum length of a block along `lanes`: the drawn bits then fit 96 KiB, whatever their
    /// alignment.
    pub(crate) fn most_lanes(inner: &Axis) -> usize {
        Self::SIZE / inner.len.next_power_of_two().clamp(64, Self::SIDE)
    }

    /// Calls `visit(place, drawn, len)` for all elements, row by row along `inner`, or with rows joined.
    pub(crate) fn walk(
        &self,
        buffers: &mut Buffers,
        mut short_rows: Option<&mut ShortRows>,
        mut visit: impl FnMut(Place, Drawn<'_>, usize),
    ) {
        self.draw(buffers);
        let Self { lanes, inner, level, .. } = self;
        let Buffers { starts, drawn, transposed } = buffers;
        let row_words = inner.len.div_ceil(64) + 1;
        transposed.resize(64 * row_words, 0);
        for from in (0..lanes.len).step_by(64) {
            let rows = &mut transposed[..row_words * (lanes.len - from).min(64)];
            for (word, starts) in starts.chunks(64).enumerate() {
                let mut square = [0u64; 64];
                for (row, start) in square.iter_mut().zip(starts) {
                    *row = word_at(drawn, *start as usize + from);
                }
                level.run(Square(&mut square));
                for (bits, row) in square.iter().zip(rows.chunks_exact_mut(row_words)) {
                    row[word] = *bits;
                }
            }
            let place = |row| Place::default().along(lanes, from + row);
            if let Some(short_rows) = &mut short_rows {
                let at_a_time = rows_at_a_time(inner.len);
                for (part, rows) in rows.chunks(row_words * at_a_time).enumerate() {
                    let rows = rows.chunks_exact(row_words);
                    short_rows.make_room(place(part * at_a_time), rows.len() * inner.len, &mut visit);
                    short_rows.append(inner.len, rows.map(|row| move |at| row[at / 64]));
                }
            } else {
                for (row, words) in rows.chunks_exact(row_words).enumerate() {
                    visit(place(row), Drawn::Bits(words, 0), inner.len);
                }
            }
        }
        if let Some(short_rows) = short_rows {
            short_rows.flush(&mut visit);
        }
    }

    /// Draws the groups of all elements.
    fn draw(&self, buffers: &mut Buffers) {
        let Buffers { starts, drawn, .. } = buffers;
        starts.clear();
        let step = self.inner.bit as usize;
        if step <= self.lanes.len + GROUP {
            // The groups of adjacent elements leave no group out between them.
            let lane = (self.first % GROUP as u64) as usize;
            starts.extend((0..self.inner.len).map(|i| (lane + i * step) as u32));
            let end = (lane + (self.inner.len - 1) * step + self.lanes.len).div_ceil(GROUP) * GROUP_WORDS;
            drawn.resize(end + SPARE, 0);
            return self.sampler.fill(self.level, self.first / GROUP as u64, &mut drawn[..end]);
        }
        // Here, adjacent elements share no group.
        let mut groups = SmallVec::<[u64; GATHERED]>::new();
        drawn.clear();
        // Reserves everything at once, because growth could allocate more than this.
        let groups_each = (self.lanes.len - 1) / GROUP + 2;
        drawn.reserve(self.inner.len * groups_each * GROUP_WORDS + SPARE);
        for i in 0..self.inner.len as u64 {
            let index = self.first + self.inner.bit as u64 * i;
            let before = drawn.len() / GROUP_WORDS + groups.len();
            starts.push((before * GROUP) as u32 + (index % GROUP as u64) as u32);
            for group in index / GROUP as u64..=(index + self.lanes.len as u64 - 1) / GROUP as u64 {
                groups.push(group);
                if groups.len() == GATHERED {
                    self.gather(&mut groups, drawn);
                }
            }
        }
        self.gather(&mut groups, drawn);
        drawn.resize(drawn.len() + SPARE, 0);
    }

    /// Draws groups and appends their bits.
    fn gather(&self, groups: &mut SmallVec<[u64; GATHERED]>, drawn: &mut Vec<u64>) {
        let at = drawn.len();
        drawn.resize(at + groups.len() * GROUP_WORDS, 0);
        self.sampler.gather(self.level, groups, &mut drawn[at..]);
        groups.clear();
    }
}

/// A square of 64 by 64 bits, transposed with a level's instructions.
struct Square<'a>(&'a mut [u64; 64]);

impl Kernel for Square<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        transpose(self.0);
    }
}
