#![doc = include_str!("crate.md")]
// docs.rs says which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("fastdrop indexes elements with 64 bits, and needs a 64-bit CPU");

// `unsafe` is denied, except in the modules that give their reason here.
#[allow(unsafe_code, reason = "tiles of the caller's arrays are copied and multiplied through raw pointers")]
mod attention;
#[allow(unsafe_code, reason = "carries the addresses of the caller's arrays to kernels and threads")]
mod driver;
mod error;
#[cfg(feature = "rand_core")]
mod generator;
#[allow(unsafe_code, reason = "borrowed slices and views become addresses")]
mod heads;
#[allow(unsafe_code, reason = "kernels work on strided memory of the caller's through raw pointers")]
mod kernel;
mod mask;
#[allow(unsafe_code, reason = "addresses of the caller's arrays are shared among threads")]
mod operand;
#[cfg(feature = "python")]
#[allow(rustdoc::broken_intra_doc_links, reason = "docstrings for Python are not rustdoc")]
#[allow(unsafe_code, reason = "NumPy's arrays are reached through its C interface")]
mod python;
#[allow(unsafe_code, reason = "instructions that not every CPU has")]
mod simd;
#[allow(unsafe_code, reason = "borrowed slices become addresses")]
mod slices;
mod stream;
mod threads;
#[cfg(feature = "ndarray")]
#[allow(unsafe_code, reason = "borrowed views become addresses")]
mod views;
#[allow(unsafe_code, reason = "reads given masks from strided memory of the caller's")]
mod walk;
mod words;

pub use error::{Error, Extents};
#[cfg(feature = "rand_core")]
pub use generator::KeyRng;
pub use heads::{Attention, Bias, Real, Tensor, TensorMut};
pub use kernel::formula::{Formula, Numbers};
pub use mask::Mask;
pub use operand::Float;
pub use simd::Level;
pub use slices::apply_bools;
pub use stream::ars::ars;
pub use stream::bernoulli::{Probability, Threshold, keep_group};
pub use stream::key::Key;
pub use threads::{num_threads, set_num_threads};
