//! Normal variates of a stream: from (key, element index) to a standard normal number, the same at every level.
//!
//! Box and Muller ("A note on the generation of random normal deviates", 1958) turn two uniforms into two independent
//! normals. [`radius`] and [`direction`] are the definition, and the vector body as well: they are made of additions, multiplications,
//! a division, a square root and operations on bits, which are exact or correctly rounded on every CPU, so the
//! compiler may put it into lanes of any width without changing a bit.

#![allow(clippy::excessive_precision, reason = "coefficients as they were published")]

use std::f64::consts::{FRAC_PI_2, LN_2};

use super::ars::Schedule;
use super::bernoulli::GROUP;
use crate::simd::{Kernel, Level, Simd};

/// Tag of the first of the blocks of a group. Block i holds elements i, 32 + i, 64 + i and 96 + i.
const TAG: u8 = 64;
/// Blocks of a group: each holds the bits of four elements.
const BLOCKS: usize = GROUP / 4;
/// Pairs in a group.
const PAIRS: usize = GROUP / 2;

/// The bits of 1.0, and those of the significand.
const ONE: u64 = 0x3FF0_0000_0000_0000;
const SIGNIFICAND: u64 = 0x000F_FFFF_FFFF_FFFF;
/// The bits of the square root of 1/2.
const ROOT_HALF: u64 = 0x3FE6_A09E_667F_3BCD;
/// The bits of 2^52: an integer below that, put into its significand, makes the number 2^52 more.
const SHIFTER: u64 = 0x4330_0000_0000_0000;
const SIGN: u64 = 1 << 63;

// Minimax polynomials of FreeBSD's msun (e_log.c, k_sin.c, k_cos.c), good to less than one unit in the last place.
const LOG: [f64; 7] = [
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
];
const SIN: [f64; 6] = [
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
];
const COS: [f64; 6] = [
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
];

/// c0 + c1 z + ... + c6 z^6 in the order of Estrin, whose operations wait less for each other than Horner's.
#[inline(always)]
fn polynomial(z: f64, c: &[f64; 7]) -> f64 {
    let z2 = z * z;
    let z4 = z2 * z2;
    ((c[0] + z * c[1]) + z2 * (c[2] + z * c[3])) + z4 * ((c[4] + z * c[5]) + z2 * c[6])
}

/// c0 + c1 z + ... + c5 z^5 in the order of Estrin.
#[inline(always)]
fn shorter(z: f64, c: &[f64; 6]) -> f64 {
    let z2 = z * z;
    let z4 = z2 * z2;
    ((c[0] + z * c[1]) + z2 * (c[2] + z * c[3])) + z4 * (c[4] + z * c[5])
}

/// The natural logarithm of a normal number.
#[inline(always)]
fn ln(x: f64) -> f64 {
    // x = 2^exponent m, with m between the roots of 1/2 and 2.
    let shifted = x.to_bits().wrapping_add(ONE - ROOT_HALF);
    let exponent = f64::from_bits(shifted >> 52 | SHIFTER) - (f64::from_bits(SHIFTER) + 1023.0);
    let f = f64::from_bits((shifted & SIGNIFICAND).wrapping_add(ROOT_HALF)) - 1.0;
    // ln m = 2 artanh(s)
    let s = f / (2.0 + f);
    let z = s * s;
    exponent * LN_2 + s * (2.0 + z * polynomial(z, &LOG))
}

/// The distance from the origin of two independent normals, from the lower 40 bits of a uniform integer:
/// sqrt(-2 ln u), where u is uniform in (0, 1] and has these bits. At most 7.45.
#[inline(always)]
fn radius(bits: u64) -> f64 {
    let u = 2.0 - f64::from_bits((bits << 24) >> 12 | ONE);
    (-2.0 * ln(u)).sqrt()
}

/// Cosine and sine of a uniform angle, from the upper 24 bits: two for the quadrant, the others for where in it.
#[inline(always)]
fn direction(bits: u64) -> [f64; 2] {
    /// The 22 bits, and half of the last one.
    const PLACE: u64 = SIGNIFICAND & !0 << 30;
    const HALF: u64 = 1 << 29;
    let quadrant = bits >> 62;
    let x = (f64::from_bits(bits >> 10 & PLACE | (ONE | HALF)) - 1.5) * FRAC_PI_2;
    let z = x * x;
    let sin = (x + x * (z * shorter(z, &SIN))).to_bits();
    let cos = (1.0 - (0.5 * z - z * (z * shorter(z, &COS)))).to_bits();
    // A quarter turn takes (cos, sin) to (-sin, cos).
    let odd = (quadrant & 1).wrapping_neg();
    let turned_cos = (cos & !odd | sin & odd) ^ ((quadrant + 1) << 62 & SIGN);
    let turned_sin = (sin & !odd | cos & odd) ^ (quadrant << 62 & SIGN);
    [f64::from_bits(turned_cos), f64::from_bits(turned_sin)]
}

/// The normals of the elements of group `group`, as the bits of doubles.
pub(crate) fn group(level: Level, schedule: &Schedule, group: u64, normals: &mut [u64; GROUP]) {
    level.run(Draw { schedule, group, normals });
}

struct Draw<'a> {
    schedule: &'a Schedule,
    group: u64,
    normals: &'a mut [u64; GROUP],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks: [[u64; 2]; BLOCKS] = self.schedule.tagged(simd, self.group, TAG);
        let bits: [u64; PAIRS] = std::array::from_fn(|i| blocks[i % BLOCKS][i / BLOCKS]);
        let (first, second) = self.normals.split_at_mut(PAIRS);
        let mut radii = [0.0; PAIRS];
        // Two short loops: a CPU works on more lanes of these at a time than of one long loop.
        for (r, bits) in radii.iter_mut().zip(&bits) {
            *r = radius(*bits);
        }
        for (((first, second), r), bits) in first.iter_mut().zip(second).zip(radii).zip(&bits) {
            let [x, y] = direction(*bits);
            *first = (r * x).to_bits();
            *second = (r * y).to_bits();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::ars::halves;
    use crate::stream::key::Key;

    fn pair(bits: u64) -> [f64; 2] {
        direction(bits).map(|x| radius(bits) * x)
    }

    #[test]
    fn the_logarithm_is_wrong_somewhere() {
        for exponent in -52..=0 {
            for m in [1.0f64, 1.1, 1.3, std::f64::consts::SQRT_2, 1.5, 1.7, 1.999] {
                let x = m * 2f64.powi(exponent - 1);
                assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(f64::MIN_POSITIVE), "{x:e}");
            }
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn an_angle_lands_in_another_quadrant() {
        for step in 0..64u64 {
            // u = 1/2; the half of the last bit of the angle is 2^-25 turns.
            let turns = (step as f64 + 0.5) / 64.0 + 2f64.powi(-25);
            let angle = turns * std::f64::consts::TAU - std::f64::consts::FRAC_PI_4;
            let [x, y] = pair(step << 58 | 1 << 57 | 1 << 39);
            let r = (2.0 * LN_2).sqrt();
            assert!((x - r * angle.cos()).abs() < 1e-15 && (y - r * angle.sin()).abs() < 1e-15, "{step}");
        }
    }

    #[test]
    fn extreme_uniforms_are_not_finite() {
        for bits in [0, !0, !0 << 40, !0 >> 24] {
            assert!(pair(bits).iter().all(|z| z.is_finite() && z.abs() < 7.45));
        }
    }

    #[test]
    fn levels_differ_in_the_last_digit() {
        let key = Key::from_bytes([7; 16]);
        for index in [0, 1, 1 << 32, u64::MAX - 3] {
            let mut expected = [0.0; GROUP];
            for i in 0..BLOCKS {
                let [low, high] = halves(key.block(index, TAG + i as u8));
                [expected[i], expected[i + 64]] = pair(low);
                [expected[i + 32], expected[i + 96]] = pair(high);
            }
            for level in Level::available() {
                let mut normals = [0; GROUP];
                group(level, &key.schedule(), index, &mut normals);
                assert_eq!(normals, expected.map(f64::to_bits), "{level:?}");
            }
        }
    }
}
