//! The values that a call draws, in walk order: keep bits (from a stream, from an array of bytes, or constant), normals,
//! uniforms, or numbers of a distribution.
//!
//! A [`TileBuffer`] holds the bits of one stretch at a time, so they stay in the L1 cache until
//! they are used.

use std::ops::Range;

use smallvec::SmallVec;

use super::{Axis, Cursor, Place, TILE};
use crate::mask::Mask;
use crate::simd::Level;
use crate::stream::ars::Schedule;
use crate::stream::bernoulli::{GROUP, GROUP_WORDS, Sampler, Threshold};
use crate::stream::key::Key;
use crate::stream::number::Distribution;
use crate::stream::uniform::TOGETHER;
use crate::stream::{normal, number, uniform};
use crate::words;

/// Groups gathered at once: as many as a tile has.
pub(crate) const GATHERED: usize = TILE / GROUP;
/// Rows that are shorter than this, and far apart in the stream, are gathered into full vectors.
const LONG: usize = 8 * GROUP;
/// Groups of normals drawn at a time: fewer would cost more calls, more would fill the L1 cache.
const NORMAL_GROUPS: usize = 8;
/// Words of bits that a tile needs, including a spare one and some for its alignment.
const TILE_WORDS: usize = TILE / 64 + 4;

/// The caller's boolean array: one byte per element, where any value but 0 means kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaskArray(*const u8);

// SAFETY: the bytes are only read, and `MaskArray::new` requires that nobody writes them.
unsafe impl Send for MaskArray {}
// SAFETY: as above.
unsafe impl Sync for MaskArray {}

impl MaskArray {
    /// # Safety
    /// `first` and every byte that a walk with this source reaches by its `bit` strides must stay readable, and
    /// not be written, while this exists.
    pub(crate) const unsafe fn new(first: *const u8) -> Self {
        Self(first)
    }
}

/// What a call draws. Each `u64` is the index in the whole of the walk's first element.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a call has one, and passes it by reference")]
pub(crate) enum Source {
    /// One keep bit for all elements.
    Constant(bool),
    /// Keep bits of a stream.
    Drawn(Sampler, u64),
    /// Keep bits of an array.
    Given(MaskArray),
    /// Normals of a stream.
    Normals(Schedule, u64),
    /// Uniforms of a stream.
    Uniforms(Schedule, u64),
    /// Numbers of a distribution, in double precision if so said, else in single.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
    Numbers(Schedule, u64, Distribution, bool),
}

impl Source {
    /// The keep bits of `mask`.
    pub(crate) fn keep_bits(mask: &Mask) -> Self {
        match mask.probability().threshold() {
            Threshold::KeepAll => Self::Constant(true),
            Threshold::DropAll => Self::Constant(false),
            Threshold::Below(threshold) => Self::Drawn(Sampler::new(mask.key(), threshold), mask.origin()),
        }
    }

    /// The normals of the elements from `origin` on.
    pub(crate) fn normals(key: Key, origin: u64) -> Self {
        Self::Normals(key.schedule(), origin)
    }

    /// The uniforms of the elements from `origin` on.
    pub(crate) fn uniforms(key: Key, origin: u64) -> Self {
        Self::Uniforms(key.schedule(), origin)
    }

    /// Numbers of the elements from `origin` on.
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
    pub(crate) fn numbers(key: Key, origin: u64, distribution: Distribution, double: bool) -> Self {
        Self::Numbers(key.schedule(), origin, distribution, double)
    }

    /// The source, moved to start at `place`.
    pub(crate) fn from(&self, place: Place) -> Self {
        let mut source = self.clone();
        match &mut source {
            Self::Constant(_) => {}
            Self::Given(MaskArray(first)) => *first = first.wrapping_offset(place.bit),
            Self::Drawn(_, origin)
            | Self::Normals(_, origin)
            | Self::Uniforms(_, origin)
            | Self::Numbers(_, origin, ..) => {
                *origin = origin.wrapping_add_signed(place.bit as i64);
            }
        }
        source
    }
}

/// Values drawn for a run of elements.
#[derive(Clone, Copy)]
pub(crate) enum Drawn<'a> {
    All,
    None,
    /// Keep bits: words, one of them spare, and the position of the first bit.
    Bits(&'a [u64], usize),
    /// A normal for each element, or one for all.
    Normals(&'a [f32]),
    /// A uniform for each element.
    Uniforms(&'a [u64]),
    /// A number for each element.
    Singles(&'a [f32]),
    /// The bits of a number for each element.
    Doubles(&'a [u64]),
}

impl<'a> Drawn<'a> {
    /// Keep bits as words, and the position of the first bit. Normals, uniforms and numbers keep all elements.
    pub(crate) fn bits(self) -> (&'a [u64], usize) {
        static SAME: [[u64; TILE / 64 + 1]; 2] = [[0; TILE / 64 + 1], [!0; TILE / 64 + 1]];
        match self {
            Self::None => (&SAME[0], 0),
            Self::Bits(words, offset) => (words, offset),
            Self::All | Self::Normals(_) | Self::Uniforms(_) | Self::Singles(_) | Self::Doubles(_) => (&SAME[1], 0),
        }
    }
}

/// Position of values in a buffer, whether they must be drawn first, and the number of elements that they serve.
struct Values {
    missing: bool,
    at: Range<usize>,
    len: usize,
}

/// A buffer of the last draw, kept until a walk needs other values.
pub(crate) struct TileBuffer<'a> {
    source: &'a Source,
    level: Level,
    words: SmallVec<[u64; TILE_WORDS]>,
    normals: SmallVec<[[f32; GROUP]; NORMAL_GROUPS]>,
    first_group: u64,
    groups: usize,
    /// Starts of the remaining rows in `words`, the next one last.
    rows: SmallVec<[usize; GATHERED]>,
}

impl<'a> TileBuffer<'a> {
    pub(crate) fn new(source: &'a Source, level: Level) -> Self {
        let (words, rows) = (SmallVec::new(), SmallVec::new());
        Self { source, level, words, normals: SmallVec::new(), first_group: 0, groups: 0, rows }
    }

    pub(crate) fn source(&self) -> &'a Source {
        self.source
    }

    /// Calls `visit(place, drawn, len)` for runs of at most [`TILE`] elements (`piece`, if bits are drawn) along the
    /// last axis. Together, the runs cover the positions `range` of the walk. Runs of drawn bits end a multiple of 64
    /// elements after `phase`, unless the row ends first.
    pub(crate) fn walk(
        &mut self,
        axes: &[Axis],
        range: Range<usize>,
        piece: usize,
        phase: usize,
        mut visit: impl FnMut(Place, Drawn<'_>, usize),
    ) {
        let Some((inner, outer)) = axes.split_last() else {
            return;
        };
        let mut at = range.start;
        let mut column = at.checked_rem(inner.len).unwrap_or(0);
        let mut cursor = Cursor::at(outer, at.checked_div(inner.len).unwrap_or(0));
        // Rows that are close together in the stream are drawn together.
        let row_step = outer.last().map_or(0, |axis| axis.bit);
        let dense = row_step > 0 && row_step <= 2 * inner.len as isize;
        let sparse = row_step > 2 * inner.len as isize && inner.bit == 1 && inner.len < LONG;
        self.rows.clear();
        while at < range.end {
            let place = cursor.place().along(inner, column);
            let left = (inner.len - column).min(range.end - at);
            let len = match *self.source {
                Source::Constant(keep) => {
                    let len = left.min(TILE);
                    visit(place, if keep { Drawn::All } else { Drawn::None }, len);
                    len
                }
                Source::Given(given) => {
                    let len = left.min(TILE);
                    visit(place, Drawn::Bits(self.pack(given, place.bit, inner.bit, len), 0), len);
                    len
                }
                Source::Normals(ref schedule, origin) => {
                    let Values { missing, at, len } = self.seek(origin, place, inner.bit, left, NORMAL_GROUPS);
                    if missing {
                        self.normals.resize(self.groups, [0.0; GROUP]);
                        normal::groups(self.level, schedule, self.first_group, &mut self.normals);
                    }
                    visit(place, Drawn::Normals(&self.normals.as_flattened()[at]), len);
                    len
                }
                Source::Uniforms(ref schedule, origin) => {
                    let Values { missing, at, len } = self.seek(origin, place, inner.bit, left, NORMAL_GROUPS);
                    if missing {
                        uniform::groups(self.level, schedule, self.first_group, self.wide_groups());
                    }
                    visit(place, Drawn::Uniforms(&self.words[at]), len);
                    len
                }
                Source::Numbers(ref schedule, origin, distribution, double) => {
                    let Values { missing, at, len } = self.seek(origin, place, inner.bit, left, NORMAL_GROUPS);
                    let (level, first) = (self.level, self.first_group);
                    if double {
                        if missing {
                            number::doubles(level, schedule, distribution, first, self.wide_groups());
                        }
                        visit(place, Drawn::Doubles(&self.words[at]), len);
                    } else {
                        if missing {
                            self.groups = self.groups.next_multiple_of(TOGETHER);
                            self.normals.resize(self.groups, [0.0; GROUP]);
                            number::singles(level, schedule, distribution, first, &mut self.normals);
                        }
                        visit(place, Drawn::Singles(&self.normals.as_flattened()[at]), len);
                    }
                    len
                }
                Source::Drawn(ref sampler, origin) => {
                    if sparse {
                        if self.rows.is_empty() {
                            self.gather(sampler, origin, inner.len, cursor.clone(), column, range.end - at);
                        }
                        let offset = self.rows.pop().unwrap_or_default();
                        visit(place, Drawn::Bits(&self.words, offset), left);
                        at += left;
                        column = 0;
                        cursor.advance();
                        continue;
                    }
                    let index = origin.wrapping_add_signed(place.bit as i64);
                    // A run may share one bit. If its bits are neither shared nor consecutive, it is visited bit by
                    // bit.
                    let len = match inner.bit {
                        0 => left,
                        1 if left > piece => piece - (column + piece - phase) % 64,
                        1 => left,
                        _ => 1,
                    };
                    let needed = if inner.bit == 1 { len } else { 1 };
                    let ahead = if dense { (range.end - at).saturating_mul(2).min(TILE) } else { needed };
                    let (words, offset) = self.draw(sampler, index, needed, ahead);
                    let drawn = match (inner.bit, words::word_at(words, offset) & 1) {
                        (0, 0) => Drawn::None,
                        (0, _) => Drawn::All,
                        _ => Drawn::Bits(words, offset),
                    };
                    if inner.bit == 0 {
                        for start in (0..len).step_by(TILE) {
                            visit(place.along(inner, start), drawn, TILE.min(len - start));
                        }
                    } else {
                        visit(place, drawn, len);
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

    /// Room for a word for each element of the groups, whose number becomes a multiple of four.
    fn wide_groups(&mut self) -> &mut [[u64; GROUP]] {
        self.groups = self.groups.next_multiple_of(TOGETHER);
        self.words.resize(self.groups * GROUP, 0);
        self.words.as_chunks_mut().0
    }

    /// Locates the values of up to `left` elements from `place` on, whose indices are `step` apart. A shared value is
    /// stored once. If values are missing, the caller must draw `self.groups` groups, at most `most`, from
    /// `self.first_group` on.
    fn seek(&mut self, origin: u64, place: Place, step: isize, left: usize, most: usize) -> Values {
        let index = origin.wrapping_add_signed(place.bit as i64);
        let (group, lane) = (index / GROUP as u64, (index % GROUP as u64) as usize);
        let missing = group.wrapping_sub(self.first_group) >= self.groups as u64;
        if missing {
            let needed = if step == 1 { (lane + left).div_ceil(GROUP) } else { 1 };
            (self.first_group, self.groups) = (group, needed.min(most));
        }
        let first = (group - self.first_group) as usize * GROUP + lane;
        let (values, len) = match step {
            0 => (1, left.min(TILE)),
            1 => {
                let len = left.min(self.groups * GROUP - first);
                (len, len)
            }
            _ => (1, 1),
        };
        Values { missing, at: first..first + values, len }
    }

    /// The bits of `len` elements from `index` on. If they are not buffered, `ahead` elements are
    /// drawn, except for groups that can be reused from the end of the last draw.
    pub(crate) fn draw(&mut self, sampler: &Sampler, index: u64, len: usize, ahead: usize) -> (&[u64], usize) {
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
        sampler.fill(self.level, group + at_hand as u64, &mut self.words[from..end]);
        (&self.words, lane)
    }

    /// Draws the bits of rows of `row` elements from `cursor` on; the first row starts at `column`. Draws as many rows
    /// as fit a tile or hold `left` elements. Returns the words, and where each row starts in them, the last row first.
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
        let mut groups = SmallVec::<[u64; GATHERED]>::new();
        while left > 0 {
            let len = (row - column).min(left);
            let index = origin.wrapping_add_signed(cursor.place().bit as i64) + column as u64;
            let (first, last) = (index / GROUP as u64, (index + len as u64 - 1) / GROUP as u64);
            if groups.len() + (last - first + 1) as usize > GATHERED {
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

    /// Packs `len` bytes of a given mask into bits.
    pub(crate) fn pack(&mut self, given: MaskArray, first: isize, step: isize, len: usize) -> &[u64] {
        self.words.clear();
        for at in (0..len).step_by(64) {
            let mut bytes = [0u8; 64];
            let count = 64.min(len - at);
            // SAFETY: `MaskArray::new` guarantees the bytes that the walk's strides reach.
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
            self.words.push(words::from_bytes(&bytes));
        }
        self.words.push(0);
        &self.words
    }
}
