//! The extension module `fastdrop._core`: takes exact types, checks arrays, releases the interpreter, calls the driver
//! and maps errors.
//!
//! The Python layer decides what arguments mean to a user (modes, training, which key), and what may be passed as a
//! number or a shape. `calls` is the boundary to the driver.

mod arguments;
mod arrays;
mod attention;
mod bits;
mod calls;
mod dlpack;
mod key;
mod mask;
mod native;
mod plan;
mod random;
mod tensors;
mod view;
mod xla;

use std::ffi::c_int;

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use crate::kernel::Operation;
use crate::operand::{Element, INPUTS, Operands};
use crate::simd::Level;
use crate::walk::source::Source;
use crate::walk::{Axes, Axis};
use crate::{driver, threads};
use arguments::{DETACH, detached};
use arrays::{data, empty};
use view::Held;

/// Use this many threads in large calls, at least 1.
#[pyfunction]
fn set_num_threads(n: usize) -> PyResult<()> {
    Ok(threads::set_num_threads(n)?)
}

/// How many threads large calls use.
#[pyfunction]
fn get_num_threads() -> PyResult<usize> {
    Ok(threads::num_threads()?)
}

/// How many threads large calls use, for programs that find this library in the process.
#[unsafe(no_mangle)]
pub extern "C" fn fastdrop_get_num_threads() -> c_int {
    threads::num_threads().map_or(1, |threads| threads.try_into().unwrap_or(c_int::MAX))
}

/// Use this many threads in large calls; fewer than 1 count as 1.
#[unsafe(no_mangle)]
pub extern "C" fn fastdrop_set_num_threads(threads: c_int) {
    // At least 1, so it cannot fail.
    let _ = threads::set_num_threads(threads.max(1).unsigned_abs() as usize);
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

/// The ARS-7 block for a key and a counter.
#[pyfunction]
fn ars(key: [u8; 16], counter: [u8; 16]) -> [u8; 16] {
    crate::ars(key, counter)
}

/// The 64-bit uniforms of the elements of `shape`, in C order. An element is dropped if its uniform
/// is below p 2**64.
#[pyfunction]
fn uniforms<'py>(shape: &Bound<'py, PyTuple>, key: PyRef<'py, key::PyKey>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = key.py();
    let shape: SmallVec<[usize; 6]> = mask::dims(shape, "shape")?.iter().map(|len| *len as usize).collect();
    let out = empty(py, &shape, &numpy::dtype::<u64>(py))?;
    let operands = Operands::new(Element::U64, data(&out), &[]);
    let mut axes = Axes::from_iter([Axis { len: out.len(), steps: [size_of::<u64>() as isize; 1 + INPUTS], bit: 1 }]);
    let source = Source::uniforms(key.0, 0);
    detached(py, out.len() >= DETACH / 8, &Held::default(), |interrupt| {
        // SAFETY: `out` was just made with as many elements as the axis, and nobody else has it yet.
        unsafe { driver::run(&source, Operation::Store, operands, &mut axes, interrupt) }
    })?;
    Ok(out)
}

/// The compiled part of fastdrop. Private: use the package's own names.
// State that calls share is atomic, locked or set once (docs/unsafe.md, "Without the GIL").
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Reports a bad setting in the environment at import, not in the middle of a run.
    Level::current()?;
    threads::num_threads()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DETACH", DETACH)?;
    module.add("LARGE", native::LARGE)?;
    module.add("WIDEST", crate::attention::WIDEST)?;
    module.add("DTYPES", PyTuple::new(module.py(), arrays::DTYPES.map(|(name, _)| name))?)?;
    module.add_class::<key::PyKey>()?;
    module.add_class::<mask::PyMask>()?;
    module.add_class::<key::CallKeys>()?;
    module.add_class::<key::PyTaken>()?;
    module.add_class::<bits::PyBits>()?;
    module.add_class::<plan::Plan>()?;
    module.add_function(wrap_pyfunction!(key::publish, module)?)?;
    module.add_function(wrap_pyfunction!(plan::forward, module)?)?;
    module.add_function(wrap_pyfunction!(plan::compute_plain, module)?)?;
    module.add_function(wrap_pyfunction!(plan::check, module)?)?;
    module.add_function(wrap_pyfunction!(plan::operations, module)?)?;
    module.add_function(wrap_pyfunction!(calls::apply, module)?)?;
    module.add_function(wrap_pyfunction!(attention::check_attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention_bias_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(calls::noise, module)?)?;
    module.add_function(wrap_pyfunction!(ars, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd_levels, module)?)?;
    module.add_function(wrap_pyfunction!(uniforms, module)?)?;
    module.add_function(wrap_pyfunction!(arrays::works_on, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::take_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::tensor_key, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::forward_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(native::native_kernels, module)?)?;
    module.add_function(wrap_pyfunction!(native::request_receipt, module)?)?;
    module.add_function(wrap_pyfunction!(native::read_receipt, module)?)?;
    module.add_function(wrap_pyfunction!(native::native_random, module)?)?;
    module.add_function(wrap_pyfunction!(random::check_numbers, module)?)?;
    module.add_function(wrap_pyfunction!(random::draw_numbers, module)?)?;
    module.add_function(wrap_pyfunction!(random::are_probabilities, module)?)?;
    module.add_function(wrap_pyfunction!(random::draw_below, module)?)?;
    module.add_function(wrap_pyfunction!(xla::xla_handlers, module)?)?;
    Ok(())
}
