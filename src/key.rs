//! Keys: 128 bits that name a stream of random bits, and the derivation of child keys.
//!
//! Entropy is not drawn here; the Python layer (or the caller) brings the four words.

use crate::error::Error;
use crate::philox;
use crate::simd::{LANES, Simd};

/// Counter indices have 56 bits; the top 8 bits of counter word 1 say what a block is for.
pub(crate) const INDEX_BITS: u32 = 56;
const TAG_SPLIT: u8 = 254;
const TAG_FOLD_IN: u8 = 255;

/// Counter word 1: the high part of a 56-bit index, and the tag above it.
#[inline(always)]
pub(crate) fn counter_word1(index: u64, tag: u8) -> u32 {
    (index >> 32) as u32 | u32::from(tag) << 24
}

/// A 128-bit key as four words (k0, k1, n0, n1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    words: [u32; 4],
}

impl Key {
    /// The key with these four words.
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The four words (k0, k1, n0, n1).
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The child key number `index`; children of different indices, and of different keys, are
    /// independent.
    ///
    /// # Errors
    /// [`Error::Child`] when `index` is 2^56 or more.
    pub fn fold_in(self, index: u64) -> Result<Self, Error> {
        if index >> INDEX_BITS != 0 {
            return Err(Error::Child(index));
        }
        Ok(Self::from_words(self.block(index, TAG_FOLD_IN)))
    }

    /// `n` child keys, independent of each other and of those from [`Key::fold_in`].
    ///
    /// They are made one by one, so `n` may be as large as the counter allows, 2^56.
    pub fn split(self, n: u64) -> impl ExactSizeIterator<Item = Self> {
        (0..n.min(1 << INDEX_BITS) as usize).map(move |index| Self::from_words(self.block(index as u64, TAG_SPLIT)))
    }

    /// Block `index` of this key's stream for the purpose `tag`.
    pub(crate) fn block(self, index: u64, tag: u8) -> [u32; 4] {
        let [k0, k1, n0, n1] = self.words;
        philox::block([k0, k1], [index as u32, counter_word1(index, tag), n0, n1])
    }

    /// N blocks of index `index`, with tags from `tag` on: as 64-bit integers, x0 + 2^32 x1 of all, and x2 + 2^32 x3.
    /// N is a multiple of the lanes.
    #[inline(always)]
    pub(crate) fn tagged<S: Simd, const N: usize>(
        simd: S,
        schedule: &philox::Schedule,
        index: u64,
        tag: u8,
    ) -> [[u64; N]; 2] {
        let mut words = [[0; N]; 2];
        // The lanes are blocks that follow each other: their tags count up.
        let step: [u64; LANES] = std::array::from_fn(|lane| (lane as u64) << 24);
        for at in (0..N).step_by(LANES) {
            let first = u64::from(counter_word1(index, tag + at as u8));
            let tags = simd.add(simd.splat(first), simd.load(&step));
            let [x0, x1, x2, x3] = philox::blocks(simd, schedule, index as u32, tags);
            for (words, [low, high]) in words.iter_mut().zip([[x0, x1], [x2, x3]]) {
                words[at..at + LANES].copy_from_slice(&simd.to_array(simd.pack_low(low, high)));
            }
        }
        words
    }

    pub(crate) fn schedule(self) -> philox::Schedule {
        let [k0, k1, n0, n1] = self.words;
        philox::Schedule::new([k0, k1], [n0, n1])
    }
}
