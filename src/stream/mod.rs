//! The stream: pure functions of (key, index), which use neither threads nor the caller's arrays.

pub(crate) mod ars;
pub(crate) mod bernoulli;
pub(crate) mod key;
pub(crate) mod normal;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only calls from Python draw numbers"))]
pub(crate) mod number;
#[cfg(any(feature = "python", feature = "rand_core"))]
pub(crate) mod sequence;
pub(crate) mod uniform;
