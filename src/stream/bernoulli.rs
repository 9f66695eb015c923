//! Bit-sliced Bernoulli draws: from (key, p, group index) to 128 keep bits.
//!
//! Element i sits in group i / 128, lane i % 128. Bit-plane t of a group is block (group, tag t), whose bits are the
//! lanes in order; a lane's bits of planes 0, 1, ... 63 are the binary digits of its uniform U, most significant first.
//! The element is dropped iff U < T with T = floor(p 2^64).
//!
//! [`keep_group`] is the definition, in scalar code. [`Sampler`] draws the same bits in vectors of four groups, on any
//! CPU.

use std::ops::Range;

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
/// Vectors of groups drawn together: the AES rounds of one need not wait for those of the other.
const VECTORS: usize = 2;
/// Words of keep bits drawn together.
const DRAWN: usize = 128;
/// Planes drawn for every group. After eight, two groups in five still have an undecided element.
const SURE_PLANES: u32 = 8;
/// Planes whose tags are precomputed. After sixteen, one group in five hundred still has an
/// undecided element.
const TAGGED_PLANES: usize = 16;

/// The probability to drop, and the integer that uniforms are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Probability {
    /// Bits of the double. It is never NaN or -0.0, so equal probabilities have equal bits.
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

    /// The threshold that uniforms are compared with: T = floor(p 2^64).
    #[must_use]
    pub const fn threshold(self) -> Threshold {
        self.threshold
    }

    /// 1 / (1 - p), the scale of inverted dropout; 0 for p = 1, where nothing is left to scale.
    #[must_use]
    pub fn inverted_scale(self) -> f64 {
        if self.threshold == Threshold::DropAll { 0.0 } else { 1.0 / (1.0 - self.get()) }
    }
}

/// The uniforms whose elements are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Threshold {
    /// None: T = 0.
    KeepAll,
    /// Uniforms below this positive number, T.
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

/// Draws keep bits for one key and threshold.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    schedule: Schedule,
    threshold: u64,
    /// Number of planes that can matter: the threshold's digits up to its last 1.
    planes: u32,
    /// Last round keys for the threshold's digits 0 and 1: with them, a bit of a plane becomes 1 if it equals the
    /// digit.
    last_keys: [[u64; 2]; 2],
    /// [`Schedule::tag_difference`] of the first planes.
    tags: [u32; TAGGED_PLANES],
}

impl Sampler {
    /// A sampler for uniforms below `threshold`, which is positive.
    pub(crate) fn new(key: Key, threshold: u64) -> Self {
        let schedule = key.schedule();
        let planes = u64::BITS - threshold.trailing_zeros();
        let mut tags = [0; TAGGED_PLANES];
        for (plane, tag) in tags.iter_mut().enumerate().take(planes as usize) {
            *tag = schedule.tag_difference(plane as u8);
        }
        let last_key = schedule.last_key();
        Self { schedule, threshold, planes, last_keys: [last_key.map(|half| !half), last_key], tags }
    }

    /// Keep bits of consecutive groups, two words each.
    pub(crate) fn fill(&self, level: Level, first_group: u64, keep: &mut [u64]) {
        level.run(Draw { sampler: self, groups: Groups::Consecutive(first_group), keep });
    }

    /// Keep bits of any groups, two words each.
    pub(crate) fn gather(&self, level: Level, groups: &[u64], keep: &mut [u64]) {
        level.run(Draw { sampler: self, groups: Groups::Listed(groups), keep });
    }
}

/// The groups of one draw.
#[derive(Clone, Copy)]
enum Groups<'a> {
    Consecutive(u64),
    Listed(&'a [u64]),
}

impl Groups<'_> {
    #[inline(always)]
    fn index(self, at: usize) -> u64 {
        match self {
            Self::Consecutive(first) => first.wrapping_add(at as u64),
            Self::Listed(groups) => groups[at.min(groups.len() - 1)],
        }
    }

    /// Counters of groups `at..at + 4`, with tag 0; those past the end are arbitrary.
    #[inline(always)]
    fn counters<S: Simd>(self, simd: S, at: usize) -> S::V {
        match self {
            Self::Consecutive(_) => {
                let first = simd.splat_pair([self.index(at), 0]);
                simd.add(first, simd.load(&[0, 0, 1, 0, 2, 0, 3, 0]))
            }
            Self::Listed(_) => Self::counters_of(simd, [at, at + 1, at + 2, at + 3].map(|at| self.index(at))),
        }
    }

    #[inline(always)]
    fn counters_of<S: Simd>(simd: S, [a, b, c, d]: [u64; GROUPS]) -> S::V {
        simd.load(&[a, 0, b, 0, c, 0, d, 0])
    }
}

/// A vector of groups, some of whose elements may be undecided.
#[derive(Clone, Copy)]
struct State<V> {
    /// Blocks with tag 0 after the first round.
    first_round: V,
    /// Elements not dropped so far. Undecided ones count as kept, so this is the answer after the last plane.
    keep: V,
    /// Elements whose uniform equals the threshold in all digits so far.
    undecided: V,
}

/// Draws as many groups as `keep` has room for.
///
/// The simple way would be a loop over groups that draws planes until no element is undecided. But the last of a
/// group's 128 elements takes 8.3 planes on average, the last in a vector of four groups takes 10.3, and a CPU cannot
/// predict when such a loop ends. So every group first gets as many planes as most groups need, without a check. Then
/// the few groups with undecided elements are packed into full vectors and finished.
struct Draw<'a> {
    sampler: &'a Sampler,
    groups: Groups<'a>,
    keep: &'a mut [u64],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { sampler, groups, keep } = self;
        if sampler.planes <= SURE_PLANES {
            return sampler.sure_planes::<S, false>(simd, groups, 0, keep, &mut []);
        }
        let mut undecided = [[0; LANES]; DRAWN / LANES];
        for (part, keep) in keep.chunks_mut(DRAWN).enumerate() {
            let first = part * DRAWN / GROUP_WORDS;
            sampler.sure_planes::<S, true>(simd, groups, first, keep, &mut undecided);
            sampler.later_planes(simd, groups, first, keep, undecided.as_flattened());
        }
    }
}

impl Sampler {
    /// Draws the first planes of all groups from `first` on. If there are `MORE` planes, also stores which elements are
    /// undecided.
    #[inline(always)]
    fn sure_planes<S: Simd, const MORE: bool>(
        &self,
        simd: S,
        groups: Groups<'_>,
        first: usize,
        keep: &mut [u64],
        undecided: &mut [[u64; LANES]],
    ) {
        let planes = if MORE { SURE_PLANES } else { self.planes };
        let (pairs, tail) = keep.as_chunks_mut::<{ VECTORS * LANES }>();
        let mut at = 0;
        for pair in pairs {
            let states = self.drawn::<S, VECTORS>(simd, groups, first + at * GROUPS, planes);
            for (keep, state) in pair.as_chunks_mut::<LANES>().0.iter_mut().zip(states) {
                *keep = simd.to_array(state.keep);
                if MORE {
                    undecided[at] = simd.to_array(state.undecided);
                }
                at += 1;
            }
        }
        for keep in tail.chunks_mut(LANES) {
            let [state] = self.drawn(simd, groups, first + at * GROUPS, planes);
            keep.copy_from_slice(&simd.to_array(state.keep)[..keep.len()]);
            if MORE {
                undecided[at] = simd.to_array(state.undecided);
            }
            at += 1;
        }
    }

    /// N vectors of groups from `at` on, after this many planes.
    #[inline(always)]
    fn drawn<S: Simd, const N: usize>(&self, simd: S, groups: Groups<'_>, at: usize, planes: u32) -> [State<S::V>; N] {
        let mut states = [State { first_round: simd.splat(0), keep: simd.splat(!0), undecided: simd.splat(!0) }; N];
        for (vector, state) in states.iter_mut().enumerate() {
            state.first_round = self.schedule.first_round(simd, groups.counters(simd, at + vector * GROUPS));
        }
        self.planes::<S, N, false>(simd, 0..planes, &mut states);
        states
    }

    /// Draws the remaining planes of groups with undecided elements, until none are left.
    #[inline(always)]
    fn later_planes<S: Simd>(&self, simd: S, groups: Groups<'_>, first: usize, keep: &mut [u64], undecided: &[u64]) {
        let keep = keep.as_chunks_mut::<GROUP_WORDS>().0;
        let undecided = &undecided.as_chunks::<GROUP_WORDS>().0[..keep.len()];
        // Lists the groups with undecided elements without a branch: stores each group, but counts it only if it has
        // one.
        let mut open = [0u8; DRAWN / GROUP_WORDS];
        let mut count = 0;
        for (group, [low, high]) in undecided.iter().enumerate() {
            open[count] = group as u8;
            count += usize::from(low | high != 0);
        }
        // Pads the last vector with copies of the last group.
        for at in count..count.next_multiple_of(GROUPS) {
            open[at] = open[count - 1];
        }
        for four in open[..count.next_multiple_of(GROUPS)].as_chunks::<GROUPS>().0 {
            let four = four.map(usize::from);
            let counters = Groups::counters_of(simd, four.map(|group| groups.index(first + group)));
            let mut states = [State {
                first_round: self.schedule.first_round(simd, counters),
                keep: together(simd, four, keep),
                undecided: together(simd, four, undecided),
            }];
            self.planes::<S, 1, true>(simd, SURE_PLANES..self.planes, &mut states);
            let words = simd.to_array(states[0].keep);
            for (group, words) in four.into_iter().zip(words.as_chunks::<GROUP_WORDS>().0) {
                keep[group] = *words;
            }
        }
    }

    /// Compares more digits of the uniforms: all `planes`, or until no element is undecided.
    ///
    /// Where the threshold's digit is 1, an undecided element with a 0 is dropped. Where it is 0, one with a 1 is kept.
    /// So a run of ones in the threshold drops the elements that are undecided before the run and not after it. That
    /// takes two xors per run, and none per plane.
    #[inline(always)]
    fn planes<S: Simd, const N: usize, const UNTIL_DECIDED: bool>(
        &self,
        simd: S,
        planes: Range<u32>,
        states: &mut [State<S::V>; N],
    ) {
        #[inline(always)]
        fn settle<S: Simd>(simd: S, states: &mut [State<S::V>]) {
            for state in states {
                state.keep = simd.xor(state.keep, state.undecided);
            }
        }
        let mut last_digit = 0;
        for plane in planes {
            let digit = self.threshold << plane >> 63;
            if digit != last_digit {
                settle(simd, states);
                last_digit = digit;
            }
            let prepared = self.tags.get(plane as usize).copied();
            let tag = prepared.unwrap_or_else(|| self.schedule.tag_difference(plane as u8));
            let tag = simd.splat_pair([0, u64::from(tag)]);
            let last_key = simd.splat_pair(self.last_keys[digit as usize]);
            for state in states.iter_mut() {
                let equal = self.schedule.later_rounds(simd, state.first_round, tag, last_key);
                state.undecided = simd.and(state.undecided, equal);
            }
            if UNTIL_DECIDED && !simd.any(states[0].undecided) {
                break;
            }
        }
        if last_digit == 1 {
            settle(simd, states);
        }
    }
}

/// A vector of the words of four groups.
#[inline(always)]
fn together<S: Simd>(simd: S, groups: [usize; GROUPS], words: &[[u64; GROUP_WORDS]]) -> S::V {
    let [a, b, c, d] = groups.map(|group| words[group]);
    simd.load(&[a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]])
}
