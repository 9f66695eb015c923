//! The stream: pure functions of (key, index), which use no threads and no memory of the caller.

pub(crate) mod ars;
pub(crate) mod bernoulli;
pub(crate) mod key;
pub(crate) mod normal;
pub(crate) mod uniform;
