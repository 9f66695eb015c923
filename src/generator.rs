//! A `rand_core` generator made from a key, for values drawn in sequence rather than by index.

use rand_core::block::{BlockRng, Generator};
use rand_core::{Infallible, SeedableRng, TryRng};

use crate::simd::{Kernel, Level, Simd};
use crate::stream::ars::Schedule;
use crate::stream::key::Key;

/// The tag of generators' blocks, which masks, normals and child keys do not use.
const TAG: u64 = 128;
/// Blocks drawn at a time, a multiple of four.
const BLOCKS: usize = 32;

/// A generator that yields bits of a key's stream in sequence. They come from blocks 0, 1, ...
/// under a tag of their own, so they are independent of the key's masks and children. Not
/// cryptographic.
///
/// ```
/// use fastdrop::Key;
/// use rand_core::Rng;
/// let mut rng = Key::from_seed(1).rng();
/// assert_ne!(rng.next_u64(), rng.next_u64());
/// ```
#[derive(Debug, Clone)]
pub struct KeyRng(BlockRng<Blocks>);

#[derive(Debug, Clone)]
struct Blocks {
    schedule: Schedule,
    level: Level,
    next: u64,
}

struct Draw<'a> {
    blocks: &'a Blocks,
    words: &'a mut [u64; 2 * BLOCKS],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { blocks: Blocks { schedule, next, .. }, words } = self;
        for (four, words) in words.as_chunks_mut().0.iter_mut().enumerate() {
            let first = next.wrapping_add(4 * four as u64);
            let index = |i: u64| first.wrapping_add(i);
            let counters = [index(0), TAG, index(1), TAG, index(2), TAG, index(3), TAG];
            *words = simd.to_array(schedule.blocks(simd, simd.load(&counters)));
        }
    }
}

impl Generator for Blocks {
    type Output = [u64; 2 * BLOCKS];

    fn generate(&mut self, words: &mut Self::Output) {
        self.level.run(Draw { blocks: self, words });
        self.next = self.next.wrapping_add(BLOCKS as u64);
    }
}

impl Key {
    /// A generator of this key's bits, for `rand` and `rand_distr`.
    #[must_use]
    pub fn rng(self) -> KeyRng {
        let level = Level::current().unwrap_or(Level::portable());
        KeyRng(BlockRng::new(Blocks { schedule: self.schedule(), level, next: 0 }))
    }
}

impl SeedableRng for KeyRng {
    type Seed = [u8; 16];

    fn from_seed(seed: Self::Seed) -> Self {
        Key::from_bytes(seed).rng()
    }
}

impl TryRng for KeyRng {
    type Error = Infallible;

    #[inline]
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_word() as u32)
    }

    #[inline]
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_word())
    }

    #[inline]
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}
