//! AES rounds (FIPS 197) in software, as the instructions AESENC and AESENCLAST compute them.
//!
//! A block is two little-endian halves: byte i is row i % 4 of column i / 4. In a cipher, table lookups could leak data
//! through their timing. Nothing here is secret.

/// A block, or a round key.
pub(crate) type Block = [u64; 2];

/// Twice a byte, in the field of 256 elements.
const fn doubled(byte: u8) -> u8 {
    (byte << 1) ^ (0x1B * (byte >> 7))
}

/// The S-box: the inverse in the field, then an affine map of its bits.
const SBOX: [u8; 256] = {
    let mut sbox = [0x63; 256];
    // 3 generates the field, so this visits every element but 0, along with its inverse, a power of
    // 0xF6.
    let (mut element, mut inverse) = (1u8, 1u8);
    let mut met = 0;
    while met < 255 {
        sbox[element as usize] ^=
            inverse ^ inverse.rotate_left(1) ^ inverse.rotate_left(2) ^ inverse.rotate_left(3) ^ inverse.rotate_left(4);
        element ^= doubled(element);
        // Divides by 3: multiplies by its inverse 0xF6, adding one power for each 1 bit.
        let (mut product, mut power, mut bit) = (0, inverse, 0);
        while bit < 8 {
            product ^= power * (0xF6 >> bit & 1);
            power = doubled(power);
            bit += 1;
        }
        inverse = product;
        met += 1;
    }
    sbox
};

/// Per row: the contribution of each byte to its column, after SubBytes and MixColumns.
static COLUMNS: [[u32; 256]; 4] = {
    let mut columns = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let s = SBOX[byte];
        let column = u32::from_le_bytes([doubled(s), s, s, doubled(s) ^ s]);
        let mut row = 0;
        while row < 4 {
            columns[row][byte] = column.rotate_left(8 * row as u32);
            row += 1;
        }
        byte += 1;
    }
    columns
};

/// The contribution of a byte in row 0 to its column, after SubBytes and MixColumns.
#[inline]
pub(crate) fn mixed(byte: u8) -> u32 {
    COLUMNS[0][usize::from(byte)]
}

#[inline(always)]
pub(crate) fn xor(a: Block, b: Block) -> Block {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

/// The byte in `row` that ShiftRows moves to `column`.
#[inline(always)]
fn shifted(block: Block, row: usize, column: usize) -> u8 {
    let from = (column + row) % 4;
    (block[from / 2] >> (32 * (from % 2) + 8 * row)) as u8
}

/// ShiftRows, SubBytes, MixColumns, AddRoundKey.
#[inline(always)]
pub(crate) fn round(block: Block, key: Block) -> Block {
    let column = |column: usize| {
        let part = |row: usize| COLUMNS[row][usize::from(shifted(block, row, column))];
        u64::from(part(0) ^ part(1) ^ part(2) ^ part(3))
    };
    xor([column(0) | column(1) << 32, column(2) | column(3) << 32], key)
}

/// ShiftRows, SubBytes, AddRoundKey.
#[inline(always)]
pub(crate) fn last_round(block: Block, key: Block) -> Block {
    let column = |column: usize| {
        let part = |row: usize| u64::from(SBOX[usize::from(shifted(block, row, column))]) << (8 * row);
        part(0) | part(1) | part(2) | part(3)
    };
    xor([column(0) | column(1) << 32, column(2) | column(3) << 32], key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B of FIPS 197: input and key of round 1, and the state after it.
    #[test]
    fn a_round_is_that_of_the_standard() {
        let block = |bytes: u128| {
            let bytes = u128::from_le_bytes(bytes.to_be_bytes());
            [bytes as u64, (bytes >> 64) as u64]
        };
        let start = block(0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808);
        let key = block(0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605);
        assert_eq!(round(start, key), block(0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049));
        let start = block(0xeb40_f21e_592e_3884_8ba1_13e7_1bc3_42d2);
        let key = block(0xd014_f9a8_c9ee_2589_e13f_0cc8_b663_0ca6);
        assert_eq!(last_round(start, key), block(0x3925_841d_02dc_09fb_dc11_8597_196a_0b32));
    }
}
