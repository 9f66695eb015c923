//! AVX2 (with FMA, AES-NI and F16C): eight 64-bit lanes are two registers. With VAES, a register's two
//! blocks go through an AES round together.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Floats, Halves, Kernel, LANES, Simd, WORD};

/// Token of a CPU with AVX2, FMA, AES-NI and F16C, and with VAES if `VAES`; only [`Avx2::detect`] makes
/// one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2<const VAES: bool>(());

impl<const VAES: bool> Avx2<VAES> {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("f16c")
            && (!VAES || is_x86_feature_detected!("vaes"));
        all.then_some(Self(()))
    }
}

/// Applies the code for one register to both.
///
/// A macro, because the compiler would not compile a closure with the level's instructions.
macro_rules! both {
    ($f:ident($($a:ident),+)) => {
        [$f($($a[0]),+), $f($($a[1]),+)]
    };
}

/// Applies the code for one block to all four.
macro_rules! blocks {
    ($f:ident($a:ident, $key:ident)) => {{
        let mut result = $a;
        for (a, key) in result.iter_mut().zip($key) {
            let low = $f(_mm256_castsi256_si128(*a), _mm256_castsi256_si128(key));
            let high = $f(_mm256_extracti128_si256::<1>(*a), _mm256_extracti128_si256::<1>(key));
            *a = _mm256_set_m128i(high, low);
        }
        result
    }};
}

/// The keep bit that each 32-bit lane tests, in the N vectors that hold half a word of elements. An element spans `PER`
/// lanes.
const fn lane_bits<const N: usize, const PER: usize>() -> [[u32; 8]; N] {
    let mut bits = [[0; 8]; N];
    let mut vector = 0;
    while vector < N {
        let mut lane = 0;
        while lane < 8 {
            bits[vector][lane] = 1 << ((vector * 8 + lane) / PER);
            lane += 1;
        }
        vector += 1;
    }
    bits
}
/// Bits of 32 float32 in four vectors.
static BITS_32: [[u32; 8]; 4] = lane_bits::<4, 1>();
/// Bits of 32 float64 in eight vectors.
static BITS_64: [[u32; 8]; 8] = lane_bits::<8, 2>();

/// All ones in the lanes whose bit in `half` is 0.
#[inline(always)]
fn dropped_lanes<const VAES: bool>(_: Avx2<VAES>, half: __m256i, bits: &[u32; 8]) -> __m256i {
    // SAFETY: the token proves AVX2, and `bits` is 32 bytes.
    unsafe {
        let bits = _mm256_loadu_si256(bits.as_ptr().cast());
        _mm256_cmpeq_epi32(_mm256_and_si256(half, bits), _mm256_setzero_si256())
    }
}

#[inline(always)]
fn splat_half<const VAES: bool>(_: Avx2<VAES>, keep: u64, half: usize) -> __m256i {
    // SAFETY: the token proves AVX2.
    unsafe { _mm256_set1_epi32((keep >> (32 * half)) as i32) }
}

/// A bit for each of sixteen 16-bit lanes.
static BITS_16: [u16; 16] = {
    let mut bits = [0; 16];
    let mut lane = 0;
    while lane < 16 {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// Selects a word of float16 or bfloat16, sixteen at a time: `scaled`, or zero where dropped.
///
/// # Safety
/// See [`Simd`]'s methods on elements.
#[inline(always)]
unsafe fn select_16<const VAES: bool, const STREAM: bool>(
    _: Avx2<VAES>,
    keep: u64,
    src: *const u16,
    dst: *mut u16,
    scaled: impl Fn(__m256i) -> __m256i,
) {
    for at in (0..WORD).step_by(16) {
        // SAFETY: `at + 16 <= WORD`, and the caller guarantees WORD elements and the alignment; the token proves
        // AVX2.
        unsafe {
            let lanes =
                _mm256_and_si256(_mm256_set1_epi16((keep >> at) as i16), _mm256_loadu_si256(BITS_16.as_ptr().cast()));
            let dropped = _mm256_cmpeq_epi16(lanes, _mm256_setzero_si256());
            let y = _mm256_andnot_si256(dropped, scaled(_mm256_loadu_si256(src.add(at).cast())));
            if STREAM {
                _mm256_stream_si256(dst.add(at).cast(), y);
            } else {
                _mm256_storeu_si256(dst.add(at).cast(), y);
            }
        }
    }
}

#[inline(always)]
fn scaled_f16<const VAES: bool>(_: Avx2<VAES>, x: __m128i, scale: f32) -> __m128i {
    // SAFETY: the token proves AVX2 and F16C.
    unsafe {
        let y = _mm256_mul_ps(_mm256_cvtph_ps(x), _mm256_set1_ps(scale));
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(y)
    }
}

/// Products, rounded to bfloat16 in the high half of each 32-bit lane; the low halves are unspecified. A NaN's low half
/// is zero here, so that nothing carries out of it.
#[inline(always)]
fn scaled_bf16<const VAES: bool>(simd: Avx2<VAES>, x: __m256i, scale: f32) -> __m256i {
    // SAFETY: the token proves AVX2.
    rounded_bf16(simd, unsafe { _mm256_mul_ps(_mm256_castsi256_ps(x), _mm256_set1_ps(scale)) })
}

/// Numbers rounded to bfloat16 in the high half of each 32-bit lane; the low halves are unspecified. A NaN may become
/// infinite if its low half is not zero.
#[inline(always)]
fn rounded_bf16<const VAES: bool>(_: Avx2<VAES>, y: __m256) -> __m256i {
    // SAFETY: the token proves AVX2.
    unsafe {
        // Adds just under half an ulp, plus the last kept bit: ties go to even.
        let y = _mm256_castps_si256(y);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(y), _mm256_set1_epi32(1));
        _mm256_add_epi32(y, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)))
    }
}

#[inline(always)]
fn as_floats(a: __m256i) -> __m256 {
    // SAFETY: a cast of bits, no instruction.
    unsafe { _mm256_castsi256_ps(a) }
}

impl<const VAES: bool> Simd for Avx2<VAES> {
    type V = [__m256i; 2];

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        /// # Safety
        /// The CPU must have AVX2, FMA, AES and F16C.
        #[target_feature(enable = "avx2,fma,aes,f16c")]
        fn inner<const VAES: bool, K: Kernel>(simd: Avx2<VAES>, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        /// # Safety
        /// The CPU must have AVX2, FMA, AES, F16C and VAES.
        #[target_feature(enable = "avx2,fma,aes,f16c,vaes")]
        fn with_vaes<const VAES: bool, K: Kernel>(simd: Avx2<VAES>, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token proves the features.
        unsafe { if VAES { with_vaes(self, kernel) } else { inner(self, kernel) } }
    }

    operations! {
        splat(x: u64) -> Self::V = [_mm256_set1_epi64x(x as i64); 2];
        splat_pair(block: [u64; 2]) -> Self::V =
            [_mm256_broadcastsi128_si256(_mm_set_epi64x(block[1] as i64, block[0] as i64)); 2];
        load(from: &[u64; LANES]) -> Self::V = [0, 4].map(|at| _mm256_loadu_si256(from.as_ptr().add(at).cast()));
        to_array(a: Self::V) -> [u64; LANES] = std::mem::transmute(a);
        add(a: Self::V, b: Self::V) -> Self::V = both!(_mm256_add_epi64(a, b));
        and(a: Self::V, b: Self::V) -> Self::V = both!(_mm256_and_si256(a, b));
        xor(a: Self::V, b: Self::V) -> Self::V = both!(_mm256_xor_si256(a, b));
        left(a: Self::V, by: i32) -> Self::V = {
            let by = [_mm_cvtsi32_si128(by); 2];
            both!(_mm256_sll_epi64(a, by))
        };
        right(a: Self::V, by: i32) -> Self::V = {
            let by = [_mm_cvtsi32_si128(by); 2];
            both!(_mm256_srl_epi64(a, by))
        };
        zip_8(a: Self::V, b: Self::V) -> [Self::V; 2] =
            [both!(_mm256_unpacklo_epi8(a, b)), both!(_mm256_unpackhi_epi8(a, b))];
        zip_16(a: Self::V, b: Self::V) -> [Self::V; 2] =
            [both!(_mm256_unpacklo_epi16(a, b)), both!(_mm256_unpackhi_epi16(a, b))];
        zip_32(a: Self::V, b: Self::V) -> [Self::V; 2] =
            [both!(_mm256_unpacklo_epi32(a, b)), both!(_mm256_unpackhi_epi32(a, b))];
        zip_64(a: Self::V, b: Self::V) -> [Self::V; 2] =
            [both!(_mm256_unpacklo_epi64(a, b)), both!(_mm256_unpackhi_epi64(a, b))];
        aes_round(a: Self::V, key: Self::V) -> Self::V =
            if VAES { both!(_mm256_aesenc_epi128(a, key)) } else { blocks!(_mm_aesenc_si128(a, key)) };
        aes_last_round(a: Self::V, key: Self::V) -> Self::V =
            if VAES { both!(_mm256_aesenclast_epi128(a, key)) } else { blocks!(_mm_aesenclast_si128(a, key)) };
        any(a: Self::V) -> bool = {
            let a = _mm256_or_si256(a[0], a[1]);
            _mm256_testz_si256(a, a) == 0
        };
        prefetch(address: *const u8) -> () = _mm_prefetch::<_MM_HINT_T0>(address.cast());
        prefetch_write(address: *const u8) -> () = _mm_prefetch::<_MM_HINT_ET0>(address.cast());
        fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    unsafe fn select_f32<const STREAM: bool>(self, keep: u64, src: *const f32, dst: *mut f32, scale: f32) {
        for half in 0..2 {
            let lanes = splat_half(self, keep, half);
            for (vector, bits) in BITS_32.iter().enumerate() {
                let at = half * WORD / 2 + vector * 8;
                let dropped = as_floats(dropped_lanes(self, lanes, bits));
                // SAFETY: `at + 8 <= WORD`, and the caller guarantees WORD elements and the alignment; the token
                // proves AVX2.
                unsafe {
                    let x = _mm256_mul_ps(_mm256_loadu_ps(src.add(at)), _mm256_set1_ps(scale));
                    let y = _mm256_andnot_ps(dropped, x);
                    if STREAM {
                        _mm256_stream_ps(dst.add(at), y);
                    } else {
                        _mm256_storeu_ps(dst.add(at), y);
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn select_f64<const STREAM: bool>(self, keep: u64, src: *const f64, dst: *mut f64, scale: f64) {
        for half in 0..2 {
            let lanes = splat_half(self, keep, half);
            for (vector, bits) in BITS_64.iter().enumerate() {
                let at = half * WORD / 2 + vector * 4;
                let dropped = dropped_lanes(self, lanes, bits);
                // SAFETY: `at + 4 <= WORD`, and the caller guarantees WORD elements and the alignment; the token
                // proves AVX2.
                unsafe {
                    let x = _mm256_mul_pd(_mm256_loadu_pd(src.add(at)), _mm256_set1_pd(scale));
                    let y = _mm256_andnot_pd(_mm256_castsi256_pd(dropped), x);
                    if STREAM {
                        _mm256_stream_pd(dst.add(at), y);
                    } else {
                        _mm256_storeu_pd(dst.add(at), y);
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn select_f16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        // SAFETY: the token proves F16C; the other obligations are the same.
        unsafe {
            select_16::<VAES, STREAM>(
                self,
                keep,
                src,
                dst,
                #[inline(always)]
                |x| {
                    let low = scaled_f16(self, _mm256_castsi256_si128(x), scale);
                    _mm256_set_m128i(scaled_f16(self, _mm256_extracti128_si256::<1>(x), scale), low)
                },
            );
        }
    }
    #[inline(always)]
    unsafe fn select_bf16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        // SAFETY: the token proves AVX2; the other obligations are the same.
        unsafe {
            select_16::<VAES, STREAM>(
                self,
                keep,
                src,
                dst,
                // Even elements are the low halves of 32-bit lanes, and odd ones the high halves. Products return to
                // the same halves.
                #[inline(always)]
                |x| {
                    let even = scaled_bf16(self, _mm256_slli_epi32::<16>(x), scale);
                    let odd = scaled_bf16(self, _mm256_and_si256(x, _mm256_set1_epi32(!0 << 16)), scale);
                    _mm256_blend_epi16::<0xAA>(_mm256_srli_epi32::<16>(even), odd)
                },
            );
        }
    }

    #[inline(always)]
    unsafe fn stream_zeros(self, dst: *mut u8) {
        // SAFETY: the token proves AVX2; the caller guarantees 64 bytes and their alignment.
        unsafe {
            _mm256_stream_si256(dst.cast(), _mm256_setzero_si256());
            _mm256_stream_si256(dst.add(32).cast(), _mm256_setzero_si256());
        }
    }
    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8, a: Self::V) {
        // SAFETY: the token proves AVX2; the caller guarantees 64 bytes and their alignment.
        unsafe {
            _mm256_stream_si256(dst.cast(), a[0]);
            _mm256_stream_si256(dst.add(32).cast(), a[1]);
        }
    }
}

/// The code for each half.
macro_rules! halves {
    ($half:ident => $value:expr) => {
        [
            {
                const $half: usize = 0;
                $value
            },
            {
                const $half: usize = 1;
                $value
            },
        ]
    };
}

/// The lanes whose bits are set in `bits`, as a mask of floats.
macro_rules! lanes {
    ($bits:ident, $table:ident, $cast:ident) => {{
        let copies = _mm256_set1_epi32($bits as i32);
        halves!(HALF => {
            let own = _mm256_loadu_si256($table[HALF].as_ptr().cast());
            $cast(_mm256_cmpeq_epi32(_mm256_and_si256(copies, own), own))
        })
    }};
}

impl<const VAES: bool> Floats<f32> for Avx2<VAES> {
    type F = [__m256; 2];
    const LANES: usize = 16;
    const MANY_REGISTERS: bool = false;

    operations! {
        splat_float(x: f32) -> Self::F = [_mm256_set1_ps(x); 2];
        plus(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_add_ps(a, b));
        minus(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_sub_ps(a, b));
        times(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_mul_ps(a, b));
        fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = both!(_mm256_fmadd_ps(a, b, c));
        larger(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_max_ps(a, b));
        kept(bits: u32, a: Self::F) -> Self::F = {
            let lanes = lanes!(bits, BITS_32, _mm256_castsi256_ps);
            both!(_mm256_and_ps(lanes, a))
        };
        either(bits: u32, a: Self::F, b: Self::F) -> Self::F = {
            let lanes = lanes!(bits, BITS_32, _mm256_castsi256_ps);
            both!(_mm256_blendv_ps(b, a, lanes))
        };
        scaled_by_power(y: Self::F, n: Self::F) -> Self::F = halves!(HALF => {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[HALF]));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y[HALF]), exponent))
        });
    }
    #[inline(always)]
    unsafe fn load_floats(self, from: *const f32) -> Self::F {
        // SAFETY: the caller guarantees a vector; the token proves AVX2.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store_floats(self, to: *mut f32, a: Self::F) {
        // SAFETY: the caller guarantees a vector; the token proves AVX2.
        unsafe {
            _mm256_storeu_ps(to, a[0]);
            _mm256_storeu_ps(to.add(8), a[1]);
        }
    }
}

impl<const VAES: bool> Floats<f64> for Avx2<VAES> {
    type F = [__m256d; 2];
    const LANES: usize = 8;
    const MANY_REGISTERS: bool = false;

    operations! {
        splat_float(x: f64) -> Self::F = [_mm256_set1_pd(x); 2];
        plus(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_add_pd(a, b));
        minus(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_sub_pd(a, b));
        times(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_mul_pd(a, b));
        fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = both!(_mm256_fmadd_pd(a, b, c));
        larger(a: Self::F, b: Self::F) -> Self::F = both!(_mm256_max_pd(a, b));
        kept(bits: u32, a: Self::F) -> Self::F = {
            let lanes = lanes!(bits, BITS_64, _mm256_castsi256_pd);
            both!(_mm256_and_pd(lanes, a))
        };
        either(bits: u32, a: Self::F, b: Self::F) -> Self::F = {
            let lanes = lanes!(bits, BITS_64, _mm256_castsi256_pd);
            both!(_mm256_blendv_pd(b, a, lanes))
        };
        scaled_by_power(y: Self::F, n: Self::F) -> Self::F = halves!(HALF => {
            let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(n[HALF]));
            _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(y[HALF]), exponent))
        });
    }
    #[inline(always)]
    unsafe fn load_floats(self, from: *const f64) -> Self::F {
        // SAFETY: the caller guarantees a vector; the token proves AVX2.
        unsafe { [_mm256_loadu_pd(from), _mm256_loadu_pd(from.add(4))] }
    }
    #[inline(always)]
    unsafe fn store_floats(self, to: *mut f64, a: Self::F) {
        // SAFETY: the caller guarantees a vector; the token proves AVX2.
        unsafe {
            _mm256_storeu_pd(to, a[0]);
            _mm256_storeu_pd(to.add(4), a[1]);
        }
    }
}

impl<const VAES: bool> Halves for Avx2<VAES> {
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> <Self as Floats<f32>>::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves F16C.
        unsafe { halves!(HALF => _mm256_cvtph_ps(_mm_loadu_si128(from.add(8 * HALF).cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> <Self as Floats<f32>>::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX2.
        unsafe {
            halves!(HALF => {
                let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8 * HALF).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
            })
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, a: <Self as Floats<f32>>::F) {
        // SAFETY: the caller guarantees sixteen elements; the token proves F16C.
        unsafe {
            let [low, high] = halves!(HALF => _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[HALF]));
            _mm256_storeu_si256(to.cast(), _mm256_set_m128i(high, low));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: <Self as Floats<f32>>::F) {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX2.
        unsafe {
            let [low, high] = halves!(HALF => {
                let y = a[HALF];
                let quiet = _mm256_or_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32(1 << 22)));
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(y, y);
                let rounded = _mm256_blendv_ps(_mm256_castsi256_ps(rounded_bf16(self, y)), quiet, nan);
                _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded))
            });
            // Each 128 bits of the packed vector are from both.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(to.cast(), packed);
        }
    }
}
