//! Bit-sliced Bernoulli draws: from (key, p, group index) to 128 keep bits.
//!
//! Element i sits in group i / 128, lane i % 128. Bit-plane t of a group is block (group, tag t), whose bits are the lanes
//! in order; a lane's bits of planes 0, 1, ... 63 are the binary digits of its uniform U, most significant first. The
//! element is dropped iff U < T with T = floor(p 2^64).
//!
//! [`keep_group`] says that in scalar code. [`Sampler`] does it eight groups at a time on any CPU.

use super::ars::Schedule;
use super::key::Key;
use crate::error::Error;
use crate::simd::{Kernel, LANES, Level, Simd};

/// Elements in a group: the bits of one block.
pub(crate) const GROUP: usize = 128;
/// 64-bit words of keep bits in a group.
pub(crate) const GROUP_WORDS: usize = GROUP / 64;
/// Groups in a vector.
const GROUPS: usize = LANES / GROUP_WORDS;
/// Vectors of groups that are drawn together.
const VECTORS: usize = 2;
/// Elements that are drawn together.
pub(crate) const BLOCK: usize = VECTORS * GROUPS * GROUP;
/// Planes drawn before the first look at whether any element of 1,024 is still undecided. After seven planes eight
/// are on average; the last one takes 11.3 planes.
pub(crate) const SURE_PLANES: u32 = 8;

/// The probability to drop, with the integer that uniforms are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Probability {
    /// Of the double, which is neither NaN nor -0.0: so equal probabilities have equal bits.
    bits: u64,
    threshold: Threshold,
}

impl std::fmt::Debug for Probability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Probability({:?})", self.get())
    }
}

impl Probability {
    /// Checks that `p` is in [0, 1].
    ///
    /// # Errors
    /// [`Error::Probability`] if it is not, or is NaN.
    pub fn new(p: f64) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::Probability(p));
        }
        // Exact, because scaling by a power of two is.
        let scaled = p * 2f64.powi(64);
        let threshold = if p == 1.0 {
            Threshold::DropAll
        } else if scaled < 1.0 {
            Threshold::KeepAll
        } else {
            Threshold::Below(scaled as u64)
        };
        Ok(Self { bits: (p + 0.0).to_bits(), threshold }) // -0.0 becomes 0.0
    }

    /// The probability as it was given.
    #[must_use]
    pub const fn get(self) -> f64 {
        f64::from_bits(self.bits)
    }

    /// What the uniform is compared with: T = floor(p 2^64).
    #[must_use]
    pub const fn threshold(self) -> Threshold {
        self.threshold
    }

    /// 1 / (1 - p), what inverted dropout multiplies by; 0 for p = 1, where nothing is left to scale.
    #[must_use]
    pub fn inverted_scale(self) -> f64 {
        if self.threshold == Threshold::DropAll { 0.0 } else { 1.0 / (1.0 - self.get()) }
    }
}

/// Which uniforms are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        let plane = key.block(group, tag);
        for (lane, uniform) in uniforms.iter_mut().enumerate() {
            let bit = plane[lane / 8] >> (lane % 8) & 1;
            *uniform = *uniform << 1 | u64::from(bit);
        }
    }
    let mut keep = [0; 2];
    for (lane, uniform) in uniforms.into_iter().enumerate() {
        keep[lane / 64] |= u64::from(uniform >= threshold) << (lane % 64);
    }
    keep
}

/// Something else to do while bits are drawn, a share of it before each of the first planes.
pub(crate) trait BetweenPlanes: Copy {
    /// The share of plane `plane` (of [`SURE_PLANES`]) of the block number `block`, of [`BLOCK`] elements.
    fn issue<S: Simd>(self, simd: S, block: usize, plane: u32);
}

/// Nothing else to do.
impl BetweenPlanes for () {
    #[inline(always)]
    fn issue<S: Simd>(self, _: S, _: usize, _: u32) {}
}

/// Draws keep bits for one key and threshold.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    schedule: Schedule,
    threshold: u64,
    /// Planes that can matter: those up to the threshold's last 1 bit.
    planes: u32,
    /// What each plane's tag changes after the first round.
    tags: [u32; 64],
}

impl Sampler {
    /// A sampler for uniforms below `threshold`, which is positive.
    pub(crate) fn new(key: Key, threshold: u64) -> Self {
        let schedule = key.schedule();
        let planes = u64::BITS - threshold.trailing_zeros();
        let mut tags = [0; 64];
        for (plane, tag) in tags[..planes as usize].iter_mut().enumerate() {
            *tag = schedule.tag_difference(plane as u8);
        }
        Self { schedule, threshold, planes, tags }
    }

    /// Whether a draw takes so many planes that there is time for something else between them.
    pub(crate) fn is_long(&self) -> bool {
        self.planes >= SURE_PLANES
    }

    /// Keep bits of consecutive groups, two words each.
    pub(crate) fn fill(&self, level: Level, first_group: u64, between: impl BetweenPlanes, keep: &mut [u64]) {
        level.run(Draw { sampler: self, groups: Groups::Consecutive(first_group), between, keep });
    }

    /// Keep bits of any groups, two words each.
    pub(crate) fn gather(&self, level: Level, groups: &[u64], keep: &mut [u64]) {
        level.run(Draw { sampler: self, groups: Groups::Listed(groups), between: (), keep });
    }
}

/// The groups of one draw.
#[derive(Clone, Copy)]
enum Groups<'a> {
    Consecutive(u64),
    Listed(&'a [u64]),
}

impl Groups<'_> {
    /// Counters of groups `at..at + 4`, with tag 0; those past the end are arbitrary.
    #[inline(always)]
    fn counters<S: Simd>(self, simd: S, at: usize) -> S::V {
        match self {
            Self::Consecutive(first) => {
                let first = simd.splat_pair([first.wrapping_add(at as u64), 0]);
                simd.add(first, simd.load(&[0, 0, 1, 0, 2, 0, 3, 0]))
            }
            Self::Listed(groups) => {
                let group = |i: usize| groups[(at + i).min(groups.len() - 1)];
                simd.load(&[group(0), 0, group(1), 0, group(2), 0, group(3), 0])
            }
        }
    }
}

/// Groups on their way to a decision.
#[derive(Clone, Copy)]
struct State<V> {
    /// Not dropped so far. Undecided elements count as kept, so that this is the answer once planes run out.
    keep: V,
    /// The uniform's digits so far equal the threshold's.
    undecided: V,
}

/// Draws the groups whose bits `keep` has room for.
struct Draw<'a, B> {
    sampler: &'a Sampler,
    groups: Groups<'a>,
    between: B,
    keep: &'a mut [u64],
}

impl<B: BetweenPlanes> Kernel for Draw<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { sampler, groups, between, keep } = self;
        let (vectors, rest) = keep.as_chunks_mut::<LANES>();
        let full = vectors.len();
        let (blocks, single) = vectors.as_chunks_mut::<VECTORS>();
        for (block, keep) in blocks.iter_mut().enumerate() {
            let between = |plane| between.issue(simd, block, plane);
            let at = block * VECTORS * GROUPS;
            *keep = sampler.block(simd, groups, at, simd.splat(!0), between).map(|keep| simd.to_array(keep));
        }
        for keep in single {
            let at = (full - 1) * GROUPS;
            [*keep] = sampler.block(simd, groups, at, simd.splat(!0), |_| ()).map(|keep| simd.to_array(keep));
        }
        if !rest.is_empty() {
            // Lanes past the end are decided: no plane is drawn for them alone.
            let open = simd.load(&std::array::from_fn(|lane| if lane < rest.len() { !0 } else { 0 }));
            let [last] = sampler.block(simd, groups, full * GROUPS, open, |_| ());
            rest.copy_from_slice(&simd.to_array(last)[..rest.len()]);
        }
    }
}

impl Sampler {
    /// Keep bits of N vectors of groups from `at` on, of which those in `open` are wanted. Calls `between` before each
    /// of the first planes.
    #[inline(always)]
    fn block<S: Simd, const N: usize>(
        &self,
        simd: S,
        groups: Groups<'_>,
        at: usize,
        open: S::V,
        between: impl Fn(u32),
    ) -> [S::V; N] {
        let first_rounds: [S::V; N] =
            std::array::from_fn(|vector| self.schedule.first_round(simd, groups.counters(simd, at + vector * GROUPS)));
        let mut states = [State { keep: simd.splat(!0), undecided: open }; N];
        for plane in 0..self.planes {
            if plane < SURE_PLANES {
                between(plane);
            } else {
                let undecided =
                    states.iter().skip(1).fold(states[0].undecided, |all, state| simd.or(all, state.undecided));
                if !simd.any(undecided) {
                    break;
                }
            }
            let tag = simd.splat_pair([0, u64::from(self.tags[plane as usize])]);
            let threshold_digit = self.threshold << plane >> 63;
            for (state, first_round) in states.iter_mut().zip(first_rounds) {
                let digits = self.schedule.later_rounds(simd, simd.xor(first_round, tag));
                let State { keep, undecided } = *state;
                *state = if threshold_digit == 1 {
                    // 0 below 1 decides for dropping, 1 equals 1.
                    State { keep: simd.clear_where(keep, undecided, digits), undecided: simd.and(undecided, digits) }
                } else {
                    // 1 above 0 decides for keeping, 0 equals 0.
                    State { keep, undecided: simd.and_not(undecided, digits) }
                };
            }
        }
        states.map(|state| state.keep)
    }
}
