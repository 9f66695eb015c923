//! Keys: 16 bytes that name a stream of random bits, and the derivation of child keys.
//!
//! Entropy is not drawn here; the Python layer (or the caller) brings the bytes.

use crate::ars::{Schedule, ars, joined};

const TAG_SPLIT: u8 = 254;
const TAG_FOLD_IN: u8 = 255;

/// A key: 16 bytes.
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

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.bytes
    }

    /// The child key number `index`; children of different indices, and of different keys, are independent.
    #[must_use]
    pub fn fold_in(self, index: u64) -> Self {
        Self::from_bytes(self.block(index, TAG_FOLD_IN))
    }

    /// `n` child keys, independent of each other and of those from [`Key::fold_in`], made one by one.
    pub fn split(self, n: usize) -> impl ExactSizeIterator<Item = Self> {
        (0..n).map(move |index| Self::from_bytes(self.block(index as u64, TAG_SPLIT)))
    }

    /// Block `index` of this key's stream for the purpose `tag`.
    pub(crate) fn block(self, index: u64, tag: u8) -> [u8; 16] {
        ars(self.bytes, joined([index, u64::from(tag)]))
    }

    pub(crate) fn schedule(self) -> Schedule {
        Schedule::new(self.bytes)
    }
}

/// As hexadecimal digits, the first byte first.
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
