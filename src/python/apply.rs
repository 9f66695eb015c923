//! The edge to the driver: arrays and bits are checked, and handed over as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Steps, axes, broadcast, check_out, copied, copy_into, data, element, empty, empty_like, float_array, may_overlap,
    mismatch, plain_array, shared_steps, surely_disjoint, swapped,
};
use super::mask::PyMask;
use crate::apply::Element;
use crate::bits::{Bits, Given};
use crate::dropout::{self, Arrays, Operation};
use crate::error::{Error, Extents};
use crate::fused::{Kind, Operation as Fused};
use crate::mask::{Dims, Interrupt, Mask};
use crate::noise::Noise;
use crate::walk::{Axes, MORE};

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
    elementwise(x, &[], shape, bit_steps, out, move |arrays, axes, interrupt| {
        // SAFETY: `elementwise` vouches for the arrays, whoever made the bits for what they read.
        unsafe { dropout::run(arrays, axes, bits, Operation::Scale(scale), interrupt) }
    })
}

/// Has `work` make an array out of `x` and `more`, broadcast to `shape`: `out`, or a new one. `work` may read and
/// write all that the axes reach.
fn elementwise<'py>(
    x: Bound<'py, PyUntypedArray>,
    more: &[Bound<'py, PyUntypedArray>],
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
    // Elements are read before they are written, so an input may be the output, but not overlap it otherwise.
    let same = |input: &Bound<'py, PyUntypedArray>| {
        data(&target) == data(input)
            && target.strides() == input.strides()
            && target.shape() == input.shape()
            && swapped(&target.dtype()) == swapped(&input.dtype())
    };
    let direct = out.is_none() || surely_disjoint(&target);
    let mut more: SmallVec<[Bound<'py, PyUntypedArray>; MORE]> = more.iter().cloned().collect();
    if out.is_some() {
        for input in std::iter::once(&mut x).chain(&mut more) {
            if if same(input) { !direct } else { may_overlap(input, &target) } {
                *input = copied(input)?;
            }
        }
    }
    let written = if direct { target.clone() } else { empty(py, shape, &target.dtype())? };
    let src_steps = shared_steps(x.shape(), x.strides(), shape);
    let mut axes = axes(shape, Some(&src_steps), written.strides(), bit_steps.iter().copied());
    let mut arrays = Arrays::new(data(&x), data(&written), element);
    [arrays.swapped[0], arrays.swapped[1]] = [swapped(&x.dtype()), swapped(&written.dtype())];
    for (which, input) in more.iter().enumerate() {
        arrays.more[which] = data(input);
        arrays.swapped[2 + which] = swapped(&input.dtype());
        let steps = shared_steps(input.shape(), input.strides(), shape);
        for (axis, step) in axes.iter_mut().zip(steps) {
            axis.more[which] = step;
        }
    }
    // What `work` relies on: 1. The inputs and `written` are held for the whole call, and the axes are their shapes
    // and strides, so all places are inside them. 2. `written` is writeable and its elements share no memory: it is
    // new, or was checked. 3. Each input is the same as it element by element, or does not overlap it: it was copied
    // otherwise. 4. That no other Python thread writes an array meanwhile is asked of users, as NumPy does.
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

/// What the operation `name` makes of `inputs`, of which the first has the result's shape and dtype and the others
/// broadcast to it. A mask of None keeps all.
#[pyfunction]
#[pyo3(signature = (name, mask, inputs, scale=1.0, shift=0.0, fill=0.0, out=None))]
pub(super) fn fused<'py>(
    name: &str,
    mask: &Bound<'py, PyAny>,
    inputs: Vec<(PyBackedStr, Bound<'py, PyAny>)>,
    scale: f64,
    shift: f64,
    fill: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some((_, kind, _)) = Kind::ALL.into_iter().find(|(known, _, count)| *known == name && *count == inputs.len())
    else {
        return Err(PyValueError::new_err(format!("{name} of {} inputs is no operation", inputs.len())));
    };
    let mut arrays = inputs.iter().map(|(name, array)| float_array(array, name)).collect::<PyResult<Vec<_>>>()?;
    let first = &arrays[0];
    let shape: SmallVec<[usize; 6]> = first.shape().into();
    let expected = element(&first.dtype());
    if matches!(expected, Some(Element::Complex64 | Element::Complex128)) && !kind.is_linear() {
        return Err(PyTypeError::new_err(format!("{} must have a real dtype, got {}", inputs[0].0, first.dtype())));
    }
    for ((name, _), array) in inputs.iter().zip(&arrays).skip(1) {
        if element(&array.dtype()) != expected {
            let text =
                format!("{name} must have the dtype of {}, {}, got {}", inputs[0].0, first.dtype(), array.dtype());
            return Err(PyTypeError::new_err(text));
        }
        let extents: Dims = array.shape().iter().map(|len| *len as u64).collect();
        if broadcast(&extents, &shape).ok().is_none_or(|common| common != shape) {
            let (got, shape) = (Extents::from(array.shape()), Extents::from(&shape[..]));
            return Err(PyValueError::new_err(format!("{name} must broadcast to shape {shape}, got {got}")));
        }
    }
    let x = arrays.remove(0);
    let operation = Operation::Fused(Fused { kind, scale, shift, fill });
    let (bits, steps, _held) = drawn_or_given(mask, &shape, out, &x)?;
    elementwise(x, &arrays, &shape, &steps, out, move |arrays, axes, interrupt| {
        // SAFETY: `elementwise` vouches for the arrays, `drawn_or_given` for what the bits read.
        unsafe { dropout::run(arrays, axes, bits, operation, interrupt) }
    })
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
    elementwise(x, &[], &shape, &steps, out, move |arrays, axes, interrupt| {
        // SAFETY: `elementwise` vouches for the arrays.
        unsafe { crate::noise::run(arrays, axes, noise, interrupt) }
    })
}

/// The bits of a mask or of a boolean array that broadcasts to `shape`, their strides along its axes, and the array
/// that they are read from, which must be held as long as the bits are used. None keeps all.
fn drawn_or_given<'py>(
    mask: &Bound<'py, PyAny>,
    shape: &[usize],
    out: Option<&Bound<'py, PyAny>>,
    x: &Bound<'py, PyUntypedArray>,
) -> PyResult<(Bits, Steps, Option<Bound<'py, PyUntypedArray>>)> {
    if mask.is_none() {
        return Ok((Bits::Constant(true), SmallVec::from_elem(0, shape.len()), None));
    }
    if let Ok(mask) = mask.cast::<PyMask>() {
        let mask = &mask.get().0;
        if broadcast(mask.shape(), shape)?[..] != *shape {
            return Err(mismatch(mask.shape(), shape));
        }
        let (origin, steps) = indices(mask, shape);
        return Ok((Bits::drawn(mask, origin), steps, None));
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
    if broadcast(&extents, shape)?[..] != *shape {
        return Err(mismatch(&extents, shape));
    }
    let written = out.map(|out| check_out(out, x, shape)).transpose()?;
    if written.is_some_and(|out| may_overlap(&given, &out)) {
        given = copied(&given)?;
    }
    let steps = shared_steps(given.shape(), given.strides(), shape);
    // SAFETY: the caller holds `given` for the whole call, the steps are its own, and it does not overlap what is
    // written.
    let bits = Bits::Given(unsafe { Given::new(data(&given)) });
    Ok((bits, steps, Some(given)))
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
    let (bits, steps, _held) = drawn_or_given(mask, &shape, out, &x)?;
    apply_bits(x, &shape, bits, &steps, scale, out)
}
