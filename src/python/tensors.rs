//! torch's tensors, read and written in place. Their type offers DLPack's C functions, which give the tensors'
//! addresses, so the build needs no torch.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use numpy::{PyArrayDescrMethods, PyUntypedArray};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use super::arguments::without_handlers;
use super::arrays::{Lengths, Steps, dtype, dtype_list};
use super::calls::{Inputs, Keep, Output, check_broadcast, elementwise};
use super::dlpack;
use super::key::public_key;
use super::plan::{NOISE, RELAXED, apply_formula, checked_inputs, decide, formula_of};
use super::view::View;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::kernel::relaxed::Relaxed;
use crate::mask::Dims;
use crate::operand::{Element, Format};
use crate::stream::key::Key;
use crate::threads::{limits, openmp};

type Describe = unsafe extern "C" fn(object: *mut c_void, tensor: *mut dlpack::Tensor) -> c_int;

/// The type of tensors, and the function that describes them.
static TENSORS: OnceLock<(Py<PyAny>, Describe)> = OnceLock::new();

/// Accepts tensors of this type from now on, through its capsule `__dlpack_c_exchange_api__`. Returns whether the type
/// has one that works. Calls on tensors use OpenMP's threads if the process has them.
#[pyfunction]
pub(super) fn take_tensors(kind: &Bound<'_, PyAny>) -> PyResult<bool> {
    openmp::find();
    let py = kind.py();
    let Ok(capsule) = kind.getattr(intern!(py, "__dlpack_c_exchange_api__")) else {
        return Ok(false);
    };
    let exchange = capsule.cast::<PyCapsule>()?.pointer_checked(Some(dlpack::CAPSULE))?.cast::<dlpack::Exchange>();
    // SAFETY: DLPack promises that a capsule of this name points to a struct that starts with its version and lives as
    // long as the process, and that its other fields are as declared for this major version.
    let exchange = unsafe { exchange.as_ref() };
    if exchange.version[0] != dlpack::MAJOR {
        return Ok(false);
    }
    let Some(describe) = exchange.describe else {
        return Ok(false);
    };
    let _ = TENSORS.set((kind.clone().unbind(), describe)); // a second import finds the same
    Ok(true)
}

/// The function that describes this object, if it is a tensor. The attribute `__class__` plays no part, because a
/// program may set it to anything.
fn describe_of(object: &Bound<'_, PyAny>) -> Option<Describe> {
    let (kind, describe) = TENSORS.get()?;
    let (kind, class) = (kind.bind(object.py()), object.get_type());
    (class.is(kind) || class.is_subclass(kind).unwrap_or(false)).then_some(*describe)
}

/// What a tensor contains.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Content {
    Number(Element),
    Bool,
    Int64,
}

impl Content {
    /// The element that the core reads it as.
    fn element(self) -> Element {
        match self {
            Self::Number(element) => element,
            Self::Bool => Element::Bool,
            Self::Int64 => Element::U64,
        }
    }
}

/// A tensor, or an array that stands for one. NumPy lacks bfloat16, so such an array holds it as uint16.
pub(super) fn view<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<(View<'py>, Content)> {
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        let kind = (dtype(array).kind(), dtype(array).itemsize());
        let content = match kind {
            (b'f', 2) => Content::Number(Element::F16),
            (b'f', 4) => Content::Number(Element::F32),
            (b'f', 8) => Content::Number(Element::F64),
            (b'u', 2) => Content::Number(Element::Bf16),
            (b'b', _) => Content::Bool,
            (b'i', 8) => Content::Int64,
            _ => return Err(wrong_dtype(name)),
        };
        return Ok((View::new(array, content.element()), content));
    }
    let py = object.py();
    let Some(describe) = describe_of(object) else {
        return Err(PyTypeError::new_err(format!("{name} must be a tensor, got {}", object.get_type().name()?)));
    };
    let mut tensor = MaybeUninit::uninit();
    // SAFETY: the object has the type that offered the function, which fills the struct or reports that it did not.
    let tensor = unsafe {
        if describe(object.as_ptr().cast(), tensor.as_mut_ptr()) != 0 {
            return Err(PyBufferError::new_err(PyErr::fetch(py).to_string()));
        }
        tensor.assume_init()
    };
    if tensor.device[0] != dlpack::CPU {
        return Err(PyValueError::new_err(format!("{name} must be on the CPU")));
    }
    let content = match (tensor.code, tensor.bits, tensor.lanes) {
        (dlpack::FLOAT, 16, 1) => Content::Number(Element::F16),
        (dlpack::FLOAT, 32, 1) => Content::Number(Element::F32),
        (dlpack::FLOAT, 64, 1) => Content::Number(Element::F64),
        (dlpack::BFLOAT, 16, 1) => Content::Number(Element::Bf16),
        (dlpack::BOOL, 8, 1) => Content::Bool,
        (dlpack::INT, 64, 1) => Content::Int64,
        _ => return Err(wrong_dtype(name)),
    };
    let ndim = tensor.ndim as usize;
    // SAFETY: the struct's arrays have a length per axis, and live as long as the tensor; strides may be null.
    let (extents, steps) = unsafe { (lengths(tensor.shape, ndim), lengths(tensor.strides, ndim)) };
    let shape: Lengths = extents.iter().map(|len| *len as usize).collect();
    if tensor.data.is_null() && !shape.contains(&0) {
        return Err(PyBufferError::new_err(format!("{name} must have memory")));
    }
    let element = content.element();
    let (mut step, mut is_contiguous) = (element.size() as isize, true);
    let mut strides = Steps::from_elem(0, ndim);
    for axis in (0..ndim).rev() {
        strides[axis] = steps.get(axis).map_or(step, |stride| *stride as isize * element.size() as isize);
        is_contiguous &= shape[axis] == 1 || strides[axis] == step;
        step *= shape[axis] as isize;
    }
    let first = tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize);
    let format = Format { element, swapped: false };
    Ok((View { owner: object.clone(), first, format, shape, strides, is_contiguous }, content))
}

/// A tensor of numbers.
pub(super) fn number<'py>((view, content): (View<'py>, Content), name: &str) -> PyResult<View<'py>> {
    let Content::Number(_) = content else {
        return Err(wrong_dtype(name));
    };
    Ok(view)
}

/// A tensor of numbers or booleans.
pub(super) fn number_or_bool<'py>((view, content): (View<'py>, Content), name: &str) -> PyResult<View<'py>> {
    if content == Content::Int64 {
        return Err(wrong_dtype(name));
    }
    Ok(view)
}

fn wrong_dtype(name: &str) -> PyErr {
    PyTypeError::new_err(format!("{name} must have dtype {}", dtype_list(false)))
}

/// # Safety
/// `first` must be null, or point to `len` numbers that stay.
pub(super) unsafe fn lengths<'a>(first: *const i64, len: usize) -> &'a [i64] {
    if first.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts(first, len) }
}

/// The key whose bytes are the two int64 of a tensor.
#[pyfunction]
pub(super) fn tensor_key<'py>(tensor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let (view, content) = view(tensor, "key")?;
    if content != Content::Int64 || !view.follows(&[2]) {
        return Err(PyTypeError::new_err("key must be a tensor of 2 contiguous int64"));
    }
    // SAFETY: the tensor has 16 bytes, and they are read before anybody else runs.
    let words = unsafe { view.first.cast::<[u64; 2]>().read_unaligned() };
    public_key(tensor.py(), Key::from_words(words))
}

/// `forward` for tensors, noise and relaxed decisions, whose `numbers` are logit, temperature and order. Writes to `out`, which has the shape of the first input and any dtype, on at most `threads`
/// threads. `fresh` means that `out` was allocated for this call. `keep` may be a boolean tensor.
///
/// From `DETACH` elements on, the caller must keep the tensors' memory alive, whatever other threads assign to them.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "as for `forward`")]
pub(super) fn forward_tensors<'py>(
    operation: &str,
    inputs: &Bound<'py, PyTuple>,
    out: &Bound<'py, PyAny>,
    keep: &Bound<'py, PyAny>,
    p: f64,
    shared: &Bound<'py, PyTuple>,
    numbers: Numbers,
    fresh: bool,
    threads: usize,
) -> PyResult<()> {
    // Relaxed decisions take a second input for the terms of the logit's gradient, which the call writes.
    let slopes = operation == RELAXED && inputs.len() == 2;
    let formula = match operation {
        _ if slopes => Formula::Add,
        NOISE | RELAXED => Formula::Select,
        _ => formula_of(operation)?,
    };
    let mut views = Inputs::new();
    checked_inputs(&mut views, formula, inputs.iter(), |views, object, name| {
        views.push(number(view(object, name)?, name)?);
        Ok(())
    })?;
    let target = number(view(out, "out")?, "out")?;
    let shape = views[0].shape.clone();
    if target.shape != shape {
        return Err(PyValueError::new_err(format!("out must have the shape of {}", formula.input_names()[0])));
    }
    let decided;
    let keep = if describe_of(keep).is_some() {
        let (given, content) = view(keep, "mask")?;
        if content != Content::Bool {
            return Err(PyTypeError::new_err("mask must have dtype bool"));
        }
        check_broadcast(&given.shape.iter().map(|len| *len as u64).collect::<Dims>(), &shape)?;
        Keep::Given(given)
    } else {
        decided = decide(keep, p, &shape, shared)?.0;
        decided.for_call(out.py(), &shape)?
    };
    let (element, out) = (target.format.element, Output { view: target, fresh });
    let drawing = match &keep {
        Keep::Drawn(mask) => drawing(operation, mask.probability().get(), numbers, slopes),
        _ => None,
    };
    let run = || match drawing {
        Some(operation) => elementwise(&mut views, element, &shape, keep, operation, Some(&out)),
        None => apply_formula((formula, numbers), keep, element, &shape, &mut views, Some(&out)),
    };
    limits::with_team(threads, || without_handlers(run))?;
    Ok(())
}

/// The operation of this name, if it draws more than keep bits.
fn drawing(operation: &str, p: f64, numbers: Numbers, slopes: bool) -> Option<Operation<'static>> {
    let Numbers { scale, shift, fill } = numbers;
    match operation {
        NOISE if p > 0.0 && scale != 0.0 => Some(Operation::Noise { std: (p / (1.0 - p)).sqrt() }),
        RELAXED => {
            let relaxed = Relaxed { logit: scale, temperature: shift, order: fill as u8 };
            Some(if slopes { Operation::Slopes(relaxed) } else { Operation::Relaxed(relaxed) })
        }
        _ => None,
    }
}
