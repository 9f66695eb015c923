//! The boundary to the driver: checks arrays and masks, and passes them on as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Steps, axes, broadcast, check_out, data, dtype, dtype_name, dtype_of, element, empty, empty_like, may_overlap,
    mend, mismatch, shared_steps, surely_disjoint, swapped,
};
use super::mask::PyMask;
use crate::driver;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::openmp;
use crate::operand::{Each, Element, Format, INPUTS, Operands};
use crate::slices::finite;
use crate::walk::source::{MaskArray, Source};
use crate::walk::{Axes, Axis};

/// In error messages.
const DTYPES: &str = "float32, float64, float16, bfloat16, complex64 or complex128";

pub(super) type Array<'py> = Bound<'py, PyUntypedArray>;

/// An array to read, and what its elements are: the dtype does not say it for a tensor of bfloat16.
#[derive(Clone)]
pub(super) struct Input<'py> {
    pub(super) array: Array<'py>,
    pub(super) element: Element,
}

pub(super) type Inputs<'py> = SmallVec<[Input<'py>; INPUTS]>;

/// What a call draws. A mask or an array broadcasts to the result's shape.
pub(super) enum Draw<'a, 'py> {
    /// The same keep bit for all elements.
    Constant(bool),
    /// The keep bits of a mask.
    Keep(&'a Mask),
    /// The keep bits of a boolean array.
    Given(Array<'py>),
    /// The normals of a mask's elements.
    Normals(&'a Mask),
}

impl Draw<'_, '_> {
    /// # Safety
    /// While the source is in use, an array must be held and not be written, and steps must stay
    /// inside it.
    unsafe fn source(&self) -> Source {
        match self {
            Self::Constant(keep) => Source::Constant(*keep),
            Self::Keep(mask) => Source::keep_bits(mask),
            // SAFETY: the caller vouches for the array.
            Self::Given(array) => Source::Given(unsafe { MaskArray::new(data(array)) }),
            Self::Normals(mask) => Source::normals(mask.key(), mask.origin()),
        }
    }

    /// The steps along the axes of the result.
    fn steps(&self, shape: &[usize]) -> Steps {
        match self {
            Self::Constant(_) => Steps::new(),
            Self::Keep(mask) | Self::Normals(mask) => {
                let steps: Steps = mask.steps().iter().map(|step| *step as isize).collect();
                let extents: SmallVec<[usize; 6]> = mask.shape().iter().map(|len| *len as usize).collect();
                shared_steps(&extents, &steps, shape)
            }
            Self::Given(array) => shared_steps(array.shape(), array.strides(), shape),
        }
    }

    /// The step from each element to the next in C order, if all are the same.
    fn step(&self, shape: &[usize]) -> Option<isize> {
        match self {
            Self::Constant(_) => Some(0),
            Self::Keep(mask) | Self::Normals(mask) => {
                let all = mask.shape().iter().map(|len| *len as usize).eq(shape.iter().copied());
                (all && mask.shape() == mask.whole()).then_some(1)
            }
            Self::Given(array) => follows(array, shape).then_some(1),
        }
    }
}

/// Whether an array has this shape and is contiguous in C order.
fn follows(array: &Array<'_>, shape: &[usize]) -> bool {
    array.is_c_contiguous() && array.shape() == shape
}

pub(super) fn is_bool(array: &Array<'_>) -> bool {
    dtype(array).kind() == b'b'
}

/// Checks that a given mask broadcasts to `shape`. Its own shape may change as long as the interpreter is not held.
pub(super) fn check_given(given: &Array<'_>, shape: &[usize]) -> PyResult<()> {
    check_broadcast(&given.shape().iter().map(|len| *len as u64).collect::<Dims>(), shape)
}

pub(super) fn check_broadcast(mask: &[u64], shape: &[usize]) -> PyResult<()> {
    if broadcast(mask, shape)?[..] == *shape { Ok(()) } else { Err(mismatch(mask, shape)) }
}

/// Applies `operation` to `inputs`, which broadcast to `shape`. Writes elements of this type to `out`, or to a new
/// array.
pub(super) fn elementwise<'py>(
    mut inputs: Inputs<'py>,
    element: Element,
    shape: &[usize],
    mut draw: Draw<'_, 'py>,
    operation: Operation<'_>,
    out: Option<Output<'_, 'py>>,
) -> PyResult<Array<'py>> {
    let Input { array: x, element: of_x } = &inputs[0];
    let py = x.py();
    let target = match out {
        Some(out) => out.array.clone(),
        None if x.shape() == shape && *of_x == element => empty_like(x, None)?,
        None if x.shape() == shape => empty_like(x, Some(dtype_of(py, element)?))?,
        None => empty(py, shape, &dtype(x))?,
    };
    // Elements are read before they are written, so an input may be the output, but must not
    // overlap it otherwise.
    let same = |Input { array: input, element: of_input }: &Input<'py>| {
        data(&target) == data(input)
            && *of_input == element
            && target.strides() == input.strides()
            && target.shape() == input.shape()
            && swapped(&dtype(&target)) == swapped(&dtype(input))
    };
    let direct = out.is_none() || surely_disjoint(&target);
    if out.is_some() {
        for input in &mut inputs {
            if if same(input) { !direct } else { may_overlap(&input.array, &target) } {
                input.array = copied(input)?;
            }
        }
        if let Draw::Given(given) = &mut draw
            && may_overlap(given, &target)
        {
            *given = copied(&Input { array: given.clone(), element: Element::Bool })?;
        }
    }
    let aside = if direct { None } else { Some(empty(py, shape, &dtype(&target))?) };
    let written = aside.as_ref().unwrap_or(&target);
    let fresh = !direct || out.is_none_or(|out| out.fresh);
    work(Output { array: written, fresh }, &inputs, element, draw, operation)?;
    if let Some(aside) = aside {
        let aside = Input { array: aside, element };
        let draw = Draw::Constant(true);
        let output = Output { array: &target, fresh: false };
        let copy = || work(output, std::slice::from_ref(&aside), element, draw, Operation::Select { scale: 1.0 });
        // Its elements may share memory, which two threads must not write.
        openmp::with_team(1, copy)?;
    }
    Ok(target)
}

pub(super) fn checked_element(x: &Array<'_>, name: &str) -> PyResult<Element> {
    element(&dtype(x)).ok_or_else(|| {
        let (dtype, mend) = (dtype_name(&dtype(x)), mend(&dtype(x), name));
        PyTypeError::new_err(format!("{name} must have dtype {DTYPES}, got {dtype}{mend}"))
    })
}

/// A copy in the same layout.
fn copied<'py>(input: &Input<'py>) -> PyResult<Array<'py>> {
    let Input { array, element } = input;
    let (copy, element) = (empty_like(array, None)?, *element);
    let output = Output { array: &copy, fresh: true };
    if element == Element::Bool {
        work(output, &[], element, Draw::Given(array.clone()), Operation::Store)?;
    } else {
        let operation = Operation::Select { scale: 1.0 };
        work(output, std::slice::from_ref(input), element, Draw::Constant(true), operation)?;
    }
    Ok(copy)
}

/// An array to write, which passed `check_out`, and whether it was allocated for this call.
#[derive(Clone, Copy)]
pub(super) struct Output<'a, 'py> {
    pub(super) array: &'a Array<'py>,
    pub(super) fresh: bool,
}

impl<'a, 'py> Output<'a, 'py> {
    /// An array of the user.
    pub(super) fn given(array: &'a Array<'py>) -> Self {
        Self { array, fresh: false }
    }
}

/// Runs the driver on arrays. The output must be writeable, and its elements must share no memory, unless the call uses one
/// thread. Each input must broadcast to its shape, and be the same array or not overlap it.
fn work(
    Output { array: written, fresh }: Output<'_, '_>,
    inputs: &[Input<'_>],
    element: Element,
    draw: Draw<'_, '_>,
    operation: Operation<'_>,
) -> PyResult<()> {
    let shape = written.shape();
    let mut operands = Operands::new(element, data(written), &[]);
    operands.fresh = fresh;
    let mut formats = [Format { element, swapped: swapped(&dtype(written)) }; 1 + INPUTS];
    let mut sizes: Each<isize> = [element.size() as isize; 1 + INPUTS];
    for (which, Input { array, element }) in (1..).zip(inputs) {
        operands.first[which] = data(array);
        formats[which] = Format { element: *element, swapped: swapped(&dtype(array)) };
        sizes[which] = element.size() as isize;
    }
    operands.set_formats(formats);
    let mut axes = match draw.step(shape) {
        // Usually there is one axis, and small calls would notice the cost of merging many.
        Some(bit) if follows(written, shape) && inputs.iter().all(|input| follows(&input.array, shape)) => {
            Axes::from_iter([Axis { len: written.len(), steps: sizes, bit }])
        }
        _ => {
            let mut steps: Each<Steps> =
                [Steps::from_slice(written.strides()), Steps::new(), Steps::new(), Steps::new()];
            for (steps, Input { array, .. }) in steps[1..].iter_mut().zip(inputs) {
                *steps = shared_steps(array.shape(), array.strides(), shape);
            }
            axes(shape, steps.each_ref().map(|steps| &steps[..]), &draw.steps(shape))
        }
    };
    // SAFETY: the caller holds the array, and its steps are its own. That nobody writes it is up to
    // the caller, and required of users.
    let source = unsafe { draw.source() };
    // What the driver requires: 1. The caller holds the arrays for the whole call, and the axes are
    // their shapes and strides, so all places are inside them. 2. and 3. Disjoint output elements or one thread,
    // and inputs that equal the output or do not overlap it, are up to the caller. 4. Users must
    // not write an array from another Python thread during the call, as in NumPy.
    detached(written.py(), written.len() >= DETACH, |interrupt| {
        // SAFETY: for the four reasons above.
        unsafe { driver::run(&source, operation, operands, &mut axes, interrupt) }
    })
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
    let scale = finite("scale", scale)?;
    let element = checked_element(x, "x")?;
    check_out(out, element, &shape)?;
    let inputs = Inputs::from_iter([Input { array: x.clone(), element }]);
    elementwise(inputs, element, &shape, Draw::Keep(&mask.get().0), Operation::Select { scale }, out.map(Output::given))
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
    check_broadcast(mask.0.shape(), x.shape())?;
    let element = checked_element(x, "x")?;
    check_out(out, element, x.shape())?;
    let inputs = Inputs::from_iter([Input { array: x.clone(), element }]);
    elementwise(inputs, element, x.shape(), Draw::Normals(&mask.0), Operation::Noise { std }, out.map(Output::given))
}
