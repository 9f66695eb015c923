//! Keep bits of short rows that are adjacent in memory, packed so that they are applied as one run.
//!
//! A row of three elements must not cost more than its three elements, so the rows of an axis are drawn together and
//! appended in one loop. The bits come from `source` and `transposed`.

use std::ops::Range;

use super::source::{Drawn, Source, TileBuffer};
use super::{Axis, Cursor, Place, TILE};
use crate::stream::bernoulli::GROUP;
use crate::words::word_at;

/// Rows shorter than this are worth joining.
const SHORT: usize = TILE / 8;

/// Whether runs along the last axis are short, and adjacent in memory.
pub(crate) fn joins(axes: &[Axis]) -> bool {
    let [.., outer, inner] = axes else {
        return false;
    };
    let end = Place::default().along(inner, inner.len);
    inner.len < SHORT && outer.steps == end.offsets
}

/// How many rows of `len` elements to take at a time: a multiple of 64 if that many fit a tile, so
/// that all tiles start on a cache line if one does.
pub(crate) fn rows_at_a_time(len: usize) -> usize {
    let most = TILE / len;
    if most < 64 { most } else { most - most % 64 }
}

/// The bits of consecutive elements not yet visited: at most [`TILE`].
pub(crate) struct ShortRows {
    /// Bits of the last word past the end are 0.
    words: [u64; TILE / 64 + 1],
    len: usize,
    first: Place,
    next: Place,
    /// Index of a drawn row in the stream, and the number of its copies at the start of `words`.
    repeated: (u64, usize),
}

impl ShortRows {
    pub(crate) fn new() -> Self {
        let nowhere = Place::default();
        Self { words: [0; TILE / 64 + 1], len: 0, first: nowhere, next: nowhere, repeated: (0, 0) }
    }

    /// Calls `visit(place, drawn, len)` for all elements of the rows `range` of the walk, with bits from `buffer`.
    /// [`joins`] must hold for `axes`.
    pub(crate) fn walk(
        &mut self,
        buffer: &mut TileBuffer<'_>,
        axes: &[Axis],
        range: Range<usize>,
        mut visit: impl FnMut(Place, Drawn<'_>, usize),
    ) {
        let [.., outer, inner] = axes else {
            return;
        };
        let outside = &axes[..axes.len() - 1];
        let mut at = range.start;
        while at < range.end {
            let cursor = Cursor::at(outside, at);
            let place = cursor.place();
            let ahead = (outer.len - at % outer.len).min(range.end - at);
            let rows = rows_at_a_time(inner.len).min(ahead);
            let rows = match *buffer.source() {
                Source::Drawn(_, origin) if outer.bit == 0 && rows * inner.len >= SHORT => {
                    let index = origin.wrapping_add_signed(place.bit as i64);
                    self.flush(&mut visit);
                    if self.repeated.0 != index || self.repeated.1 < rows {
                        self.append_rows(buffer, cursor, [outer, inner], rows, ahead);
                        self.len = 0;
                        self.repeated = (index, rows);
                    }
                    visit(place, Drawn::Bits(&self.words, 0), rows * inner.len);
                    rows
                }
                _ => {
                    self.make_room(place, rows * inner.len, &mut visit);
                    self.append_rows(buffer, cursor, [outer, inner], rows, ahead)
                }
            };
            self.next = place.along(outer, rows);
            at += rows;
        }
        self.flush(&mut visit);
    }

    /// Appends at least one and at most `rows` rows from `cursor` on, and returns how many. There must be room for
    /// `rows`. The walk needs `ahead` rows soon, so their bits may be drawn together.
    fn append_rows(
        &mut self,
        buffer: &mut TileBuffer<'_>,
        cursor: Cursor<'_>,
        [outer, inner]: [&Axis; 2],
        rows: usize,
        ahead: usize,
    ) -> usize {
        let bit = cursor.place().bit;
        let (sampler, origin) = match *buffer.source() {
            Source::Drawn(ref sampler, origin) => (sampler, origin),
            Source::Given(given) => {
                for row in 0..rows as isize {
                    let words = buffer.pack(given, bit + outer.bit * row, inner.bit, inner.len);
                    self.append(inner.len, [|at: usize| words[at / 64]]);
                }
                return rows;
            }
            Source::Normals(..) | Source::Uniforms(..) | Source::Numbers(..) => {
                unreachable!("rows of keep bits are joined")
            }
            Source::Constant(keep) => {
                let bits = if keep { !0 } else { 0 };
                self.append(inner.len, (0..rows).map(|_| move |_| bits));
                return rows;
            }
        };
        // Stream elements in a row, and from the start of one row to the next.
        let taken = if inner.bit == 0 { 1 } else { inner.len };
        let step = outer.bit as usize;
        // In dense rows, every group from the first row to the last belongs to some row.
        let dense = step <= taken + GROUP;
        if dense {
            let rows = rows.min((TILE / step.max(1)).max(1));
            let index = origin.wrapping_add_signed(bit as i64);
            let span = (rows - 1) * step + taken;
            let (words, offset) = buffer.draw(sampler, index, span, (step * ahead + taken).min(TILE));
            self.append_drawn(words, (0..rows).map(|row| offset + row * step), inner);
            rows
        } else {
            let (words, starts) = buffer.gather(sampler, origin, taken, cursor, 0, rows * taken);
            self.append_drawn(words, starts.iter().rev().copied(), inner);
            starts.len()
        }
    }

    fn append_drawn(&mut self, words: &[u64], starts: impl IntoIterator<Item = usize>, inner: &Axis) {
        let starts = starts.into_iter();
        if inner.bit == 0 {
            // Copies the bit by an arithmetic shift; a branch would be unpredictable.
            let spread = |start: usize| ((words[start / 64] << (63 - start % 64)) as i64 >> 63) as u64;
            self.append(inner.len, starts.map(spread).map(|bits| move |_| bits));
        } else {
            self.append(inner.len, starts.map(|start| move |at| word_at(words, start + at)));
        }
    }

    /// Visits the pending elements, unless `len` elements at `place` directly follow them and fit.
    pub(crate) fn make_room(&mut self, place: Place, len: usize, visit: &mut impl FnMut(Place, Drawn<'_>, usize)) {
        if self.len + len > TILE || self.next.offsets != place.offsets {
            self.flush(visit);
        }
        if self.len == 0 {
            self.first = place;
        }
        self.repeated.1 = 0;
    }

    /// Appends rows of `len` elements each. A row returns the 64 bits from an element on; those
    /// past its end are unspecified.
    #[inline(always)]
    pub(crate) fn append<R: Fn(usize) -> u64>(&mut self, len: usize, rows: impl IntoIterator<Item = R>) {
        let (mut word, mut filled) = (self.len / 64, self.len % 64);
        let words = &mut self.words;
        let mut open = if filled == 0 { 0 } else { words[word] };
        let mut push = |bits: u64, len: usize| {
            let bits = bits & (!0 >> (64 - len));
            open |= bits << filled;
            filled += len;
            if filled >= 64 {
                words[word] = open;
                word += 1;
                filled -= 64;
                // The part that did not fit.
                open = bits >> 1 >> (len - filled - 1);
            }
        };
        for row in rows {
            if len <= 64 {
                push(row(0), len);
            } else {
                for at in (0..len).step_by(64) {
                    push(row(at), (len - at).min(64));
                }
            }
        }
        words[word] = open;
        self.len = word * 64 + filled;
    }

    /// Visits the pending elements.
    pub(crate) fn flush(&mut self, visit: &mut impl FnMut(Place, Drawn<'_>, usize)) {
        if self.len > 0 {
            visit(self.first, Drawn::Bits(&self.words, 0), self.len);
            self.len = 0;
        }
    }
}
