//! The edge to the driver: arrays and masks are checked, and handed over as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Steps, axes, broadcast, check_out, data, dtype_name, element, empty, empty_like, is_contiguous, may_overlap,
    mismatch, shared_steps, surely_disjoint, swapped,
};
use super::mask::PyMask;
use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::mask::Mask;
use crate::operand::{Each, Element, INPUTS, Operands};
use crate::walk::source::{MaskArray, Source};
use crate::walk::{Axes, Axis};

/// In error messages.
const DTYPES: &str = "float32, float64, float16, bfloat16, complex64 or complex128";

pub(super) type Array<'py> = Bound<'py, PyUntypedArray>;

/// What a call draws, with its steps along the axes of the result.
pub(super) struct Draw<'py> {
    source: Source,
    /// None where they are those of the result in C order.
    steps: Option<Steps>,
    /// The array that keep bits are read from, if they are: held as long as they are used.
    given: Option<Array<'py>>,
}

impl<'py> Draw<'py> {
    /// The same for all elements.
    pub(super) fn all(keep: bool) -> Self {
        Self { source: Source::Constant(keep), steps: None, given: None }
    }

    /// The keep bits of a mask that broadcasts to `shape`.
    pub(super) fn keep_bits(mask: &Mask, shape: &[usize]) -> PyResult<Self> {
        Ok(Self { steps: steps_of(mask, shape)?, source: Source::keep_bits(mask), given: None })
    }

    /// The keep bits of a boolean array that broadcasts to `shape`.
    pub(super) fn given(array: Array<'py>, shape: &[usize]) -> Self {
        // SAFETY: the array is held with the source, the steps are its own, and `elementwise` sees to it that it does
        // not overlap what is written.
        let source = Source::Given(unsafe { MaskArray::new(data(&array)) });
        Self { source, steps: Some(shared_steps(array.shape(), array.strides(), shape)), given: Some(array) }
    }
}

pub(super) fn is_bool(array: &Array<'_>) -> bool {
    array.dtype().kind() == b'b'
}

pub(super) fn check_broadcast(mask: &[u64], shape: &[usize]) -> PyResult<()> {
    if broadcast(mask, shape)?[..] == *shape { Ok(()) } else { Err(mismatch(mask, shape)) }
}

/// The steps of a mask along the axes of `shape`, to which it must broadcast.
fn steps_of(mask: &Mask, shape: &[usize]) -> PyResult<Option<Steps>> {
    let is_shape = |dims: &[u64]| dims.len() == shape.len() && dims.iter().zip(shape).all(|(a, b)| *a == *b as u64);
    if is_shape(mask.shape()) && is_shape(mask.whole()) {
        return Ok(None);
    }
    check_broadcast(mask.shape(), shape)?;
    let steps: Steps = mask.steps().iter().map(|step| *step as isize).collect();
    let extents: SmallVec<[usize; 6]> = mask.shape().iter().map(|len| *len as usize).collect();
    Ok(Some(shared_steps(&extents, &steps, shape)))
}

/// Does `operation` to `inputs`, of which the first has a dtype that fastdrop works on and all broadcast to `shape`:
/// into `out`, which was checked, or a new array.
pub(super) fn elementwise<'py>(
    mut inputs: SmallVec<[Array<'py>; INPUTS]>,
    shape: &[usize],
    mut draw: Draw<'py>,
    operation: Operation<'_>,
    out: Option<&Array<'py>>,
) -> PyResult<Array<'py>> {
    let x = &inputs[0];
    let py = x.py();
    let element = checked_element(x, "x")?;
    let target = match out {
        Some(out) => out.clone(),
        None if x.shape() == shape => empty_like(x)?,
        None => empty(py, shape, &x.dtype())?,
    };
    // Elements are read before they are written, so an input may be the output, but not overlap it otherwise.
    let same = |input: &Array<'py>| {
        data(&target) == data(input)
            && target.strides() == input.strides()
            && target.shape() == input.shape()
            && swapped(&target.dtype()) == swapped(&input.dtype())
    };
    let direct = out.is_none() || surely_disjoint(&target);
    if out.is_some() {
        for input in &mut inputs {
            if if same(input) { !direct } else { may_overlap(input, &target) } {
                *input = copied(input)?;
            }
        }
        if let Some(given) = draw.given.take_if(|given| may_overlap(given, &target)) {
            draw = Draw::given(copied(&given)?, shape);
        }
    }
    let written = if direct { target.clone() } else { empty(py, shape, &target.dtype())? };
    work(Output { array: &written, fresh: out.is_none() || !direct }, &inputs, element, &draw, operation)?;
    if !direct {
        let draw = Draw::all(true);
        let output = Output { array: &target, fresh: false };
        work(output, std::slice::from_ref(&written), element, &draw, Operation::Select { scale: 1.0 })?;
    }
    Ok(target)
}

pub(super) fn checked_element(x: &Array<'_>, name: &str) -> PyResult<Element> {
    element(&x.dtype()).ok_or_else(|| {
        let dtype = dtype_name(&x.dtype());
        PyTypeError::new_err(format!("{name} must have dtype {DTYPES}, got {dtype}"))
    })
}

/// A copy of `array` in the same layout.
fn copied<'py>(array: &Array<'py>) -> PyResult<Array<'py>> {
    let copy = empty_like(array)?;
    let output = Output { array: &copy, fresh: true };
    if is_bool(array) {
        let draw = Draw::given(array.clone(), array.shape());
        work(output, &[], Element::Bool, &draw, Operation::Store)?;
    } else {
        let draw = Draw::all(true);
        let operation = Operation::Select { scale: 1.0 };
        work(output, std::slice::from_ref(array), checked_element(array, "x")?, &draw, operation)?;
    }
    Ok(copy)
}

/// An array to write, and whether it was made for that.
#[derive(Clone, Copy)]
struct Output<'a, 'py> {
    array: &'a Array<'py>,
    fresh: bool,
}

/// Runs the driver on arrays: the output is writeable, its elements share no memory, and each input, which broadcasts to
/// its shape, is the same array or overlaps it nowhere.
fn work(
    Output { array: written, fresh }: Output<'_, '_>,
    inputs: &[Array<'_>],
    element: Element,
    draw: &Draw<'_>,
    operation: Operation<'_>,
) -> PyResult<()> {
    let shape = written.shape();
    let mut operands = Operands::new(element, data(written), &[]);
    operands.swapped[0] = swapped(&written.dtype());
    operands.fresh = fresh;
    for (which, input) in (1..).zip(inputs) {
        operands.first[which] = data(input);
        operands.swapped[which] = swapped(&input.dtype());
    }
    let in_line = |array: &Array<'_>| is_contiguous(array) && array.shape() == shape;
    let axes = if draw.steps.is_none() && in_line(written) && inputs.iter().all(in_line) {
        let step = element.size() as isize;
        Axes::from_iter([Axis { len: written.len(), steps: [step; 1 + INPUTS], bit: 1 }])
    } else {
        let mut steps: Each<Steps> = [Steps::from_slice(written.strides()), Steps::new(), Steps::new(), Steps::new()];
        for (steps, input) in steps[1..].iter_mut().zip(inputs) {
            *steps = shared_steps(input.shape(), input.strides(), shape);
        }
        let bits = draw.steps.clone().unwrap_or_else(|| in_order(shape));
        axes(shape, steps.each_ref().map(|steps| &steps[..]), &bits)
    };
    let source = &draw.source;
    // What the driver relies on: 1. The arrays are held by the caller for the whole call, and the axes are their shapes
    // and strides, so all places are inside them. 2. and 3. The caller's part. 4. That no other Python thread writes an
    // array meanwhile is asked of users, as NumPy does.
    detached(written.py(), written.len() >= DETACH, move |interrupt| {
        // SAFETY: for the four reasons above.
        unsafe { driver::run(source, operation, operands, axes, interrupt) }
    })
}

/// The steps of an array of this shape in C order, in elements.
fn in_order(shape: &[usize]) -> Steps {
    let mut step = 1isize;
    let mut steps: Steps = (shape.iter().rev())
        .map(|len| {
            let this = step;
            step = step.wrapping_mul(*len as isize);
            this
        })
        .collect();
    steps.reverse();
    steps
}

/// `kept ? x * scale : 0` in the shape that the mask and `x` broadcast to.
#[pyfunction]
#[pyo3(signature = (mask, x, scale, out=None))]
pub(super) fn apply<'py>(
    mask: &Bound<'py, PyMask>,
    x: &Array<'py>,
    scale: f64,
    out: Option<&Array<'py>>,
) -> PyResult<Array<'py>> {
    let shape = broadcast(mask.get().0.shape(), x.shape())?;
    if !scale.is_finite() {
        return Err(Error::Scale(scale).into());
    }
    if let Some(out) = out {
        checked_element(x, "x")?;
        check_out(out, x, &shape)?;
    }
    let draw = Draw::keep_bits(&mask.get().0, &shape)?;
    elementwise(SmallVec::from_iter([x.clone()]), &shape, draw, Operation::Select { scale }, out)
}

/// `x * (1 + std * z)` in the shape of `x`, where z are the normals of the mask's elements.
#[pyfunction]
#[pyo3(signature = (mask, x, std, out=None))]
pub(super) fn noise<'py>(
    mask: PyRef<'py, PyMask>,
    x: &Array<'py>,
    std: f64,
    out: Option<&Array<'py>>,
) -> PyResult<Array<'py>> {
    let shape: SmallVec<[usize; 6]> = x.shape().into();
    if let Some(out) = out {
        checked_element(x, "x")?;
        check_out(out, x, &shape)?;
    }
    let source = Source::normals(mask.0.key(), mask.0.origin());
    let draw = Draw { source, steps: steps_of(&mask.0, &shape)?, given: None };
    elementwise(SmallVec::from_iter([x.clone()]), &shape, draw, Operation::Noise { std }, out)
}
