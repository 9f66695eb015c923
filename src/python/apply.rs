//! The edge to the driver: arrays and bits are checked, and handed over as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Steps, axes, broadcast, check_out, copied, copy_into, data, element, empty, empty_like, float_array, may_overlap,
    mismatch, plain_array, shared_steps, surely_disjoint, swapped,
};
use super::mask::PyMask;
use crate::bits::{Bits, Given};
use crate::dropout::{self, Arrays};
use crate::error::Error;
use crate::mask::{Dims, Interrupt, Mask};
use crate::noise::Noise;
use crate::walk::Axes;

/// Applies bits to `x`, broadcast to `shape`, into `out` or a new array. `bit_steps` are the bits' strides along
/// the axes of `shape`.
pub(super) fn apply_bits<'py>(
    x: Bound<'py, PyUntypedArray>,
    shape: &[usize],
    bits: Bits,
    bit_steps: &[isize],
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    elementwise(x, shape, bit_steps, out, move |arrays, axes, interrupt| {
        // SAFETY: `elementwise` vouches for the arrays, whoever made the bits for what they read.
        unsafe { dropout::run(arrays, axes, bits, scale, interrupt) }
    })
}

/// Has `work` make an array out of `x`, broadcast to `shape`: `out`, or a new one. `work` may read and write all
/// that the axes reach.
fn elementwise<'py>(
    x: Bound<'py, PyUntypedArray>,
    shape: &[usize],
    bit_steps: &[isize],
    out: Option<&Bound<'py, PyAny>>,
    work: impl FnOnce(Arrays, Axes, Interrupt<'_>) -> Result<(), Error> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let Some(element) = element(&x.dtype()) else {
        return Err(PyTypeError::new_err("x has a dtype that fastdrop does not work on"));
    };
    let (target, mut x) = match out {
        Some(out) => (check_out(out, &x, shape)?, x),
        None if x.shape() == shape => (empty_like(&x)?, x),
        None => (empty(py, shape, &x.dtype())?, x),
    };
    let in_place = out.is_some()
        && data(&target) == data(&x)
        && target.strides() == x.strides()
        && target.shape() == x.shape()
        && swapped(&target.dtype()) == swapped(&x.dtype());
    if out.is_some() && !in_place && may_overlap(&x, &target) {
        x = copied(&x)?;
    }
    let direct = out.is_none() || surely_disjoint(&target);
    let written = if direct { target.clone() } else { empty(py, shape, &target.dtype())? };
    if !direct && in_place {
        x = copied(&x)?;
    }
    let src_steps = shared_steps(x.shape(), x.strides(), shape);
    let axes = axes(shape, Some(&src_steps), written.strides(), bit_steps.iter().copied());
    let swapped = [swapped(&x.dtype()), swapped(&written.dtype())];
    let arrays = Arrays { src: data(&x), dst: data(&written), element, swapped };
    // What `work` relies on: 1. `x` and `written` are held for the whole call, and the axes are their shapes and
    // strides, so all places are inside them. 2. `written` is writeable and its elements share no memory: it is new,
    // or was checked. 3. It is the same as `x` element by element, or does not overlap it: `x` was copied otherwise.
    // 4. That no other Python thread writes either array meanwhile is asked of users, as NumPy does.
    detached(py, written.len() >= DETACH, move |interrupt| work(arrays, axes, interrupt))?;
    if !direct {
        copy_into(&target, &written)?;
    }
    Ok(out.cloned().unwrap_or_else(|| target.into_any()))
}

/// Applies a mask that broadcasts to `shape`.
pub(super) fn apply_mask<'py>(
    mask: &Mask,
    shape: &[usize],
    x: Bound<'py, PyUntypedArray>,
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (origin, bit_steps) = indices(mask, shape);
    apply_bits(x, shape, Bits::drawn(mask, origin), &bit_steps, scale, out)
}

/// The index of the first element of a mask that broadcasts to `shape`, and the steps along the axes of `shape`.
fn indices(mask: &Mask, shape: &[usize]) -> (u64, Steps) {
    let (origin, steps) = mask.indices();
    let new = shape.len() - mask.shape().len();
    let steps = (0..shape.len())
        .map(|axis| if axis < new || mask.shape()[axis - new] == 1 { 0 } else { steps[axis - new] as isize })
        .collect();
    (origin, steps)
}

/// `x * (1 + std * z)` in the shape of `x`, where z are the normals of the mask's elements.
#[pyfunction]
#[pyo3(signature = (mask, x, std, out=None))]
pub(super) fn noise<'py>(
    mask: PyRef<'py, PyMask>,
    x: &Bound<'py, PyAny>,
    std: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = float_array(x, "x")?;
    let mask = &mask.0;
    let shape: SmallVec<[usize; 6]> = x.shape().into();
    if broadcast(mask.shape(), &shape)? != shape {
        return Err(mismatch(mask.shape(), &shape));
    }
    let (origin, steps) = indices(mask, &shape);
    let noise = Noise { schedule: mask.key().schedule(), origin, std };
    elementwise(x, &shape, &steps, out, move |arrays, axes, interrupt| {
        // SAFETY: `elementwise` vouches for the arrays.
        unsafe { crate::noise::run(arrays, axes, noise, interrupt) }
    })
}

/// `kept ? x * scale : 0` in the shape of `x`, with a mask or a boolean array that broadcasts to it; None keeps all.
#[pyfunction]
#[pyo3(signature = (mask, x, scale, out=None))]
pub(super) fn apply<'py>(
    mask: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = float_array(x, "x")?;
    let shape: SmallVec<[usize; 6]> = x.shape().into();
    if mask.is_none() {
        let steps: Steps = SmallVec::from_elem(0, shape.len());
        return apply_bits(x, &shape, Bits::Constant(true), &steps, scale, out);
    }
    if let Ok(mask) = mask.cast::<PyMask>() {
        let mask = &mask.get().0;
        if broadcast(mask.shape(), &shape)? != shape {
            return Err(mismatch(mask.shape(), &shape));
        }
        return apply_mask(mask, &shape, x, scale, out);
    }
    let plain = mask.is_instance_of::<PyUntypedArray>().then(|| plain_array(mask, "mask")).transpose()?;
    let mut given = match plain.as_ref().ok_or(()) {
        Ok(given) if given.dtype().is_equiv_to(&numpy::dtype::<bool>(mask.py())) => given.clone(),
        _ => {
            let text = format!("mask must be a Mask or a boolean array, got {}", mask.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        }
    };
    let extents: Dims = given.shape().iter().map(|len| *len as u64).collect();
    if broadcast(&extents, &shape)? != shape {
        return Err(mismatch(&extents, &shape));
    }
    let written = out.map(|out| check_out(out, &x, &shape)).transpose()?;
    if written.is_some_and(|out| may_overlap(&given, &out)) {
        given = copied(&given)?;
    }
    let steps = shared_steps(given.shape(), given.strides(), &shape);
    // SAFETY: `given` is held for the whole call, the steps are its own, and it does not overlap what is written.
    let bits = Bits::Given(unsafe { Given::new(data(&given)) });
    apply_bits(x, &shape, bits, &steps, scale, out)
}
