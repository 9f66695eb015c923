//! AVX-512 (F, BW, DQ, VL) with VAES: eight 64-bit lanes are one register, and keep bits serve as mask registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Floats, Halves, Kernel, LANES, Simd, WORD};

/// Token of a CPU with AVX-512 F, BW, DQ, VL and VAES; only [`Avx512::detect`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("vaes");
        all.then_some(Self(()))
    }
}

/// Selects a word of float16 or bfloat16, sixteen at a time: widen, select, narrow.
///
/// # Safety
/// See [`Simd`]'s methods on elements.
#[inline(always)]
unsafe fn select_16<const STREAM: bool>(
    keep: u64,
    src: *const u16,
    dst: *mut u16,
    scale: f32,
    widen: impl Fn(__m256i) -> __m512,
    narrow: impl Fn(__m512) -> __m256i,
) {
    for at in (0..WORD).step_by(16) {
        // SAFETY: `at + 16 <= WORD`, and the caller guarantees WORD elements, the alignment and AVX-512.
        unsafe {
            let x = widen(_mm256_loadu_si256(src.add(at).cast()));
            let y = narrow(_mm512_maskz_mul_ps((keep >> at) as u16, x, _mm512_set1_ps(scale)));
            if STREAM {
                _mm256_stream_si256(dst.add(at).cast(), y);
            } else {
                _mm256_storeu_si256(dst.add(at).cast(), y);
            }
        }
    }
}

/// Sixteen bfloat16 as the float32 that they are the upper halves of.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened_bf16(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// Numbers rounded to bfloat16 in the high half of each 32-bit lane; the low halves are unspecified. A NaN may become
/// infinite if its low half is not zero.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded_bf16(y: __m512) -> __m512i {
    // Adds just under half an ulp, plus the last kept bit: ties go to even.
    let y = _mm512_castps_si512(y);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(y), _mm512_set1_epi32(1));
    _mm512_add_epi32(y, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)))
}

impl Simd for Avx512 {
    type V = __m512i;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        /// # Safety
        /// The CPU must have AVX-512 and VAES.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes")]
        fn inner<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, kernel) }
    }

    operations! {
        splat(x: u64) -> Self::V = _mm512_set1_epi64(x as i64);
        splat_pair(block: [u64; 2]) -> Self::V = _mm512_broadcast_i64x2(_mm_set_epi64x(block[1] as i64, block[0] as i64));
        load(from: &[u64; LANES]) -> Self::V = _mm512_loadu_si512(from.as_ptr().cast());
        to_array(a: Self::V) -> [u64; LANES] = std::mem::transmute(a);
        add(a: Self::V, b: Self::V) -> Self::V = _mm512_add_epi64(a, b);
        and(a: Self::V, b: Self::V) -> Self::V = _mm512_and_si512(a, b);
        xor(a: Self::V, b: Self::V) -> Self::V = _mm512_xor_si512(a, b);
        left(a: Self::V, by: i32) -> Self::V = _mm512_sll_epi64(a, _mm_cvtsi32_si128(by));
        right(a: Self::V, by: i32) -> Self::V = _mm512_srl_epi64(a, _mm_cvtsi32_si128(by));
        zip_8(a: Self::V, b: Self::V) -> [Self::V; 2] = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
        zip_16(a: Self::V, b: Self::V) -> [Self::V; 2] = [_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)];
        zip_32(a: Self::V, b: Self::V) -> [Self::V; 2] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        zip_64(a: Self::V, b: Self::V) -> [Self::V; 2] = [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
        aes_round(a: Self::V, key: Self::V) -> Self::V = _mm512_aesenc_epi128(a, key);
        aes_last_round(a: Self::V, key: Self::V) -> Self::V = _mm512_aesenclast_epi128(a, key);
        any(a: Self::V) -> bool = _mm512_test_epi64_mask(a, a) != 0;
        prefetch(address: *const u8) -> () = _mm_prefetch::<_MM_HINT_T0>(address.cast());
        prefetch_write(address: *const u8) -> () = _mm_prefetch::<_MM_HINT_ET0>(address.cast());
        fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    unsafe fn select_f32<const STREAM: bool>(self, keep: u64, src: *const f32, dst: *mut f32, scale: f32) {
        for at in (0..WORD).step_by(16) {
            // SAFETY: `at + 16 <= WORD`, and the caller guarantees WORD elements and the alignment; the token
            // proves AVX-512.
            unsafe {
                let x = _mm512_loadu_ps(src.add(at));
                let y = _mm512_maskz_mul_ps((keep >> at) as u16, x, _mm512_set1_ps(scale));
                if STREAM {
                    _mm512_stream_ps(dst.add(at), y);
                } else {
                    _mm512_storeu_ps(dst.add(at), y);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn select_f64<const STREAM: bool>(self, keep: u64, src: *const f64, dst: *mut f64, scale: f64) {
        for at in (0..WORD).step_by(8) {
            // SAFETY: `at + 8 <= WORD`, and the caller guarantees WORD elements and the alignment; the token
            // proves AVX-512.
            unsafe {
                let x = _mm512_loadu_pd(src.add(at));
                let y = _mm512_maskz_mul_pd((keep >> at) as u8, x, _mm512_set1_pd(scale));
                if STREAM {
                    _mm512_stream_pd(dst.add(at), y);
                } else {
                    _mm512_storeu_pd(dst.add(at), y);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn select_f16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        // SAFETY: the token proves AVX-512; the other obligations are the same.
        unsafe {
            select_16::<STREAM>(
                keep,
                src,
                dst,
                scale,
                #[inline(always)]
                |x| _mm512_cvtph_ps(x),
                #[inline(always)]
                |y| _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(y),
            );
        }
    }
    #[inline(always)]
    unsafe fn select_bf16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32) {
        // SAFETY: the token proves AVX-512; the other obligations are the same.
        unsafe {
            select_16::<STREAM>(
                keep,
                src,
                dst,
                scale,
                #[inline(always)]
                |x| widened_bf16(x),
                // A NaN's low half is zero here, so that nothing carries out of it.
                #[inline(always)]
                |y| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded_bf16(y))),
            );
        }
    }

    #[inline(always)]
    unsafe fn stream_zeros(self, dst: *mut u8) {
        // SAFETY: the token proves AVX-512; the caller guarantees 64 bytes and their alignment.
        unsafe { _mm512_stream_si512(dst.cast(), _mm512_setzero_si512()) };
    }
    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8, a: Self::V) {
        // SAFETY: the token proves AVX-512; the caller guarantees 64 bytes and their alignment.
        unsafe { _mm512_stream_si512(dst.cast(), a) };
    }
}

impl Floats<f32> for Avx512 {
    type F = __m512;
    const LANES: usize = 16;
    const MANY_REGISTERS: bool = true;

    operations! {
        splat_float(x: f32) -> Self::F = _mm512_set1_ps(x);
        plus(a: Self::F, b: Self::F) -> Self::F = _mm512_add_ps(a, b);
        minus(a: Self::F, b: Self::F) -> Self::F = _mm512_sub_ps(a, b);
        times(a: Self::F, b: Self::F) -> Self::F = _mm512_mul_ps(a, b);
        fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm512_fmadd_ps(a, b, c);
        larger(a: Self::F, b: Self::F) -> Self::F = _mm512_max_ps(a, b);
        kept(bits: u32, a: Self::F) -> Self::F = _mm512_maskz_mov_ps(bits as u16, a);
        either(bits: u32, a: Self::F, b: Self::F) -> Self::F = _mm512_mask_blend_ps(bits as u16, b, a);
        scaled_by_power(y: Self::F, n: Self::F) -> Self::F = {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), exponent))
        };
    }
    #[inline(always)]
    unsafe fn load_floats(self, from: *const f32) -> Self::F {
        // SAFETY: the caller guarantees a vector; the token proves AVX-512.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_floats(self, to: *mut f32, a: Self::F) {
        // SAFETY: the caller guarantees a vector; the token proves AVX-512.
        unsafe { _mm512_storeu_ps(to, a) }
    }
}

impl Floats<f64> for Avx512 {
    type F = __m512d;
    const LANES: usize = 8;
    const MANY_REGISTERS: bool = true;

    operations! {
        splat_float(x: f64) -> Self::F = _mm512_set1_pd(x);
        plus(a: Self::F, b: Self::F) -> Self::F = _mm512_add_pd(a, b);
        minus(a: Self::F, b: Self::F) -> Self::F = _mm512_sub_pd(a, b);
        times(a: Self::F, b: Self::F) -> Self::F = _mm512_mul_pd(a, b);
        fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm512_fmadd_pd(a, b, c);
        larger(a: Self::F, b: Self::F) -> Self::F = _mm512_max_pd(a, b);
        kept(bits: u32, a: Self::F) -> Self::F = _mm512_maskz_mov_pd(bits as u8, a);
        either(bits: u32, a: Self::F, b: Self::F) -> Self::F = _mm512_mask_blend_pd(bits as u8, b, a);
        scaled_by_power(y: Self::F, n: Self::F) -> Self::F = {
            let exponent = _mm512_slli_epi64::<52>(_mm512_castpd_si512(n));
            _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(y), exponent))
        };
    }
    #[inline(always)]
    unsafe fn load_floats(self, from: *const f64) -> Self::F {
        // SAFETY: the caller guarantees a vector; the token proves AVX-512.
        unsafe { _mm512_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store_floats(self, to: *mut f64, a: Self::F) {
        // SAFETY: the caller guarantees a vector; the token proves AVX-512.
        unsafe { _mm512_storeu_pd(to, a) }
    }
}

impl Halves for Avx512 {
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX-512.
        unsafe { widened_bf16(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, a: Self::F) {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX-512.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) };
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: Self::F) {
        // SAFETY: the caller guarantees sixteen elements; the token proves AVX-512.
        unsafe {
            let quiet = _mm512_or_si512(_mm512_castps_si512(a), _mm512_set1_epi32(1 << 22));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let high = _mm512_mask_blend_epi32(nan, rounded_bf16(a), quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(high)));
        }
    }
}
