//! The boundary to attention: checks arrays and tensors, and passes them on as addresses.

use numpy::PyUntypedArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached, without_handlers};
use super::arrays::{check_out, element_name};
use super::calls::{checked_element, is_bool};
use super::mask::PyMask;
use super::tensors;
use super::view::{Held, View};
use crate::attention::{Array, Axes, Call, Gradients, Operand, Upstream, backward, bias_gradient, forward};
use crate::error::Error;
use crate::operand::Element;
use crate::threads::batches::Interrupt;
use crate::threads::limits;

/// Queries, keys, values, and biases or None: arrays or tensors.
type Inputs<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);
/// What scores are multiplied with; with a causal mask, how many more keys than its own number a query sees; and for
/// tensors, the most threads.
type Options = (f64, Option<isize>, Option<usize>);
/// The gradient of the result, the result, and its logarithms of sums.
type Outputs<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Checks the arrays of a call, or tensors if `threads` are given, and returns the shape of its weights.
#[pyfunction]
#[pyo3(signature = (inputs, out=None, threads=None))]
pub(super) fn check_attention<'py>(
    py: Python<'py>,
    inputs: Inputs<'py>,
    out: Option<&Bound<'py, PyUntypedArray>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyTuple>> {
    let checked = Checked::new(&inputs, (1.0, None, threads))?;
    check_out(out, checked.element, &checked.call.extents(Axes::Values))?;
    PyTuple::new(py, checked.call.extents(Axes::Weights))
}

/// Writes the result of attention to `y` and, if given, the logarithm of each row's sum of exponentials to `lse`.
#[pyfunction]
pub(super) fn attention<'py>(
    inputs: Inputs<'py>,
    options: Options,
    mask: &Bound<'py, PyMask>,
    y: Bound<'py, PyAny>,
    lse: Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.call.drop(&mask.get().0)?;
    let y = checked.written(&y, checked.element, Axes::Values, "out")?;
    let lse = lse.map(|lse| checked.written(&lse, checked.computed(), Axes::Rows, "lse")).transpose()?;
    checked.check_disjoint("out")?;
    let run = |call: &Call, interrupt: Interrupt<'_>, double: bool| {
        // SAFETY: `Checked` made sure of shapes, strides and overlaps, and holds the arrays.
        unsafe {
            if double { forward::<f64>(call, y, lse, interrupt) } else { forward::<f32>(call, y, lse, interrupt) }
        }
    };
    checked.run(mask.py(), run)
}

/// Writes the gradients of queries, keys and values.
#[pyfunction]
pub(super) fn attention_backward<'py>(
    outputs: Outputs<'py>,
    inputs: Inputs<'py>,
    options: Options,
    mask: &Bound<'py, PyMask>,
    gradients: (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>),
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.call.drop(&mask.get().0)?;
    let upstream = checked.upstream(&outputs)?;
    let gradients = Gradients {
        query: checked.written(&gradients.0, checked.element, Axes::Queries, "dq")?,
        key: checked.written(&gradients.1, checked.element, Axes::Keys, "dk")?,
        value: checked.written(&gradients.2, checked.element, Axes::KeyValues, "dv")?,
    };
    checked.check_disjoint("the gradients")?;
    let run = |call: &Call, interrupt: Interrupt<'_>, double: bool| {
        // SAFETY: `Checked` made sure of shapes, strides and overlaps, and holds the arrays.
        unsafe {
            if double {
                backward::<f64>(call, &upstream, &gradients, interrupt)
            } else {
                backward::<f32>(call, &upstream, &gradients, interrupt)
            }
        }
    };
    checked.run(mask.py(), run)
}

/// Adds the gradient of the bias to zeros in its shape, of the dtype that is computed in.
#[pyfunction]
pub(super) fn attention_bias_gradient<'py>(
    outputs: Outputs<'py>,
    inputs: Inputs<'py>,
    options: Options,
    mask: &Bound<'py, PyMask>,
    gradient: Bound<'py, PyAny>,
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.call.drop(&mask.get().0)?;
    let upstream = checked.upstream(&outputs)?;
    let Some(shape) = checked.bias.clone() else {
        return Err(PyValueError::new_err("attn_mask must be an array to have a gradient, got None"));
    };
    let view = checked.door.target(&gradient, checked.computed(), &shape, "the gradient")?;
    let array = checked.call.broadcast(&operand(&view, "the gradient"))?;
    let mut own = [1; 4];
    let new = own.len() - shape.len();
    own[new..].copy_from_slice(&shape);
    checked.results.push(view);
    checked.check_disjoint("the gradient")?;
    let run = |call: &Call, interrupt: Interrupt<'_>, double: bool| {
        // SAFETY: `Checked` made sure of shapes, strides and overlaps, and holds the arrays.
        unsafe {
            if double {
                bias_gradient::<f64>(call, &upstream, &array, own, interrupt)
            } else {
                bias_gradient::<f32>(call, &upstream, &array, own, interrupt)
            }
        }
    };
    checked.run(mask.py(), run)
}

/// The arrays of a call. They have been checked, and stay as they are until it ends.
struct Checked<'py> {
    call: Call,
    element: Element,
    /// The shape of the bias, if there is one.
    bias: Option<SmallVec<[usize; 4]>>,
    door: Door,
    /// The most threads, for tensors.
    threads: Option<usize>,
    inputs: SmallVec<[View<'py>; 8]>,
    results: SmallVec<[View<'py>; 3]>,
}

impl<'py> Checked<'py> {
    fn new((q, k, v, bias): &Inputs<'py>, (scale, causal, threads): Options) -> PyResult<Self> {
        let door = if threads.is_some() { Door::Torch } else { Door::NumPy };
        let names = match door {
            Door::NumPy => ["q", "k", "v"],
            Door::Torch => ["query", "key", "value"],
        };
        let mut inputs = SmallVec::<[View<'py>; 8]>::new();
        for (object, name) in [q, k, v].into_iter().zip(names) {
            inputs.push(door.number(object, name)?);
        }
        let element = inputs[0].format.element;
        if element.parts() > 1 {
            let (name, got) = (names[0], element_name(element));
            return Err(PyTypeError::new_err(format!("{name} must have a real dtype, got {got}")));
        }
        for (view, name) in inputs.iter().zip(names).skip(1) {
            door.same_dtype(view, name, element)?;
        }
        if let Some(bias) = bias {
            inputs.push(door.number_or_bool(bias, "attn_mask")?);
        }
        let bias = inputs.get(3).map(|view| operand(view, "attn_mask"));
        if let Some(bias) = bias
            && bias.format.element.parts() > 1
        {
            let got = element_name(bias.format.element);
            return Err(PyTypeError::new_err(format!("attn_mask must have a real dtype or bool, got {got}")));
        }
        let [q, k, v] = [0, 1, 2].map(|at| operand(&inputs[at], names[at]));
        let call = Call::new([&q, &k, &v], bias.as_ref(), scale, causal)?;
        let bias = bias.map(|bias| bias.shape.into());
        Ok(Self { call, element, bias, door, threads, inputs, results: SmallVec::new() })
    }

    /// The dtype that is computed in.
    fn computed(&self) -> Element {
        Element::number(self.element.is_double(), 1)
    }

    /// What the forward pass computed, and its gradient.
    fn upstream(&mut self, (dy, y, lse): &Outputs<'py>) -> PyResult<Upstream> {
        let (element, computed, door) = (self.element, self.computed(), self.door);
        let mut read = |object: &Bound<'py, PyAny>, name: &'static str, element: Element, axes: Axes| {
            let view = door.number(object, name)?;
            door.same_dtype(&view, name, element)?;
            let array = self.call.array(&operand(&view, name), axes)?;
            self.inputs.push(view);
            PyResult::Ok(array)
        };
        Ok(Upstream {
            dy: read(dy, "dy", element, Axes::Values)?,
            y: read(y, "y", element, Axes::Values)?,
            sums: read(lse, "lse", computed, Axes::Rows)?,
        })
    }

    /// An array to write.
    fn written(
        &mut self,
        object: &Bound<'py, PyAny>,
        element: Element,
        axes: Axes,
        name: &'static str,
    ) -> PyResult<Array> {
        let view = self.door.target(object, element, &self.call.extents(axes), name)?;
        if !view.surely_disjoint() {
            return Err(PyValueError::new_err(format!("{name} must not have elements that share memory")));
        }
        let array = self.call.array(&operand(&view, name), axes)?;
        self.results.push(view);
        Ok(array)
    }

    fn check_disjoint(&self, name: &str) -> PyResult<()> {
        for (at, result) in self.results.iter().enumerate() {
            if self.inputs.iter().chain(&self.results[..at]).any(|other| result.may_overlap(other)) {
                return Err(PyValueError::new_err(format!("{name} must not share memory with another array")));
            }
        }
        Ok(())
    }

    /// Releases the interpreter, and runs the core.
    fn run(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Call, Interrupt<'_>, bool) -> Result<(), Error> + Send,
    ) -> PyResult<()> {
        let much = self.call.size() >= DETACH;
        let mut held = Held::default();
        if much {
            self.inputs.iter().chain(&self.results).for_each(|view| held.hold(view));
        }
        let (call, double) = (&self.call, self.element.is_double());
        let run = || detached(py, much, &held, |interrupt| work(call, interrupt, double));
        match self.threads {
            Some(most) => limits::with_team(most, || without_handlers(run)),
            None => run(),
        }
    }
}

/// The library that a call's arrays come from.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    NumPy,
    /// Tensors, or arrays that stand for them.
    Torch,
}

impl Door {
    /// An array of numbers.
    fn number<'py>(self, object: &Bound<'py, PyAny>, name: &str) -> PyResult<View<'py>> {
        match self {
            Self::NumPy => {
                let array = object.cast::<PyUntypedArray>()?;
                Ok(View::new(array, checked_element(array, name)?))
            }
            Self::Torch => tensors::number(tensors::view(object, name)?, name),
        }
    }

    /// An array of numbers or booleans.
    fn number_or_bool<'py>(self, object: &Bound<'py, PyAny>, name: &str) -> PyResult<View<'py>> {
        match (self, object.cast::<PyUntypedArray>()) {
            (Self::Torch, _) => tensors::number_or_bool(tensors::view(object, name)?, name),
            (Self::NumPy, Ok(array)) if is_bool(array) => Ok(View::new(array, Element::Bool)),
            (Self::NumPy, _) => self.number(object, name),
        }
    }

    /// An array to write.
    fn target<'py>(
        self,
        object: &Bound<'py, PyAny>,
        element: Element,
        shape: &[usize],
        name: &str,
    ) -> PyResult<View<'py>> {
        if self == Self::NumPy {
            let array = object.cast::<PyUntypedArray>()?;
            check_out(Some(array), element, shape)?;
            return Ok(View::new(array, element));
        }
        let view = self.number(object, name)?;
        self.same_dtype(&view, name, element)?;
        Ok(view)
    }

    fn same_dtype(self, view: &View<'_>, name: &str, wanted: Element) -> PyResult<()> {
        if view.format.element == wanted {
            return Ok(());
        }
        let (got, wanted) = (element_name(view.format.element), element_name(wanted));
        let mend = match self {
            Self::NumPy => format!("astype('{wanted}')"),
            Self::Torch => format!("to(torch.{wanted})"),
        };
        Err(PyTypeError::new_err(format!("{name} must have dtype {wanted}, got {got}: use {name}.{mend}")))
    }
}

fn operand<'a>(view: &'a View<'_>, name: &'static str) -> Operand<'a> {
    Operand { name, first: view.first, format: view.format, shape: &view.shape, strides: &view.strides }
}
