//! The boundary to the driver: checks arrays and masks, and passes them on as addresses.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{
    Array, Lengths, Steps, axes, broadcast, check_out, dtype, dtype_list, dtype_name, dtype_of, element, empty,
    empty_like, mend, mismatch, shared_steps,
};
use super::mask::PyMask;
use super::view::{Held, View};
use crate::driver;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::operand::{Each, Element, INPUTS, Operands};
use crate::slices::finite;
use crate::stream::bernoulli::Threshold;
use crate::threads::limits;
use crate::walk::source::{MaskArray, Source};
use crate::walk::{Axes, Axis};

/// Copies the elements of an array.
pub(super) const COPY: Operation<'static> = Operation::select(1.0);

pub(super) type Inputs<'py> = SmallVec<[View<'py>; INPUTS]>;

/// Which elements a call keeps. A mask or a boolean array broadcasts to the result's shape.
pub(super) enum Keep<M, A> {
    /// All, or none.
    Constant(bool),
    /// The kept elements of a mask.
    Drawn(M),
    /// The true elements of a boolean array.
    Given(A),
}

/// `Keep` during a call, which reads a given array once.
pub(super) type Kept<'a, 'py> = Keep<&'a Mask, View<'py>>;

impl Kept<'_, '_> {
    /// Whether it keeps all elements, whatever is drawn.
    pub(super) fn keeps_all(&self) -> bool {
        match self {
            Self::Constant(keep) => *keep,
            Self::Drawn(mask) => mask.probability().threshold() == Threshold::KeepAll,
            Self::Given(_) => false,
        }
    }

    /// What the operation draws: the normals of a mask's elements for noise, their uniforms for relaxed decisions, else
    /// keep bits.
    ///
    /// # Safety
    /// While the source is in use, a given array must be held and not be written, and steps must stay inside it.
    unsafe fn source(&self, operation: &Operation<'_>) -> Source {
        match (self, operation) {
            (Self::Constant(keep), _) => Source::Constant(*keep),
            (Self::Drawn(mask), Operation::Noise { .. }) => Source::normals(mask.key(), mask.origin()),
            (Self::Drawn(mask), Operation::Relaxed(_) | Operation::Slopes(_)) => {
                Source::uniforms(mask.key(), mask.origin())
            }
            (Self::Drawn(mask), _) => Source::keep_bits(mask),
            // SAFETY: the caller guarantees the array.
            (Self::Given(given), _) => Source::Given(unsafe { MaskArray::new(given.first) }),
        }
    }

    /// The mask's steps along the axes of the result.
    fn steps(&self, shape: &[usize]) -> Steps {
        match self {
            Self::Constant(_) => Steps::new(),
            Self::Drawn(mask) => {
                let steps: Steps = mask.steps().iter().map(|step| *step as isize).collect();
                let extents: Lengths = mask.shape().iter().map(|len| *len as usize).collect();
                shared_steps(&extents, &steps, shape)
            }
            Self::Given(given) => shared_steps(&given.shape, &given.strides, shape),
        }
    }

    /// The step from each element to the next in C order, if all are the same.
    fn step(&self, shape: &[usize]) -> Option<isize> {
        match self {
            Self::Constant(_) => Some(0),
            Self::Drawn(mask) => {
                let all = mask.shape().iter().map(|len| *len as usize).eq(shape.iter().copied());
                (all && mask.shape() == mask.whole()).then_some(1)
            }
            Self::Given(given) => given.follows(shape).then_some(1),
        }
    }
}

pub(super) fn is_bool(array: &Array<'_>) -> bool {
    dtype(array).kind() == b'b'
}

/// A boolean array as the mask of a call, which must broadcast to `shape`.
pub(super) fn checked_given<'py>(given: &Array<'py>, shape: &[usize]) -> PyResult<View<'py>> {
    let view = View::new(given, Element::Bool);
    check_broadcast(&view.shape.iter().map(|len| *len as u64).collect::<Dims>(), shape)?;
    Ok(view)
}

pub(super) fn check_broadcast(mask: &[u64], shape: &[usize]) -> PyResult<()> {
    if broadcast(mask, shape)?[..] == *shape { Ok(()) } else { Err(mismatch(mask, shape)) }
}

/// An array to write, and whether it was allocated for this call.
pub(super) struct Output<'py> {
    pub(super) view: View<'py>,
    pub(super) fresh: bool,
}

impl<'py> Output<'py> {
    /// An array of the user, which passed `check_out` for elements of this type.
    pub(super) fn given(array: &Array<'py>, element: Element) -> Self {
        Self { view: View::new(array, element), fresh: false }
    }

    /// A new array in this shape, with the dtype and layout of `x` where they fit.
    fn new(x: &View<'py>, element: Element, shape: &[usize]) -> PyResult<Self> {
        let (array, py) = (x.owner.cast::<PyUntypedArray>()?, x.owner.py());
        let array = if x.shape[..] != *shape {
            empty(py, shape, &dtype(array))?
        } else if x.format.element == element {
            empty_like(array, None)?
        } else {
            empty_like(array, Some(dtype_of(py, element)?))?
        };
        Ok(Self { view: View::new(&array, element), fresh: true })
    }
}

/// Applies `operation` to `inputs`, which broadcast to `shape`. Writes elements of this type to `out`, or to a new
/// array.
pub(super) fn elementwise<'py>(
    inputs: &mut [View<'py>],
    element: Element,
    shape: &[usize],
    mut keep: Kept<'_, 'py>,
    operation: Operation<'_>,
    out: Option<&Output<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let new;
    let Output { view: target, fresh } = if let Some(out) = out {
        out
    } else {
        new = Output::new(&inputs[0], element, shape)?;
        &new
    };
    let mut held = Held::default();
    if target.len() >= DETACH {
        inputs.iter().chain([target]).for_each(|view| held.hold(view));
        if let Keep::Given(given) = &keep {
            held.hold(given);
        }
    }
    // Elements are read before they are written, so an input may be the output, but must not
    // overlap it otherwise.
    let direct = out.is_none() || target.surely_disjoint();
    if out.is_some() {
        for input in &mut *inputs {
            if if input.is_same(target) { !direct } else { input.may_overlap(target) } {
                *input = copied(input, &held)?;
            }
        }
        if let Keep::Given(given) = &mut keep
            && given.may_overlap(target)
        {
            *given = copied(given, &held)?;
        }
    }
    if direct {
        work(target, *fresh, inputs, keep, operation, &held)?;
    } else {
        let aside = [View::temporary(target, element)?];
        work(&aside[0], true, inputs, keep, operation, &held)?;
        let copy = || work(target, false, &aside, Keep::Constant(true), COPY, &held);
        // Elements of the target may share memory, which two threads must not write.
        limits::limited(1, copy)?;
    }
    Ok(target.owner.clone())
}

pub(super) fn checked_element(x: &Array<'_>, name: &str) -> PyResult<Element> {
    element(&dtype(x)).ok_or_else(|| {
        let (dtypes, dtype, mend) = (dtype_list(true), dtype_name(&dtype(x)), mend(&dtype(x), name));
        PyTypeError::new_err(format!("{name} must have dtype {dtypes}, got {dtype}{mend}"))
    })
}

/// A copy of an array.
fn copied<'py>(view: &View<'py>, held: &Held) -> PyResult<View<'py>> {
    let element = view.format.element;
    let copy = View::temporary(view, element)?;
    if element == Element::Bool {
        work(&copy, true, &[], Keep::Given(view.clone()), Operation::Store, held)?;
    } else {
        work(&copy, true, std::slice::from_ref(view), Keep::Constant(true), COPY, held)?;
    }
    Ok(copy)
}

/// Runs the driver on arrays. The elements of `written` must share no memory, unless the call uses one thread. Each
/// input must broadcast to the shape of `written`, and be the same array or not overlap it. `held` must hold all arrays
/// if they are large.
fn work(
    written: &View<'_>,
    fresh: bool,
    inputs: &[View<'_>],
    keep: Kept<'_, '_>,
    operation: Operation<'_>,
    held: &Held,
) -> PyResult<()> {
    let shape = &written.shape[..];
    let mut operands = Operands::new(written.format.element, written.first, &[]);
    operands.fresh = fresh;
    let mut formats = [written.format; 1 + INPUTS];
    let mut sizes: Each<isize> = [written.format.element.size() as isize; 1 + INPUTS];
    for (which, input) in (1..).zip(inputs) {
        operands.first[which] = input.first;
        formats[which] = input.format;
        sizes[which] = input.format.element.size() as isize;
    }
    operands.set_formats(formats);
    let mut axes = match keep.step(shape) {
        // Usually there is one axis, and merging many is measurable in small calls.
        Some(bit) if written.is_contiguous && inputs.iter().all(|input| input.follows(shape)) => {
            Axes::from_iter([Axis { len: written.len(), steps: sizes, bit }])
        }
        _ => {
            let mut steps: Each<Steps> = [written.strides.clone(), Steps::new(), Steps::new(), Steps::new()];
            for (steps, input) in steps[1..].iter_mut().zip(inputs) {
                *steps = shared_steps(&input.shape, &input.strides, shape);
            }
            axes(shape, steps.each_ref().map(|steps| &steps[..]), &keep.steps(shape))
        }
    };
    // SAFETY: the caller holds the array, and the steps are the array's own. Nobody writes it: the caller ensures that,
    // and requires it of users.
    let source = unsafe { keep.source(&operation) };
    // What the driver requires:
    // 1. The views hold the arrays, `held` watches their memory, and the axes are the shapes and strides that the
    //    arrays had with that memory. So all places are inside.
    // 2. The caller ensures that output elements are disjoint, or that the call uses one thread.
    // 3. The caller ensures that each input equals the output or does not overlap it.
    // 4. Users must not write or resize an array in another Python thread during the call, as in NumPy.
    detached(written.owner.py(), written.len() >= DETACH, held, |interrupt| {
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
) -> PyResult<Bound<'py, PyAny>> {
    let shape = broadcast(mask.get().0.shape(), x.shape())?;
    let scale = finite("scale", scale)?;
    on_one_array(x, &shape, &mask.get().0, Operation::select(scale), out)
}

/// `x * (1 + std * z)` in the shape of `x`, where z are the normals of the mask's elements.
#[pyfunction]
#[pyo3(signature = (mask, x, std, out=None))]
pub(super) fn noise<'py>(
    mask: PyRef<'py, PyMask>,
    x: &Array<'py>,
    std: f64,
    out: Option<&Array<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let shape = Lengths::from_slice(x.shape());
    check_broadcast(mask.0.shape(), &shape)?;
    on_one_array(x, &shape, &mask.0, Operation::Noise { std }, out)
}

fn on_one_array<'py>(
    x: &Array<'py>,
    shape: &[usize],
    mask: &Mask,
    operation: Operation<'_>,
    out: Option<&Array<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let element = checked_element(x, "x")?;
    check_out(out, element, shape)?;
    let out = out.map(|out| Output::given(out, element));
    elementwise(&mut [View::new(x, element)], element, shape, Keep::Drawn(mask), operation, out.as_ref())
}
