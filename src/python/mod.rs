//! The extension module `fastdrop._core`: parses, checks, leaves the interpreter, calls, maps errors.
//!
//! What the arguments mean to a user (modes, training, which key) is decided in Python; what they must be to be
//! worked on is checked here: numbers in `arguments`, arrays in `arrays`. `apply` is the edge to the driver.

mod apply;
mod arguments;
mod arrays;
mod key;
mod mask;

use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::pool;
use crate::simd::Level;
use arguments::{DETACH, detached, dims, shown, unsigned};
use arrays::zeros;

/// Set how many threads large calls use.
///
/// Parameters
/// ----------
/// n : int
///     At least 1; more than 256 are never used. The environment variable FASTDROP_NUM_THREADS, or else the number of CPUs that the process may
///     use, is where it starts.
///
/// Raises
/// ------
/// TypeError, ValueError
///     If `n` is no integer of at least 1.
///
/// Notes
/// -----
/// Masks and results do not depend on it.
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> before = fd.get_num_threads()
/// >>> fd.set_num_threads(1)
/// >>> fd.get_num_threads()
/// 1
/// >>> fd.set_num_threads(before)
#[pyfunction]
fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    let threads = unsigned("n", n).ok().filter(|threads| *threads > 0);
    match threads.and_then(|threads| usize::try_from(threads).ok()) {
        Some(threads) => Ok(pool::set_num_threads(threads)?),
        None => {
            let text = format!("n must be an integer of at least 1, got {}", shown(n));
            Err(if n.hasattr(pyo3::intern!(n.py(), "__index__"))? {
                PyValueError::new_err(text)
            } else {
                PyTypeError::new_err(text)
            })
        }
    }
}

/// Get how many threads large calls use.
///
/// Returns
/// -------
/// int
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> fd.get_num_threads() >= 1
/// True
#[pyfunction]
fn get_num_threads() -> PyResult<usize> {
    Ok(pool::num_threads()?)
}

/// The SIMD level in use.
#[pyfunction]
fn simd() -> PyResult<&'static str> {
    Ok(Level::current()?.name())
}

/// The SIMD levels of this CPU, slowest first.
#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    Level::available().map(Level::name).collect()
}

/// Use this SIMD level from now on.
#[pyfunction]
fn set_simd(name: &str) -> PyResult<()> {
    Level::from_name(name)?.set_current();
    Ok(())
}

/// The block of ARS-7 for a key and a counter.
#[pyfunction]
fn ars(key: [u8; 16], counter: [u8; 16]) -> [u8; 16] {
    crate::ars(key, counter)
}

/// The 64-bit uniforms of the elements of `shape`, in C order: an element is dropped where this is below p 2**64.
#[pyfunction]
fn uniforms<'py>(shape: &Bound<'py, PyAny>, key: PyRef<'py, key::PyKey>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = shape.py();
    let shape: Vec<usize> = dims("shape", shape)?.iter().map(|len| *len as usize).collect();
    let out = zeros(py, &shape, &numpy::dtype::<u64>(py))?;
    let array = out.clone().cast_into::<PyArrayDyn<u64>>()?;
    let mut lent = array.readwrite();
    let items = lent.as_slice_mut()?;
    let key = key.0;
    detached(py, items.len() >= DETACH / 8, move |interrupt| crate::uniform::fill(key, items, interrupt))?;
    Ok(out)
}

/// The compiled part of fastdrop. Private: use the package's own names.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A bad setting in the environment is said at import, not in the middle of a run.
    Level::current()?;
    pool::num_threads()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<key::PyKey>()?;
    module.add_class::<mask::PyMask>()?;
    module.add_function(wrap_pyfunction!(apply::apply, module)?)?;
    module.add_function(wrap_pyfunction!(apply::fused, module)?)?;
    module.add_function(wrap_pyfunction!(arrays::float_array, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(apply::noise, module)?)?;
    module.add_function(wrap_pyfunction!(ars, module)?)?;
    module.add_function(wrap_pyfunction!(arguments::probability, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd_levels, module)?)?;
    module.add_function(wrap_pyfunction!(uniforms, module)?)?;
    Ok(())
}
