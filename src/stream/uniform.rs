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

/// Draws 32 binary digits of each uniform of groups `first`, `first + 1`, ...: the most significant ones, or, with
/// `LOW`, the others. Only the first `N` eights of digits are drawn, and the others are 0.
#[inline(always)]
pub(crate) fn digits<S: Simd, const LOW: bool, const N: usize>(
    simd: S,
    schedule: &Schedule,
    first: u64,
    words: &mut Words,
) {
    let [a, b, c, d] = [0, 1, 2, 3].map(|group| first.wrapping_add(group));
    let counters = simd.load(&[a, 0, b, 0, c, 0, d, 0]);
    let zero = simd.splat(0);
    // Bytes of the words, least significant first: [byte][l] has the bytes of the elements 8 k + l of each group.
    let mut bytes = [[zero; 8]; 4];
    for (eight, rows) in bytes.iter_mut().rev().enumerate().take(N) {
        for (digit, row) in rows.iter_mut().rev().enumerate() {
            // Plane 0 is the most significant digit.
            let tag = 8 * eight + digit + if LOW { DIGITS } else { 0 };
            *row = schedule.blocks(simd, simd.xor(counters, simd.splat_pair([0, tag as u64])));
        }
        transpose(simd, rows);
    }
    // [l][k] has the words of elements 32 k + l, 32 k + l + 8, ..., one in each 32 bits.
    let [low, middle, high, top] = bytes;
    let mut columns = [[zero; 4]; 8];
    for (l, column) in columns.iter_mut().enumerate() {
        let [lower, upper] = [simd.zip_8(low[l], middle[l]), simd.zip_8(high[l], top[l])];
        let [[a, b], [c, d]] = [0, 1].map(|half| simd.zip_16(lower[half], upper[half]));
        *column = [a, b, c, d];
    }
    for k in 0..4 {
        let pair = |l: usize| simd.zip_32(columns[l][k], columns[l + 1][k]);
        let [a, b, c, d] = [pair(0), pair(2), pair(4), pair(6)];
        for half in 0..2 {
            let [lower, upper] = [simd.zip_64(a[half], b[half]), simd.zip_64(c[half], d[half])];
            for (which, quads) in lower.into_iter().zip(upper).enumerate() {
                let at = 32 * k + 16 * half + 8 * which;
                for (to, quad) in [(at, quads.0), (at + 4, quads.1)] {
                    let halves = simd.to_array(quad);
                    for (words, [low, high]) in words.iter_mut().zip(halves.as_chunks::<2>().0) {
                        let four = [*low as u32, (low >> 32) as u32, *high as u32, (high >> 32) as u32];
                        words[to..to + 4].copy_from_slice(&four);
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
        for row in (0..8).filter(|row| row & size == 0) {
            let (a, b) = (rows[row], rows[row + size]);
            let swap = simd.and(simd.xor(simd.right(a, size as i32), b), simd.splat(mask));
            rows[row] = simd.xor(a, simd.left(swap, size as i32));
            rows[row + size] = simd.xor(b, swap);
        }
    }
}

/// Draws the uniforms of groups from `first` on, whose number is a multiple of four.
pub(crate) fn groups(level: Level, schedule: &Schedule, first: u64, uniforms: &mut [[u64; GROUP]]) {
    level.run(Draw { schedule, first, uniforms });
}

struct Draw<'a> {
    schedule: &'a Schedule,
    first: u64,
    uniforms: &'a mut [[u64; GROUP]],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut words = [[[0; GROUP]; TOGETHER]; 2];
        for (at, four) in self.uniforms.as_chunks_mut::<TOGETHER>().0.iter_mut().enumerate() {
            let first = self.first.wrapping_add((TOGETHER * at) as u64);
            let [high, low] = &mut words;
            digits::<S, false, 4>(simd, self.schedule, first, high);
            digits::<S, true, 4>(simd, self.schedule, first, low);
            let words = high.as_flattened().iter().zip(low.as_flattened());
            for (uniform, (high, low)) in four.as_flattened_mut().iter_mut().zip(words) {
                *uniform = u64::from(*high) << DIGITS | u64::from(*low);
            }
        }
    }
}
