//! Normal variates of a stream: from (key, element index) to a standard normal number, the same at every level.
//!
//! Box and Muller ("A note on the generation of random normal deviates", 1958) turn two uniforms into two independent
//! normals. [`radius`] and [`direction`] are both the definition and what every level runs. They use additions,
//! multiplications, a square root and bit operations, all in single precision and all exact or correctly rounded on
//! every CPU, so the compiler may vectorise them at any width without changing a bit.

use std::f32::consts::{LN_2, PI};

use super::ars::Schedule;
use super::bernoulli::GROUP;
use crate::simd::{Kernel, Level, Simd};

/// Tag of a group's first block. The first half of a group's blocks gives distances from the origin, the second half
/// directions.
const TAG: u8 = 64;
/// Blocks in a group: each holds four 32-bit words.
const BLOCKS: usize = GROUP / 4;
/// Pairs in a group: elements i and 64 + i are pair i.
const PAIRS: usize = GROUP / 2;

/// The bits of the number 1/2, and the bits that hold the significand.
const HALF: u32 = 0x3F00_0000;
const SIGNIFICAND: u32 = 0x007F_FFFF;
const SIGN: u32 = 1 << 31;

// Minimax polynomials, fitted by linear programming over Chebyshev points. Coefficients were
// rounded from the lowest power up, and the others refitted after each. Errors are relative.

/// (-2 ln(1 - w) - 2 w) / w^2 for w in [0, 1/2]: -2 ln(1 - w) is accurate to 1.6e-7.
const LOG: [f32; 7] = [1.000_049_2, 0.664_257_9, 0.539_333_94, 0.101_595_6, 1.503_397_5, -2.072_591, 2.321_282_3];
/// (sin(x) / x - 1) / x^2 as a polynomial in x^2, for x in [-pi/4, pi/4]: sin x is accurate to
/// 4e-9.
const SIN: [f32; 3] = [-0.166_666_55, 0.008_332_189, -1.951_829_2e-4];
/// (cos x - 1) / x^2, likewise: cos x is accurate to 4e-8.
const COS: [f32; 3] = [-0.499_998_84, 0.041_655_716, -0.001_359_101_7];

/// The distance of two independent normals from the origin: sqrt(-2 ln u), at most 7.54. `bits` and the lowest 8 bits
/// of `more` make u, which is uniform in (0, 1), and as fine near 1 as near 0.
#[inline(always)]
fn radius(bits: u32, more: u32) -> f32 {
    let t = (bits & !SIGN) as i32 as f32 + ((more & 0xFF) as i32 as f32 + 0.5) / 256.0;
    minus_two_ln(t, bits & SIGN != 0).sqrt()
}

/// -2 ln u, where u is t / 2^32, at most 1/2, or above one half and 1 - t / 2^32.
#[inline(always)]
pub(super) fn minus_two_ln(t: f32, above_half: bool) -> f32 {
    // In either case u = (1 - w) / 2^halvings, with w at most 1/2.
    let m = f32::from_bits(t.to_bits() & SIGNIFICAND | HALF);
    let halvings = 158 - (t.to_bits() >> 23) as i32;
    let w = if above_half { t / 4_294_967_296.0 } else { 1.0 - m };
    let halvings = if above_half { 0 } else { halvings } as f32;
    let c = LOG;
    let w2 = w * w;
    let w4 = w2 * w2;
    // Estrin's scheme, with shorter dependency chains than Horner's.
    let p = ((c[0] + w * c[1]) + w2 * (c[2] + w * c[3])) + w4 * ((c[4] + w * c[5]) + w2 * c[6]);
    halvings * (2.0 * LN_2) + ((w + w) + w2 * p)
}

/// Cosine and sine of a uniform angle, from the upper 24 bits. One bit swaps the two, one is the sign of the cosine,
/// and the others give an angle between -pi/4 and pi/4.
#[inline(always)]
fn direction(bits: u32) -> [f32; 2] {
    // An odd integer times 2^9: the middle of one of 2^22 steps.
    let place = (bits << 2 & !0x3FF | 0x200) as i32;
    let x = place as f32 * (PI / 8_589_934_592.0);
    let z = x * x;
    let sin = x + x * (z * (SIN[0] + z * (SIN[1] + z * SIN[2])));
    let cos = 1.0 + z * (COS[0] + z * (COS[1] + z * COS[2]));
    let cos = f32::from_bits(cos.to_bits() ^ bits & SIGN);
    if bits << 1 & SIGN == 0 { [cos, sin] } else { [sin, cos] }
}

/// Draws the normals of groups from `first` on.
pub(crate) fn groups(level: Level, schedule: &Schedule, first: u64, normals: &mut [[f32; GROUP]]) {
    level.run(Draw { schedule, first, normals });
}

struct Draw<'a> {
    schedule: &'a Schedule,
    first: u64,
    normals: &'a mut [[f32; GROUP]],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (group, normals) in (0..).zip(self.normals) {
            let blocks: [[u64; 2]; BLOCKS] = self.schedule.tagged(simd, self.first.wrapping_add(group), TAG);
            let bytes = bytes(blocks.as_flattened());
            let (distances, directions) = bytes.as_chunks().0.split_at(PAIRS);
            let (first, second) = normals.split_at_mut(PAIRS);
            // Two short loops instead of one long loop: a CPU overlaps more of their iterations.
            for ((r, bits), more) in second.iter_mut().zip(distances).zip(directions) {
                *r = radius(u32::from_le_bytes(*bits), u32::from_le_bytes(*more));
            }
            for ((x, y), bits) in first.iter_mut().zip(second).zip(directions) {
                let r = *y;
                [*x, *y] = direction(u32::from_le_bytes(*bits)).map(|x| r * x);
            }
        }
    }
}

/// The bytes of blocks, given as halves.
#[inline(always)]
fn bytes(halves: &[u64]) -> [u8; 16 * BLOCKS] {
    let mut bytes = [0; 16 * BLOCKS];
    for (to, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
        *to = half.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::key::Key;

    /// The pair made from these two words.
    fn pair(distance: u32, direction: u32) -> [f32; 2] {
        super::direction(direction).map(|x| radius(distance, direction) * x)
    }

    #[test]
    fn distances_are_those_of_the_formula() {
        for shift in 0..32 {
            for high in [0, SIGN] {
                for (low, more) in [(0, 0), (0, 255), (1, 7), (12_345_678, 99), (0x7FFF_FFFF, 255)] {
                    let (bits, more) = (low >> shift | high, more);
                    let t = f64::from(bits & !SIGN) + (f64::from(more) + 0.5) / 256.0;
                    let tail = t / 2f64.powi(32);
                    let expected = (-2.0 * if high == 0 { tail.ln() } else { (-tail).ln_1p() }).sqrt();
                    let got = f64::from(radius(bits, more));
                    assert!((got / expected - 1.0).abs() < 2.5e-7, "{bits:#x} {more}: {got} for {expected}");
                }
            }
        }
    }

    #[test]
    fn directions_are_evenly_spaced_over_the_circle() {
        let steps = 1 << 12;
        let mut angles: Vec<f64> = (0..steps)
            .map(|step: u32| {
                let [x, y] = direction(step << 20 | 1 << 19).map(f64::from);
                assert!((x.hypot(y) - 1.0).abs() < 1.5e-7, "{step}");
                y.atan2(x)
            })
            .collect();
        angles.sort_by(f64::total_cmp);
        for pair in angles.windows(2) {
            // Where quarters meet, the spacing is off by up to one step of the last bit.
            assert!((pair[1] - pair[0] - std::f64::consts::TAU / f64::from(steps)).abs() < 2e-6, "{pair:?}");
        }
    }

    #[test]
    fn extreme_words_give_finite_numbers() {
        for distance in [0, !0, SIGN, !SIGN] {
            for direction in [0, !0, 255, !255] {
                assert!(pair(distance, direction).iter().all(|z| z.is_finite() && *z != 0.0 && z.abs() < 7.54));
            }
        }
        assert!(radius(0, 0) > 7.53);
        assert!(radius(SIGN, 0) < 1.1e-6);
    }

    #[test]
    fn every_level_draws_what_the_formulas_say() {
        let key = Key::from_bytes([7; 16]);
        for first in [0, 1, 1 << 32, u64::MAX - 3] {
            let word = |group: u64, i: usize| {
                let block = key.block(first + group, TAG + (i / 4) as u8);
                u32::from_le_bytes(block.as_chunks::<4>().0[i % 4])
            };
            let mut expected = [[0; GROUP]; 3];
            for (group, expected) in (0..).zip(&mut expected) {
                for i in 0..PAIRS {
                    let pair = pair(word(group, i), word(group, PAIRS + i));
                    [expected[i], expected[i + PAIRS]] = pair.map(f32::to_bits);
                }
            }
            for level in Level::available() {
                let mut normals = [[0.0; GROUP]; 3];
                groups(level, &key.schedule(), first, &mut normals);
                assert_eq!(normals.map(|normals| normals.map(f32::to_bits)), expected, "{level:?}");
            }
        }
    }
}
