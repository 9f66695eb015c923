//! Random numbers of a stream: from (key, element index) to a uniform, exponential or normal number, the same at every
//! level and, to the rounding of a dtype, in every dtype.
//!
//! Uniform and exponential numbers are functions of an element's uniform U, of 64 binary digits. As in `normal`, all
//! steps are exact or correctly rounded on every CPU.

use half::{bf16, f16};

use super::ars::Schedule;
use super::bernoulli::GROUP;
use super::normal;
use super::uniform::{self, TOGETHER, Words, digits};
use crate::operand::Element;
use crate::simd::{Kernel, Level, Simd};

/// What numbers are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    /// `from + width * u` with u in [0, 1) of as many binary digits as the dtype has, and at most `most`.
    Uniform { from: f64, width: f64, most: f64, digits: u32 },
    /// `-ln(u) * scale` with u in (0, 1), and at least `least`.
    Exponential { scale: f64, least: f64 },
    /// `mean + std * z` with a standard normal z.
    Normal { mean: f64, std: f64 },
}

impl Distribution {
    /// Uniform numbers at least `from` and below `to`, rounded to the element type. If they are equal, that number.
    pub(crate) fn uniform(element: Element, from: f64, to: f64) -> Self {
        let [from, to] = [from, to].map(|x| rounded(element, x));
        let (digits, below) = match element {
            Element::F16 => (11, stepped_down(f16::from_f64(to).to_bits(), |bits| f16::from_bits(bits).to_f64())),
            Element::Bf16 => (8, stepped_down(bf16::from_f64(to).to_bits(), |bits| bf16::from_bits(bits).to_f64())),
            Element::F64 => (53, to.next_down()),
            _ => (24, (to as f32).next_down().into()),
        };
        // Rounding must not reach `to`.
        Self::Uniform { from, width: to - from, most: below.max(from), digits }
    }

    /// Exponential numbers of this rate, never 0 unless it is infinite: a number that would round to 0 is the smallest one
    /// with which the CPU computes in any mode.
    pub(crate) fn exponential(element: Element, rate: f64) -> Self {
        let least = match element {
            _ if rate == f64::INFINITY => 0.0,
            // A conversion to float16 makes subnormal numbers in any mode.
            Element::F16 => 2f64.powi(-24),
            Element::F64 => f64::MIN_POSITIVE,
            _ => f32::MIN_POSITIVE.into(),
        };
        Self::Exponential { scale: 1.0 / rate, least }
    }
}

/// `x` as a number of an element type.
fn rounded(element: Element, x: f64) -> f64 {
    match element {
        Element::F16 => f16::from_f64(x).to_f64(),
        Element::Bf16 => bf16::from_f64(x).to_f64(),
        Element::F64 => x,
        _ => (x as f32).into(),
    }
}

/// The next lower number of 16 bits.
fn stepped_down(bits: u16, number: impl Fn(u16) -> f64) -> f64 {
    const SIGN: u16 = 1 << 15;
    number(match bits {
        0 | SIGN => SIGN | 1,
        _ if bits & SIGN != 0 => bits + 1,
        _ => bits - 1,
    })
}

/// Draws the numbers of groups from `first` on, whose number is a multiple of four, in single precision.
pub(crate) fn singles(
    level: Level,
    schedule: &Schedule,
    distribution: Distribution,
    first: u64,
    numbers: &mut [[f32; GROUP]],
) {
    if let Distribution::Normal { mean, std } = distribution {
        normal::groups(level, schedule, first, numbers);
        return level.run(Affine { mean: mean as f32, std: std as f32, numbers: numbers.as_flattened_mut() });
    }
    let (mut high, mut low): (Words, Words) = ([[0; GROUP]; TOGETHER], [[0; GROUP]; TOGETHER]);
    for (at, numbers) in numbers.as_chunks_mut::<TOGETHER>().0.iter_mut().enumerate() {
        let first = first.wrapping_add((TOGETHER * at) as u64);
        let is_uniform = matches!(distribution, Distribution::Uniform { .. });
        digits(level, schedule, first, false, if is_uniform { 3 } else { 4 }, &mut high);
        if !is_uniform && level.run(Coarse(&high)) {
            digits(level, schedule, first, true, 4, &mut low);
        }
        level.run(Singles { distribution, high: &high, low: &low, numbers });
    }
}

/// `mean + std * z` in place.
struct Affine<'a> {
    mean: f32,
    std: f32,
    numbers: &'a mut [f32],
}

impl Kernel for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for z in self.numbers {
            *z = self.mean + self.std * *z;
        }
    }
}

struct Singles<'a> {
    distribution: Distribution,
    high: &'a Words,
    low: &'a Words,
    numbers: &'a mut [[f32; GROUP]; TOGETHER],
}

/// Where a tail's first word is below this, its second word counts as well: others are fine enough without.
const COARSE: u32 = 1 << 20;

/// Whether the second word of any counts.
struct Coarse<'a>(&'a Words);

impl Kernel for Coarse<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let mut least = u32::MAX;
        for word in self.0.as_flattened() {
            least = least.min(folded(*word));
        }
        least < COARSE
    }
}

impl Kernel for Singles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let numbers = self.numbers.as_flattened_mut();
        let words = self.high.as_flattened();
        match self.distribution {
            Distribution::Uniform { from, width, most, digits } => {
                let (unit, spare) = (1.0 / (1u32 << digits) as f32, u32::BITS - digits);
                let (from, width, most) = (from as f32, width as f32, most as f32);
                for (x, word) in numbers.iter_mut().zip(words) {
                    let y = from + width * ((word >> spare) as i32 as f32 * unit);
                    *x = if y > most { most } else { y };
                }
            }
            Distribution::Exponential { scale, least } => {
                let (scale, least) = ((0.5 * scale) as f32, least as f32);
                for ((x, high), low) in numbers.iter_mut().zip(words).zip(self.low.as_flattened()) {
                    let y = exponential(*high, *low) * scale;
                    *x = if y < least { least } else { y };
                }
            }
            Distribution::Normal { .. } => unreachable!("`singles` draws normal numbers"),
        }
    }
}

/// A number below one half, and the distance to 1 of the others, in units of 2^-32.
#[inline(always)]
fn folded(word: u32) -> u32 {
    if word >> 31 == 0 { word } else { !word }
}

/// -2 ln u, for u with these binary digits.
#[inline(always)]
fn exponential(high: u32, low: u32) -> f32 {
    let tail = folded(high);
    let low = if high >> 31 == 0 { low } else { !low };
    let fine = (low as f32 + 0.5) / 4_294_967_296.0;
    let t = tail as i32 as f32 + if tail < COARSE { fine } else { 0.5 };
    normal::minus_two_ln(t, high >> 31 == 1)
}

/// Draws the numbers of groups from `first` on, whose number is a multiple of four, in double precision, and
/// stores their bits.
pub(crate) fn doubles(
    level: Level,
    schedule: &Schedule,
    distribution: Distribution,
    first: u64,
    numbers: &mut [[u64; GROUP]],
) {
    for (at, four) in numbers.as_chunks_mut::<TOGETHER>().0.iter_mut().enumerate() {
        let first = first.wrapping_add((TOGETHER * at) as u64);
        if let Distribution::Normal { mean, std } = distribution {
            let mut normals = [[0.0; GROUP]; TOGETHER];
            normal::groups(level, schedule, first, &mut normals);
            for (x, z) in four.as_flattened_mut().iter_mut().zip(normals.as_flattened()) {
                *x = (mean + std * f64::from(*z)).to_bits();
            }
        } else {
            let mut uniforms = [[0; GROUP]; TOGETHER];
            uniform::groups(level, schedule, first, &mut uniforms);
            level.run(Doubles { distribution, uniforms: &uniforms, numbers: four });
        }
    }
}

struct Doubles<'a> {
    distribution: Distribution,
    uniforms: &'a [[u64; GROUP]; TOGETHER],
    numbers: &'a mut [[u64; GROUP]; TOGETHER],
}

impl Kernel for Doubles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let numbers = self.numbers.as_flattened_mut().iter_mut().zip(self.uniforms.as_flattened());
        match self.distribution {
            Distribution::Uniform { from, width, most, digits } => {
                let (unit, spare) = (1.0 / (1u64 << digits) as f64, u64::BITS - digits);
                for (x, uniform) in numbers {
                    let y = from + width * ((uniform >> spare) as i64 as f64 * unit);
                    *x = if y > most { most } else { y }.to_bits();
                }
            }
            Distribution::Exponential { scale, least } => {
                for (x, uniform) in numbers {
                    let y = minus_ln(*uniform) * scale;
                    *x = if y < least { least } else { y }.to_bits();
                }
            }
            Distribution::Normal { .. } => unreachable!("`doubles` draws normal numbers"),
        }
    }
}

// ln(1 + f) as in fdlibm's `e_log.c` (Sun Microsystems, 1993), accurate to an ulp: coefficients of
// (ln(1 + f) - f + f^2 / 2) / s - f^2 / 2 in powers of s^2, where s = f / (2 + f) and 1 + f is in [sqrt(1/2), sqrt(2)].
#[allow(clippy::excessive_precision, reason = "coefficients as they were published")]
const LOG: [f64; 7] = [
    6.666_666_666_666_735_13e-1,
    3.999_999_999_940_941_908e-1,
    2.857_142_874_366_239_149e-1,
    2.222_219_843_214_978_396e-1,
    1.818_357_216_161_805_012e-1,
    1.531_383_769_920_937_332e-1,
    1.479_819_860_511_658_591e-1,
];
/// ln 2 in two parts; small integers times the first one are exact.
#[allow(clippy::excessive_precision, reason = "as above")]
const LN_2: [f64; 2] = [6.931_471_803_691_238_164_90e-1, 1.908_214_929_270_587_700_02e-10];

/// -ln((uniform + 1/2) / 2^64).
#[inline(always)]
fn minus_ln(uniform: u64) -> f64 {
    const HALF: u64 = 0x3FE0_0000_0000_0000;
    const SIGNIFICAND: u64 = (1 << 52) - 1;
    let above_half = uniform >> 63 == 1;
    let t = (if above_half { !uniform } else { uniform }) as i64 as f64 + 0.5;
    // As in `normal`: u = (1 - w) / 2^halvings, with w at most 1/2. Then w becomes -f, and 1 + f is near 1.
    let m = f64::from_bits(t.to_bits() & SIGNIFICAND | HALF);
    let w = if above_half { t / 18_446_744_073_709_551_616.0 } else { 1.0 - m };
    let halvings = if above_half { 0 } else { 1086 - (t.to_bits() >> 52) as i64 } as f64;
    let twice = w > 1.0 - std::f64::consts::FRAC_1_SQRT_2;
    let f = if twice { 1.0 - (w + w) } else { -w };
    let halvings = if twice { halvings + 1.0 } else { halvings };
    let s = f / (2.0 + f);
    let z = s * s;
    let z2 = z * z;
    let c = LOG;
    let odd = z * (c[0] + z2 * (c[2] + z2 * (c[4] + z2 * c[6])));
    let even = z2 * (c[1] + z2 * (c[3] + z2 * c[5]));
    let square = 0.5 * f * f;
    let ln = f - (square - s * (square + (odd + even)));
    halvings * LN_2[0] + (halvings * LN_2[1] - ln)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniforms of all magnitudes, near 0 and near 1.
    fn uniforms() -> impl Iterator<Item = u64> {
        let below = (0..64).flat_map(|shift| [u64::MAX, 0xB504_F333_F9DE_6484, 1 << 63].map(|word| word >> shift));
        below.chain([0]).flat_map(|word| [word, !word])
    }

    /// -ln u by the standard library, from the side where u is fine.
    fn expected(uniform: u64) -> f64 {
        let tail = |word: u64| (word as f64 + 0.5) / 2f64.powi(64);
        if uniform >> 63 == 0 { -tail(uniform).ln() } else { -(-tail(!uniform)).ln_1p() }
    }

    #[test]
    fn logarithms_are_those_of_the_formula() {
        for uniform in uniforms() {
            let got = minus_ln(uniform);
            assert!((got / expected(uniform) - 1.0).abs() < 4e-16, "{uniform:#x}: {got}");
            let got = 0.5 * f64::from(exponential((uniform >> 32) as u32, uniform as u32));
            assert!((got / expected(uniform) - 1.0).abs() < 1e-6, "{uniform:#x}: {got}");
            assert!(got > 0.0);
        }
    }

    #[test]
    fn uniform_numbers_stay_below_the_upper_bound_in_every_type() {
        for element in [Element::F16, Element::Bf16, Element::F32, Element::F64] {
            for (from, to) in [(0.0, 1.0), (-1.0, 0.0), (1.0, 1.0625), (-3.0, 5.0), (0.0, 1e-30), (2.0, 2.0)] {
                let Distribution::Uniform { from, width, most, .. } = Distribution::uniform(element, from, to) else {
                    panic!("not uniform");
                };
                let to = from + width;
                assert!(if from == to { most == to } else { from <= most && most < to }, "{element:?}");
                assert_eq!(rounded(element, most), most, "{element:?}");
                assert_eq!(rounded(element, (most + to) / 2.0 + (to - most) / 4.0), to, "{element:?}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_uniforms_at_every_level() {
        let schedule = Schedule::new(*b"sixteen bytes...");
        let mut uniforms = [[0; GROUP]; 8];
        uniform::groups(Level::portable(), &schedule, u64::MAX - 2, &mut uniforms);
        let unit = Distribution::uniform(Element::F32, 0.0, 1.0);
        let waiting = Distribution::exponential(Element::F32, 1.0);
        for level in Level::available() {
            let mut again = [[0; GROUP]; 8];
            uniform::groups(level, &schedule, u64::MAX - 2, &mut again);
            assert!(again == uniforms, "{level:?}");
            for distribution in [unit, waiting] {
                let mut numbers = [[0.0; GROUP]; 8];
                singles(level, &schedule, distribution, u64::MAX - 2, &mut numbers);
                for (x, uniform) in numbers.as_flattened().iter().zip(uniforms.as_flattened()) {
                    let (high, low) = ((uniform >> 32) as u32, *uniform as u32);
                    let expected = if distribution == unit {
                        (high >> 8) as f32 / 16_777_216.0
                    } else {
                        0.5 * exponential(high, low)
                    };
                    assert!(*x == expected, "{level:?}: {x} for {uniform:#x}");
                }
            }
        }
    }
}
