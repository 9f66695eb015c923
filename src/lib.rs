//! Dropout at the speed of memory, with masks that are pure functions of (key, p, element index).
//!
//! A mask is a recipe of a few words, whatever its size. So it is the same for every number of threads, every CPU and
//! every element type; any part of it can be drawn by itself; and the backward pass draws it again.
//!
//! ```
//! use fastdrop::{Key, Mask};
//!
//! let key = Key::from_seed(42); // or Key::from_entropy()
//! let mask = Mask::new(&[64, 1000], 0.1, key.fold_in(7))?; // p is the probability to drop
//!
//! let x = vec![1.0f32; 64_000];
//! let mut y = vec![0.0; 64_000];
//! mask.apply(&x, &mut y, None)?; // kept elements times 1 / (1 - p), 0.0 for the others
//! assert_eq!(y.iter().filter(|y| **y != 0.0).count() as u64, mask.count()?);
//!
//! let last_row = mask.region(&[63, 0], &[1, 1000])?;
//! let mut bits = [false; 1000];
//! last_row.to_bools(&mut bits)?;
//! assert!(bits.iter().zip(&y[63_000..]).all(|(kept, y)| *kept == (*y != 0.0)));
//! # Ok::<(), fastdrop::Error>(())
//! ```
//!
//! # What there is
//!
//! - [`Key`]: from a seed, from bytes, from entropy; [`fold_in`](Key::fold_in) and [`split`](Key::split) derive others.
//! - [`Mask`]: [`apply`](Mask::apply) to slices, also [in place](Mask::apply_in_place); as
//!   [booleans](Mask::to_bools) or [packed bits](Mask::packbits); [counted](Mask::count); in
//!   [part](Mask::region); [fused](Mask::fused) with a residual, bias or activation.
//! - [Gaussian](Mask::gaussian) dropout, and [uniforms](Key::uniforms) and [normals](Key::normals) by themselves.
//!
//! Large calls share their work among [threads](set_num_threads). Instructions are chosen at run time ([`Level`]).
//!
//! # Features
//!
//! | | |
//! | --- | --- |
//! | `num-complex` | complex elements |
//! | `ndarray` | `Mask::apply_view` and others for views of any layout |
//! | `rand_core` | `Key::rng`, a generator for `rand` and `rand_distr` |
//! | `python` | the extension module of the Python package |
//!
//! # The stream
//!
//! Random bits come from ARS-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), one bit-plane of
//! 128 elements at a time. It passes statistical tests, and is not a cryptographic generator. The bits of a mask change
//! only with the version of the stream, which `docs/stream.md` in the repository defines.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("fastdrop indexes elements with 64 bits, and needs a 64-bit CPU");

// `unsafe` is denied but for the modules that say here why they need it.
#[allow(unsafe_code, reason = "carries the addresses of the caller's arrays to kernels and threads")]
mod driver;
mod error;
#[allow(unsafe_code, reason = "kernels work on strided memory of the caller's through raw pointers")]
mod kernel;
mod mask;
#[allow(unsafe_code, reason = "addresses of the caller's arrays are shared among threads")]
mod operand;
#[allow(unsafe_code, reason = "hands a borrowed closure to threads, and keeps what a fork must not lock")]
mod pool;
#[cfg(feature = "python")]
#[allow(rustdoc::broken_intra_doc_links, reason = "docstrings for Python are not rustdoc")]
#[allow(unsafe_code, reason = "NumPy's arrays are reached through its C interface")]
mod python;
#[allow(unsafe_code, reason = "instructions that not every CPU has")]
mod simd;
#[allow(unsafe_code, reason = "borrowed slices become addresses")]
mod slices;
mod stream;
#[allow(unsafe_code, reason = "reads given masks from strided memory of the caller's")]
mod walk;
mod words;

pub use error::{Error, Extents};
pub use kernel::op::{Formula, Kind};
pub use mask::Mask;
pub use operand::Float;
pub use pool::{num_threads, set_num_threads};
pub use simd::Level;
pub use slices::apply_bools;
pub use stream::ars::ars;
pub use stream::bernoulli::{Probability, Threshold, keep_group};
pub use stream::key::Key;
