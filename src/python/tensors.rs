//! Tensors of torch, read and written where they are: through the C functions that their type offers by DLPack, so that
//! torch is neither built against nor linked.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::OnceLock;

use numpy::npyffi::{NPY_TYPES, PY_ARRAY_API, flags};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};
use pyo3::{PyTypeInfo, intern};
use smallvec::SmallVec;

use super::arguments::{DETACH, without_handlers};
use super::arrays::{Steps, data, dtype};
use super::calls::{Array, Input, Inputs, Output};
use super::key::public_key;
use super::plan::{Plan, check_shape, decide, kind_of};
use crate::openmp;
use crate::operand::Element;
use crate::stream::key::Key;

/// The parts of DLPack 1 that are used here, as its header `dlpack.h` declares them.
mod dlpack {
    use std::ffi::{CStr, c_int, c_void};

    pub(super) const CAPSULE: &CStr = c"dlpack_exchange_api";
    pub(super) const MAJOR: u32 = 1;
    pub(super) const CPU: i32 = 1;
    pub(super) const INT: u8 = 0;
    pub(super) const FLOAT: u8 = 2;
    pub(super) const BFLOAT: u8 = 4;
    pub(super) const BOOL: u8 = 6;

    #[repr(C)]
    pub(super) struct Tensor {
        pub(super) data: *mut c_void,
        pub(super) device: [i32; 2],
        pub(super) ndim: i32,
        pub(super) code: u8,
        pub(super) bits: u8,
        pub(super) lanes: u16,
        pub(super) shape: *const i64,
        /// In elements; null for C order.
        pub(super) strides: *const i64,
        pub(super) byte_offset: u64,
    }

    #[repr(C)]
    pub(super) struct Exchange {
        pub(super) version: [u32; 2],
        previous: *const c_void,
        unused: [*const c_void; 3],
        /// Describes an object in place; 0 on success, else an exception is set.
        pub(super) describe: Option<unsafe extern "C" fn(object: *mut c_void, tensor: *mut Tensor) -> c_int>,
        stream: *const c_void,
    }
}

type Describe = unsafe extern "C" fn(object: *mut c_void, tensor: *mut dlpack::Tensor) -> c_int;

/// The type of tensors, and what describes its objects.
static TENSORS: OnceLock<(Py<PyAny>, Describe)> = OnceLock::new();

/// Takes tensors of this type from now on, by its capsule `__dlpack_c_exchange_api__`; whether they can be taken. Their
/// calls use OpenMP's threads, where it is found.
#[pyfunction]
pub(super) fn take_tensors(kind: &Bound<'_, PyAny>) -> PyResult<bool> {
    openmp::find();
    let py = kind.py();
    let Ok(capsule) = kind.getattr(intern!(py, "__dlpack_c_exchange_api__")) else {
        return Ok(false);
    };
    let exchange = capsule.cast::<PyCapsule>()?.pointer_checked(Some(dlpack::CAPSULE))?.cast::<dlpack::Exchange>();
    // SAFETY: DLPack promises that what a capsule of this name points to starts with its version and lives as long as the
    // process, and that the rest is as declared for this major version.
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

/// What describes this object, if it is a tensor. Its attribute `__class__`, which may say anything, is not asked.
fn describe_of(object: &Bound<'_, PyAny>) -> Option<Describe> {
    let (kind, describe) = TENSORS.get()?;
    let (kind, class) = (kind.bind(object.py()), object.get_type());
    (class.is(kind) || class.is_subclass(kind).unwrap_or(false)).then_some(*describe)
}

/// What an array of a tensor contains: bfloat16, which NumPy lacks, comes as uint16.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    Number(Element),
    Bool,
    Int64,
}

/// A tensor as an array of its memory, which must not outlive the call; or an array as it is.
fn view<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<(Array<'py>, Content)> {
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        let kind = (dtype(array).kind(), dtype(array).itemsize());
        let content = match kind {
            (b'f', 2) => Content::Number(Element::F16),
            (b'f', 4) => Content::Number(Element::F32),
            (b'f', 8) => Content::Number(Element::F64),
            (b'u', 2) => Content::Number(Element::Bf16),
            (b'b', _) => Content::Bool,
            (b'i', 8) => Content::Int64,
            _ => return Err(PyTypeError::new_err(format!("{name} must have dtype {DTYPES}"))),
        };
        return Ok((array.clone(), content));
    }
    let py = object.py();
    let Some(describe) = describe_of(object) else {
        return Err(PyTypeError::new_err(format!("{name} must be a tensor, got {}", object.get_type().name()?)));
    };
    let mut tensor = MaybeUninit::uninit();
    // SAFETY: the object has the type that offered the function, which fills the struct or says that it did not.
    let tensor = unsafe {
        if describe(object.as_ptr().cast(), tensor.as_mut_ptr()) != 0 {
            return Err(PyBufferError::new_err(PyErr::fetch(py).to_string()));
        }
        tensor.assume_init()
    };
    if tensor.device[0] != dlpack::CPU {
        return Err(PyValueError::new_err(format!("{name} must be on the CPU")));
    }
    let (ndim, size) = (tensor.ndim as usize, isize::from(tensor.bits / 8));
    // SAFETY: the struct's arrays have a length per axis, and live as long as the tensor; strides may be null.
    let (extents, steps) = unsafe { (lengths(tensor.shape, ndim), lengths(tensor.strides, ndim)) };
    if tensor.data.is_null() && !extents.contains(&0) {
        return Err(PyBufferError::new_err(format!("{name} must have memory")));
    }
    let (content, number) = match (tensor.code, tensor.bits, tensor.lanes) {
        (dlpack::FLOAT, 16, 1) => (Content::Number(Element::F16), NPY_TYPES::NPY_HALF),
        (dlpack::FLOAT, 32, 1) => (Content::Number(Element::F32), NPY_TYPES::NPY_FLOAT),
        (dlpack::FLOAT, 64, 1) => (Content::Number(Element::F64), NPY_TYPES::NPY_DOUBLE),
        (dlpack::BFLOAT, 16, 1) => (Content::Number(Element::Bf16), NPY_TYPES::NPY_USHORT),
        (dlpack::BOOL, 8, 1) => (Content::Bool, NPY_TYPES::NPY_BOOL),
        (dlpack::INT, 64, 1) => (Content::Int64, NPY_TYPES::NPY_LONGLONG),
        _ => return Err(PyTypeError::new_err(format!("{name} must have dtype {DTYPES}"))),
    };
    let mut shape: Steps = extents.iter().map(|len| *len as isize).collect();
    let mut strides: Steps = steps.iter().map(|step| *step as isize * size).collect();
    let strides = if tensor.strides.is_null() { null_mut() } else { strides.as_mut_ptr() };
    // SAFETY: the memory is the tensor's, which the caller of `forward_tensors` holds, and so are the extents. The call
    // copies shape and strides, and takes its own reference of the dtype.
    let array = unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, number as c_int);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            PyUntypedArray::type_object_raw(py),
            descr,
            ndim as c_int,
            shape.as_mut_ptr(),
            strides,
            tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize).cast(),
            flags::NPY_ARRAY_WRITEABLE,
            null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked()
    };
    Ok((array, content))
}

/// An array of numbers.
fn number<'py>((array, content): (Array<'py>, Content), name: &str) -> PyResult<Input<'py>> {
    let Content::Number(element) = content else {
        return Err(PyTypeError::new_err(format!("{name} must have dtype {DTYPES}")));
    };
    Ok(Input { array, element })
}

const DTYPES: &str = "float32, float64, float16 or bfloat16";

/// # Safety
/// `first` must be null, or point to `len` numbers that stay.
unsafe fn lengths<'a>(first: *const i64, len: usize) -> &'a [i64] {
    if first.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { std::slice::from_raw_parts(first, len) }
}

/// The key whose bytes are the two int64 of a tensor.
#[pyfunction]
pub(super) fn tensor_key<'py>(tensor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let (array, content) = view(tensor, "key")?;
    if content != Content::Int64 || array.shape() != [2] || !array.is_c_contiguous() {
        return Err(PyTypeError::new_err("key must be a tensor of 2 contiguous int64"));
    }
    // SAFETY: the array has 16 bytes, and they are read before anybody else runs.
    let words = unsafe { data(&array).cast::<[u64; 2]>().read_unaligned() };
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    public_key(tensor.py(), Key::from_bytes(bytes))
}

/// Does what `forward` does, to tensors: into `out`, which has the shape of the first input and any dtype, on at most
/// `threads` threads. `out` is `fresh` if it was made for this call. `keep` may be a boolean tensor.
///
/// A call that would release the interpreter does nothing and returns false, unless the memory of its tensors is `held`
/// whatever other threads assign to them.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "as for `forward`")]
pub(super) fn forward_tensors<'py>(
    operation: &str,
    inputs: &Bound<'py, PyTuple>,
    out: &Bound<'py, PyAny>,
    keep: &Bound<'py, PyAny>,
    p: f64,
    shared: &Bound<'py, PyTuple>,
    scale: f64,
    shift: f64,
    fill: f64,
    fresh: bool,
    threads: usize,
    held: bool,
) -> PyResult<bool> {
    let kind = kind_of(operation)?;
    let names = kind.map_or(&["x"][..], crate::kernel::op::Kind::input_names);
    if inputs.len() != names.len() {
        return Err(PyValueError::new_err(format!("the operation takes {} inputs, got {}", names.len(), inputs.len())));
    }
    let mut arrays = Inputs::new();
    for (object, name) in inputs.iter().zip(names) {
        let input = number(view(&object, name)?, name)?;
        check_shape(&input.array, arrays.first().map_or(&input.array, |first| &first.array), name)?;
        arrays.push(input);
    }
    let Input { array: target, element } = number(view(out, "out")?, "out")?;
    let shape = SmallVec::from_slice(arrays[0].array.shape());
    if *target.shape() != shape[..] {
        return Err(PyValueError::new_err(format!("out must have the shape of {}", names[0])));
    }
    let given;
    let keep = if describe_of(keep).is_some() {
        given = view(keep, "mask")?.0.into_any();
        &given
    } else {
        keep
    };
    let (keep, _) = decide(keep, p, &shape, shared)?;
    if !held && target.len() >= DETACH {
        return Ok(false);
    }
    let plan = Plan { keep, kind, scale, shift, fill, shape };
    let run = || plan.run(kind, scale, element, arrays, Some(Output { array: &target, fresh }));
    openmp::with_team(threads, || without_handlers(run))?;
    Ok(true)
}
