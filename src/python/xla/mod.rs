//! Handlers that compiled JAX programs call, through XLA's foreign function interface. It is plain C, so the build
//! needs no jaxlib. Handlers run without the interpreter.

mod abi;
mod attention;
mod elements;
mod frame;
mod masks;

use std::any::Any;
use std::ffi::{CString, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::ffi::PyCapsule_New;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;

type Handler = unsafe extern "C" fn(frame: *mut abi::CallFrame) -> *mut c_void;

/// The handlers by name, as capsules for `jax.ffi.register_ffi_target`.
#[pyfunction]
pub(super) fn xla_handlers(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let handlers = PyDict::new(py);
    for (name, handler) in [
        ("dropout", dropout as Handler),
        ("uniforms", uniforms),
        ("blocks", blocks),
        ("attention", attention),
        ("attention_backward", attention_backward),
        ("attention_bias_gradient", attention_bias_gradient),
    ] {
        // SAFETY: a capsule of a function, which lives as long as the process; it has no name and no destructor.
        let capsule =
            unsafe { Bound::from_owned_ptr_or_err(py, PyCapsule_New(handler as *mut c_void, std::ptr::null(), None))? };
        handlers.set_item(name, capsule)?;
    }
    Ok(handlers)
}

/// Why a call failed: a code of the interface, and a sentence.
struct Failure(c_uint, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error == Error::Memory { abi::RESOURCE_EXHAUSTED } else { abi::INVALID_ARGUMENT };
        Self(code, error.to_string())
    }
}

fn unexpected(what: &str) -> Failure {
    Failure(abi::INVALID_ARGUMENT, format!("fastdrop was called with an unexpected {what}"))
}

/// Multiplies kept elements by 1 / (1 - p) and sets the others to 0; or does other work with a mask.
///
/// Operands:
/// - the elements;
/// - the key, 4 uint32;
/// - if `whole` contains -1, the lengths that it leaves open, integers;
/// - p, a float, unless it is an attribute;
/// - if the elements do not start the whole, the position of the first one in it, an integer per axis.
///
/// All operands but the lengths may have more axes in front, as many as the elements have. Each position along these
/// axes is a call of its own. A length of 1 broadcasts along them.
///
/// Attributes: `whole`, the mask's whole shape, with 1 along axes that share decisions; `p`; and for other work
/// `operation`, an int64:
/// - 1 to leave kept elements as they are, 2 to leave the dropped ones and set the kept ones to 0;
/// - 3 to multiply by normal noise;
/// - 4 to multiply by relaxed decisions, which have the logit of p in the place of p; their `temperature` is a double.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn dropout(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: XLA promises a frame that is valid for the call.
    unsafe { handle(frame, elements::apply_masks) }
}

/// The uniforms of elements, as pairs of uint32, the low word first.
///
/// Operands and attributes: those of `dropout` without the elements. The last axis of the result has the pairs.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn uniforms(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, elements::draw_uniforms) }
}

/// The blocks of keys.
///
/// Operands: the key, 4 uint32; the index, a uint32 or uint64. Axes in front: see `dropout`. Attribute: `tag`, an
/// int64.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn blocks(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, elements::draw_blocks) }
}

/// Attention, and the logarithm of each row's sum of exponentials.
///
/// Operands: queries, keys, values, in the shape (batch, queries or keys, heads, features); the bias, if the attribute
/// says so; the key and what follows it for `dropout`. Axes in front: see `dropout`.
///
/// Attributes: those of `dropout`; `scale`, a double; and `causal` and `bias`, whether there is one, as int64. A causal
/// mask compares positions in the whole.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn attention(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, attention::forward) }
}

/// The gradients of queries, of the dtype that is computed in, of keys and of values.
///
/// Operands: the gradient of the result, the result, the logarithms, and those of `attention`. Attributes: the same.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn attention_backward(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, attention::backward) }
}

/// The gradient of the bias, in its shape, of the dtype that is computed in. See `attention_backward`.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn attention_bias_gradient(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, attention::bias_gradient) }
}

/// # Safety
/// The frame must be valid, with its buffers and attributes, and only this call may use its results.
unsafe fn handle(frame: *mut abi::CallFrame, work: unsafe fn(&abi::CallFrame) -> Result<(), Failure>) -> *mut c_void {
    // SAFETY: the caller guarantees the frame. An extension of this kind has this struct.
    let (frame, metadata) = unsafe {
        let frame = &*frame;
        let asked = frame.extension.as_ref().is_some_and(|extension| extension.kind == abi::METADATA);
        (frame, if asked { (*frame.extension.cast::<abi::MetadataExtension>()).metadata } else { null_mut() })
    };
    // SAFETY: every frame has the interface, even a request for metadata, from jaxlib 0.9 on.
    let api = unsafe { &*frame.api };
    // SAFETY: null, or to be filled in by this call.
    if let Some(metadata) = unsafe { metadata.as_mut() } {
        // The parts in use are the same in all versions so far, so an older runtime works as well.
        let (major, minor) = (abi::MAJOR, api.version.minor.min(abi::MINOR));
        metadata.version = abi::Version { size: size_of::<abi::Version>(), extension: null_mut(), major, minor };
        metadata.traits = 0;
        return null_mut();
    }
    // SAFETY: the caller guarantees the frame.
    let result = catch_unwind(AssertUnwindSafe(|| unsafe { work(frame) })).unwrap_or_else(|panic| Err(bug(&panic)));
    let Err(Failure(code, message)) = result else {
        return null_mut();
    };
    let message = CString::new(message).unwrap_or_default();
    let size = size_of::<abi::ErrorCreate>();
    let mut arguments = abi::ErrorCreate { size, extension: null_mut(), message: message.as_ptr(), code };
    // SAFETY: the function copies the message.
    unsafe { (api.error_create)(&raw mut arguments) }
}

fn bug(panic: &Box<dyn Any + Send>) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Failure(abi::INTERNAL, format!("a bug in fastdrop: {}", text.unwrap_or("no message")))
}
