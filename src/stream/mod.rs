//! The stream: pure functions of (key, index). No memory of the caller's, no threads.

pub(crate) mod ars;
pub(crate) mod bernoulli;
pub(crate) mod key;
pub(crate) mod normal;
pub(crate) mod uniform;
