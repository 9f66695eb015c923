//! Dropout at the speed of memory, with masks that are pure functions of (key, p, element index).
//!
//! The pipeline, each step in a module that uses only those above it:
//!
//! 1. [`ars`]: a counter-based generator turns (key, counter) into 128 random bits.
//! 2. [`Key`]: names a stream of them, and derives child keys.
//! 3. `bernoulli`: planes of those bits become keep bits of exactly the wanted probability.
//! 4. `walk`, `bits`, `packed`, `turned`: keep bits in the order in which an array is walked.
//! 5. [`Mask`]: the recipe (shape, p, key) of which elements are kept.
//! 6. `apply`, `dropout`: one pass over memory, tile by tile, on all threads. `fused` has what else kept and dropped
//!    elements can become; `normal` and `noise` the multiplication by normal noise.
//!
//! Instructions are in `simd`, chosen at run time; threads in `pool`; the Python module in `python`, behind the
//! feature of that name.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("fastdrop indexes elements with 64 bits, and needs a 64-bit CPU");

// `unsafe` is denied but for the modules that say here why they need it.
#[allow(unsafe_code, reason = "kernels work on strided memory of the caller's through raw pointers")]
mod apply;
mod ars;
mod bernoulli;
#[allow(unsafe_code, reason = "reads given masks from strided memory of the caller's")]
mod bits;
#[allow(unsafe_code, reason = "carries raw pointers of the caller's to the threads")]
mod dropout;
mod error;
#[allow(unsafe_code, reason = "kernels work on strided memory of the caller's through raw pointers")]
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python asks for it"))]
mod fused;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python asks for it"))]
mod gelu;
mod key;
#[allow(unsafe_code, reason = "reads and writes strided memory of the caller's")]
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python asks for it"))]
mod lanes;
mod mask;
#[allow(unsafe_code, reason = "works on strided memory of the caller's")]
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python asks for it"))]
mod noise;
mod normal;
mod packed;
#[allow(unsafe_code, reason = "pools are leaked into atomic pointers, so that no lock is held across a fork")]
mod pool;
#[cfg(feature = "python")]
#[allow(rustdoc::broken_intra_doc_links, reason = "docstrings for Python are not rustdoc")]
#[allow(unsafe_code, reason = "NumPy's arrays are reached through its C interface")]
mod python;
#[allow(unsafe_code, reason = "instructions that not every CPU has")]
mod simd;
mod turned;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python asks for it"))]
mod uniform;
mod walk;

pub use apply::Float;
pub use ars::ars;
pub use bernoulli::{Probability, Threshold, keep_group};
pub use error::{Error, Extents};
pub use key::Key;
pub use mask::{Interrupt, Mask};
pub use normal::normal_group;
pub use pool::{num_threads, set_num_threads};
pub use simd::Level;
