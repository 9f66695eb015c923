//! NumPy arrays as the driver needs them: element types, strides, overlap, allocation.

use std::sync::atomic::{AtomicI32, Ordering};

use numpy::npyffi::{NPY_ORDER, PY_ARRAY_API, flags};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use smallvec::SmallVec;

use crate::error::{Error, Extents};
use crate::operand::{Each, Element};
use crate::walk::{Axes, Axis};

/// A NumPy array.
pub(super) type Array<'py> = Bound<'py, PyUntypedArray>;
/// A shape.
pub(super) type Lengths = SmallVec<[usize; 4]>;
/// Strides of an operand in bytes, one per axis.
pub(super) type Steps = SmallVec<[isize; 4]>;

// NumPy's type numbers.
const F32: i32 = 11;
const F64: i32 = 12;
const COMPLEX64: i32 = 14;
const COMPLEX128: i32 = 15;
const F16: i32 = 23;
/// The number that ml_dtypes registered for bfloat16; 0 until first seen.
static BFLOAT16: AtomicI32 = AtomicI32::new(0);

/// Dtypes that fastdrop works on, by name.
pub(super) const DTYPES: [(&str, Element); 6] = [
    ("float32", Element::F32),
    ("float64", Element::F64),
    ("float16", Element::F16),
    ("bfloat16", Element::Bf16),
    ("complex64", Element::Complex64),
    ("complex128", Element::Complex128),
];

/// The names of `DTYPES` as error messages list them: "a, b or c".
pub(super) fn dtype_list(takes_complex: bool) -> String {
    let names = DTYPES.iter().filter(|(_, element)| takes_complex || element.parts() == 1);
    let names: Vec<_> = names.map(|(name, _)| *name).collect();
    let (last, others) = names.split_last().expect("there are names");
    format!("{} or {last}", others.join(", "))
}

/// The element type of a dtype that fastdrop works on.
pub(super) fn element(dtype: &Bound<'_, PyArrayDescr>) -> Option<Element> {
    const FIRST_USER_TYPE: i32 = 256;
    match dtype.num() {
        F16 => Some(Element::F16),
        F32 => Some(Element::F32),
        F64 => Some(Element::F64),
        COMPLEX64 => Some(Element::Complex64),
        COMPLEX128 => Some(Element::Complex128),
        num if num < FIRST_USER_TYPE => None,
        num if num == BFLOAT16.load(Ordering::Relaxed) => Some(Element::Bf16),
        num => {
            let is_it = dtype.itemsize() == 2 && dtype.typeobj().name().is_ok_and(|name| name == "bfloat16");
            is_it.then(|| {
                BFLOAT16.store(num, Ordering::Relaxed);
                Element::Bf16
            })
        }
    }
}

/// Whether fastdrop works on arrays of this dtype.
#[pyfunction]
pub(super) fn works_on(array: &Array<'_>) -> bool {
    element(&dtype(array)).is_some()
}

/// A dtype as error messages show it: its name, or its code if its byte order is not this CPU's.
pub(super) fn dtype_name(dtype: &Bound<'_, PyArrayDescr>) -> String {
    let (kind, size) = (dtype.kind(), dtype.itemsize());
    match kind {
        b'i' | b'u' | b'f' | b'c' if swapped(dtype) => {
            let order = if cfg!(target_endian = "little") { '>' } else { '<' };
            format!("{order}{}{size}", kind as char)
        }
        b'b' => "bool".to_owned(),
        b'i' => format!("int{}", 8 * size),
        b'u' => format!("uint{}", 8 * size),
        b'f' => format!("float{}", 8 * size),
        b'c' => format!("complex{}", 8 * size),
        _ => {
            let name = dtype.typeobj().name();
            name.map_or_else(|_| (kind as char).to_string(), |name| name.to_string().trim_end_matches('_').to_owned())
        }
    }
}

/// The end of an error message: how to convert an array of this dtype, if its elements may be numbers.
pub(super) fn mend(dtype: &Bound<'_, PyArrayDescr>, name: &str) -> String {
    let numbers = matches!(dtype.kind(), b'b' | b'i' | b'u' | b'f' | b'O');
    if numbers { format!(": use {name}.astype(np.float32)") } else { String::new() }
}

pub(super) fn element_name(element: Element) -> &'static str {
    let found = DTYPES.iter().find(|(_, one)| *one == element);
    found.expect("results are numbers").0
}

/// The element type that NumPy promotes two others to; `None` if it refuses them.
pub(super) fn promoted(one: Element, other: Element) -> Option<Element> {
    match (one, other) {
        _ if one == other => Some(one),
        (Element::F16, Element::Bf16) | (Element::Bf16, Element::F16) => None,
        _ => Some(Element::number(one.is_double() || other.is_double(), one.parts().max(other.parts()))),
    }
}

/// The dtype of an element type in this CPU's byte order. bfloat16 must have been seen.
pub(super) fn dtype_of(py: Python<'_>, element: Element) -> PyResult<Bound<'_, PyArrayDescr>> {
    let num = match element {
        Element::F16 => F16,
        Element::Bf16 => BFLOAT16.load(Ordering::Relaxed),
        Element::F32 => F32,
        Element::F64 => F64,
        Element::Complex64 => COMPLEX64,
        Element::Complex128 => COMPLEX128,
        Element::Bool | Element::U64 | Element::Bit => unreachable!("results are numbers"),
    };
    // SAFETY: the number belongs to a type, and the call returns an owned reference.
    unsafe {
        let dtype = PY_ARRAY_API.PyArray_DescrFromType(py, num);
        Ok(Bound::from_owned_ptr_or_err(py, dtype.cast())?.cast_into_unchecked())
    }
}

pub(super) fn swapped(dtype: &Bound<'_, PyArrayDescr>) -> bool {
    dtype.is_native_byteorder() == Some(false)
}

/// The dtype of an array, borrowed, because owning a reference would cost two calls.
pub(super) fn dtype<'a, 'py>(array: &'a Array<'py>) -> Borrowed<'a, 'py, PyArrayDescr> {
    // SAFETY: the array is alive, so its struct can be read, and it keeps its dtype while it is borrowed: nothing here
    // sets another.
    unsafe { Borrowed::from_ptr(array.py(), (*array.as_array_ptr()).fields.descr.cast()).cast_unchecked() }
}

pub(super) fn data(array: &Array<'_>) -> *mut u8 {
    // SAFETY: the array is alive, so its struct can be read.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

/// The object whose memory an array uses; `None` if the array owns its memory.
pub(super) fn base<'py>(array: &Array<'py>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the array is alive, so its struct can be read, and it holds a reference to its base.
    unsafe { Bound::from_borrowed_ptr_or_opt(array.py(), (*array.as_array_ptr()).fields.base) }
}

/// A new array in C order, with uninitialized memory. To zero it, NumPy would release the interpreter. A thread that
/// does not get it back while the program ends is terminated there.
pub(super) fn empty<'py>(py: Python<'py>, shape: &[usize], dtype: &Bound<'py, PyArrayDescr>) -> PyResult<Array<'py>> {
    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();
    // SAFETY: the call consumes a dtype reference of its own, and copies the shape.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            PyUntypedArray::type_object_raw(py),
            dtype.clone().into_dtype_ptr(),
            shape.len() as _,
            shape.as_mut_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// A new array with the shape and layout of `x`, and with this dtype or that of `x`.
pub(super) fn empty_like<'py>(x: &Array<'py>, dtype: Option<Bound<'py, PyArrayDescr>>) -> PyResult<Array<'py>> {
    let py = x.py();
    // SAFETY: `x` is an array, and the call consumes a dtype reference of its own, if any.
    unsafe {
        let keep = NPY_ORDER::NPY_KEEPORDER;
        let dtype = dtype.map_or(std::ptr::null_mut(), PyArrayDescrMethods::into_dtype_ptr);
        let array = PY_ARRAY_API.PyArray_NewLikeArray(py, x.as_array_ptr(), keep, dtype, 0);
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(mask: &[u64], array: &[usize]) -> PyResult<Lengths> {
    let ndim = mask.len().max(array.len());
    let at = |axis: usize, len: usize| (axis + len).checked_sub(ndim);
    (0..ndim)
        .map(|axis| {
            let one = at(axis, mask.len()).map_or(1, |axis| mask[axis] as usize);
            let other = at(axis, array.len()).map_or(1, |axis| array[axis]);
            match (one, other) {
                (one, other) if one == other => Some(one),
                (1, other) => Some(other),
                (one, 1) => Some(one),
                _ => None,
            }
        })
        .collect::<Option<_>>()
        .ok_or_else(|| mismatch(mask, array))
}

pub(super) fn mismatch(mask: &[u64], array: &[usize]) -> PyErr {
    Error::Broadcast { mask: mask.into(), array: array.into() }.into()
}

/// Strides of an operand of shape `from` that broadcasts to `shape`: 0 along axes where it broadcasts.
pub(super) fn shared_steps(from: &[usize], strides: &[isize], shape: &[usize]) -> Steps {
    let new = shape.len() - from.len();
    (0..shape.len()).map(|axis| if axis < new || from[axis - new] == 1 { 0 } else { strides[axis - new] }).collect()
}

/// The axes of a walk over `shape`, from the steps of the arrays and of the mask; absent ones have
/// none.
pub(super) fn axes(shape: &[usize], steps: Each<&[isize]>, bits: &[isize]) -> Axes {
    let step = |steps: &[isize], axis: usize| steps.get(axis).copied().unwrap_or(0);
    (shape.iter().enumerate())
        .map(|(axis, len)| Axis { len: *len, steps: steps.map(|steps| step(steps, axis)), bit: step(bits, axis) })
        .collect()
}

/// Checks that `array`, if given, can be the output of a call whose result has this element type and shape.
pub(super) fn check_out(array: Option<&Array<'_>>, expected: Element, shape: &[usize]) -> PyResult<()> {
    let Some(array) = array else {
        return Ok(());
    };
    if element(&dtype(array)) != Some(expected) {
        let got = dtype_name(&dtype(array));
        return Err(PyTypeError::new_err(format!("out must have dtype {}, got {got}", element_name(expected))));
    }
    if array.shape() != shape {
        let text = format!("out must have shape {}, got {}", Extents::from(shape), Extents::from(array.shape()));
        return Err(PyValueError::new_err(text));
    }
    // SAFETY: the array is alive, so its struct can be read.
    if unsafe { (*array.as_array_ptr()).fields.flags } & flags::NPY_ARRAY_WRITEABLE == 0 {
        return Err(PyValueError::new_err("out must be writeable, got a read-only array"));
    }
    let shared = array.shape().iter().zip(array.strides()).any(|(len, stride)| *len > 1 && *stride == 0);
    if shared && !array.is_empty() {
        return Err(PyValueError::new_err("out must not have a stride of 0, got a broadcast array"));
    }
    Ok(())
}
