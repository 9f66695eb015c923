//! Keys: 16 bytes that name a stream of random bits, and the derivation of child keys.
//!
//! Only [`Key::from_entropy`] draws entropy. Otherwise the caller, such as the Python layer, supplies the bytes.

use super::ars::{Block, Schedule, ars, joined};
use crate::error::Error;
use crate::simd::Level;

const TAG_SPLIT: u8 = 254;
const TAG_FOLD_IN: u8 = 255;

/// Parent of the keys of all seeds.
const SEEDS: Key = Key::from_bytes(*b"fastdrop's seeds");

/// A key: 16 bytes that name a stream of random bits.
///
/// Keys of different seeds, children of different indices, and children of different keys are independent.
///
/// ```
/// use fastdrop::Key;
/// let key = Key::from_seed(42);
/// let (layer, step) = (3, 1_000);
/// assert_ne!(key.fold_in(layer).fold_in(step), key.fold_in(step).fold_in(layer));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    bytes: [u8; 16],
}

impl Key {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The key as bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.bytes
    }

    /// The key of a seed: [`Key::fold_in`] of `seed` into the key whose bytes are `fastdrop's seeds`.
    ///
    /// Python's `fastdrop.Key(seed)` is another key, because it draws the bytes from NumPy's generator: see
    /// [`Key::from_words`].
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        SEEDS.fold_in(seed)
    }

    /// The key made of two words, as Python's `fastdrop.Key(seed)` draws them:
    /// `numpy.random.default_rng(seed).integers(0, 2**64, size=2, dtype=numpy.uint64)`.
    ///
    /// ```
    /// // What NumPy gives for the seed 42.
    /// let key = fastdrop::Key::from_words([0xC621_FBCD_16D9_2688, 0x705A_5661_A791_FFC1]);
    /// assert_eq!(key.to_string(), "8826d916cdfb21c6c1ff91a761565a70");
    /// ```
    #[must_use]
    pub fn from_words(words: [u64; 2]) -> Self {
        Self::from_bytes(joined(words))
    }

    /// A key from the operating system's entropy.
    ///
    /// # Errors
    /// [`Error::Entropy`] if it has none.
    pub fn from_entropy() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Error::Entropy(error.to_string()))?;
        Ok(Self::from_bytes(bytes))
    }

    /// Child key number `index`; children of different indices, and of different keys, are
    /// independent.
    #[must_use]
    pub fn fold_in(self, index: u64) -> Self {
        Self::from_bytes(self.block(index, TAG_FOLD_IN))
    }

    /// `n` child keys, independent of each other and of those from [`Key::fold_in`], made lazily.
    pub fn split(self, n: usize) -> impl ExactSizeIterator<Item = Self> {
        (0..n).map(move |index| Self::from_bytes(self.block(index as u64, TAG_SPLIT)))
    }

    /// Block `index` of this key's stream under `tag`, which separates the uses of a key: masks, normals, children.
    pub(crate) fn block(self, index: u64, tag: u8) -> [u8; 16] {
        let counter = [index, u64::from(tag)];
        match Level::current() {
            // In the middle of a training step, the 4 KiB of tables for AES in software are in no cache.
            Ok(level) if level != Level::portable() => level.run(Block { key: self.bytes, counter }),
            _ => ars(self.bytes, joined(counter)),
        }
    }

    pub(crate) fn schedule(self) -> Schedule {
        Schedule::new(self.bytes)
    }
}

/// Hexadecimal digits, first byte first.
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({self})")
    }
}
