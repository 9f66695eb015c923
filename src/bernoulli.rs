//! Bit-sliced Bernoulli draws: from (key, p, group index) to 128 keep bits.
//!
//! Element i sits in group i / 128, lane i % 128. Bit-plane t of a group is Philox block (group, tag t); the
//! lane's bits of planes 0, 1, ... 63 are the binary digits of its uniform U, most significant first. The
//! element is dropped iff U < T with T = floor(p 2^64).
//!
//! [`keep_group`] says that in scalar code. [`Sampler`] does it eight groups at a time on any CPU.

use crate::error::Error;
use crate::key::{Key, counter_word1};
use crate::philox::{Prefix, Schedule};
use crate::simd::{Kernel, LANES, Level, Simd};
use crate::walk::MORE;

/// Elements in a group: the bits of one Philox block.
pub(crate) const GROUP: usize = 128;
/// 64-bit words of keep bits in a group.
pub(crate) const GROUP_WORDS: usize = GROUP / 64;
/// Groups that are drawn at once: as many as a tile has.
pub(crate) const PIECE: usize = 64;
/// Words of keep bits in a block of as many groups as a vector has lanes.
const BLOCK_WORDS: usize = LANES * GROUP_WORDS;
/// Planes drawn before the first look at whether any element of 1,024 is still undecided. After seven planes eight
/// are on average; the last one takes 11.3 planes.
const SURE_PLANES: u32 = 8;

/// The probability to drop, held as the integer that uniforms are compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probability {
    p: f64,
}

impl Probability {
    /// Checks that `p` is in [0, 1].
    ///
    /// # Errors
    /// [`Error::Probability`] if it is not, or is NaN.
    pub fn new(p: f64) -> Result<Self, Error> {
        if (0.0..=1.0).contains(&p) {
            Ok(Self { p: p + 0.0 }) // -0.0 becomes 0.0
        } else {
            Err(Error::Probability(p))
        }
    }

    /// The probability as it was given.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.p
    }

    /// What the uniform is compared with: T = floor(p 2^64), exact because scaling by a power of two is.
    #[must_use]
    pub fn threshold(self) -> Threshold {
        let scaled = self.p * 2f64.powi(64);
        if self.p == 1.0 {
            Threshold::DropAll
        } else if scaled < 1.0 {
            Threshold::KeepAll
        } else {
            Threshold::Below(scaled as u64)
        }
    }

    /// 1 / (1 - p), what inverted dropout multiplies by; 0 for p = 1, where nothing is left to scale.
    #[must_use]
    pub fn inverted_scale(self) -> f64 {
        if self.p == 1.0 { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

/// Which uniforms are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// None: T = 0.
    KeepAll,
    /// Those below this positive number.
    Below(u64),
    /// All: T = 2^64.
    DropAll,
}

/// Keep bits of the 128 elements of one group, as the stream defines them: lane l is bit `l % 64` of word
/// `l / 64`.
#[must_use]
pub fn keep_group(key: Key, threshold: Threshold, group: u64) -> [u64; 2] {
    let threshold = match threshold {
        Threshold::KeepAll => return [!0; 2],
        Threshold::DropAll => return [0; 2],
        Threshold::Below(threshold) => threshold,
    };
    let mut uniforms = [0u64; GROUP];
    for tag in 0..64 {
        let words = key.block(group, tag);
        for (lane, uniform) in uniforms.iter_mut().enumerate() {
            let bit = words[lane / 32] >> (lane % 32) & 1;
            *uniform = *uniform << 1 | u64::from(bit);
        }
    }
    let mut keep = [0; 2];
    for (lane, uniform) in uniforms.into_iter().enumerate() {
        keep[lane / 64] |= u64::from(uniform >= threshold) << (lane % 64);
    }
    keep
}

/// Memory that is read right after a draw, and therefore asked for between its planes.
///
/// Drawing is arithmetic and applying is memory. One after the other, each leaves half of the CPU idle; so lines are
/// asked for from the first planes on, a few at a time, and the rest of the draw hides their way to the cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Soon {
    /// Addresses of what belongs to the first element, of each array; 0 for no array.
    pub(crate) inputs: [usize; 1 + MORE],
    /// Bytes of an element.
    pub(crate) size: usize,
}

impl Soon {
    /// The same for elements further on: as many bytes from there in each array.
    pub(crate) fn moved(self, bytes: [isize; 1 + MORE]) -> Self {
        let move_one = |i: usize| if self.inputs[i] == 0 { 0 } else { self.inputs[i].wrapping_add_signed(bytes[i]) };
        Self { inputs: std::array::from_fn(move_one), ..self }
    }

    /// Asks for the share of plane `plane` of a block's memory.
    #[inline(always)]
    fn ask<S: Simd>(self, simd: S, block: usize, plane: u32) {
        let bytes = LANES * GROUP * self.size;
        let share = bytes / SURE_PLANES as usize;
        for input in self.inputs.into_iter().filter(|input| *input != 0) {
            let first = input.wrapping_add(block * bytes + plane as usize * share);
            for line in (0..share).step_by(64) {
                simd.prefetch_far(std::ptr::without_provenance(first.wrapping_add(line)));
            }
        }
    }
}

/// Draws keep bits for one key and threshold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampler {
    key: Key,
    threshold: u64,
    /// Planes that can matter: those up to the threshold's last 1 bit.
    planes: u32,
}

impl Sampler {
    /// A sampler for uniforms below `threshold`, which is positive.
    pub(crate) fn new(key: Key, threshold: u64) -> Self {
        Self { key, threshold, planes: u64::BITS - threshold.trailing_zeros() }
    }

    /// Whether a draw takes so many planes that memory can be asked for between them.
    pub(crate) fn takes_time(&self) -> bool {
        self.planes >= SURE_PLANES
    }

    /// Keep bits of consecutive groups, two words each.
    pub(crate) fn fill(&self, level: Level, first_group: u64, soon: Option<Soon>, keep: &mut [u64]) {
        let mut group = first_group;
        let mut rest = keep;
        let mut soon = soon;
        while !rest.is_empty() {
            // Counter word 1 holds the high part of the index, so a piece ends where that changes.
            let until_carry = (1 << 32) - (group & 0xFFFF_FFFF);
            let groups = (rest.len() / GROUP_WORDS).min(PIECE).min(until_carry.min(PIECE as u64) as usize);
            let (piece, tail) = rest.split_at_mut(groups * GROUP_WORDS);
            let groups = Groups::Consecutive(group);
            group += (piece.len() / GROUP_WORDS) as u64;
            level.run(Draw { sampler: self, groups, soon, keep: piece });
            soon = soon.map(|soon| soon.moved([(PIECE * GROUP * soon.size) as isize; 1 + MORE]));
            rest = tail;
        }
    }

    /// Keep bits of any groups, two words each.
    pub(crate) fn gather(&self, level: Level, groups: &[u64], keep: &mut [u64]) {
        for (groups, keep) in groups.chunks(PIECE).zip(keep.chunks_mut(PIECE * GROUP_WORDS)) {
            if groups.iter().all(|group| group >> 32 == groups[0] >> 32) {
                level.run(Draw { sampler: self, groups: Groups::Listed(groups), soon: None, keep });
            } else {
                for (group, keep) in groups.iter().zip(keep.chunks_exact_mut(GROUP_WORDS)) {
                    let words = keep_group(self.key, Threshold::Below(self.threshold), *group);
                    keep.copy_from_slice(&words);
                }
            }
        }
    }
}

/// The groups of one piece. All share the high half of their index.
#[derive(Clone, Copy)]
enum Groups<'a> {
    Consecutive(u64),
    Listed(&'a [u64]),
}

impl Groups<'_> {
    #[inline(always)]
    fn high(self) -> u64 {
        match self {
            Self::Consecutive(first) => first,
            Self::Listed(groups) => groups[0],
        }
    }

    /// Indices of groups `at..at + LANES`; those past the end are arbitrary.
    #[inline(always)]
    fn lanes<S: Simd>(self, simd: S, at: usize) -> S::V {
        match self {
            Self::Consecutive(first) => {
                let first = simd.splat(first.wrapping_add(at as u64));
                simd.add(first, simd.load(&[0, 1, 2, 3, 4, 5, 6, 7]))
            }
            Self::Listed(groups) => simd.load(&std::array::from_fn(|lane| groups[(at + lane).min(groups.len() - 1)])),
        }
    }
}

/// Eight groups on their way to a decision. Lane g holds group g: its elements 0..64 in the first vector
/// of each pair, 64..128 in the second.
#[derive(Clone, Copy)]
struct State<V> {
    /// Not dropped so far. Undecided elements count as kept, so that this is the answer once planes run out.
    keep: [V; 2],
    /// The uniform's digits so far equal the threshold's.
    undecided: [V; 2],
}

/// A sampler with its key expanded.
#[derive(Clone, Copy)]
struct Stream<'a> {
    sampler: &'a Sampler,
    schedule: &'a Schedule,
}

/// Draws one piece of at most [`PIECE`] groups.
struct Draw<'a> {
    sampler: &'a Sampler,
    groups: Groups<'a>,
    soon: Option<Soon>,
    keep: &'a mut [u64],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { sampler, groups, soon, keep } = self;
        // Made here and not with the sampler, which stays small enough to be handed around by value.
        let schedule = sampler.key.schedule();
        let stream = Stream { sampler, schedule: &schedule };
        let (blocks, rest) = keep.as_chunks_mut::<BLOCK_WORDS>();
        let full = blocks.len() * LANES;
        for (block, keep) in blocks.iter_mut().enumerate() {
            let ask = |plane| {
                if let Some(soon) = soon {
                    soon.ask(simd, block, plane);
                }
            };
            let drawn = self::block(simd, stream, groups, block * LANES, simd.splat(!0), ask);
            simd.store_pairs(drawn, keep);
        }
        if !rest.is_empty() {
            // Lanes past the end are decided: no plane is drawn for them alone.
            let used = rest.len() / GROUP_WORDS;
            let open = simd.load(&std::array::from_fn(|lane| if lane < used { !0 } else { 0 }));
            let mut words = [0; BLOCK_WORDS];
            simd.store_pairs(self::block(simd, stream, groups, full, open, |_| ()), &mut words);
            rest.copy_from_slice(&words[..rest.len()]);
        }
    }
}

/// Keep bits of groups `at..at + LANES`, of which those in `open` are wanted. Calls `meanwhile` before each of the
/// first planes.
#[inline(always)]
fn block<S: Simd>(
    simd: S,
    stream: Stream<'_>,
    groups: Groups<'_>,
    at: usize,
    open: S::V,
    meanwhile: impl Fn(u32),
) -> [S::V; 2] {
    let prefix = Prefix::new(simd, stream.schedule, groups.lanes(simd, at));
    let mut state = State { keep: [simd.splat(!0); 2], undecided: [open; 2] };
    for plane in 0..stream.sampler.planes {
        let open = || simd.any(simd.or(state.undecided[0], state.undecided[1]));
        if plane >= SURE_PLANES && !open() {
            break;
        }
        if plane < SURE_PLANES {
            meanwhile(plane);
        }
        state = self::plane(simd, stream, groups.high(), prefix, state, plane);
    }
    state.keep
}

/// One more binary digit of 1,024 uniforms, compared with the threshold's digit.
#[inline(always)]
fn plane<S: Simd>(
    simd: S,
    stream: Stream<'_>,
    high: u64,
    prefix: Prefix<S::V>,
    state: State<S::V>,
    plane: u32,
) -> State<S::V> {
    let [x0, x1, x2, x3] = prefix.words(simd, stream.schedule, counter_word1(high, plane as u8));
    let digits = [simd.pack_low(x0, x1), simd.pack_low(x2, x3)];
    let State { mut keep, mut undecided } = state;
    let threshold_digit = stream.sampler.threshold << plane >> 63;
    for half in 0..2 {
        if threshold_digit == 1 {
            // 0 below 1 decides for dropping, 1 equals 1.
            keep[half] = simd.clear_where(keep[half], undecided[half], digits[half]);
            undecided[half] = simd.and(undecided[half], digits[half]);
        } else {
            // 1 above 0 decides for keeping, 0 equals 0.
            undecided[half] = simd.and_not(undecided[half], digits[half]);
        }
    }
    State { keep, undecided }
}
