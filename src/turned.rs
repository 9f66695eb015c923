//! Keep bits where the walk goes across the stream: drawn along it, and transposed.

use smallvec::SmallVec;

use crate::bernoulli::{GROUP, GROUP_WORDS, PIECE, Sampler};
use crate::bits::{Keep, word_at};
use crate::packed::{Packed, rows_at_a_time};
use crate::simd::{Kernel, Level, Simd};
use crate::walk::{Axis, Place};

/// The bits of a block of a stream, turned so that they run along `inner`, whose elements are not neighbours in
/// the stream.
pub(crate) struct Turned<'a> {
    pub(crate) sampler: &'a Sampler,
    pub(crate) level: Level,
    /// Index of the block's first element.
    pub(crate) first: u64,
    /// Along this axis the stream is consecutive (or the axis has length 1).
    pub(crate) lanes: Axis,
    pub(crate) inner: Axis,
}

/// Buffers for [`Turned::walk`], kept between blocks: at most 61 KiB.
#[derive(Default)]
pub(crate) struct TurnedBuffers {
    /// For each element along `inner`, where its bits start in the drawn ones.
    starts: Vec<u32>,
    drawn: Vec<u64>,
    turned: Vec<u64>,
}

/// Words behind the drawn ones: the last lanes are read as a whole word, and that needs a word to spare.
const SPARE: usize = 3;

impl Turned<'_> {
    /// Most elements of a block along `inner`.
    pub(crate) const SIDE: usize = 1024;
    /// Most elements of a block.
    const SIZE: usize = 1 << 18;

    /// Most elements of a block along `lanes`: the drawn bits then fit 48 KiB, whatever their alignment.
    pub(crate) fn most_lanes(inner: &Axis) -> usize {
        Self::SIZE / inner.len.next_power_of_two().clamp(64, Self::SIDE)
    }

    /// Calls `visit(place, keep, len)` for all elements, row by row along `inner`, or with rows joined.
    pub(crate) fn walk(
        &self,
        buffers: &mut TurnedBuffers,
        mut packed: Option<&mut Packed>,
        mut visit: impl FnMut(Place, Keep<'_>, usize),
    ) {
        self.draw(buffers);
        let Self { lanes, inner, level, .. } = self;
        let TurnedBuffers { starts, drawn, turned } = buffers;
        let row_words = inner.len.div_ceil(64) + 1;
        turned.resize(64 * row_words, 0);
        for from in (0..lanes.len).step_by(64) {
            let rows = &mut turned[..row_words * (lanes.len - from).min(64)];
            for (word, starts) in starts.chunks(64).enumerate() {
                let mut square = [0u64; 64];
                for (row, start) in square.iter_mut().zip(starts) {
                    *row = word_at(drawn, *start as usize + from);
                }
                level.run(Transpose(&mut square));
                for (bits, row) in square.iter().zip(rows.chunks_exact_mut(row_words)) {
                    row[word] = *bits;
                }
            }
            let place = |row| Place::default().along(lanes, from + row);
            if let Some(packed) = &mut packed {
                let at_a_time = rows_at_a_time(inner.len);
                for (part, rows) in rows.chunks(row_words * at_a_time).enumerate() {
                    let rows = rows.chunks_exact(row_words);
                    packed.make_room(place(part * at_a_time), rows.len() * inner.len, &mut visit);
                    packed.append(inner.len, rows.map(|row| move |at| row[at / 64]));
                }
            } else {
                for (row, words) in rows.chunks_exact(row_words).enumerate() {
                    visit(place(row), Keep::Bits(words, 0), inner.len);
                }
            }
        }
        if let Some(packed) = packed {
            packed.flush(&mut visit);
        }
    }

    /// Draws the groups of all elements.
    fn draw(&self, buffers: &mut TurnedBuffers) {
        let TurnedBuffers { starts, drawn, .. } = buffers;
        starts.clear();
        let step = self.inner.bit as usize;
        if step <= self.lanes.len + GROUP {
            // No group lies between those of neighbours.
            let lane = (self.first % GROUP as u64) as usize;
            starts.extend((0..self.inner.len).map(|i| (lane + i * step) as u32));
            let end = (lane + (self.inner.len - 1) * step + self.lanes.len).div_ceil(GROUP) * GROUP_WORDS;
            drawn.resize(end + SPARE, 0);
            return self.sampler.fill(self.level, self.first / GROUP as u64, None, &mut drawn[..end]);
        }
        // Now neighbours share no group.
        let mut groups = SmallVec::<[u64; PIECE]>::new();
        drawn.clear();
        for i in 0..self.inner.len as u64 {
            let index = self.first + self.inner.bit as u64 * i;
            let before = drawn.len() / GROUP_WORDS + groups.len();
            starts.push((before * GROUP) as u32 + (index % GROUP as u64) as u32);
            for group in index / GROUP as u64..=(index + self.lanes.len as u64 - 1) / GROUP as u64 {
                groups.push(group);
                if groups.len() == PIECE {
                    self.gather(&mut groups, drawn);
                }
            }
        }
        self.gather(&mut groups, drawn);
        drawn.resize(drawn.len() + SPARE, 0);
    }

    /// Draws groups and appends their bits.
    fn gather(&self, groups: &mut SmallVec<[u64; PIECE]>, drawn: &mut Vec<u64>) {
        let at = drawn.len();
        drawn.resize(at + groups.len() * GROUP_WORDS, 0);
        self.sampler.gather(self.level, groups, &mut drawn[at..]);
        groups.clear();
    }
}

/// Transposes 64 by 64 bits: bit j of word i changes places with bit i of word j.
pub(crate) fn transpose(level: Level, square: &mut [u64; 64]) {
    level.run(Transpose(square));
}

/// Swaps blocks of half the size at every step (Warren, "Hacker's Delight", 2nd ed., section 7-3).
struct Transpose<'a>(&'a mut [u64; 64]);

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        #[inline(always)]
        fn step<const SIZE: usize>(square: &mut [u64; 64], mask: u64) {
            for block in square.chunks_exact_mut(2 * SIZE) {
                let (upper, lower) = block.split_at_mut(SIZE);
                for (a, b) in upper.iter_mut().zip(lower) {
                    let swap = (*a >> SIZE ^ *b) & mask;
                    *a ^= swap << SIZE;
                    *b ^= swap;
                }
            }
        }
        step::<32>(self.0, 0x0000_0000_FFFF_FFFF);
        step::<16>(self.0, 0x0000_FFFF_0000_FFFF);
        step::<8>(self.0, 0x00FF_00FF_00FF_00FF);
        step::<4>(self.0, 0x0F0F_0F0F_0F0F_0F0F);
        step::<2>(self.0, 0x3333_3333_3333_3333);
        step::<1>(self.0, 0x5555_5555_5555_5555);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_moves_every_bit() {
        let original: [u64; 64] = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut square = original;
        Level::portable().run(Transpose(&mut square));
        for (i, row) in square.iter().enumerate() {
            for (j, column) in original.iter().enumerate() {
                assert_eq!(row >> j & 1, column >> i & 1, "bit {j} of word {i}");
            }
        }
    }
}
