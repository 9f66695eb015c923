//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! [`block`] is the definition. `blocks` is the same function for eight blocks at a time, written once for every CPU,
//! and so is `Prefix` for blocks that have much in common. Nothing here knows what the bits are for.

use crate::simd::Simd;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four output words for a key and a counter.
#[must_use]
pub fn block(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = counter;
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        counter = [(p1 >> 32) as u32 ^ c1 ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c3 ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A key expanded for the vector body: its ten round keys, and the two counter words that stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    round_keys: [[u64; 2]; ROUNDS],
    nonce: [u32; 2],
}

impl Schedule {
    pub(crate) fn new(key: [u32; 2], nonce: [u32; 2]) -> Self {
        let mut round = key;
        let round_keys = std::array::from_fn(|_| {
            let this = [u64::from(round[0]), u64::from(round[1])];
            round = [round[0].wrapping_add(WEYL[0]), round[1].wrapping_add(WEYL[1])];
            this
        });
        Self { round_keys, nonce }
    }
}

/// The part of the first three rounds that depends on the low counter word alone.
///
/// The naive loop runs ten equal rounds per block. But blocks of one group differ only in the tag, which
/// sits in counter word 1, and the nonce is the same everywhere, so:
///
/// 1. Round 0: the product of word 2 is one number per call, and the product of word 0 is shared by all
///    tags. Only word 0 of the result knows the tag, and it is the same in all lanes.
/// 2. Round 1: so the product of word 0 is one number per tag, that of word 2 is shared by all tags.
/// 3. Round 2: the product of word 0 is still shared.
///
/// What is shared is computed once per eight groups, what is uniform is computed in scalar registers.
/// That leaves about 7.5 rounds of vector work out of ten.
///
/// Words live in the low halves of 64-bit lanes; the high halves hold garbage that no step reads, because
/// the multiply takes low halves only.
#[derive(Clone, Copy)]
pub(crate) struct Prefix<V> {
    /// Round 1, word 2, but for the tag's product.
    word2_round1: V,
    /// Round 2, word 0, but for the product of word 2.
    word0_round2: V,
    /// Round 2, word 2, but for the tag.
    word2_round2: V,
    /// Round 2, word 3.
    word3_round2: V,
}

impl<V: Copy> Prefix<V> {
    /// `index` holds the group indices; only their low 32 bits matter here.
    #[inline(always)]
    pub(crate) fn new<S: Simd<V = V>>(simd: S, schedule: &Schedule, index: V) -> Self {
        let keys = &schedule.round_keys;
        let [m0, m1] = MULTIPLIERS.map(|m| simd.splat(u64::from(m)));
        let nonce_product = u64::from(MULTIPLIERS[1]) * u64::from(schedule.nonce[0]);

        let p0 = simd.mul_low(m0, index);
        let word2_round0 = simd.xor(simd.high(p0), simd.splat(u64::from(schedule.nonce[1]) ^ keys[0][1]));
        let p1 = simd.mul_low(m1, word2_round0);
        let word0_round1 = simd.xor(simd.high(p1), simd.splat((nonce_product & 0xFFFF_FFFF) ^ keys[1][0]));
        let q0 = simd.mul_low(m0, word0_round1);
        Self {
            word2_round1: simd.xor(p0, simd.splat(keys[1][1])),
            word0_round2: simd.xor(p1, simd.splat(keys[2][0])),
            word2_round2: simd.xor(simd.high(q0), simd.splat(keys[2][1])),
            word3_round2: q0,
        }
    }

    /// The four output words of eight blocks that share counter word 1.
    #[inline(always)]
    pub(crate) fn words<S: Simd<V = V>>(self, simd: S, schedule: &Schedule, word1: u32) -> [V; 4] {
        let keys = &schedule.round_keys;
        let m1 = simd.splat(u64::from(MULTIPLIERS[1]));
        let nonce_product = u64::from(MULTIPLIERS[1]) * u64::from(schedule.nonce[0]);
        let word0_round0 = (nonce_product >> 32) ^ u64::from(word1) ^ keys[0][0];
        let tag_product = u64::from(MULTIPLIERS[0]) * word0_round0;

        let word2_round1 = simd.xor(self.word2_round1, simd.splat(tag_product >> 32));
        let p1 = simd.mul_low(m1, word2_round1);
        let words = [
            simd.xor(simd.high(p1), self.word0_round2),
            p1,
            simd.xor(self.word2_round2, simd.splat(tag_product & 0xFFFF_FFFF)),
            self.word3_round2,
        ];
        last_rounds(simd, schedule, words)
    }
}

/// The four output words of eight blocks that differ in counter word 1 alone: `word1` holds theirs in the low halves.
///
/// Their common words stay the same in round 0 but for word 0, so that products of them are scalar in the first three
/// rounds: half of the work of rounds 1 and 2, all of round 0.
#[inline(always)]
pub(crate) fn blocks<S: Simd>(simd: S, schedule: &Schedule, word0: u32, word1: S::V) -> [S::V; 4] {
    let keys = &schedule.round_keys;
    let [m0, m1] = MULTIPLIERS.map(|m| simd.splat(u64::from(m)));
    let product = |multiplier: usize, word: u64| u64::from(MULTIPLIERS[multiplier]) * (word & 0xFFFF_FFFF);
    let [n0, n1] = schedule.nonce.map(u64::from);

    let (p0, p1) = (product(0, u64::from(word0)), product(1, n0));
    let word0_round0 = simd.xor(word1, simd.splat(p1 >> 32 ^ keys[0][0]));
    let word2_round0 = p0 >> 32 ^ n1 ^ keys[0][1];

    let (q0, q1) = (simd.mul_low(m0, word0_round0), product(1, word2_round0));
    let word0_round1 = q1 >> 32 ^ (p1 & 0xFFFF_FFFF) ^ keys[1][0];
    let word2_round1 = simd.xor(simd.high(q0), simd.splat((p0 & 0xFFFF_FFFF) ^ keys[1][1]));

    let (r0, r1) = (product(0, word0_round1), simd.mul_low(m1, word2_round1));
    let words = [
        simd.xor(simd.high(r1), simd.splat((q1 & 0xFFFF_FFFF) ^ keys[2][0])),
        r1,
        simd.xor(q0, simd.splat(r0 >> 32 ^ keys[2][1])),
        simd.splat(r0),
    ];
    last_rounds(simd, schedule, words)
}

/// The last seven rounds, written out, because a loop costs moves between registers, which AVX2 is short of.
#[inline(always)]
fn last_rounds<S: Simd>(simd: S, schedule: &Schedule, words: [S::V; 4]) -> [S::V; 4] {
    let keys = &schedule.round_keys;
    let words = round(simd, words, keys[3]);
    let words = round(simd, words, keys[4]);
    let words = round(simd, words, keys[5]);
    let words = round(simd, words, keys[6]);
    let words = round(simd, words, keys[7]);
    let words = round(simd, words, keys[8]);
    round(simd, words, keys[9])
}

/// One full round of eight blocks.
#[inline(always)]
fn round<S: Simd>(simd: S, [c0, c1, c2, c3]: [S::V; 4], [k0, k1]: [u64; 2]) -> [S::V; 4] {
    let [m0, m1] = MULTIPLIERS.map(|m| simd.splat(u64::from(m)));
    let p0 = simd.mul_low(m0, c0);
    let p1 = simd.mul_low(m1, c2);
    [simd.xor3(simd.high(p1), c1, simd.splat(k0)), p1, simd.xor3(simd.high(p0), c3, simd.splat(k1)), p0]
}
