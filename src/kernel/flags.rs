//! Results of Bernoulli draws in elements of any type: the bits of a one where an element is drawn, else 0.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Memory, Run};
use crate::simd::{Kernel, Simd, WORD};
use crate::words::{from_bytes, word_at};

/// Writes a run: `one` where the bit of `words`, from bit `offset` on, is not set. `words` must have a spare word.
///
/// # Safety
/// See [`super::Operation::run`].
#[inline(never)] // the frame of calls that only drop stays small
pub(super) unsafe fn run(memory: &Memory, one: u64, words: &[u64], offset: usize, run: &Run<'_>) {
    assert!(offset + run.len <= (words.len() - 1) * 64 || run.len == 0);
    let (size, step, first) = (run.operands.element().size(), run.steps[0], run.address(0));
    for at in (0..run.len).step_by(WORD) {
        let len = WORD.min(run.len - at);
        let to = first.wrapping_offset(at as isize * step);
        // SAFETY: the caller guarantees `len` elements from `to` on.
        unsafe { write(memory, one, !word_at(words, offset + at), size, to, step, len) };
    }
}

/// Writes a run: `one` where a uniform is below the probability in the first input.
///
/// # Safety
/// See [`super::Operation::run`].
#[inline(never)] // the frame of calls that only drop stays small
pub(super) unsafe fn below(memory: &Memory, one: u64, uniforms: &[u64], run: &Run<'_>) {
    assert!(uniforms.len() == run.len || uniforms.len() == 1);
    let (size, step, first) = (run.operands.element().size(), run.steps[0], run.address(0));
    let mut p = [0.0f64; WORD];
    let mut word = [uniforms[0]; WORD];
    for at in (0..run.len).step_by(WORD) {
        let len = WORD.min(run.len - at);
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        // SAFETY: `at + len` is at most the run's length, and the caller guarantees its elements.
        unsafe { run.layout(1).load(place(1), 1, &mut p[..len]) };
        if uniforms.len() > 1 {
            word[..len].copy_from_slice(&uniforms[at..at + len]);
        }
        let bits = memory.level.run(Compare { p: &p, uniforms: &word });
        // SAFETY: as above.
        unsafe { write(memory, one, bits, size, first.wrapping_offset(at as isize * step), step, len) };
    }
}

/// Whether each uniform is below p 2^64, as bits.
struct Compare<'a> {
    p: &'a [f64; WORD],
    uniforms: &'a [u64; WORD],
}

impl Kernel for Compare<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let mut bytes = [0; WORD];
        for ((byte, p), uniform) in bytes.iter_mut().zip(self.p).zip(self.uniforms) {
            // No uniform is too large for p = 1.
            *byte = u8::from(*uniform < threshold(*p)) | u8::from(*p >= 1.0);
        }
        from_bytes(&bytes)
    }
}

/// floor(p 2^64), for a p in [0, 1). No CPU before AVX-512 converts vectors of doubles to integers of 64 bits.
#[inline(always)]
fn threshold(p: f64) -> u64 {
    const DIGITS: u32 = f64::MANTISSA_DIGITS - 1;
    let bits = p.to_bits();
    // In [1/2, 1), the exponent is 1022 and the significand shifted to the top is p 2^64.
    let significand = (bits | 1 << DIGITS) << (u64::BITS - 1 - DIGITS);
    let shift = 1022u64.wrapping_sub(bits >> DIGITS);
    if shift < 64 { significand >> (shift & 63) } else { 0 }
}

/// Clears `valid` unless every element of a run is a probability.
///
/// # Safety
/// See [`super::Operation::run`].
#[inline(never)] // the frame of calls that only drop stays small
pub(super) unsafe fn check(memory: &Memory, valid: &AtomicBool, run: &Run<'_>) {
    let mut p = [0.0f64; WORD];
    for at in (0..run.len).step_by(WORD) {
        let len = WORD.min(run.len - at);
        let place = run.address(0).wrapping_offset(at as isize * run.steps[0]);
        // SAFETY: `at + len` is at most the run's length, and the caller guarantees its elements.
        unsafe { run.layout(0).load(place, 1, &mut p[..len]) };
        if !memory.level.run(Within(&p[..len])) {
            valid.store(false, Ordering::Relaxed);
        }
    }
}

struct Within<'a>(&'a [f64]);

impl Kernel for Within<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        // NaN is in no interval.
        let mut all = true;
        for p in self.0 {
            all &= (*p >= 0.0) & (*p <= 1.0);
        }
        all
    }
}

/// Writes `len` elements, a word at most: `one` where the bit is set.
///
/// # Safety
/// They must be writeable from `to` on.
unsafe fn write(memory: &Memory, one: u64, bits: u64, size: usize, to: *mut u8, step: isize, len: usize) {
    // SAFETY: the obligations are the same, for elements of this size.
    unsafe {
        match size {
            1 => write_as::<u8>(memory, one as u8, bits, to, step, len),
            2 => write_as::<u16>(memory, one as u16, bits, to, step, len),
            4 => write_as::<u32>(memory, one as u32, bits, to, step, len),
            _ => write_as::<u64>(memory, one, bits, to, step, len),
        }
    }
}

/// # Safety
/// See [`write()`].
unsafe fn write_as<T: Copy + Default>(memory: &Memory, one: T, bits: u64, to: *mut u8, step: isize, len: usize)
where
    Spread<T>: Kernel,
{
    let to = to.cast::<T>();
    if len == WORD && step == size_of::<T>() as isize {
        memory.level.run(Spread { one, bits, to });
        return;
    }
    for i in 0..len {
        let value = if bits >> i & 1 == 1 { one } else { T::default() };
        // SAFETY: the caller guarantees each element.
        unsafe { to.byte_offset(i as isize * step).write_unaligned(value) };
    }
}

/// A word of contiguous elements. Only [`write_as`] makes one.
struct Spread<T> {
    one: T,
    bits: u64,
    to: *mut T,
}

macro_rules! spread {
    ($($type:ty, $part:ty);+) => {$(
        impl Kernel for Spread<$type> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                const PART: usize = <$part>::BITS as usize;
                let mut elements: [$type; WORD] = [0; WORD];
                for (part, elements) in elements.chunks_exact_mut(PART).enumerate() {
                    let bits = (self.bits >> (part * PART)) as $part;
                    for (i, element) in elements.iter_mut().enumerate() {
                        *element = if bits & 1 << i != 0 { self.one } else { 0 };
                    }
                }
                // SAFETY: `write_as`, which made this, guarantees a word of elements.
                unsafe { self.to.cast::<[$type; WORD]>().write_unaligned(elements) };
            }
        }
    )+};
}
spread!(u8, u8; u16, u16; u32, u32; u64, u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::bernoulli::{Probability, Threshold};

    #[test]
    fn thresholds_are_those_of_one_probability_for_all() {
        for shift in 0..1080 {
            for p in [0.5, 0.75, 0.3, 1.0 - f64::EPSILON / 2.0]
                .map(|p| p * 2f64.powi(-shift / 2) * 2f64.powi(shift / 2 - shift))
            {
                let expected = match Probability::new(p).unwrap().threshold() {
                    Threshold::Below(threshold) => threshold,
                    _ => 0,
                };
                assert_eq!(threshold(p), expected, "{p:e}");
            }
        }
        assert_eq!(threshold(0.0), 0);
    }
}
