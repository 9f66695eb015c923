//! The decisions of one call: which elements it keeps, and which operation it applies with which numbers. A plan runs
//! forward once, when it is made, and backward any number of times.

use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyTuple};

use super::arrays::{Array, Lengths, broadcast, check_out, dtype, dtype_name, element, element_name, promoted};
use super::calls::{
    COPY, Inputs, Keep, Kept, Output, check_broadcast, checked_element, checked_given, elementwise, is_bool,
};
use super::key::{CallKeys, PyKey, Taken};
use super::mask::{PyMask, public_mask};
use super::view::View;
use crate::error::Extents;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::mask::{Dims, Mask};
use crate::operand::Element;
use crate::stream::bernoulli::Probability;
use crate::stream::key::Key;

/// Which elements a call keeps, as its plan stores it.
type Decision = Keep<Mask, Py<PyUntypedArray>>;

impl Decision {
    /// The decision for a call of this shape.
    pub(super) fn for_call<'py>(&self, py: Python<'py>, shape: &[usize]) -> PyResult<Kept<'_, 'py>> {
        Ok(match self {
            Self::Constant(keep) => Keep::Constant(*keep),
            Self::Drawn(mask) => Keep::Drawn(mask),
            Self::Given(given) => Keep::Given(checked_given(given.bind(py), shape)?),
        })
    }
}

/// A scale, or a tuple of scale, shift and fill.
impl<'a, 'py> FromPyObject<'a, 'py> for Numbers {
    type Error = PyErr;

    fn extract(numbers: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(numbers) = numbers.cast::<PyTuple>() {
            let (scale, shift, fill) = numbers.extract()?;
            return Ok(Self { scale, shift, fill });
        }
        Ok(Self::scale(numbers.extract()?))
    }
}

/// Applies a formula to checked inputs, which broadcast to `shape`. The result has elements of this type. A scale of 0
/// drops all elements, because multiplying by 0 would keep signs and NaN.
#[inline(always)]
pub(super) fn apply_formula<'py>(
    (formula, numbers): (Formula, Numbers),
    keep: Kept<'_, 'py>,
    element: Element,
    shape: &[usize],
    inputs: &mut [View<'py>],
    out: Option<&Output<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let untouched = matches!(formula, Formula::Select | Formula::Affine | Formula::Switch)
        && numbers.scale == 1.0
        && numbers.shift == 0.0;
    if untouched && keep.keeps_all() && inputs[0].format.element == element {
        let x = &inputs[0].owner;
        return match out.filter(|out| !out.view.owner.is(x)) {
            None => Ok(x.clone()),
            Some(out) => elementwise(inputs, element, shape, Keep::Constant(true), COPY, Some(out)),
        };
    }
    let keep = if numbers.scale == 0.0 { Keep::Constant(false) } else { keep };
    elementwise(inputs, element, shape, keep, Operation::Formula(formula, numbers), out)
}

/// A call's decisions.
#[pyclass(name = "Plan", module = "fastdrop._core", frozen)]
pub(super) struct Plan {
    keep: Decision,
    formula: Formula,
    numbers: Numbers,
    /// Shape of the first input, of the result and of its gradient.
    shape: Lengths,
}

impl Plan {
    /// Applies a formula to checked inputs. The result has elements of this type.
    fn run<'py>(
        &self,
        py: Python<'py>,
        formula: (Formula, Numbers),
        element: Element,
        inputs: &mut [View<'py>],
        out: Option<&Output<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        apply_formula(formula, self.keep.for_call(py, &self.shape)?, element, &self.shape, inputs, out)
    }

    /// Applies a formula to a gradient and other inputs, after checking them. The result has this dtype, or that of
    /// `dy`.
    fn run_on_gradient<'py>(
        &self,
        (formula, numbers): (Formula, Numbers),
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
        checked_arrays(&mut inputs, formula, [dy.clone().into_any()].into_iter().chain(others))?;
        let element = dtype.and_then(element).unwrap_or(of_dy);
        self.run(dy.py(), (formula, numbers), element, &mut inputs, None)
    }
}

#[pymethods]
impl Plan {
    /// The gradient with respect to the first input. `dy` is the gradient with respect to the result, and `others` are
    /// the inputs that the operation's gradient needs. The result has this dtype, or that of `dy`.
    #[pyo3(signature = (dy, *others, dtype=None))]
    fn backward<'py>(
        &self,
        dy: &Array<'py>,
        others: &Bound<'py, PyTuple>,
        dtype: Option<&Bound<'py, PyArrayDescr>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.run_on_gradient((self.formula.gradient(), self.numbers), dy, others, dtype)
    }

    /// The gradient with respect to the second input, which supplies the elements that the first
    /// does not.
    fn backward_other<'py>(&self, dy: &Array<'py>) -> PyResult<Bound<'py, PyAny>> {
        let formula = match self.formula {
            Formula::Mix => (Formula::Select, Numbers::scale(self.numbers.shift)),
            _ => (Formula::Complement, self.numbers),
        };
        self.run_on_gradient(formula, dy, &PyTuple::empty(dy.py()), None)
    }

    /// The mask that was drawn or given; None if everything was kept without one.
    #[getter]
    fn recipe<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.keep {
            Keep::Constant(_) => Ok(None),
            Keep::Drawn(mask) => Ok(Some(public_mask(py, mask.clone())?)),
            Keep::Given(given) => Ok(Some(given.bind(py).clone().into_any())),
        }
    }
}

/// Applies `operation` to `inputs`. The first has the result's shape, and the others broadcast to it; the result has
/// the dtype that NumPy promotes theirs to. Writes to `out` or a new array, or nowhere if the first input is the
/// result. Returns the result and the plan.
///
/// `keep` is a mask or a boolean array, None to keep all, or a `Key` or `CallKeys`. The latter two draw a mask of
/// probability `p`, which shares decisions along the axes `shared`. A refused call takes no key from `CallKeys`.
/// `numbers` are a scale, or a tuple of scale, shift and fill. The default is the scale of inverted dropout.
#[pyfunction]
#[pyo3(signature = (operation, inputs, out, keep, p, shared, numbers=None))]
pub(super) fn forward<'py>(
    operation: &str,
    inputs: &Bound<'py, PyTuple>,
    out: Option<&Array<'py>>,
    keep: &Bound<'py, PyAny>,
    p: f64,
    shared: &Bound<'py, PyTuple>,
    numbers: Option<Numbers>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Plan>)> {
    let (py, formula) = (inputs.py(), formula_of(operation)?);
    let numbers = numbers.map_or_else(|| inverted(p), Ok)?;
    let mut views = Inputs::new();
    let element = checked_call(&mut views, formula, inputs.iter(), out)?;
    let shape = Lengths::from_slice(&views[0].shape);
    let (keep, taken) = decide(keep, p, &shape, shared)?;
    let plan = Bound::new(py, Plan { keep, formula, numbers, shape })?;
    let out = out.map(|out| Output::given(out, element));
    let y = plan.get().run(py, (formula, numbers), element, &mut views, out.as_ref());
    if let (Err(_), Some((keys, taken))) = (&y, taken) {
        keys.undo(taken);
    }
    Ok((y?, plan))
}

/// The numbers of inverted dropout.
fn inverted(p: f64) -> PyResult<Numbers> {
    Ok(Numbers::scale(Probability::new(p)?.inverted_scale()))
}

/// The result of a plain call; None for any other. A plain call leaves nothing to decide and needs no plan: it trains
/// in inverted mode, draws with a `Key` or fresh entropy, takes exact arrays and types, and returns no mask.
///
/// `arrays` is one array or a tuple of several. `request` is (p, training, mode, rng, mask, return_mask, out).
#[pyfunction]
pub(super) fn compute_plain<'py>(
    operation: &str,
    arrays: &Bound<'py, PyAny>,
    shared: &Bound<'py, PyTuple>,
    request: &Bound<'py, PyTuple>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some((p, key, out)) = plain(request)? else {
        return Ok(None);
    };
    let is_array = |object: &Bound<'_, PyAny>| object.is_exact_instance_of::<PyUntypedArray>();
    let formula = formula_of(operation)?;
    let mut views = Inputs::new();
    let element = if is_array(arrays) {
        checked_call(&mut views, formula, std::iter::once(arrays.clone()), out.as_ref())?
    } else {
        match arrays.cast_exact::<PyTuple>() {
            Ok(several) if formula.inputs() > 1 && several.iter().all(|array| is_array(&array)) => {
                checked_call(&mut views, formula, several.iter(), out.as_ref())?
            }
            _ => return Ok(None),
        }
    };
    let shape = Lengths::from_slice(&views[0].shape);
    let mask = Mask::new(&drawn_shape(&shape, shared)?, p, key)?;
    let out = out.map(|out| Output::given(&out, element));
    apply_formula((formula, inverted(p)?), Keep::Drawn(&mask), element, &shape, &mut views, out.as_ref()).map(Some)
}

/// p, the key and the output of a plain call's request; None for any other.
fn plain<'py>(request: &Bound<'py, PyTuple>) -> PyResult<Option<(f64, Key, Option<Array<'py>>)>> {
    let py = request.py();
    let at = |index| request.get_borrowed_item(index);
    let [p, training, mode, rng] = [at(0)?, at(1)?, at(2)?, at(3)?];
    let [mask, return_mask, out] = [at(4)?, at(5)?, at(6)?];
    let p = match p.cast_exact::<PyFloat>() {
        Ok(p) if p.value() > 0.0 && p.value() < 1.0 => p.value(),
        _ => return Ok(None),
    };
    let is_usual = training.is(PyBool::new(py, true)) && mode.is(intern!(py, "inverted"));
    if !is_usual || !mask.is_none() || !return_mask.is(PyBool::new(py, false)) {
        return Ok(None);
    }
    let out = if out.is_none() {
        None
    } else if let Ok(out) = out.cast_exact::<PyUntypedArray>() {
        Some(out.to_owned())
    } else {
        return Ok(None);
    };
    let key = if let Ok(key) = rng.cast::<PyKey>() {
        key.get().0
    } else if rng.is_none()
        && let Ok(key) = Key::from_entropy()
    {
        key
    } else {
        return Ok(None);
    };
    Ok(Some((p, key, out)))
}

/// The decision for the argument `keep` of `forward`, and the call number taken for it.
pub(super) fn decide<'a>(
    keep: &'a Bound<'_, PyAny>,
    p: f64,
    shape: &[usize],
    shared: &Bound<'_, PyTuple>,
) -> PyResult<(Decision, Option<(&'a CallKeys, Taken)>)> {
    let drawn = |key| -> PyResult<Decision> { Ok(Keep::Drawn(Mask::new(&drawn_shape(shape, shared)?, p, key)?)) };
    if keep.is_none() {
        return Ok((Keep::Constant(true), None));
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
    checked_call(&mut Inputs::new(), formula_of(operation)?, inputs.iter(), out).map(|_| ())
}

/// The operations by name: the names of their inputs, the operation that computes the gradient with respect to the
/// first (`None` if it is `select`, or the operation itself for noise), and whether they take complex numbers.
#[pyfunction]
pub(super) fn operations(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let table = PyDict::new(py);
    for formula in Formula::ALL {
        let inputs = PyTuple::new(py, formula.input_names())?;
        let gradient = Some(formula.gradient()).filter(|gradient| *gradient != Formula::Select).map(Formula::name);
        table.set_item(formula.name(), (inputs, gradient, formula.takes_complex()))?;
    }
    table.set_item(NOISE, (("x",), None::<&str>, true))?;
    table.set_item(RELAXED, (("x", "logit"), None::<&str>, false))?;
    Ok(table)
}

/// Name of the operation that multiplies by drawn normals, which is no formula.
pub(super) const NOISE: &str = "noise";

/// Name of the operation that multiplies by relaxed decisions, which is no formula.
pub(super) const RELAXED: &str = "relaxed";

/// The formula that Python calls by this name.
pub(super) fn formula_of(operation: &str) -> PyResult<Formula> {
    Formula::from_name(operation).ok_or_else(|| PyValueError::new_err(format!("{operation} is unknown")))
}

/// Checks a call's arrays, adds the inputs to `views`, and returns the element type of the result.
fn checked_call<'py>(
    views: &mut Inputs<'py>,
    formula: Formula,
    inputs: impl Iterator<Item = Bound<'py, PyAny>>,
    out: Option<&Array<'_>>,
) -> PyResult<Element> {
    checked_arrays(views, formula, inputs)?;
    let mut common = views[0].format.element;
    for (input, name) in views.iter().zip(formula.input_names()) {
        common = promoted(common, input.format.element).ok_or_else(|| {
            let [before, got] = [common, input.format.element].map(element_name);
            let text = format!("{name} must have a dtype that NumPy promotes with {before}, got {got}");
            PyTypeError::new_err(text + "; convert one of them to float32")
        })?;
    }
    check_out(out, common, &views[0].shape)?;
    Ok(common)
}

/// Checks that the inputs of a formula are arrays whose dtypes it takes; see `checked_inputs`.
fn checked_arrays<'py>(
    views: &mut Inputs<'py>,
    formula: Formula,
    arrays: impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<()> {
    checked_inputs(views, formula, arrays, |views, array, name| {
        let array = array.cast()?;
        let element = checked_element(array, name)?;
        if element.parts() > 1 && !formula.takes_complex() {
            let text = format!("{name} must have a real dtype, got {}", dtype_name(&dtype(array)));
            return Err(PyTypeError::new_err(text));
        }
        views.push(View::new(array, element));
        Ok(())
    })
}

/// Checks the inputs of a formula, and adds them to `views`. There must be as many as the formula takes. `add` must
/// accept each, and each must broadcast to the first one's shape.
pub(super) fn checked_inputs<'py>(
    views: &mut Inputs<'py>,
    formula: Formula,
    objects: impl Iterator<Item = Bound<'py, PyAny>>,
    add: impl Fn(&mut Inputs<'py>, &Bound<'py, PyAny>, &str) -> PyResult<()>,
) -> PyResult<()> {
    let names = formula.input_names();
    let count = objects.size_hint().0; // exact, because a tuple's
    if count != names.len() {
        return Err(PyValueError::new_err(format!("the operation takes {} inputs, got {count}", names.len())));
    }
    for (object, name) in objects.zip(names) {
        add(views, &object, name)?;
        check_shape(&views[views.len() - 1], &views[0], name)?;
    }
    Ok(())
}

/// Checks that an input broadcasts to the shape of the first.
fn check_shape(input: &View<'_>, first: &View<'_>, name: &str) -> PyResult<()> {
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
