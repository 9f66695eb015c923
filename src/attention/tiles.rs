//! Tiles of weights: which columns of a row take part, and which weights are kept.

use std::ops::Range;

use super::{KEYS, QUERIES};
use crate::mask::Mask;
use crate::simd::Level;
use crate::stream::bernoulli::{GROUP, GROUP_WORDS, Sampler, Threshold};
use crate::words::word_at;

/// Which columns of each row of a tile take part.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub(super) columns: usize,
    /// With a causal mask: how many take part in the first row; one more in each row.
    diagonal: Option<isize>,
}

impl Edge {
    /// The edge of a tile of queries and keys; a query sees the keys up to its own number plus `offset`. The columns end where
    /// no row has any.
    pub(super) fn new(queries: &Range<usize>, keys: &Range<usize>, offset: Option<isize>) -> Self {
        let diagonal = offset.map(|offset| queries.start as isize + offset + 1 - keys.start as isize);
        let last = diagonal.map_or(isize::MAX, |first| first + queries.len() as isize - 1);
        Self { columns: keys.len().min(last.max(0) as usize), diagonal }
    }

    /// How many columns of this row take part.
    #[inline(always)]
    pub(super) fn valid(&self, row: usize) -> usize {
        match self.diagonal {
            Some(first) => self.columns.min((first + row as isize).max(0) as usize),
            None => self.columns,
        }
    }
}

/// Which weights are dropped: a mask of all weights, or a part of one.
pub(crate) struct Dropout {
    threshold: Threshold,
    /// If it neither keeps nor drops all.
    sampler: Option<Sampler>,
    origin: u64,
    /// Steps of the index along batch, heads and queries.
    steps: [u64; 3],
    /// 1 / (1 - p).
    pub(super) scale: f64,
}

impl Dropout {
    /// Keeps all weights.
    pub(crate) fn none() -> Self {
        Self { threshold: Threshold::KeepAll, sampler: None, origin: 0, steps: [0; 3], scale: 1.0 }
    }

    /// What the mask drops: its axes are batch, heads, queries and keys; the batch may be absent.
    pub(crate) fn new(mask: &Mask) -> Self {
        let all = mask.steps();
        let mut steps = [0; 3];
        for (step, own) in steps.iter_mut().rev().zip(all.iter().rev().skip(1)) {
            *step = *own;
        }
        let threshold = mask.probability().threshold();
        let sampler =
            if let Threshold::Below(below) = threshold { Some(Sampler::new(mask.key(), below)) } else { None };
        Self { threshold, sampler, origin: mask.origin(), steps, scale: mask.probability().inverted_scale() }
    }

    /// Whether no weight is kept.
    pub(super) fn drops_all(&self) -> bool {
        self.threshold == Threshold::DropAll
    }

    /// Draws the keep bits of a tile.
    pub(super) fn draw(
        &self,
        level: Level,
        [batch, head]: [usize; 2],
        queries: &Range<usize>,
        first_key: usize,
        columns: usize,
        bits: &mut Bits,
    ) {
        let position = [batch, head, queries.start].into_iter().zip(self.steps);
        let first = position.fold(self.origin.wrapping_add(first_key as u64), |index, (at, step)| {
            index.wrapping_add((at as u64).wrapping_mul(step))
        });
        let (step, group) = (self.steps[2], GROUP as u64);
        let Some(sampler) = self.sampler.as_ref().filter(|_| columns > 0) else {
            bits.drawn = false;
            bits.words[0] = if self.threshold == Threshold::KeepAll { !0 } else { 0 };
            return;
        };
        bits.drawn = true;
        let starts = bits.starts.iter_mut().enumerate().take(queries.len());
        if step == columns as u64 {
            // The rows are adjacent.
            let start = (first % group) as usize;
            let groups = (start + queries.len() * columns).div_ceil(GROUP);
            sampler.fill(level, first / group, &mut bits.words[..groups * GROUP_WORDS]);
            starts.for_each(|(row, at)| *at = start + row * columns);
        } else {
            let mut count = 0;
            for (row, at) in starts {
                let index = first.wrapping_add(step.wrapping_mul(row as u64));
                *at = count * GROUP + (index % group) as usize;
                let last = index.wrapping_add(columns as u64 - 1) / group;
                for one in index / group..=last {
                    bits.groups[count] = one;
                    count += 1;
                }
            }
            sampler.gather(level, &bits.groups[..count], &mut bits.words[..count * GROUP_WORDS]);
        }
    }
}

/// Groups of keep bits that a row of a tile can touch.
const GROUPS: usize = KEYS / GROUP + 1;

/// The keep bits of a tile.
pub(super) struct Bits {
    /// Whether each row has bits of its own; otherwise the first word has those of all.
    drawn: bool,
    starts: [usize; QUERIES],
    groups: [u64; QUERIES * GROUPS],
    words: [u64; QUERIES * GROUPS * GROUP_WORDS + 1],
}

impl Bits {
    pub(super) fn new() -> Self {
        Self {
            drawn: false,
            starts: [0; QUERIES],
            groups: [0; QUERIES * GROUPS],
            words: [0; QUERIES * GROUPS * GROUP_WORDS + 1],
        }
    }

    /// The 64 bits from a column on.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, column: usize) -> u64 {
        if self.drawn { word_at(&self.words, self.starts[row] + column) } else { self.words[0] }
    }
}
