//! Bit tricks on keep bits in 64-bit words, each tested alone.

/// The 64 bits of `words` from bit `position` on. `words` must have a spare word after the one that holds `position`.
#[inline(always)]
pub(crate) fn word_at(words: &[u64], position: usize) -> u64 {
    let (word, shift) = (position / 64, position % 64);
    words[word] >> shift | words[word + 1] << 1 << (63 - shift)
}

/// The `len` bits from bit `position` of `words` on, 64 at a time; bits past the end are 0.
pub(crate) fn words_at(words: &[u64], position: usize, len: usize) -> impl Iterator<Item = u64> {
    (0..len).step_by(64).map(move |at| {
        let word = word_at(words, position + at);
        if len - at < 64 { word & ((1 << (len - at)) - 1) } else { word }
    })
}

/// Writes the `len` low bits of `word` from bit `at` of `bytes` on; its other bits must be 0. Earlier bits stay as they
/// are, and later bits of the last byte become 0.
pub(crate) fn put_bits(bytes: &mut [u8], at: usize, len: usize, word: u64) {
    let shift = at % 8;
    let bits = (u128::from(word) << shift).to_le_bytes();
    let target = &mut bytes[at / 8..(at + len).div_ceil(8)];
    let before = target[0] & ((1 << shift) - 1);
    target.copy_from_slice(&bits[..target.len()]);
    target[0] |= before;
}

/// One bit per byte: 1 if the byte is not 0.
pub(crate) fn from_bytes(bytes: &[u8; 64]) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let mut word = 0;
    for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        // The top bit of each byte: set by a carry out of its lower bits, or set already.
        let tops = (((eight & LOW) + LOW) | eight) & !LOW;
        // The product collects them in its top byte. No two of its terms share a bit, so nothing carries.
        word |= ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
    }
    word
}

/// One byte per bit: 0 or 1.
#[inline(always)]
pub(crate) fn to_bytes(bits: u8) -> [u8; 8] {
    const LOW_BITS: u64 = 0x0101_0101_0101_0101;
    // The mask leaves only bit j in byte j. If that is set, adding 0x7F sets the top bit of the byte.
    let bits = (u64::from(bits) * LOW_BITS) & 0x8040_2010_0804_0201;
    ((bits + 0x7F * LOW_BITS) >> 7 & LOW_BITS).to_le_bytes()
}

/// Each bit twice, side by side.
#[inline(always)]
pub(crate) fn twice(bits: u32) -> u64 {
    let mut spread = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread | spread << 1
}

/// Transposes 64 by 64 bits: bit j of word i changes places with bit i of word j.
///
/// Each step swaps blocks of half the size of the step before (Warren, "Hacker's Delight", 2nd ed., section 7-3).
#[inline(always)]
pub(crate) fn transpose(square: &mut [u64; 64]) {
    #[inline(always)]
    fn step<const SIZE: usize>(square: &mut [u64; 64], mask: u64) {
        for block in square.chunks_exact_mut(2 * SIZE) {
            let (upper, lower) = block.split_at_mut(SIZE);
            for (a, b) in upper.iter_mut().zip(lower) {
                let swap = (*a >> SIZE ^ *b) & mask;
                *a ^= swap << SIZE;
                *b ^= swap;
            }
        }
    }
    step::<32>(square, 0x0000_0000_FFFF_FFFF);
    step::<16>(square, 0x0000_FFFF_0000_FFFF);
    step::<8>(square, 0x00FF_00FF_00FF_00FF);
    step::<4>(square, 0x0F0F_0F0F_0F0F_0F0F);
    step::<2>(square, 0x3333_3333_3333_3333);
    step::<1>(square, 0x5555_5555_5555_5555);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_straddle_boundaries() {
        let words = [0xFEDC_BA98_7654_3210, 0x0123_4567_89AB_CDEF];
        assert_eq!(word_at(&words, 0), words[0]);
        assert_eq!(word_at(&words, 4), 0xFFED_CBA9_8765_4321);
        assert_eq!(word_at(&words, 63), words[1] << 1 | 1);
    }

    #[test]
    fn put_bits_leaves_bits_before_and_clears_those_after() {
        for at in 0..16 {
            for len in 1..=64 {
                let word = 0x9E37_79B9_7F4A_7C15 & (!0 >> (64 - len));
                let mut bytes = [0xFF; 11];
                put_bits(&mut bytes, at, len, word);
                let all = u128::from_le_bytes(std::array::from_fn(|i| if i < 11 { bytes[i] } else { 0 }));
                let end = (at + len).next_multiple_of(8);
                let expected = u128::from(word) << at | ((1 << at) - 1) | (!0 >> 40) & (!0 << end);
                assert_eq!(all, expected, "{len} bits at {at}");
            }
        }
    }

    #[test]
    fn each_byte_has_its_own_bit_and_each_bit_its_own_byte() {
        for value in [1, 2, 0x7F, 0x80, 0xFF] {
            for place in 0..64 {
                let mut bytes = [0; 64];
                bytes[place] = value;
                assert_eq!(from_bytes(&bytes), 1 << place, "{value} at {place}");
                let others = bytes.map(|byte| if byte == 0 { value } else { 0 });
                assert_eq!(from_bytes(&others), !(1 << place), "all but {place}");
            }
        }
        for bits in 0..=255 {
            assert_eq!(to_bytes(bits), std::array::from_fn(|i| bits >> i & 1));
        }
    }

    #[test]
    fn twice_repeats_every_bit() {
        for place in 0..32 {
            assert_eq!(twice(1 << place), 3 << (2 * place));
        }
    }

    #[test]
    fn transposing_moves_every_bit() {
        let original: [u64; 64] = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut square = original;
        transpose(&mut square);
        for (i, row) in square.iter().enumerate() {
            for (j, column) in original.iter().enumerate() {
                assert_eq!(row >> j & 1, column >> i & 1, "bit {j} of word {i}");
            }
        }
    }
}
