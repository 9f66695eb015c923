//! Keep bits in the order of a walk: drawn from a stream, read from an array of bytes, or all the same.
//!
//! A [`Window`] holds the bits of one stretch at a time, so they stay in the L1 cache between being drawn and
//! being used. What they are used for is not known here.

use std::ops::Range;

use smallvec::SmallVec;

use crate::bernoulli::{GROUP, GROUP_WORDS, PIECE, Sampler, Soon, Threshold};
use crate::mask::Mask;
use crate::simd::Level;
use crate::walk::{Axis, Cursor, MORE, Place};

/// Elements that are drawn, and then used, at a time.
pub(crate) const TILE: usize = 8192;

/// The 64 bits at bit `position` of `words`, which holds one word more than that needs.
#[inline(always)]
pub(crate) fn word_at(words: &[u64], position: usize) -> u64 {
    let (word, shift) = (position / 64, position % 64);
    words[word] >> shift | words[word + 1] << 1 << (63 - shift)
}

/// A boolean array of the caller's: one byte per element, any value but 0 is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given(*const u8);

// SAFETY: the bytes are only read, and `Given::new` asks that nobody writes them meanwhile.
unsafe impl Send for Given {}
// SAFETY: as above.
unsafe impl Sync for Given {}

#[cfg(feature = "python")]
impl Given {
    /// # Safety
    /// `first` and every byte that a walk with this source reaches by its `bit` strides must stay readable, and
    /// not be written, while this exists.
    pub(crate) const unsafe fn new(first: *const u8) -> Self {
        Self(first)
    }
}

/// Where keep bits come from.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one in a call, and it is passed by reference")]
pub(crate) enum Bits {
    /// All the same.
    Constant(bool),
    /// Drawn; the number is the index of the walk's first element in the whole.
    Drawn(Sampler, u64),
    /// Read.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "only Python hands in boolean arrays"))]
    Given(Given),
}

impl Bits {
    /// The bits of `mask`, whose first element has index `origin`.
    pub(crate) fn drawn(mask: &Mask, origin: u64) -> Self {
        match mask.probability().threshold() {
            Threshold::KeepAll => Self::Constant(true),
            Threshold::DropAll => Self::Constant(false),
            Threshold::Below(threshold) => Self::Drawn(Sampler::new(mask.key(), threshold), origin),
        }
    }
}

/// Keep bits of a run of elements.
#[derive(Clone, Copy)]
pub(crate) enum Keep<'a> {
    All,
    None,
    /// From a bit of these words on; they hold a word to spare.
    Bits(&'a [u64], usize),
}

impl<'a> Keep<'a> {
    /// As words and the position of the first bit in them.
    pub(crate) fn bits(self) -> (&'a [u64], usize) {
        static SAME: [[u64; TILE / 64 + 1]; 2] = [[0; TILE / 64 + 1], [!0; TILE / 64 + 1]];
        match self {
            Self::All => (&SAME[1], 0),
            Self::None => (&SAME[0], 0),
            Self::Bits(words, offset) => (words, offset),
        }
    }
}

/// Words of keep bits: a tile and what its alignment adds, without the heap.
type Words = SmallVec<[u64; TILE / 64 + 4]>;

/// A buffer of keep bits, filled when they are asked for and kept until others are.
pub(crate) struct Window<'a> {
    bits: &'a Bits,
    level: Level,
    words: Words,
    first_group: u64,
    groups: usize,
    /// Where in `words` the bits of the rows to come begin, the next one last.
    rows: SmallVec<[usize; PIECE]>,
    /// The memory of the walk's first element, if it is to be asked for while bits are drawn.
    memory: Option<Soon>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(bits: &'a Bits, level: Level, memory: Option<Soon>) -> Self {
        Self { bits, level, words: SmallVec::new(), first_group: 0, groups: 0, rows: SmallVec::new(), memory }
    }

    pub(crate) fn bits(&self) -> &'a Bits {
        self.bits
    }

    /// Calls `visit(place, keep, len)` for runs of at most [`TILE`] elements (`piece`, if bits are drawn) along the
    /// last axis, which together are the positions `range` of the walk. Drawn runs end a multiple of 64 elements
    /// behind `phase`, unless the row ends.
    pub(crate) fn walk(
        &mut self,
        axes: &[Axis],
        range: Range<usize>,
        piece: usize,
        phase: usize,
        mut visit: impl FnMut(Place, Keep<'_>, usize),
    ) {
        let Some((inner, outer)) = axes.split_last() else {
            return;
        };
        let mut at = range.start;
        let mut column = at.checked_rem(inner.len).unwrap_or(0);
        let mut cursor = Cursor::at(outer, at.checked_div(inner.len).unwrap_or(0));
        // Rows that follow each other closely are drawn together.
        let row_step = outer.last().map_or(0, |axis| axis.bit);
        let dense = row_step > 0 && row_step <= 2 * inner.len as isize;
        // Short rows that lie far apart are gathered into full vectors.
        let sparse = row_step > 2 * inner.len as isize && inner.bit == 1 && inner.len < 8 * GROUP;
        self.rows.clear();
        while at < range.end {
            let place = cursor.place().along(inner, column);
            let left = (inner.len - column).min(range.end - at);
            let len = match *self.bits {
                Bits::Constant(keep) => {
                    let len = left.min(TILE);
                    visit(place, if keep { Keep::All } else { Keep::None }, len);
                    len
                }
                Bits::Given(given) => {
                    let len = left.min(TILE);
                    visit(place, Keep::Bits(self.pack(given, place.bit, inner.bit, len), 0), len);
                    len
                }
                Bits::Drawn(ref sampler, origin) => {
                    if sparse {
                        if self.rows.is_empty() {
                            self.gather(sampler, origin, inner.len, cursor.clone(), column, range.end - at);
                        }
                        let offset = self.rows.pop().unwrap_or_default();
                        visit(place, Keep::Bits(&self.words, offset), left);
                        at += left;
                        column = 0;
                        cursor.advance();
                        continue;
                    }
                    let index = origin.wrapping_add_signed(place.bit as i64);
                    // One bit serves a run that shares it; a run whose bits are apart is taken bit by bit.
                    let len = match inner.bit {
                        0 => left,
                        1 if left > piece => piece - (column + piece - phase) % 64,
                        1 => left,
                        _ => 1,
                    };
                    let needed = if inner.bit == 1 { len } else { 1 };
                    let ahead = if dense { (range.end - at).saturating_mul(2).min(TILE) } else { needed };
                    let soon = self.memory.map(|first| first.moved([place.src, place.more[0], place.more[1]]));
                    let (words, offset) = self.draw(sampler, index, needed, ahead, soon);
                    let keep = match (inner.bit, word_at(words, offset) & 1) {
                        (0, 0) => Keep::None,
                        (0, _) => Keep::All,
                        _ => Keep::Bits(words, offset),
                    };
                    if inner.bit == 0 {
                        for start in (0..len).step_by(TILE) {
                            visit(place.along(inner, start), keep, TILE.min(len - start));
                        }
                    } else {
                        visit(place, keep, len);
                    }
                    len
                }
            };
            at += len;
            column += len;
            if column == inner.len {
                column = 0;
                cursor.advance();
            }
        }
    }

    /// The bits of `len` elements from `index` on. If they are not at hand, `ahead` elements are drawn, but for the
    /// groups at the end of the last draw that can be used again. Meanwhile, the memory at `soon` is asked for.
    pub(crate) fn draw(
        &mut self,
        sampler: &Sampler,
        index: u64,
        len: usize,
        ahead: usize,
        soon: Option<Soon>,
    ) -> (&[u64], usize) {
        let group = index / GROUP as u64;
        let lane = (index % GROUP as u64) as usize;
        let needed = (lane + len).div_ceil(GROUP);
        let skip = group.wrapping_sub(self.first_group);
        let at_hand = (self.groups as u64).saturating_sub(skip) as usize;
        if needed <= at_hand {
            return (&self.words, skip as usize * GROUP + lane);
        }
        let old = self.groups * GROUP_WORDS;
        self.groups = (lane + ahead.max(len)).div_ceil(GROUP);
        self.first_group = group;
        let end = self.groups * GROUP_WORDS;
        let from = at_hand * GROUP_WORDS;
        self.words.resize(old.max(end) + 1, 0);
        self.words.copy_within(old - from..old, 0);
        // The memory of the first group that is drawn.
        let skipped = (at_hand * GROUP) as isize - lane as isize;
        let soon = soon.map(|soon| soon.moved([skipped * soon.size as isize; 1 + MORE]));
        sampler.fill(self.level, group + at_hand as u64, soon, &mut self.words[from..end]);
        (&self.words, lane)
    }

    /// Draws the bits of the rows from `cursor` on, `row` elements each, the first from `column`: of as many as fill
    /// a piece, or hold `left` elements. Returns words, and where in them the rows begin, the last row first.
    pub(crate) fn gather(
        &mut self,
        sampler: &Sampler,
        origin: u64,
        row: usize,
        mut cursor: Cursor<'_>,
        mut column: usize,
        mut left: usize,
    ) -> (&[u64], &[usize]) {
        self.rows.clear();
        let mut groups = SmallVec::<[u64; PIECE]>::new();
        while left > 0 {
            let len = (row - column).min(left);
            let index = origin.wrapping_add_signed(cursor.place().bit as i64) + column as u64;
            let (first, last) = (index / GROUP as u64, (index + len as u64 - 1) / GROUP as u64);
            if groups.len() + (last - first + 1) as usize > PIECE {
                break;
            }
            let shared = usize::from(groups.last() == Some(&first));
            self.rows.push((groups.len() - shared) * GROUP + (index % GROUP as u64) as usize);
            groups.extend(first + shared as u64..=last);
            left -= len;
            column = 0;
            cursor.advance();
        }
        self.rows.reverse();
        self.groups = 0;
        let end = groups.len() * GROUP_WORDS;
        self.words.resize(end + 1, 0);
        sampler.gather(self.level, &groups, &mut self.words[..end]);
        (&self.words, &self.rows)
    }

    /// The bits of `len` given bytes.
    pub(crate) fn pack(&mut self, given: Given, first: isize, step: isize, len: usize) -> &[u64] {
        self.words.clear();
        for at in (0..len).step_by(64) {
            let mut bytes = [0u8; 64];
            let count = 64.min(len - at);
            // SAFETY: `Given::new` vouches for the bytes that the walk's strides reach.
            unsafe {
                let first = given.0.offset(first + step * at as isize);
                if step == 1 {
                    bytes.as_mut_ptr().copy_from_nonoverlapping(first, count);
                } else {
                    for (i, byte) in bytes[..count].iter_mut().enumerate() {
                        *byte = first.offset(step * i as isize).read();
                    }
                }
            }
            self.words.push(packed(&bytes));
        }
        self.words.push(0);
        &self.words
    }
}

/// A bit for each byte: whether it is not 0.
fn packed(bytes: &[u8; 64]) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let mut word = 0;
    for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        // The top bit of each byte: set by a carry out of its lower bits, or there already.
        let tops = (((eight & LOW) + LOW) | eight) & !LOW;
        // The product brings them together in the top byte; no two of its terms meet in a bit.
        word |= ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
    }
    word
}

/// How many bits are kept at once for runs that come again.
pub(crate) const REPEATED: usize = 1 << 16;

/// Brings axes along which drawn bits are shared inside of those along which they are not, so that bits are
/// drawn once per stretch instead of once per repetition. Returns whether it did.
///
/// That pays for runs that are long enough to be read in any order, and short enough to be kept.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_gives_the_bit_of_another() {
        for value in [1, 2, 0x7F, 0x80, 0xFF] {
            for place in 0..64 {
                let mut bytes = [0; 64];
                bytes[place] = value;
                assert_eq!(packed(&bytes), 1 << place, "{value} at {place}");
                let others = bytes.map(|byte| if byte == 0 { value } else { 0 });
                assert_eq!(packed(&others), !(1 << place), "all but {place}");
            }
        }
    }

    #[test]
    fn words_straddle_their_boundaries() {
        let words = [0xFEDC_BA98_7654_3210, 0x0123_4567_89AB_CDEF];
        assert_eq!(word_at(&words, 0), words[0]);
        assert_eq!(word_at(&words, 4), 0xFFED_CBA9_8765_4321);
        assert_eq!(word_at(&words, 63), words[1] << 1 | 1);
    }
}
