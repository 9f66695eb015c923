//! Applying masks to slices of every element type, against the definition in one line: kept ? x * scale : 0.

use std::sync::Mutex;

use fastdrop::{Error, Float, Key, Level, Mask, set_num_threads};
use half::{bf16, f16};

const KEY: Key = Key::from_bytes([7; 16]);
/// A scale that no precision represents exactly.
const SCALE: f64 = 10.0 / 9.0;

/// Lengths around the edges of a word, a group, a vector of groups, a tile, a unit, and the length that wakes the
/// threads.
const LENGTHS: [usize; 20] = [
    0, 1, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 8191, 8192, 8193, 65_535, 65_537, 262_143, 262_145, 300_000,
    4_200_000,
];

/// Level and threads are settings of the process; tests that change them take turns.
static TURN: Mutex<()> = Mutex::new(());

fn check<T: Float + std::fmt::Debug>(
    make: impl Fn(usize) -> T,
    zero: T,
    scaled: impl Fn(T) -> T,
    same: impl Fn(T, T) -> bool,
) {
    let _turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
    for len in LENGTHS {
        let x: Vec<T> = (0..len).map(&make).collect();
        let mask = Mask::new(&[len as u64], 0.25, KEY).unwrap();
        let mut bits = vec![0; len.div_ceil(8)];
        mask.packbits(&mut bits).unwrap();
        for (level, threads) in Level::available().zip([3, 1, 2].into_iter().cycle()) {
            level.set_current();
            set_num_threads(threads).unwrap();
            // The output starts at the second element, so that the test takes no alignment for granted.
            let mut out = vec![zero; len + 1];
            let out = &mut out[1..];
            mask.apply(&x, out, Some(SCALE)).unwrap();
            let mut in_place = x.clone();
            mask.apply_in_place(&mut in_place, Some(SCALE)).unwrap();
            for i in 0..len {
                let expected = if bits[i / 8] >> (i % 8) & 1 == 1 { scaled(x[i]) } else { zero };
                assert!(same(out[i], expected), "{level:?} element {i} of {len}: {:?}, not {expected:?}", out[i]);
                assert!(same(in_place[i], expected), "{level:?} in place, element {i} of {len}");
            }
        }
    }
}

/// Values of both signs, with NaN, infinities and zeros among them.
fn value(i: usize) -> f64 {
    match i % 97 {
        3 => f64::NAN,
        5 => f64::INFINITY,
        7 => f64::NEG_INFINITY,
        11 => -0.0,
        _ => (i as f64 * 0.618).fract() * 8.0 - 4.0,
    }
}

#[test]
fn float32_is_rounded_once() {
    check(
        |i| value(i) as f32,
        0.0,
        |x| x * SCALE as f32,
        |a: f32, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
    );
}

#[test]
fn float64_is_rounded_once() {
    check(value, 0.0, |x| x * SCALE, |a: f64, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
}

#[test]
fn float16_is_rounded_once() {
    check(
        |i| f16::from_f64(value(i)),
        f16::ZERO,
        |x| f16::from_f32(x.to_f32() * SCALE as f32),
        |a: f16, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
    );
}

#[test]
fn bfloat16_is_rounded_once() {
    check(
        |i| bf16::from_f64(value(i)),
        bf16::ZERO,
        |x| bf16::from_f32(x.to_f32() * SCALE as f32),
        |a: bf16, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
    );
}

#[cfg(feature = "num-complex")]
#[test]
fn both_parts_of_a_complex_number_share_a_bit() {
    use num_complex::Complex;

    check(
        |i| Complex::new(value(i) as f32, value(i + 1) as f32),
        Complex::new(0.0, 0.0),
        |x| Complex::new(x.re * SCALE as f32, x.im * SCALE as f32),
        |a: Complex<f32>, b| {
            [(a.re, b.re), (a.im, b.im)].iter().all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
        },
    );
    check(
        |i| Complex::new(value(i), value(i + 1)),
        Complex::new(0.0, 0.0),
        |x| Complex::new(x.re * SCALE, x.im * SCALE),
        |a: Complex<f64>, b| {
            [(a.re, b.re), (a.im, b.im)].iter().all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
        },
    );
}

#[test]
fn every_16_bit_value_is_rounded_as_defined() {
    let _turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
    let x: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let y: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let mask = Mask::new(&[1 << 16], 0.0, KEY).unwrap();
    for level in Level::available() {
        level.set_current();
        for scale in [1.0, 10.0 / 9.0, 2.0, 0.3] {
            let (mut halves, mut bhalves) = (x.clone(), y.clone());
            mask.apply_in_place(&mut halves, Some(scale)).unwrap();
            mask.apply_in_place(&mut bhalves, Some(scale)).unwrap();
            for i in 0..x.len() {
                let expected = f16::from_f32(x[i].to_f32() * scale as f32);
                assert!(
                    halves[i].to_bits() == expected.to_bits() || x[i].is_nan() && halves[i].is_nan(),
                    "{level:?} {}",
                    x[i]
                );
                let expected = bf16::from_f32(y[i].to_f32() * scale as f32);
                assert!(
                    bhalves[i].to_bits() == expected.to_bits() || y[i].is_nan() && bhalves[i].is_nan(),
                    "{level:?} {}",
                    y[i]
                );
            }
        }
    }
}

#[test]
fn all_dropped_is_zero_without_nan() {
    let mask = Mask::new(&[3], 1.0, KEY).unwrap();
    let mut y = [1.0f32; 3];
    mask.apply(&[f32::NAN, -1.0, f32::INFINITY], &mut y, None).unwrap();
    assert_eq!(y.map(f32::to_bits), [0; 3]);
}

#[test]
fn a_scale_or_deviation_that_is_not_finite_is_refused() {
    let mask = Mask::new(&[2], 0.5, KEY).unwrap();
    let mut x = [7.0f32; 2];
    for number in [f64::NAN, f64::INFINITY] {
        let scaled = mask.apply_in_place(&mut x, Some(number));
        assert!(matches!(scaled, Err(Error::NotFinite { what: "scale", .. })));
        let noisy = mask.gaussian(number, &[1.0; 2], &mut x);
        assert!(matches!(noisy, Err(Error::NotFinite { what: "std", .. })));
    }
    assert_eq!(x, [7.0; 2]);
}

#[test]
fn slices_of_another_size_are_refused() {
    let mask = Mask::new(&[2, 2], 0.5, KEY).unwrap();
    let mut out = [7.0f32; 4];
    assert!(matches!(mask.apply(&[1.0; 3], &mut out, None), Err(Error::Length { what: "x", .. })));
    assert_eq!(out, [7.0; 4]);
    assert!(matches!(mask.apply(&[1.0; 4], &mut [0.0f32; 5], None), Err(Error::Length { what: "out", .. })));
}
