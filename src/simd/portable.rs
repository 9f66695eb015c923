//! Plain arrays, which the compiler vectorises for its target.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Floats, Halves, Kernel, LANES, Simd, WORD, aes};

/// Token of the level that every CPU has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> u64) -> [u64; LANES] {
    let mut result = [0; LANES];
    for (lane, word) in result.iter_mut().enumerate() {
        *word = f(lane);
    }
    result
}

#[inline(always)]
fn blocks(a: [u64; LANES], b: [u64; LANES], f: impl Fn(aes::Block, aes::Block) -> aes::Block) -> [u64; LANES] {
    let mut result = [0; LANES];
    for i in (0..LANES).step_by(2) {
        [result[i], result[i + 1]] = f([a[i], a[i + 1]], [b[i], b[i + 1]]);
    }
    result
}

/// Units of two vectors by turns, block by block.
#[inline(always)]
fn zipped<const UNIT: usize>(a: [u64; LANES], b: [u64; LANES]) -> [[u64; LANES]; 2] {
    // A half of a block's result comes from as many bits of each operand: `which` quarter of the result is `half`.
    let half = |word: u64, other: u64, quarter: u32| {
        let [a, b] = [word, other].map(|word| (word >> (32 * quarter) as u64 & 0xFFFF_FFFF).to_le_bytes());
        let mut bytes = [0; 8];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let from = i / (2 * UNIT) * UNIT + i % UNIT;
            *byte = if (i / UNIT).is_multiple_of(2) { a[from] } else { b[from] };
        }
        u64::from_le_bytes(bytes)
    };
    [0, 1].map(|high| {
        lanes(|i| match UNIT {
            8 => [a, b][i % 2][i / 2 * 2 + high],
            _ => half(a[i / 2 * 2 + high], b[i / 2 * 2 + high], (i % 2) as u32),
        })
    })
}

/// Reads a word of elements, and writes each as `f(element)` or as all-zero bits.
///
/// # Safety
/// See [`Simd`]'s methods on elements.
#[inline(always)]
unsafe fn select<T: Copy + Default>(keep: u64, src: *const T, dst: *mut T, f: impl Fn(T) -> T) {
    // SAFETY: the caller guarantees WORD elements at `src`; unaligned reads need no more.
    let mut elements = unsafe { src.cast::<[T; WORD]>().read_unaligned() };
    for (half, elements) in elements.chunks_exact_mut(WORD / 2).enumerate() {
        let keep = (keep >> (half * WORD / 2)) as u32;
        for (i, element) in elements.iter_mut().enumerate() {
            let new = f(*element);
            *element = if keep & 1 << i == 0 { T::default() } else { new };
        }
    }
    // SAFETY: the caller guarantees WORD elements at `dst`; unaligned writes need no more.
    unsafe { dst.cast::<[T; WORD]>().write_unaligned(elements) };
}

impl Simd for Portable {
    type V = [u64; LANES];

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    operations! {
        splat(x: u64) -> Self::V = [x; LANES];
        splat_pair(block: [u64; 2]) -> Self::V = lanes(|i| block[i % 2]);
        load(from: &[u64; LANES]) -> Self::V = *from;
        to_array(a: Self::V) -> [u64; LANES] = a;
        add(a: Self::V, b: Self::V) -> Self::V = lanes(|i| a[i].wrapping_add(b[i]));
        and(a: Self::V, b: Self::V) -> Self::V = lanes(|i| a[i] & b[i]);
        xor(a: Self::V, b: Self::V) -> Self::V = lanes(|i| a[i] ^ b[i]);
        left(a: Self::V, by: i32) -> Self::V = lanes(|i| a[i] << by);
        right(a: Self::V, by: i32) -> Self::V = lanes(|i| a[i] >> by);
        zip_8(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped::<1>(a, b);
        zip_16(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped::<2>(a, b);
        zip_32(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped::<4>(a, b);
        zip_64(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped::<8>(a, b);
        aes_round(a: Self::V, key: Self::V) -> Self::V = blocks(a, key, aes::round);
        aes_last_round(a: Self::V, key: Self::V) -> Self::V = blocks(a, key, aes::last_round);
        any(a: Self::V) -> bool = a.into_iter().fold(0, |all, word| all | word) != 0;
    }

    #[inline(always)]
    unsafe fn select_f32<const STREAM: bool>(self, keep: u64, src: *const f32, dst: *mut f32, scale: f32) {
        // SAFETY: the obligations are the same.
        unsafe { select(keep, src, dst, |x| x * scale) }
    }
    #[inline(always)]
    unsafe fn select_f64<const STREAM: bool>(self, keep: u64, src: *const f64, dst: *mut f64, scale: f64) {
        // SAFETY: the obligations are the same.
        unsafe { select(keep, src, dst, |x| x * scale) }
    }
    #[inline(always)]
    unsafe fn select_f16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        let scaled = |x| f16::from_f32(f16::from_bits(x).to_f32() * scale).to_bits();
        // SAFETY: the obligations are the same.
        unsafe { select(keep, src, dst, scaled) }
    }
    #[inline(always)]
    unsafe fn select_bf16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        let scaled = |x| bf16::from_f32(bf16::from_bits(x).to_f32() * scale).to_bits();
        // SAFETY: the obligations are the same.
        unsafe { select(keep, src, dst, scaled) }
    }
}

/// Floats of one precision in an array.
macro_rules! floats {
    ($float:ty, $count:literal, $digits:literal) => {
        impl Floats<$float> for Portable {
            type F = [$float; $count];
            const LANES: usize = $count;
            const MANY_REGISTERS: bool = false;

            operations! {
                splat_float(x: $float) -> Self::F = [x; $count];
                plus(a: Self::F, b: Self::F) -> Self::F = std::array::from_fn(|i| a[i] + b[i]);
                minus(a: Self::F, b: Self::F) -> Self::F = std::array::from_fn(|i| a[i] - b[i]);
                times(a: Self::F, b: Self::F) -> Self::F = std::array::from_fn(|i| a[i] * b[i]);
                fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = std::array::from_fn(|i| a[i].mul_add(b[i], c[i]));
                larger(a: Self::F, b: Self::F) -> Self::F =
                    std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] });
                kept(bits: u32, a: Self::F) -> Self::F =
                    std::array::from_fn(|i| if bits & 1 << i == 0 { 0.0 } else { a[i] });
                either(bits: u32, a: Self::F, b: Self::F) -> Self::F =
                    std::array::from_fn(|i| if bits & 1 << i == 0 { b[i] } else { a[i] });
                scaled_by_power(y: Self::F, n: Self::F) -> Self::F =
                    std::array::from_fn(|i| <$float>::from_bits(y[i].to_bits().wrapping_add(n[i].to_bits() << $digits)));
            }
            #[inline(always)]
            unsafe fn load_floats(self, from: *const $float) -> Self::F {
                // SAFETY: the caller guarantees the floats.
                unsafe { from.cast::<Self::F>().read() }
            }
            #[inline(always)]
            unsafe fn store_floats(self, to: *mut $float, a: Self::F) {
                // SAFETY: the caller guarantees the floats.
                unsafe { to.cast::<Self::F>().write(a) };
            }
        }
    };
}
floats!(f32, 16, 23);
floats!(f64, 8, 52);

/// Makes methods of [`Halves`] for one kind of half.
macro_rules! halves {
    ($half:ty, $load:ident, $store:ident) => {
        #[inline(always)]
        unsafe fn $load(self, from: *const $half) -> [f32; 16] {
            let mut a = [0.0; 16];
            // SAFETY: the caller guarantees the elements.
            unsafe { from.cast::<[$half; 16]>().read() }.convert_to_f32_slice(&mut a);
            a
        }
        #[inline(always)]
        unsafe fn $store(self, to: *mut $half, a: [f32; 16]) {
            let mut halves = [<$half>::ZERO; 16];
            halves.convert_from_f32_slice(&a);
            // SAFETY: the caller guarantees the elements.
            unsafe { to.cast::<[$half; 16]>().write(halves) };
        }
    };
}

impl Halves for Portable {
    halves!(f16, load_f16, store_f16);
    halves!(bf16, load_bf16, store_bf16);
}
