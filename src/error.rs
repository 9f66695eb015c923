//! Every way a call can fail, with one sentence each. The Python layer raises these sentences as they are.

use std::fmt;

/// A shape as Python writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents(pub Vec<u64>);

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "({only},)"),
            extents => {
                let extents: Vec<String> = extents.iter().map(u64::to_string).collect();
                write!(f, "({})", extents.join(", "))
            }
        }
    }
}

impl<T: Copy + TryInto<u64>> From<&[T]> for Extents {
    fn from(extents: &[T]) -> Self {
        Self(extents.iter().map(|extent| (*extent).try_into().unwrap_or(u64::MAX)).collect())
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A probability outside of [0, 1], or NaN.
    #[error("p must be a number in [0, 1], got {0}")]
    Probability(f64),
    /// A mask with more elements than the stream can index.
    #[error("shape must have at most 2**63 - 1 elements, got {0}")]
    Size(Extents),
    /// A region that is not inside its mask.
    #[error("region must lie inside the mask of shape {whole}, got start {start} and shape {shape}")]
    Region {
        /// The requested corner.
        start: Extents,
        /// The requested extent.
        shape: Extents,
        /// Shape of the mask.
        whole: Extents,
    },
    /// Two slices, or a slice and a mask, of different sizes.
    #[error("{what} must have as many elements as the mask ({expected}), got {got}")]
    Length {
        /// The argument at fault.
        what: &'static str,
        /// Elements of the mask.
        expected: u64,
        /// Elements of the argument.
        got: u64,
    },
    /// A view whose shape differs from the mask's.
    #[error("{what} must have the shape of the mask, {expected}, got {got}")]
    Shape {
        /// The argument at fault.
        what: &'static str,
        /// Shape of the mask.
        expected: Extents,
        /// Shape of the argument.
        got: Extents,
    },
    /// An array or mask of a call of attention that does not fit the others.
    #[error("{what} must {rule}, got {got}")]
    Operand {
        /// The argument at fault.
        what: &'static str,
        /// What it must be or have.
        rule: String,
        /// What it is or has.
        got: String,
    },
    /// A mask that does not broadcast to the array's shape.
    #[error("mask of shape {mask} does not broadcast to shape {array}")]
    Broadcast {
        /// Shape of the mask.
        mask: Extents,
        /// Shape of the array.
        array: Extents,
    },
    /// A SIMD level that does not exist.
    #[error("SIMD level (FASTDROP_SIMD) must be portable, neon, avx2, vaes or avx512, got {0:?}")]
    UnknownLevel(String),
    /// A SIMD level that this CPU lacks.
    #[error("SIMD level (FASTDROP_SIMD) must be one that this CPU has, got {0}")]
    UnsupportedLevel(&'static str),
    /// Inputs that a fused operation does not take.
    #[error("the fused operation {0} takes {1} inputs, which must not be complex if it is not linear")]
    Inputs(&'static str, usize),
    /// A scale or standard deviation that is infinite or NaN.
    #[error("{what} must be a finite number, got {got}")]
    NotFinite {
        /// The argument at fault.
        what: &'static str,
        /// The value.
        got: f64,
    },
    /// A thread count that is not positive.
    #[error("number of threads must be an integer of at least 1, got {0}")]
    Threads(String),
    /// The operating system provided no entropy, for this reason.
    #[error("a key without a seed needs entropy from the operating system: {0}")]
    Entropy(String),
    /// Not enough memory for what a call needs besides its arrays.
    #[error("no memory left for the call")]
    Memory,
    /// The caller's interrupt callback asked to stop.
    #[error("interrupted")]
    Interrupted,
}
