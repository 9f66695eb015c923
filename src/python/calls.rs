//! The edge to the driver: arrays and masks are checked, and handed over as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Steps, axes, broadcast, check_out, data, dtype_name, element, empty, empty_like, may_overlap, mismatch,
    shared_steps, surely_disjoint, swapped,
};
use super::mask::PyMask;
use crate::driver;
use crate::error::{Error, Extents};
use crate::kernel::Operation;
use crate::kernel::op::{Formula, Kind};
use crate::mask::Dims;
use crate::operand::{Each, Element, INPUTS, Operands};
use crate::walk::source::{MaskArray, Source};

/// In error messages.
const DTYPES: &str = "float32, float64, float16, bfloat16, complex64 or complex128";

type Array<'py> = Bound<'py, PyUntypedArray>;

/// What a call draws, with its steps along the axes of the result.
struct Draw<'py> {
    source: Source,
    steps: Steps,
    /// The array that keep bits are read from, if they are: held as long as they are used.
    given: Option<Array<'py>>,
}

impl<'py> Draw<'py> {
    /// The keep bits of a mask or of a boolean array that broadcasts to `shape`. None keeps all.
    fn keep_bits(mask: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Self> {
        if mask.is_none() {
            let steps = SmallVec::from_elem(0, shape.len());
            return Ok(Self { source: Source::Constant(true), steps, given: None });
        }
        if let Ok(mask) = mask.cast::<PyMask>() {
            let source = Source::keep_bits(&mask.get().mask);
            return Ok(Self { source, steps: steps_of(mask.get(), shape)?, given: None });
        }
        let given = mask.cast_exact::<PyUntypedArray>().ok().filter(|given| is_bool(given)).cloned();
        let Some(given) = given else {
            let text = format!("mask must be a Mask or a boolean array, got {}", mask.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        };
        let extents: Dims = given.shape().iter().map(|len| *len as u64).collect();
        check_broadcast(&extents, shape)?;
        Ok(Self::given(given, shape))
    }

    /// The keep bits of a boolean array that broadcasts to `shape`.
    fn given(array: Array<'py>, shape: &[usize]) -> Self {
        // SAFETY: the array is held with the source, the steps are its own, and `elementwise` sees to it that it does
        // not overlap what is written.
        let source = Source::Given(unsafe { MaskArray::new(data(&array)) });
        Self { source, steps: shared_steps(array.shape(), array.strides(), shape), given: Some(array) }
    }
}

fn is_bool(array: &Array<'_>) -> bool {
    array.dtype().kind() == b'b'
}

fn check_broadcast(mask: &[u64], shape: &[usize]) -> PyResult<()> {
    if broadcast(mask, shape)?[..] == *shape { Ok(()) } else { Err(mismatch(mask, shape)) }
}

/// The steps of a mask along the axes of `shape`, to which it must broadcast.
fn steps_of(mask: &PyMask, shape: &[usize]) -> PyResult<Steps> {
    let mask = &mask.mask;
    check_broadcast(mask.shape(), shape)?;
    let steps: Steps = mask.steps().iter().map(|step| *step as isize).collect();
    let extents: SmallVec<[usize; 6]> = mask.shape().iter().map(|len| *len as usize).collect();
    Ok(shared_steps(&extents, &steps, shape))
}

/// Does `operation` to `inputs`, of which the first has a dtype that fastdrop works on and all broadcast to `shape`:
/// into `out`, or a new array.
fn elementwise<'py>(
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
        Some(out) => {
            check_out(out, x, shape)?;
            out.clone()
        }
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
    work(Output { array: &written, fresh: out.is_none() || !direct }, &inputs, element, draw, operation)?;
    if !direct {
        let draw = Draw::keep_bits(py.None().bind(py), shape)?;
        let output = Output { array: &target, fresh: false };
        work(output, std::slice::from_ref(&written), element, draw, Operation::Select { scale: 1.0 })?;
    }
    Ok(target)
}

fn checked_element(x: &Array<'_>, name: &str) -> PyResult<Element> {
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
        work(output, &[], Element::Bool, draw, Operation::Store)?;
    } else {
        let draw = Draw::keep_bits(array.py().None().bind(array.py()), array.shape())?;
        let operation = Operation::Select { scale: 1.0 };
        work(output, std::slice::from_ref(array), checked_element(array, "x")?, draw, operation)?;
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
    draw: Draw<'_>,
    operation: Operation<'_>,
) -> PyResult<()> {
    let shape = written.shape();
    let mut operands = Operands::new(element, data(written), &[]);
    operands.swapped[0] = swapped(&written.dtype());
    operands.fresh = fresh;
    let mut steps: Each<Steps> = [Steps::from_slice(written.strides()), Steps::new(), Steps::new(), Steps::new()];
    for (which, input) in (1..).zip(inputs) {
        operands.first[which] = data(input);
        operands.swapped[which] = swapped(&input.dtype());
        steps[which] = shared_steps(input.shape(), input.strides(), shape);
    }
    let axes = axes(shape, steps.each_ref().map(|steps| &steps[..]), &draw.steps);
    let source = draw.source;
    // What the driver relies on: 1. The arrays are held by the caller for the whole call, and the axes are their shapes
    // and strides, so all places are inside them. 2. and 3. The caller's part. 4. That no other Python thread writes an
    // array meanwhile is asked of users, as NumPy does.
    detached(written.py(), written.len() >= DETACH, move |interrupt| {
        // SAFETY: for the four reasons above.
        unsafe { driver::run(&source, operation, operands, axes, interrupt) }
    })
}

/// `kept ? x * scale : 0`, with a mask or a boolean array that broadcasts to `x`; None keeps all. A Mask may also be the
/// larger one, if `grow`.
#[pyfunction]
#[pyo3(signature = (mask, x, scale, out=None, grow=false))]
pub(super) fn apply<'py>(
    mask: &Bound<'py, PyAny>,
    x: &Array<'py>,
    scale: f64,
    out: Option<&Array<'py>>,
    grow: bool,
) -> PyResult<Array<'py>> {
    let mut shape: SmallVec<[usize; 6]> = x.shape().into();
    if grow && let Ok(mask) = mask.cast::<PyMask>() {
        shape = broadcast(mask.get().mask.shape(), &shape)?;
    }
    if !scale.is_finite() {
        return Err(Error::Scale(scale).into());
    }
    let draw = Draw::keep_bits(mask, &shape)?;
    elementwise(SmallVec::from_iter([x.clone()]), &shape, draw, Operation::Select { scale }, out)
}

/// What the fused operation `name` makes of `inputs`, of which the first has the result's shape and dtype and the others
/// broadcast to it. A mask of None keeps all.
#[pyfunction]
#[pyo3(signature = (name, mask, inputs, scale=1.0, shift=0.0, fill=0.0, out=None))]
pub(super) fn fused<'py>(
    name: &str,
    mask: &Bound<'py, PyAny>,
    inputs: Vec<(PyBackedStr, Array<'py>)>,
    scale: f64,
    shift: f64,
    fill: f64,
    out: Option<&Array<'py>>,
) -> PyResult<Array<'py>> {
    let known = Kind::ALL.iter().copied().find(|kind| kind.name() == name && kind.inputs() == inputs.len());
    let Some(kind) = known else {
        return Err(PyValueError::new_err(format!("{name} of {} inputs is unknown", inputs.len())));
    };
    let (first_name, first) = &inputs[0];
    let shape: SmallVec<[usize; 6]> = first.shape().into();
    let expected = checked_element(first, first_name)?;
    if expected.parts() > 1 && !kind.takes_complex() {
        let text = format!("{first_name} must have a real dtype, got {}", dtype_name(&first.dtype()));
        return Err(PyTypeError::new_err(text));
    }
    for (name, array) in &inputs[1..] {
        if checked_element(array, name)? != expected {
            let [expected, got] = [first, array].map(|array| dtype_name(&array.dtype()));
            let text = format!("{name} must have the dtype of {first_name}, {expected}, got {got}");
            return Err(PyTypeError::new_err(text));
        }
        let extents: Dims = array.shape().iter().map(|len| *len as u64).collect();
        if broadcast(&extents, &shape).ok().is_none_or(|common| common != shape) {
            let (got, shape) = (Extents::from(array.shape()), Extents::from(&shape[..]));
            return Err(PyValueError::new_err(format!("{name} must broadcast to shape {shape}, got {got}")));
        }
    }
    let draw = Draw::keep_bits(mask, &shape)?;
    let arrays = inputs.iter().map(|(_, array)| array.clone()).collect();
    elementwise(arrays, &shape, draw, Operation::Formula(Formula { kind, scale, shift, fill }), out)
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
    let source = Source::normals(mask.mask.key(), mask.mask.origin());
    let draw = Draw { source, steps: steps_of(&mask, &shape)?, given: None };
    elementwise(SmallVec::from_iter([x.clone()]), &shape, draw, Operation::Noise { std }, out)
}
