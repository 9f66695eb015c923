//! The operations that a SIMD level provides, and the choice of a level at run time.
//!
//! Zero-sized tokens implement [`Simd`]. A token exists only if the CPU has its instructions. An algorithm is written
//! once, as a [`Kernel`], and only [`Level::run`] picks a token. The files in this folder contain the instructions and
//! no algorithms.

/// Makes methods of [`Simd`] from a table of names, operands and expressions.
///
/// Every expression must be sound on any CPU for which the level's token exists. The `SAFETY` comment below relies on
/// that.
macro_rules! operations {
    ($($name:ident($($operand:ident: $type:ty),*) -> $result:ty = $value:expr;)+) => {$(
        #[inline(always)]
        #[allow(unused_unsafe, reason = "plain Rust needs none")]
        fn $name(self, $($operand: $type),*) -> $result {
            // SAFETY: the token proves the instructions.
            unsafe { $value }
        }
    )+};
}

pub(crate) mod aes;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod floats;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod portable;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::Error;
pub(crate) use floats::{Floats, Halves};

/// 64-bit lanes in a vector, at every level.
pub(crate) const LANES: usize = 8;
/// Elements that a `select` method handles: one word of keep bits.
pub(crate) const WORD: usize = 64;

/// The operations that differ between CPUs. Vectors are eight 64-bit lanes, or four blocks of 128 bits: lanes 2 i and
/// 2 i + 1 are the low and the high half of block i.
///
/// Methods on elements read `WORD` elements at `src` and write as many at `dst`: kept ones times
/// `scale`, +0.0 for the others; bit i of `keep` is element i. `src` and `dst` may be equal, but
/// must not overlap otherwise. Neither needs alignment, except with `STREAM`, which bypasses the
/// caches and needs `dst` aligned to 64 bytes. A level without such stores, prefetches or fences
/// uses the defaults below.
pub(crate) trait Simd: Floats<f32> + Floats<f64> + Halves {
    type V: Copy;
    /// Whether an AES round starts with the xor with its key, as on ARM; elsewhere it ends with it.
    const KEY_FIRST: bool = false;

    /// Runs `kernel` compiled for this level.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: u64) -> Self::V;
    fn load(self, from: &[u64; LANES]) -> Self::V;
    fn to_array(self, a: Self::V) -> [u64; LANES];
    /// Four copies of this block.
    fn splat_pair(self, block: [u64; 2]) -> Self::V;
    /// Lane by lane, modulo 2^64.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// Each lane shifted left by `by` bits, a constant.
    fn left(self, a: Self::V, by: i32) -> Self::V;
    /// Each lane shifted right by `by` bits, a constant.
    fn right(self, a: Self::V, by: i32) -> Self::V;
    /// The bytes of two vectors by turns, block by block: those of the blocks' low halves, and of their high halves.
    fn zip_8(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// [`Simd::zip_8`] for units of 16 bits.
    fn zip_16(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// [`Simd::zip_8`] for units of 32 bits.
    fn zip_32(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// [`Simd::zip_8`] for units of 64 bits.
    fn zip_64(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// ShiftRows, SubBytes and MixColumns of AES on each block. The xor with `key` comes last, or
    /// first: see [`Simd::KEY_FIRST`].
    fn aes_round(self, a: Self::V, key: Self::V) -> Self::V;
    /// [`Simd::aes_round`] without MixColumns.
    fn aes_last_round(self, a: Self::V, key: Self::V) -> Self::V;
    /// Whether any bit is set.
    fn any(self, a: Self::V) -> bool;

    /// # Safety
    /// See the trait.
    unsafe fn select_f32<const STREAM: bool>(self, keep: u64, src: *const f32, dst: *mut f32, scale: f32);
    /// # Safety
    /// See the trait.
    unsafe fn select_f64<const STREAM: bool>(self, keep: u64, src: *const f64, dst: *mut f64, scale: f64);
    /// float16 as its bits; widened, multiplied, rounded to nearest even.
    /// # Safety
    /// See the trait.
    unsafe fn select_f16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32);
    /// bfloat16 as its bits; widened, multiplied, rounded to nearest even. `scale` must not be NaN.
    /// # Safety
    /// See the trait.
    unsafe fn select_bf16<const STREAM: bool>(self, keep: u64, src: *const u16, dst: *mut u16, scale: f32);

    /// Writes 64 bytes of zeros, bypassing the caches.
    /// # Safety
    /// They must be writeable at `dst`, a multiple of 64.
    #[inline(always)]
    unsafe fn stream_zeros(self, dst: *mut u8) {
        // SAFETY: the obligations are the same.
        unsafe { dst.write_bytes(0, 64) };
    }
    /// Writes a vector, bypassing the caches.
    /// # Safety
    /// It must be writeable at `dst`, a multiple of 64.
    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8, a: Self::V) {
        // SAFETY: the obligations are the same; a vector needs no more alignment than that.
        unsafe { dst.cast::<Self::V>().write(a) };
    }
    /// Prefetches the cache line at `address`, which need not be valid.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
    /// Prefetches memory that will be written.
    #[inline(always)]
    fn prefetch_write(self, _address: *const u8) {}
    /// Makes streamed writes visible to other threads.
    #[inline(always)]
    fn fence(self) {}
}

/// Code that is compiled once per level.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, so that it is compiled with the level's instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A set of instructions that the kernels can use, on a CPU that has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Level(Token);

/// Makes a level of each row, slowest first: its name, its token, and how the token is detected.
macro_rules! levels {
    ($($(#[$target:meta])? $name:literal, $variant:ident($token:ty), $detected:expr;)+) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Token {
            $($(#[$target])? $variant($token),)+
        }

        impl Level {
            const NAMES: [&str; 5] = [$($name),+];

            fn detect(name: &str) -> Option<Self> {
                match name {
                    $($(#[$target])? $name => $detected.map(|token| Self(Token::$variant(token))),)+
                    _ => None,
                }
            }

            /// `portable`, `neon`, `avx2`, `vaes` or `avx512`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($(#[$target])? Token::$variant(_) => $name,)+
                }
            }

            /// Runs `kernel` at this level.
            #[inline]
            pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    $($(#[$target])? Token::$variant(simd) => simd.vectorize(kernel),)+
                }
            }
        }
    };
}
levels! {
    "portable", Portable(portable::Portable), Some(portable::Portable);
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    "neon", Neon(neon::Neon), neon::Neon::detect();
    #[cfg(target_arch = "x86_64")]
    "avx2", Avx2(avx2::Avx2<false>), avx2::Avx2::detect();
    #[cfg(target_arch = "x86_64")]
    "vaes", Vaes(avx2::Avx2<true>), avx2::Avx2::detect();
    #[cfg(target_arch = "x86_64")]
    "avx512", Avx512(avx512::Avx512), avx512::Avx512::detect();
}

impl Level {
    /// Plain Rust, which every CPU runs.
    #[must_use]
    pub const fn portable() -> Self {
        Self(Token::Portable(portable::Portable))
    }

    /// The levels of this CPU, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().filter_map(Self::detect)
    }

    /// The level of this name.
    ///
    /// # Errors
    /// [`Error::UnknownLevel`] if there is none, [`Error::UnsupportedLevel`] if this CPU lacks it.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let known = Self::NAMES.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| Error::UnknownLevel(name.to_owned()))?;
        Self::detect(known).ok_or(Error::UnsupportedLevel(known))
    }

    /// The level in use: as set by [`Level::set_current`], else by the environment variable
    /// `FASTDROP_SIMD`, else the fastest.
    ///
    /// # Errors
    /// If `FASTDROP_SIMD` names no known level, or one that this CPU lacks.
    pub fn current() -> Result<Self, Error> {
        static DEFAULT: OnceLock<Result<Level, Error>> = OnceLock::new();
        if let Some(level) = Self::chosen() {
            return Ok(level);
        }
        let default = DEFAULT.get_or_init(|| match std::env::var_os("FASTDROP_SIMD") {
            Some(name) if !name.is_empty() => Self::from_name(&name.to_string_lossy()),
            _ => Ok(Self::available().last().unwrap_or(Self::portable())),
        });
        let level = default.clone()?;
        level.set_current();
        Ok(level)
    }

    /// Uses this level in all calls from now on, in all threads.
    pub fn set_current(self) {
        let position = Self::NAMES.iter().position(|name| *name == self.name());
        CHOSEN.store(position.map_or(0, |index| index as u8 + 1), Ordering::Relaxed);
    }

    #[inline]
    fn chosen() -> Option<Self> {
        /// By position in [`Level::NAMES`]. Comparing names and detecting features are both measurable in
        /// small calls.
        static DETECTED: OnceLock<[Option<Level>; Level::NAMES.len()]> = OnceLock::new();
        match CHOSEN.load(Ordering::Relaxed) {
            0 => None,
            index => DETECTED.get_or_init(|| Self::NAMES.map(Self::detect))[usize::from(index) - 1],
        }
    }

    /// Makes streamed writes visible to other threads.
    pub(crate) fn fence(self) {
        self.run(Fence);
    }
}

struct Fence;

impl Kernel for Fence {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.fence();
    }
}

/// Position in [`Level::NAMES`] of the level in use, plus 1; 0 until one is chosen.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Two AES rounds with three keys, whether a round takes its key first or last.
    #[inline(always)]
    fn aes_rounds<S: Simd>(simd: S, a: S::V, first: S::V, keys: [S::V; 2]) -> S::V {
        let [middle, last] = keys;
        if S::KEY_FIRST {
            simd.xor(simd.aes_last_round(simd.aes_round(a, first), middle), last)
        } else {
            simd.aes_last_round(simd.aes_round(simd.xor(a, first), middle), last)
        }
    }

    /// The results of a level's operations on fixed lanes, to compare levels.
    struct Operations;

    impl Kernel for Operations {
        type Output = Vec<[u64; LANES]>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let scramble = |seed: u64| std::array::from_fn(|i| (seed + i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let [a, b, c] = [1, 100, 10_000].map(|seed| simd.load(&scramble(seed)));
            [simd.splat_pair([1, 2]), simd.and(a, b), simd.xor(a, b), simd.add(a, c), aes_rounds(simd, a, b, [c, a])]
                .into_iter()
                .chain([1, 4, 63].into_iter().flat_map(|by| [simd.left(a, by), simd.right(a, by)]))
                .chain(
                    [simd.zip_8(a, b), simd.zip_16(a, b), simd.zip_32(a, b), simd.zip_64(a, b)].into_iter().flatten(),
                )
                .map(|a| simd.to_array(a))
                .collect()
        }
    }

    /// A level that goes undetected costs only speed, so no other test would fail.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn levels_are_those_that_the_cpu_has() {
        use std::arch::is_x86_feature_detected as detected;
        let avx2 = detected!("avx2") && detected!("fma") && detected!("aes") && detected!("f16c");
        let avx512 = detected!("avx512f") && detected!("avx512bw") && detected!("avx512dq") && detected!("avx512vl");
        let expected = [
            ("portable", true),
            ("neon", false),
            ("avx2", avx2),
            ("vaes", avx2 && detected!("vaes")),
            ("avx512", avx512 && detected!("vaes")),
        ];
        for (name, has) in expected {
            assert_eq!(Level::from_name(name).is_ok(), has, "{name}");
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn levels_are_those_that_the_cpu_has() {
        assert_eq!(Level::from_name("neon").is_ok(), std::arch::is_aarch64_feature_detected!("aes"));
    }

    #[test]
    fn every_level_computes_what_portable_does() {
        let expected = Level::portable().run(Operations);
        for level in Level::available() {
            assert_eq!(level.run(Operations), expected, "{level:?}");
        }
    }

    /// The bits of a level's results on special and other floats.
    struct Arithmetic;

    impl Arithmetic {
        #[inline(always)]
        fn results<R: Copy + Default, S: Floats<R>>(simd: S, numbers: &[[R; 16]; 3]) -> Vec<R> {
            // SAFETY: each row has room for a vector.
            let [a, b, c] = numbers.each_ref().map(|row| unsafe { simd.load_floats(row.as_ptr()) });
            let several = [
                simd.plus(a, b),
                simd.minus(a, b),
                simd.times(a, b),
                simd.fused(a, b, c),
                simd.larger(a, b),
                simd.kept(0xA5C3, a),
                simd.either(0x5A3C, a, b),
                simd.scaled_by_power(b, c),
                simd.splat_float(numbers[1][3]),
            ];
            let mut all = Vec::new();
            for lanes in several {
                let mut row = [R::default(); 16];
                // SAFETY: the row has room for a vector.
                unsafe { simd.store_floats(row.as_mut_ptr(), lanes) };
                all.extend_from_slice(&row[..S::LANES]);
            }
            all
        }
    }

    impl Kernel for Arithmetic {
        type Output = Vec<u64>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            const SPECIAL: [f64; 8] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, 3e38, -1.5];
            let special = std::array::from_fn(|i| SPECIAL[i % 8]);
            let others = std::array::from_fn(|i| 0.75 + i as f64 / 33.0);
            // Integers in the low bits, as rounding leaves them.
            let doubles = [special, others, std::array::from_fn(|i| i as f64 - 7.0 + 1.5 * 2f64.powi(52))];
            let mut singles = doubles.map(|row| row.map(|x| x as f32));
            singles[2] = std::array::from_fn(|i| i as f32 - 7.0 + 1.5 * 2f32.powi(23));
            let bits = |x: f64| if x.is_nan() { 0 } else { x.to_bits() };
            let [doubles, singles] =
                [Self::results(simd, &doubles), Self::results(simd, &singles).into_iter().map(f64::from).collect()];
            doubles.into_iter().chain(singles).map(bits).collect()
        }
    }

    #[test]
    fn every_level_computes_floats_as_portable_does() {
        let expected = Level::portable().run(Arithmetic);
        for level in Level::available() {
            assert_eq!(level.run(Arithmetic), expected, "{level:?}");
        }
    }

    /// Sixteen floats rounded to both halves, and these widened.
    struct Rounded([f32; 16]);

    impl Kernel for Rounded {
        type Output = ([f16; 16], [bf16; 16], [f32; 16], [f32; 16]);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let (mut halves, mut brains) = ([f16::ZERO; 16], [bf16::ZERO; 16]);
            let (mut from_halves, mut from_brains) = ([0.0; 16], [0.0; 16]);
            // SAFETY: each array has room for a vector.
            unsafe {
                let floats = simd.load_floats(self.0.as_ptr());
                simd.store_f16(halves.as_mut_ptr(), floats);
                simd.store_bf16(brains.as_mut_ptr(), floats);
                simd.store_floats(from_halves.as_mut_ptr(), simd.load_f16(halves.as_ptr()));
                simd.store_floats(from_brains.as_mut_ptr(), simd.load_bf16(brains.as_ptr()));
            }
            (halves, brains, from_halves, from_brains)
        }
    }

    /// Would catch a tie that goes up, a carry out of a NaN, and lanes that change places.
    #[test]
    fn every_level_converts_halves_as_their_crate_does() {
        // All halves of both kinds, ties between two, and neighbours of ties.
        let steps = [0u32, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
        let floats = (0..=u16::MAX).flat_map(|half| {
            let (wide, brain) = (f16::from_bits(half).to_f32().to_bits(), u32::from(half) << 16);
            steps.into_iter().flat_map(move |step| [wide | step, brain | step])
        });
        let floats: Vec<f32> = floats.map(f32::from_bits).collect();
        for level in Level::available() {
            for sixteen in floats.as_chunks::<16>().0 {
                let (halves, brains, from_halves, from_brains) = level.run(Rounded(*sixteen));
                for (i, float) in sixteen.iter().enumerate() {
                    assert_eq!(halves[i].to_bits(), f16::from_f32(*float).to_bits(), "{level:?} {float:e}");
                    assert_eq!(brains[i].to_bits(), bf16::from_f32(*float).to_bits(), "{level:?} {float:e}");
                    assert_eq!(from_halves[i].to_bits(), halves[i].to_f32().to_bits(), "{level:?} {float:e}");
                    assert_eq!(from_brains[i].to_bits(), brains[i].to_f32().to_bits(), "{level:?} {float:e}");
                }
            }
        }
    }

    /// Whether any bit is set in these lanes.
    struct Any([u64; LANES]);

    impl Kernel for Any {
        type Output = bool;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> bool {
            simd.any(simd.load(&self.0))
        }
    }

    #[test]
    fn a_bit_in_any_lane_is_seen() {
        for level in Level::available() {
            assert!(!level.run(Any([0; LANES])), "{level:?}");
            for bit in 0..64 * LANES {
                let lanes = std::array::from_fn(|lane| if bit / 64 == lane { 1 << (bit % 64) } else { 0 });
                assert!(level.run(Any(lanes)), "{level:?} bit {bit}");
            }
        }
    }

    #[repr(align(64))]
    struct Lines([[u64; LANES]; 4]);

    /// Streams zeros into the second line and these lanes into the third.
    struct Streams<'a>(&'a mut Lines, [u64; LANES]);

    impl Kernel for Streams<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let [_, zeros, lanes, _] = &mut self.0.0;
            // SAFETY: lines are 64 bytes, at multiples of 64.
            unsafe {
                simd.stream_zeros(zeros.as_mut_ptr().cast());
                simd.stream(lanes.as_mut_ptr().cast(), simd.load(&self.1));
            }
            simd.fence();
        }
    }

    #[test]
    fn streamed_lines_arrive_and_others_stay() {
        for level in Level::available() {
            let mut lines = Lines([[!0; LANES]; 4]);
            let lanes = [1, 2, 3, 4, 5, 6, 7, 8];
            level.run(Streams(&mut lines, lanes));
            assert_eq!(lines.0, [[!0; LANES], [0; LANES], lanes, [!0; LANES]], "{level:?}");
        }
    }
}
