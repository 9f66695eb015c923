//! NEON (with AES): eight 64-bit lanes are four registers.
//!
//! ARM has no stores that bypass the caches, only the hint `stnp`, so streamed elements are stored like any others. The
//! output is not prefetched: a prefetch is one more instruction per line, and its gain on such a CPU has not been
//! measured.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{Floats, Halves, Kernel, LANES, Simd, WORD};

/// Token of a CPU with NEON and AES; only [`Neon::detect`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        use std::arch::is_aarch64_feature_detected as detected;
        (detected!("neon") && detected!("aes")).then_some(Self(()))
    }
}

/// Applies the code for one register to all four.
///
/// A macro, because the compiler would not compile a closure with the level's instructions.
macro_rules! each {
    ($f:ident($($a:ident),+)) => {
        [$f($($a[0]),+), $f($($a[1]),+), $f($($a[2]),+), $f($($a[3]),+)]
    };
}

/// Units of two vectors by turns, by the instructions for the low and for the high half of a register.
macro_rules! zipped {
    ($a:ident, $b:ident, $low:ident, $high:ident) => {{
        // Registers of any unit have the same bits.
        let (a, b): ([_; 4], [_; 4]) = (std::mem::transmute($a), std::mem::transmute($b));
        [std::mem::transmute(each!($low(a, b))), std::mem::transmute(each!($high(a, b)))]
    }};
}

/// AESE: xor with `key`, then ShiftRows and SubBytes.
///
/// # Safety
/// The CPU must have AES.
#[inline]
#[target_feature(enable = "aes")]
fn aese(a: uint64x2_t, key: uint64x2_t) -> uint64x2_t {
    vreinterpretq_u64_u8(vaeseq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(key)))
}

/// AESE and AESMC (MixColumns), which CPUs fuse.
///
/// # Safety
/// The CPU must have AES.
#[inline]
#[target_feature(enable = "aes")]
fn aese_aesmc(a: uint64x2_t, key: uint64x2_t) -> uint64x2_t {
    vreinterpretq_u64_u8(vaesmcq_u8(vreinterpretq_u8_u64(aese(a, key))))
}

/// Elements whose keep bits share a vector: each of its 16-bit lanes is a copy of the same sixteen bits.
const SHARED: usize = 16;

/// The keep bit that each 16-bit lane tests, in the N vectors that hold [`SHARED`] elements.
const fn lane_bits<const N: usize>() -> [[u16; 8]; N] {
    let mut bits = [[0; 8]; N];
    let mut lane = 0;
    while lane < 8 * N {
        bits[lane / 8][lane % 8] = 1 << (lane * SHARED / (8 * N));
        lane += 1;
    }
    bits
}
static BITS_16: [[u16; 8]; 2] = lane_bits();
static BITS_32: [[u16; 8]; 4] = lane_bits();
static BITS_64: [[u16; 8]; 8] = lane_bits();

/// All ones in the lanes where `a` has any of `bits`.
///
/// # Safety
/// The CPU must have NEON.
#[inline]
#[target_feature(enable = "neon")]
fn any_of(a: uint16x8_t, bits: uint16x8_t) -> uint16x8_t {
    let lanes;
    // SAFETY: NEON is enabled, and the instruction touches only these registers. The compiler would expand the
    // intrinsic to one instruction more.
    unsafe {
        asm!(
            "cmtst {lanes:v}.8h, {a:v}.8h, {bits:v}.8h",
            a = in(vreg) a, bits = in(vreg) bits, lanes = lateout(vreg) lanes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    lanes
}

/// A word of elements: `scaled`, or zero where dropped. N vectors hold [`SHARED`] elements.
///
/// # Safety
/// See [`Simd`]'s methods on elements; N vectors must hold exactly [`SHARED`] elements of type
/// T.
#[inline(always)]
unsafe fn select<T, const N: usize>(
    _: Neon,
    keep: u64,
    src: *const T,
    dst: *mut T,
    bits: &[[u16; 8]; N],
    scaled: impl Fn(uint16x8_t) -> uint16x8_t,
) {
    for at in (0..WORD).step_by(SHARED) {
        // SAFETY: `at + SHARED <= WORD`, and the caller guarantees WORD elements; the token proves NEON.
        unsafe {
            let copies = vdupq_n_u16((keep >> at) as u16);
            // Reads all vectors before it writes any, so that the compiler can pair the loads and pair the stores.
            let mut elements = src.add(at).cast::<[uint16x8_t; N]>().read_unaligned();
            for (x, bits) in elements.iter_mut().zip(bits) {
                *x = vandq_u16(scaled(*x), any_of(copies, vld1q_u16(bits.as_ptr())));
            }
            dst.add(at).cast::<[uint16x8_t; N]>().write_unaligned(elements);
        }
    }
}

/// Eight float16, widened.
#[inline(always)]
fn widened_f16(_: Neon, x: uint16x8_t) -> [float32x4_t; 2] {
    // The intrinsics for these conversions are newer than the oldest supported compiler.
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: the token proves NEON, which includes the conversions; they touch only these registers.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {x:v}.4h",
            "fcvtl2 {high:v}.4s, {x:v}.8h",
            x = in(vreg) x, low = out(vreg) low, high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Eight floats, rounded to nearest even.
#[inline(always)]
fn rounded_f16(_: Neon, [low, high]: [float32x4_t; 2]) -> uint16x8_t {
    let y: uint16x8_t;
    // SAFETY: as for `widened_f16`.
    unsafe {
        asm!(
            "fcvtn {y:v}.4h, {low:v}.4s",
            "fcvtn2 {y:v}.8h, {high:v}.4s",
            low = in(vreg) low, high = in(vreg) high, y = out(vreg) y,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    y
}

/// Eight float16, widened, multiplied and rounded to nearest even.
#[inline(always)]
fn scaled_f16(simd: Neon, x: uint16x8_t, scale: f32) -> uint16x8_t {
    // SAFETY: the token proves NEON.
    rounded_f16(simd, widened_f16(simd, x).map(|x| unsafe { vmulq_n_f32(x, scale) }))
}

/// Four products, rounded to bfloat16 in their high halves; the low halves are unspecified. A NaN's low half is zero
/// here, so that nothing carries out of it.
#[inline(always)]
fn scaled_bf16(simd: Neon, x: uint32x4_t, scale: f32) -> uint16x8_t {
    // SAFETY: the token proves NEON.
    unsafe { vreinterpretq_u16_u32(rounded_bf16(simd, vmulq_n_f32(vreinterpretq_f32_u32(x), scale))) }
}

/// Four numbers rounded to bfloat16 in their high halves; the low halves are unspecified. A NaN may become infinite if its
/// low half is not zero.
#[inline(always)]
fn rounded_bf16(_: Neon, y: float32x4_t) -> uint32x4_t {
    // SAFETY: the token proves NEON.
    unsafe {
        // Adds just under half an ulp, plus the last kept bit: ties go to even.
        let y = vreinterpretq_u32_f32(y);
        let last = vandq_u32(y, vdupq_n_u32(1 << 16));
        vsraq_n_u32::<16>(vaddq_u32(y, vdupq_n_u32(0x7FFF)), last)
    }
}

/// Makes the methods on elements from expressions that scale one vector.
macro_rules! selects {
    ($($name:ident($element:ty, $factor:ty) = $bits:ident, |$simd:ident, $x:ident, $scale:ident| $value:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name<const STREAM: bool>(self, keep: u64, src: *const $element, dst: *mut $element, $scale: $factor) {
            let $simd = self;
            // SAFETY: the token proves NEON; the other obligations are the same.
            unsafe {
                select(
                    $simd,
                    keep,
                    src,
                    dst,
                    &$bits,
                    #[inline(always)]
                    |$x| $value,
                );
            }
        }
    )+};
}

impl Simd for Neon {
    type V = [uint64x2_t; 4];
    const KEY_FIRST: bool = true;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        /// # Safety
        /// The CPU must have NEON and AES.
        #[target_feature(enable = "neon,aes")]
        fn inner<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, kernel) }
    }

    operations! {
        splat(x: u64) -> Self::V = [vdupq_n_u64(x); 4];
        splat_pair(block: [u64; 2]) -> Self::V = [vld1q_u64(block.as_ptr()); 4];
        load(from: &[u64; LANES]) -> Self::V = [0, 2, 4, 6].map(|at| vld1q_u64(from.as_ptr().add(at)));
        to_array(a: Self::V) -> [u64; LANES] = std::mem::transmute(a);
        add(a: Self::V, b: Self::V) -> Self::V = each!(vaddq_u64(a, b));
        and(a: Self::V, b: Self::V) -> Self::V = each!(vandq_u64(a, b));
        xor(a: Self::V, b: Self::V) -> Self::V = each!(veorq_u64(a, b));
        left(a: Self::V, by: i32) -> Self::V = {
            let by = [vdupq_n_s64(i64::from(by)); 4];
            each!(vshlq_u64(a, by))
        };
        right(a: Self::V, by: i32) -> Self::V = {
            let by = [vdupq_n_s64(-i64::from(by)); 4];
            each!(vshlq_u64(a, by))
        };
        zip_8(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped!(a, b, vzip1q_u8, vzip2q_u8);
        zip_16(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped!(a, b, vzip1q_u16, vzip2q_u16);
        zip_32(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped!(a, b, vzip1q_u32, vzip2q_u32);
        zip_64(a: Self::V, b: Self::V) -> [Self::V; 2] = zipped!(a, b, vzip1q_u64, vzip2q_u64);
        aes_round(a: Self::V, key: Self::V) -> Self::V = each!(aese_aesmc(a, key));
        aes_last_round(a: Self::V, key: Self::V) -> Self::V = each!(aese(a, key));
        any(a: Self::V) -> bool = {
            let a = vorrq_u64(vorrq_u64(a[0], a[1]), vorrq_u64(a[2], a[3]));
            vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0
        };
        prefetch(address: *const u8) -> () =
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }

    selects! {
        select_f32(f32, f32) = BITS_32, |simd, x, scale|
            vreinterpretq_u16_f32(vmulq_n_f32(vreinterpretq_f32_u16(x), scale));
        select_f64(f64, f64) = BITS_64, |simd, x, scale|
            vreinterpretq_u16_f64(vmulq_n_f64(vreinterpretq_f64_u16(x), scale));
        select_f16(u16, f32) = BITS_16, |simd, x, scale| scaled_f16(simd, x, scale);
        // Even elements are the low halves of 32-bit lanes, and odd ones the high halves. Products return to the same
        // halves.
        select_bf16(u16, f32) = BITS_16, |simd, x, scale| {
            let x = vreinterpretq_u32_u16(x);
            let even = scaled_bf16(simd, vshlq_n_u32::<16>(x), scale);
            let odd = scaled_bf16(simd, vandq_u32(x, vdupq_n_u32(!0 << 16)), scale);
            vtrn2q_u16(even, odd)
        };
    }
}

/// For each lane of four vectors: the bit of its float.
static FLOATS_32: [[u32; 4]; 4] = {
    let mut bits = [[0; 4]; 4];
    let mut lane = 0;
    while lane < 16 {
        bits[lane / 4][lane % 4] = 1 << lane;
        lane += 1;
    }
    bits
};
static FLOATS_64: [[u64; 2]; 4] = [[1, 2], [4, 8], [16, 32], [64, 128]];

/// The code for each register.
macro_rules! registers {
    ($part:ident => $value:expr) => {
        registers!($part => $value, 0, 1, 2, 3)
    };
    ($part:ident => $value:expr, $($number:literal),+) => {
        [$({
            const $part: usize = $number;
            $value
        }),+]
    };
}

/// Floats of one precision in four registers.
macro_rules! floats {
    ($float:ty, $vector:ty, $count:literal, $digits:literal, $bits:ident, $copies:ident, $test:ident, $own:ident:
     $dup:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident, $greater:ident, $select:ident, $load:ident, $store:ident,
     $to_integers:ident, $from_integers:ident, $shift:ident, $add_integers:ident, $zero:expr) => {
        impl Floats<$float> for Neon {
            type F = [$vector; 4];
            const LANES: usize = $count;
            const MANY_REGISTERS: bool = false;

            operations! {
                splat_float(x: $float) -> Self::F = [$dup(x); 4];
                plus(a: Self::F, b: Self::F) -> Self::F = each!($add(a, b));
                minus(a: Self::F, b: Self::F) -> Self::F = each!($sub(a, b));
                times(a: Self::F, b: Self::F) -> Self::F = each!($mul(a, b));
                fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F = each!($fma(c, a, b));
                larger(a: Self::F, b: Self::F) -> Self::F = registers!(I => $select($greater(a[I], b[I]), a[I], b[I]));
                kept(bits: u32, a: Self::F) -> Self::F = {
                    let copies = $copies(bits.into());
                    registers!(I => $select($test(copies, $own($bits[I].as_ptr())), a[I], $zero))
                };
                either(bits: u32, a: Self::F, b: Self::F) -> Self::F = {
                    let copies = $copies(bits.into());
                    registers!(I => $select($test(copies, $own($bits[I].as_ptr())), a[I], b[I]))
                };
                scaled_by_power(y: Self::F, n: Self::F) -> Self::F = registers!(I => {
                    let exponent = $shift::<$digits>($to_integers(n[I]));
                    $from_integers($add_integers($to_integers(y[I]), exponent))
                });
            }
            #[inline(always)]
            unsafe fn load_floats(self, from: *const $float) -> Self::F {
                // SAFETY: the caller guarantees a vector of 64 bytes; the token proves NEON.
                unsafe { registers!(I => $load(from.add(I * $count / 4))) }
            }
            #[inline(always)]
            unsafe fn store_floats(self, to: *mut $float, a: Self::F) {
                for (part, a) in a.into_iter().enumerate() {
                    // SAFETY: the caller guarantees a vector of 64 bytes; the token proves NEON.
                    unsafe { $store(to.add(part * $count / 4), a) };
                }
            }
        }
    };
}
floats!(f32, float32x4_t, 16, 23, FLOATS_32, vdupq_n_u32, vtstq_u32, vld1q_u32:
    vdupq_n_f32, vaddq_f32, vsubq_f32, vmulq_f32, vfmaq_f32, vcgtq_f32, vbslq_f32, vld1q_f32, vst1q_f32,
    vreinterpretq_u32_f32, vreinterpretq_f32_u32, vshlq_n_u32, vaddq_u32, vdupq_n_f32(0.0));
floats!(f64, float64x2_t, 8, 52, FLOATS_64, vdupq_n_u64, vtstq_u64, vld1q_u64:
    vdupq_n_f64, vaddq_f64, vsubq_f64, vmulq_f64, vfmaq_f64, vcgtq_f64, vbslq_f64, vld1q_f64, vst1q_f64,
    vreinterpretq_u64_f64, vreinterpretq_f64_u64, vshlq_n_u64, vaddq_u64, vdupq_n_f64(0.0));

impl Halves for Neon {
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> <Self as Floats<f32>>::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves NEON.
        let [[a, b], [c, d]] = [0, 8].map(|at| widened_f16(self, unsafe { vld1q_u16(from.add(at).cast()) }));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> <Self as Floats<f32>>::F {
        // SAFETY: the caller guarantees sixteen elements; the token proves NEON.
        unsafe { registers!(I => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(4 * I).cast())))) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, [a, b, c, d]: <Self as Floats<f32>>::F) {
        // SAFETY: the caller guarantees sixteen elements; the token proves NEON.
        unsafe {
            vst1q_u16(to.cast(), rounded_f16(self, [a, b]));
            vst1q_u16(to.add(8).cast(), rounded_f16(self, [c, d]));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: <Self as Floats<f32>>::F) {
        for (part, y) in a.into_iter().enumerate() {
            // SAFETY: the caller guarantees sixteen elements; the token proves NEON.
            unsafe {
                let quiet = vorrq_u32(vreinterpretq_u32_f32(y), vdupq_n_u32(1 << 22));
                let high = vbslq_u32(vceqq_f32(y, y), rounded_bf16(self, y), quiet);
                vst1_u16(to.add(4 * part).cast(), vshrn_n_u32::<16>(high));
            }
        }
    }
}
