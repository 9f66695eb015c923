//! ARS-7 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
//! counter-based generator whose rounds are those of AES, with round keys from a Weyl sequence.
//!
//! [`ars`] is the definition. [`Schedule::blocks`] computes four blocks in a vector. It has two steps, because blocks
//! with the same index share the first round.

use crate::simd::{Kernel, Simd, aes};

const ROUNDS: usize = 7;
/// Increments of the key's halves from round to round: the fractions of the golden ratio and of the square root of 3.
const WEYL: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];

/// The two little-endian halves of 16 bytes.
pub(crate) fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let bytes = u128::from_le_bytes(bytes);
    [bytes as u64, (bytes >> 64) as u64]
}

/// The 16 bytes with these halves.
pub(crate) fn joined([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// The ARS-7 block for a key and a counter.
///
/// ```
/// // A known answer of Random123: the words are 1 and three zeros, in counter and key alike.
/// let one = 1u128.to_le_bytes();
/// let expected = [0x3523_162B_u32, 0xDC14_D20C, 0x7918_4077, 0x7218_4193].map(u32::to_le_bytes);
/// assert_eq!(fastdrop::ars(one, one), expected.as_flattened());
/// ```
#[must_use]
pub fn ars(key: [u8; 16], counter: [u8; 16]) -> [u8; 16] {
    let keys = Schedule::new(key).keys;
    let mut block = aes::xor(halves(counter), keys[0]);
    for key in &keys[1..ROUNDS] {
        block = aes::round(block, *key);
    }
    joined(aes::last_round(block, keys[ROUNDS]))
}

/// One block, computed with a level's instructions.
pub(crate) struct Block {
    pub(crate) key: [u8; 16],
    pub(crate) counter: [u64; 2],
}

impl Kernel for Block {
    type Output = [u8; 16];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u8; 16] {
        let [low, high] = self.counter;
        let counters = simd.load(&[low, high, low, high, low, high, low, high]);
        let words = simd.to_array(Schedule::new(self.key).blocks(simd, counters));
        joined([words[0], words[1]])
    }
}

/// An expanded key: its round keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    keys: [[u64; 2]; ROUNDS + 1],
}

impl Schedule {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let mut round = halves(key);
        let keys = std::array::from_fn(|_| {
            let this = round;
            round = [round[0].wrapping_add(WEYL[0]), round[1].wrapping_add(WEYL[1])];
            this
        });
        Self { keys }
    }

    /// The key of the last round: each bit set in it flips that bit of every block.
    pub(crate) fn last_key(&self) -> [u64; 2] {
        self.keys[ROUNDS]
    }

    /// The blocks of four counters.
    #[inline(always)]
    pub(crate) fn blocks<S: Simd>(&self, simd: S, counters: S::V) -> S::V {
        self.later_rounds(simd, self.first_round(simd, counters), simd.splat(0), simd.splat_pair(self.last_key()))
    }

    /// The first round, which blocks with the same index share. It includes the xor with the second key unless rounds
    /// start with their key: see [`Simd::KEY_FIRST`].
    #[inline(always)]
    pub(crate) fn first_round<S: Simd>(&self, simd: S, counters: S::V) -> S::V {
        let [first, second] = [0, 1].map(|key| simd.splat_pair(self.keys[key]));
        if S::KEY_FIRST { simd.aes_round(counters, first) } else { simd.aes_round(simd.xor(counters, first), second) }
    }

    /// The xor that turns a block with tag 0 into one with `tag` after the first round, whatever the index. It changes
    /// bytes 8 to 11.
    ///
    /// The tag is byte 8 of the counter, and no other byte of the first round's input depends on
    /// it. SubBytes maps it to another byte, ShiftRows leaves it in place, and MixColumns, being
    /// linear, adds the difference to one column.
    pub(crate) fn tag_difference(&self, tag: u8) -> u32 {
        let byte = self.keys[0][1] as u8;
        aes::mixed(byte ^ tag) ^ aes::mixed(byte)
    }

    /// Rounds two to seven of the blocks `first_round` xor `difference`, with `last_key` in place of the last round
    /// key.
    #[inline(always)]
    pub(crate) fn later_rounds<S: Simd>(&self, simd: S, first_round: S::V, difference: S::V, last_key: S::V) -> S::V {
        let key = |round: usize| simd.splat_pair(self.keys[round]);
        let mut blocks = first_round;
        if S::KEY_FIRST {
            // All vectors share the key and the difference, so the xor of both is computed once.
            blocks = simd.aes_round(blocks, simd.xor(key(1), difference));
            for round in 2..ROUNDS - 1 {
                blocks = simd.aes_round(blocks, key(round));
            }
            return simd.xor(simd.aes_last_round(blocks, key(ROUNDS - 1)), last_key);
        }
        blocks = simd.xor(blocks, difference);
        for round in 2..ROUNDS {
            blocks = simd.aes_round(blocks, key(round));
        }
        simd.aes_last_round(blocks, last_key)
    }

    /// The halves of N blocks of one index, with tags from `tag` on. N is a multiple of four.
    #[inline(always)]
    pub(crate) fn tagged<S: Simd, const N: usize>(&self, simd: S, index: u64, tag: u8) -> [[u64; 2]; N] {
        let mut blocks = [[0; 2]; N];
        let (vectors, _) = blocks.as_chunks_mut::<4>();
        let first = simd.load(&[0, 0, 0, 1, 0, 2, 0, 3]);
        for (at, four) in vectors.iter_mut().enumerate() {
            let counters = simd.add(first, simd.splat_pair([index, u64::from(tag) + 4 * at as u64]));
            let words = simd.to_array(self.blocks(simd, counters));
            four.as_flattened_mut().copy_from_slice(&words);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{LANES, Level};

    struct Blocks([[u8; 16]; 5]);

    impl Kernel for Blocks {
        type Output = [[[u64; LANES]; 2]; 1];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let [key, counters @ ..] = self.0;
            let schedule = Schedule::new(key);
            let counters = counters.map(halves);
            let whole = schedule.blocks(simd, simd.load(counters.as_flattened().try_into().unwrap()));
            // The same counters, via tag 0.
            let tag = counters[0][1] as u8;
            let untagged = counters.map(|[index, tag_and_rest]| [index, tag_and_rest & !0xFF]);
            let first = schedule.first_round(simd, simd.load(untagged.as_flattened().try_into().unwrap()));
            let difference = simd.splat_pair([0, u64::from(schedule.tag_difference(tag))]);
            [[whole, schedule.later_rounds(simd, first, difference, simd.splat_pair(schedule.last_key()))]
                .map(|blocks| simd.to_array(blocks))]
        }
    }

    /// Both as whole blocks and with a shared first round.
    #[test]
    fn vectors_of_blocks_match_the_definition() {
        for tag in [0u8, 1, 63, 64, 255] {
            let bytes = |seed: u64| -> [u8; 16] {
                let words = [seed, seed + 1].map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut bytes = joined(words);
                bytes[8] = tag;
                bytes
            };
            let [key, counters @ ..] = [3, 5, 7, 11, 13].map(bytes);
            let expected = counters.map(|counter| halves(ars(key, counter)));
            for level in Level::available() {
                let [[whole, shared]] = level.run(Blocks([key, counters[0], counters[1], counters[2], counters[3]]));
                assert_eq!(whole, expected.as_flattened(), "{level:?} tag {tag}");
                assert_eq!(shared, expected.as_flattened(), "{level:?} tag {tag}");
                let one = level.run(Block { key, counter: halves(counters[0]) });
                assert_eq!(halves(one)[..], expected.as_flattened()[..2], "{level:?} tag {tag}");
            }
        }
    }
}
