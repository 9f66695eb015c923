//! What one call decided: which elements are kept, and which operation is applied with which
//! parameters. A plan runs forward once, when it is made, and backward any number of times.

use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arrays::{Array, Lengths, broadcast, check_out, dtype, dtype_name, element, element_name, promoted};
use super::calls::{Draw, Inputs, Output, check_broadcast, checked_element, checked_given, elementwise, is_bool};
use super::key::{CallKeys, PyKey, Taken};
use super::mask::{PyMask, public_mask};
use super::view::View;
use crate::error::Extents;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Kind};
use crate::mask::{Dims, Mask};
use crate::operand::Element;
use crate::stream::bernoulli::Probability;

/// The one operation that is not a formula: `kept ? x * scale : 0`.
const SELECT: &str = "select";

/// Which elements are kept.
pub(super) enum Keep {
    All,
    Drawn(Mask),
    Given(Py<PyUntypedArray>),
}

impl Keep {
    /// What a call of this shape draws.
    pub(super) fn draw<'py>(&self, py: Python<'py>, shape: &[usize]) -> PyResult<Draw<'_, 'py>> {
        Ok(match self {
            Self::All => Draw::Constant(true),
            Self::Drawn(mask) => Draw::Keep(mask),
            Self::Given(given) => Draw::Given(checked_given(given.bind(py), shape)?),
        })
    }
}

/// An operation and its parameters. A scale of 0 drops all elements, because multiplying by 0 would keep signs and NaN.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    /// `None` for `kept ? x * scale : 0`.
    pub(super) kind: Option<Kind>,
    pub(super) scale: f64,
    pub(super) shift: f64,
    pub(super) fill: f64,
}

impl Numbers {
    /// The numbers of an operation by its name. `scale` defaults to that of inverted dropout.
    fn new(operation: &str, p: f64, scale: Option<f64>, shift: f64, fill: f64) -> PyResult<Self> {
        let scale = scale.map_or_else(|| Ok(Probability::new(p)?.inverted_scale()), PyResult::Ok)?;
        Ok(Self { kind: kind_of(operation)?, scale, shift, fill })
    }

    /// Applies the operation to checked inputs, which broadcast to `shape`. The result has elements of this type.
    pub(super) fn apply<'py>(
        self,
        draw: Draw<'_, 'py>,
        element: Element,
        shape: &[usize],
        inputs: &mut [View<'py>],
        out: Option<&Output<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Self { kind, scale, shift, fill } = self;
        let untouched = matches!(kind, None | Some(Kind::Affine | Kind::Switch)) && scale == 1.0 && shift == 0.0;
        if untouched && draw.keeps_all() && inputs[0].format.element == element {
            let x = &inputs[0].owner;
            return match out.filter(|out| !out.view.owner.is(x)) {
                None => Ok(x.clone()),
                Some(out) => {
                    let operation = Operation::Select { scale: 1.0 };
                    elementwise(inputs, element, shape, Draw::Constant(true), operation, Some(out))
                }
            };
        }
        let draw = if scale == 0.0 { Draw::Constant(false) } else { draw };
        let operation = match kind {
            None => Operation::Select { scale },
            Some(kind) => Operation::Formula(Formula { kind, scale, shift, fill }),
        };
        elementwise(inputs, element, shape, draw, operation, out)
    }
}

/// A call's decisions.
#[pyclass(name = "Plan", module = "fastdrop._core", frozen)]
pub(super) struct Plan {
    keep: Keep,
    numbers: Numbers,
    /// Shape of the first input, of the result and of its gradient.
    shape: Lengths,
}

impl Plan {
    /// Applies an operation to checked inputs.
    fn run<'py>(
        &self,
        py: Python<'py>,
        numbers: Numbers,
        element: Element,
        inputs: &mut [View<'py>],
        out: Option<&Output<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        numbers.apply(self.keep.draw(py, &self.shape)?, element, &self.shape, inputs, out)
    }

    /// Applies an operation to a gradient and other inputs, after checking them. The result has this dtype, or that of `dy`.
    fn run_on_gradient<'py>(
        &self,
        numbers: Numbers,
        dy: &Array<'py>,
        others: &Bound<'py, PyTuple>,
        dtype: Option<&Bound<'py, PyArrayDescr>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let of_dy = checked_element(dy, "dy")?;
        if dy.shape() != &self.shape[..] {
            let [expected, got] = [&self.shape[..], dy.shape()].map(Extents::from);
            return Err(PyValueError::new_err(format!("dy must have the shape of x, {expected}, got {got}")));
        }
        let mut inputs = Inputs::new();
        checked_inputs(&mut inputs, numbers.kind, [dy.clone().into_any()].into_iter().chain(others))?;
        let element = dtype.and_then(element).unwrap_or(of_dy);
        self.run(dy.py(), numbers, element, &mut inputs, None)
    }
}

#[pymethods]
impl Plan {
    /// The gradient with respect to the first input, from that of the result, in this dtype or that of
    /// `dy`. `others` are the inputs that the operation's gradient needs.
    #[pyo3(signature = (dy, *others, dtype=None))]
    fn backward<'py>(
        &self,
        dy: &Array<'py>,
        others: &Bound<'py, PyTuple>,
        dtype: Option<&Bound<'py, PyArrayDescr>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = self.numbers.kind.and_then(Kind::gradient);
        self.run_on_gradient(Numbers { kind, ..self.numbers }, dy, others, dtype)
    }

    /// The gradient with respect to the second input, which supplies the elements that the first
    /// does not.
    fn backward_other<'py>(&self, dy: &Array<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (kind, scale) = match self.numbers.kind {
            Some(Kind::Mix) => (None, self.numbers.shift),
            _ => (Some(Kind::Complement), self.numbers.scale),
        };
        self.run_on_gradient(Numbers { kind, scale, ..self.numbers }, dy, &PyTuple::empty(dy.py()), None)
    }

    /// The mask that was drawn or given; None if everything was kept without one.
    #[getter]
    fn recipe<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.keep {
            Keep::All => Ok(None),
            Keep::Drawn(mask) => Ok(Some(public_mask(py, mask.clone())?)),
            Keep::Given(given) => Ok(Some(given.bind(py).clone().into_any())),
        }
    }
}

/// Applies `operation` to `inputs`. The first has the result's shape, and the others broadcast to it;
/// the result's dtype is what NumPy promotes theirs to. Writes to `out` or a new array, or nowhere if
/// nothing would change. Returns the result and the plan.
///
/// `keep` is a mask or a boolean array, None to keep all, or a `Key` or `CallKeys` to draw a mask
/// of probability `p` with, which shares decisions along the axes `shared`. A refused call takes no
/// key from `CallKeys`. Without a `scale`, it is that of inverted dropout.
#[pyfunction]
#[pyo3(signature = (operation, inputs, out, keep, p, shared, scale=None, shift=0.0, fill=0.0))]
#[expect(clippy::too_many_arguments, reason = "one crossing of the border costs as much as all else in a small call")]
pub(super) fn forward<'py>(
    py: Python<'py>,
    operation: &str,
    inputs: &Bound<'py, PyTuple>,
    out: Option<&Array<'py>>,
    keep: &Bound<'py, PyAny>,
    p: f64,
    shared: &Bound<'py, PyTuple>,
    scale: Option<f64>,
    shift: f64,
    fill: f64,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Plan>)> {
    let numbers = Numbers::new(operation, p, scale, shift, fill)?;
    let mut views = Inputs::new();
    let element = checked_call(&mut views, numbers.kind, inputs, out)?;
    let shape = Lengths::from_slice(&views[0].shape);
    let (keep, taken) = decide(keep, p, &shape, shared)?;
    let plan = Bound::new(py, Plan { keep, numbers, shape })?;
    let out = out.map(|out| Output::given(out, element));
    let y = plan.get().run(py, numbers, element, &mut views, out.as_ref());
    if let (Err(_), Some((keys, taken))) = (&y, taken) {
        keys.undo(taken);
    }
    Ok((y?, plan))
}

/// `forward` without a plan, for calls that need none. `keep` must not be `CallKeys`.
#[pyfunction]
#[pyo3(signature = (operation, inputs, out, keep, p, shared, scale=None, shift=0.0, fill=0.0))]
#[expect(clippy::too_many_arguments, reason = "as for `forward`")]
pub(super) fn compute<'py>(
    py: Python<'py>,
    operation: &str,
    inputs: &Bound<'py, PyTuple>,
    out: Option<&Array<'py>>,
    keep: &Bound<'py, PyAny>,
    p: f64,
    shared: &Bound<'py, PyTuple>,
    scale: Option<f64>,
    shift: f64,
    fill: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let numbers = Numbers::new(operation, p, scale, shift, fill)?;
    let mut views = Inputs::new();
    let element = checked_call(&mut views, numbers.kind, inputs, out)?;
    let shape = Lengths::from_slice(&views[0].shape);
    let (keep, _) = decide(keep, p, &shape, shared)?;
    let out = out.map(|out| Output::given(out, element));
    numbers.apply(keep.draw(py, &shape)?, element, &shape, &mut views, out.as_ref())
}

/// Which elements a call keeps, by the argument `keep` of `forward`, and the call number that was taken for it.
pub(super) fn decide<'a>(
    keep: &'a Bound<'_, PyAny>,
    p: f64,
    shape: &[usize],
    shared: &Bound<'_, PyTuple>,
) -> PyResult<(Keep, Option<(&'a CallKeys, Taken)>)> {
    let drawn = |key| -> PyResult<Keep> { Ok(Keep::Drawn(Mask::new(&drawn_shape(shape, shared)?, p, key)?)) };
    if keep.is_none() {
        return Ok((Keep::All, None));
    }
    if let Ok(key) = keep.cast::<PyKey>() {
        return Ok((drawn(key.get().0)?, None));
    }
    if let Ok(keys) = keep.cast::<CallKeys>() {
        let (key, taken) = keys.get().next()?;
        let keep = drawn(key).inspect_err(|_| keys.get().undo(taken))?;
        return Ok((keep, Some((keys.get(), taken))));
    }
    if let Ok(mask) = keep.cast::<PyMask>() {
        check_broadcast(mask.get().0.shape(), shape)?;
        return Ok((Keep::Drawn(mask.get().0.clone()), None));
    }
    let given = keep.cast_exact::<PyUntypedArray>().ok().filter(|given| is_bool(given));
    let Some(given) = given else {
        let text = format!("mask must be a Mask or a boolean array, got {}", keep.get_type().name()?);
        return Err(PyTypeError::new_err(text));
    };
    checked_given(given, shape)?;
    Ok((Keep::Given(given.clone().unbind()), None))
}

/// Raises what `forward` would raise for the arrays of a call, before a key is drawn for it.
#[pyfunction]
pub(super) fn check<'py>(operation: &str, inputs: &Bound<'py, PyTuple>, out: Option<&Array<'py>>) -> PyResult<()> {
    checked_call(&mut Inputs::new(), kind_of(operation)?, inputs, out).map(|_| ())
}

/// The operations by name: the names of their inputs, the operation that computes the gradient with respect to the first
/// (`None` if it is `SELECT`), and whether they take complex numbers.
#[pyfunction]
pub(super) fn operations(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let table = PyDict::new(py);
    table.set_item(SELECT, (PyTuple::new(py, names_of(None))?, None::<&str>, true))?;
    for kind in Kind::ALL {
        let inputs = PyTuple::new(py, kind.input_names())?;
        table.set_item(kind.name(), (inputs, kind.gradient().map(Kind::name), kind.takes_complex()))?;
    }
    Ok(table)
}

/// The kind of an operation, `None` for `SELECT`.
pub(super) fn kind_of(operation: &str) -> PyResult<Option<Kind>> {
    if operation == SELECT {
        return Ok(None);
    }
    let kind = Kind::ALL.iter().find(|kind| kind.name() == operation);
    kind.map(|kind| Some(*kind)).ok_or_else(|| PyValueError::new_err(format!("{operation} is unknown")))
}

/// Checks a call's arrays, adds the inputs to `views`, and returns the element type of the result.
fn checked_call<'py>(
    views: &mut Inputs<'py>,
    kind: Option<Kind>,
    inputs: &Bound<'py, PyTuple>,
    out: Option<&Array<'_>>,
) -> PyResult<Element> {
    checked_inputs(views, kind, inputs.iter())?;
    let mut common = views[0].format.element;
    for (input, name) in views.iter().zip(names_of(kind)) {
        common = promoted(common, input.format.element).ok_or_else(|| {
            let [before, got] = [common, input.format.element].map(element_name);
            let text = format!("{name} must have a dtype that NumPy promotes with {before}, got {got}");
            PyTypeError::new_err(text + "; convert one of them to float32")
        })?;
    }
    check_out(out, common, &views[0].shape)?;
    Ok(common)
}

fn names_of(kind: Option<Kind>) -> &'static [&'static str] {
    kind.map_or(&["x"], Kind::input_names)
}

/// Checks the inputs of a kind, and adds them to `views`. The kind must take their dtypes, and they must broadcast to the
/// first one's shape.
fn checked_inputs<'py>(
    views: &mut Inputs<'py>,
    kind: Option<Kind>,
    arrays: impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<()> {
    let names = names_of(kind);
    let count = arrays.size_hint().0; // of a tuple, and so exact
    if count != names.len() {
        return Err(PyValueError::new_err(format!("the operation takes {} inputs, got {count}", names.len())));
    }
    for (array, name) in arrays.zip(names) {
        let array = array.cast_into()?;
        let element = checked_element(&array, name)?;
        if element.parts() > 1 && kind.is_some_and(|kind| !kind.takes_complex()) {
            let text = format!("{name} must have a real dtype, got {}", dtype_name(&dtype(&array)));
            return Err(PyTypeError::new_err(text));
        }
        views.push(View::new(&array, element));
        check_shape(&views[views.len() - 1], &views[0], name)?;
    }
    Ok(())
}

/// Checks that an input broadcasts to the shape of the first.
pub(super) fn check_shape(input: &View<'_>, first: &View<'_>, name: &str) -> PyResult<()> {
    if input.shape == first.shape {
        return Ok(());
    }
    let extents: Dims = input.shape.iter().map(|len| *len as u64).collect();
    if broadcast(&extents, &first.shape).ok().is_none_or(|common| common != first.shape) {
        let [got, shape] = [input, first].map(|view| Extents::from(&view.shape[..]));
        return Err(PyValueError::new_err(format!("{name} must broadcast to shape {shape}, got {got}")));
    }
    Ok(())
}

/// `shape` with 1 along the axes that share a decision.
fn drawn_shape(shape: &[usize], shared: &Bound<'_, PyTuple>) -> PyResult<Dims> {
    let mut dims: Dims = shape.iter().map(|len| *len as u64).collect();
    for axis in shared.iter_borrowed() {
        let axis: usize = axis.extract()?;
        *dims.get_mut(axis).ok_or_else(|| PyValueError::new_err(format!("axis {axis} is not there")))? = 1;
    }
    Ok(dims)
}
