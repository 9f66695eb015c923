//! A `rand_core` generator made from a key, for values drawn in sequence rather than by index.

use rand_core::block::{BlockRng, Generator};
use rand_core::{Infallible, SeedableRng, TryRng};

use crate::stream::key::Key;
use crate::stream::sequence::{Sequence, WORDS};

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
struct Blocks(Sequence);

impl Generator for Blocks {
    type Output = [u64; WORDS];

    fn generate(&mut self, words: &mut Self::Output) {
        self.0.draw(words);
    }
}

impl Key {
    /// A generator of this key's bits, for `rand` and `rand_distr`.
    #[must_use]
    pub fn rng(self) -> KeyRng {
        KeyRng(BlockRng::new(Blocks(Sequence::new(self))))
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
