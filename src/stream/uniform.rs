//! The 64-bit uniforms themselves, for comparison with each other or with many thresholds.
//!
//! `bernoulli` compares them with one threshold, and draws only the digits that it needs. This module draws 32 bit-planes
//! at a time, of four groups.

use super::ars::Schedule;
use super::bernoulli::GROUP;
use crate::simd::{Kernel, Level, Simd};

/// Groups drawn together, one in each block of a vector.
pub(crate) const TOGETHER: usize = 4;
/// Digits of a word.
const DIGITS: usize = 32;

/// Words of digits of the uniforms of four groups.
pub(crate) type Words = [[u32; GROUP]; TOGETHER];

/// Draws 32 binary digits of each uniform of groups `first`, `first + 1`, ...: the most significant ones, or, if `low`,
/// the others. Only the first `eights` eights of digits are drawn, and the others are 0.
pub(crate) fn digits(level: Level, schedule: &Schedule, first: u64, low: bool, eights: usize, words: &mut Words) {
    level.run(Digits { schedule, first, low, eights, words });
}

struct Digits<'a> {
    schedule: &'a Schedule,
    first: u64,
    low: bool,
    eights: usize,
    words: &'a mut Words,
}

impl Kernel for Digits<'_> {
    type Output = ();

    // Without closures: the compiler would not compile them with the level's instructions.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { schedule, first, low, eights, words } = self;
        let (b, c, d) = (first.wrapping_add(1), first.wrapping_add(2), first.wrapping_add(3));
        let counters = simd.load(&[first, 0, b, 0, c, 0, d, 0]);
        let zero = simd.splat(0);
        // Bytes of the words, the most significant first: [byte][l] has those of elements l, 8 + l, ... of each group.
        let mut bytes = [[zero; 8]; 4];
        for (eight, rows) in bytes.iter_mut().enumerate().take(eights) {
            for (digit, row) in rows.iter_mut().rev().enumerate() {
                // Plane 0 is the most significant digit.
                let tag = 8 * eight + digit + if low { DIGITS } else { 0 };
                *row = schedule.blocks(simd, simd.xor(counters, simd.splat_pair([0, tag as u64])));
            }
            transpose(simd, rows);
        }
        // [l][k] has the words of elements 32 k + l, 32 k + 8 + l, 32 k + 16 + l and 32 k + 24 + l.
        let [top, high, middle, low] = bytes;
        let mut columns = [[zero; 4]; 8];
        for (l, column) in columns.iter_mut().enumerate() {
            let (lower, upper) = (simd.zip_8(low[l], middle[l]), simd.zip_8(high[l], top[l]));
            let ([a, b], [c, d]) = (simd.zip_16(lower[0], upper[0]), simd.zip_16(lower[1], upper[1]));
            *column = [a, b, c, d];
        }
        let [c0, c1, c2, c3, c4, c5, c6, c7] = columns;
        for k in 0..4 {
            let (a, b) = (simd.zip_32(c0[k], c1[k]), simd.zip_32(c2[k], c3[k]));
            let (c, d) = (simd.zip_32(c4[k], c5[k]), simd.zip_32(c6[k], c7[k]));
            for half in 0..2 {
                let (lower, upper) = (simd.zip_64(a[half], b[half]), simd.zip_64(c[half], d[half]));
                for which in 0..2 {
                    let at = 32 * k + 16 * half + 8 * which;
                    let (first, second) = (simd.to_array(lower[which]), simd.to_array(upper[which]));
                    for (group, words) in words.iter_mut().enumerate() {
                        let four = [first[2 * group], first[2 * group + 1], second[2 * group], second[2 * group + 1]];
                        for (pair, words) in four.into_iter().zip(words[at..at + 8].as_chunks_mut::<2>().0) {
                            *words = [pair as u32, (pair >> 32) as u32];
                        }
                    }
                }
            }
        }
    }
}

/// Transposes the squares of 8 by 8 bits that the bytes of eight rows form.
#[inline(always)]
fn transpose<S: Simd>(simd: S, rows: &mut [S::V; 8]) {
    for (size, mask) in [(4, 0x0F0F_0F0F_0F0F_0F0F), (2, 0x3333_3333_3333_3333), (1, 0x5555_5555_5555_5555)] {
        for row in 0..8 {
            if row & size != 0 {
                continue;
            }
            let (a, b) = (rows[row], rows[row + size]);
            let swap = simd.and(simd.xor(simd.right(a, size as i32), b), simd.splat(mask));
            rows[row] = simd.xor(a, simd.left(swap, size as i32));
            rows[row + size] = simd.xor(b, swap);
        }
    }
}

/// Draws the uniforms of groups from `first` on, whose number is a multiple of four.
pub(crate) fn groups(level: Level, schedule: &Schedule, first: u64, uniforms: &mut [[u64; GROUP]]) {
    let mut words = [[[0; GROUP]; TOGETHER]; 2];
    for (at, four) in uniforms.as_chunks_mut::<TOGETHER>().0.iter_mut().enumerate() {
        let first = first.wrapping_add((TOGETHER * at) as u64);
        let [high, low] = &mut words;
        digits(level, schedule, first, false, 4, high);
        digits(level, schedule, first, true, 4, low);
        level.run(Join { high, low, uniforms: four });
    }
}

struct Join<'a> {
    high: &'a Words,
    low: &'a Words,
    uniforms: &'a mut [[u64; GROUP]; TOGETHER],
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let words = self.high.as_flattened().iter().zip(self.low.as_flattened());
        for (uniform, (high, low)) in self.uniforms.as_flattened_mut().iter_mut().zip(words) {
            *uniform = u64::from(*high) << DIGITS | u64::from(*low);
        }
    }
}
