//! Words of a stream in sequence rather than by an element's index, for generators.

use super::ars::Schedule;
use super::key::Key;
use crate::simd::{Kernel, Level, Simd};

/// The tag of these blocks, which masks, numbers and child keys do not use.
const TAG: u64 = 128;
/// Blocks drawn at a time, a multiple of four.
const BLOCKS: usize = 32;
/// Words drawn at a time.
pub(crate) const WORDS: usize = 2 * BLOCKS;

/// Blocks 0, 1, ... of a key.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    schedule: Schedule,
    level: Level,
    /// Index of the next block.
    pub(crate) next: u64,
}

impl Sequence {
    pub(crate) fn new(key: Key) -> Self {
        Self { schedule: key.schedule(), level: Level::current().unwrap_or(Level::portable()), next: 0 }
    }

    /// Draws the next words.
    pub(crate) fn draw(&mut self, words: &mut [u64; WORDS]) {
        self.level.run(Draw { sequence: self, words });
        self.next = self.next.wrapping_add(BLOCKS as u64);
    }
}

struct Draw<'a> {
    sequence: &'a Sequence,
    words: &'a mut [u64; WORDS],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { sequence: Sequence { schedule, next, .. }, words } = self;
        for (four, words) in words.as_chunks_mut().0.iter_mut().enumerate() {
            let first = next.wrapping_add(4 * four as u64);
            let index = |i: u64| first.wrapping_add(i);
            let counters = [index(0), TAG, index(1), TAG, index(2), TAG, index(3), TAG];
            *words = simd.to_array(schedule.blocks(simd, simd.load(&counters)));
        }
    }
}
