//! The boundary to attention: checks arrays, and passes them on as addresses.

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{Array, check_out, dtype, dtype_name, element_name, shared_steps};
use super::calls::{checked_element, is_bool};
use super::mask::PyMask;
use super::view::{Held, View};
use crate::attention::{
    Array as Operand, Call, Dropout, Gradients, Shape, Upstream, WIDEST, backward, bias_gradient, forward,
};
use crate::error::Extents;
use crate::mask::Mask;
use crate::operand::Element;
use crate::threads::batches::Interrupt;

/// Queries, keys, values, and biases or None.
type Inputs<'py> = (Array<'py>, Array<'py>, Array<'py>, Option<Array<'py>>);
/// What scores are multiplied with; and with a causal mask, how many more keys than its own number a query sees.
type Options = (f64, Option<isize>);
/// The gradient of the result, the result, and its logarithms of sums.
type Outputs<'py> = (Array<'py>, Array<'py>, Array<'py>);

/// Checks the arrays of a call, and returns the shape of its weights.
#[pyfunction]
#[pyo3(signature = (inputs, out))]
pub(super) fn check_attention<'py>(
    py: Python<'py>,
    inputs: Inputs<'py>,
    out: Option<&Array<'py>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let checked = Checked::new(&inputs, (1.0, None))?;
    check_out(out, checked.element, &checked.expected(Axes::Values))?;
    PyTuple::new(py, checked.expected(Axes::Weights))
}

/// Writes the result of attention to `y` and, if given, the logarithm of each row's sum of exponentials to `lse`.
#[pyfunction]
pub(super) fn attention<'py>(
    inputs: Inputs<'py>,
    options: Options,
    mask: &Bound<'py, PyMask>,
    y: Array<'py>,
    lse: Option<Array<'py>>,
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.drop(&mask.get().0)?;
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

/// Writes the gradients of queries, keys and values. That of queries has the dtype that is computed in.
#[pyfunction]
pub(super) fn attention_backward<'py>(
    outputs: Outputs<'py>,
    inputs: Inputs<'py>,
    options: Options,
    mask: &Bound<'py, PyMask>,
    gradients: (Array<'py>, Array<'py>, Array<'py>),
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.drop(&mask.get().0)?;
    let upstream = checked.upstream(&outputs)?;
    let gradients = Gradients {
        query: checked.written(&gradients.0, checked.computed(), Axes::Queries, "dq")?,
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
    gradient: Array<'py>,
) -> PyResult<()> {
    let mut checked = Checked::new(&inputs, options)?;
    checked.drop(&mask.get().0)?;
    let upstream = checked.upstream(&outputs)?;
    let Some(bias) = inputs.3 else {
        return Err(PyValueError::new_err("attn_mask must be an array to have a gradient, got None"));
    };
    let mut own = [1; 4];
    let new = own.len() - bias.ndim();
    own[new..].copy_from_slice(bias.shape());
    check_out(Some(&gradient), checked.computed(), bias.shape())?;
    let view = View::new(&gradient, checked.computed());
    let weights = checked.expected(Axes::Weights);
    let target = operand(&view, &shared_steps(&view.shape, &view.strides, &weights));
    checked.results.push(view);
    checked.check_disjoint("the gradient")?;
    let run = |call: &Call, interrupt: Interrupt<'_>, double: bool| {
        // SAFETY: `Checked` made sure of shapes, strides and overlaps, and holds the arrays.
        unsafe {
            if double {
                bias_gradient::<f64>(call, &upstream, &target, own, interrupt)
            } else {
                bias_gradient::<f32>(call, &upstream, &target, own, interrupt)
            }
        }
    };
    checked.run(mask.py(), run)
}

/// What the last two axes of an array are, and whose heads are before them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axes {
    Queries,
    Keys,
    KeyValues,
    Values,
    Rows,
    Weights,
}

/// The arrays of a call. They have been checked, and stay as they are until it ends.
struct Checked<'py> {
    call: Call,
    element: Element,
    /// Whether there is an axis of batches.
    has_batch: bool,
    inputs: SmallVec<[View<'py>; 8]>,
    results: SmallVec<[View<'py>; 3]>,
}

impl<'py> Checked<'py> {
    fn new((q, k, v, bias): &Inputs<'py>, (scale, causal): Options) -> PyResult<Self> {
        let element = checked_element(q, "q")?;
        if element.parts() > 1 {
            return Err(PyTypeError::new_err(format!("q must have a real dtype, got {}", element_name(element))));
        }
        let ndim = q.ndim();
        if !(3..=4).contains(&ndim) {
            let got = Extents::from(q.shape());
            return Err(PyValueError::new_err(format!(
                "q must have the shape (batch, heads, queries, features), or one without the batch, got {got}"
            )));
        }
        let at = |array: &Array<'_>, axis: usize| array.shape()[ndim - 3 + axis];
        let fits =
            |array: &Array<'_>, name: &str, heads: Option<usize>, rows: Option<usize>, columns: Option<usize>| {
                let shape = array.shape();
                let wanted = [heads, rows, columns];
                let fits = shape.len() == ndim
                    && shape[..ndim - 3] == q.shape()[..ndim - 3]
                    && wanted
                        .iter()
                        .zip(&shape[ndim - 3..])
                        .all(|(wanted, got)| wanted.is_none_or(|wanted| wanted == *got));
                if fits {
                    return Ok(());
                }
                let batch = q.shape()[..ndim - 3].iter().map(usize::to_string);
                let others = wanted.iter().zip(["heads", "keys", "features"]);
                let others = others.map(|(len, text)| len.map_or_else(|| text.to_owned(), |len| len.to_string()));
                let wanted: Vec<String> = batch.chain(others).collect();
                let (wanted, got) = (wanted.join(", "), Extents::from(shape));
                Err(PyValueError::new_err(format!("{name} must have the shape ({wanted}), got {got}")))
            };
        fits(k, "k", None, None, Some(at(q, 2)))?;
        fits(v, "v", Some(at(k, 0)), Some(at(k, 1)), None)?;
        for (array, name) in [(k, "k"), (v, "v")] {
            same_dtype(array, name, element)?;
        }
        let (heads, key_heads) = (at(q, 0), at(k, 0));
        if if key_heads == 0 { heads > 0 } else { heads % key_heads > 0 } {
            let text = format!("k must have a number of heads that divides that of q, {heads}, got {key_heads}");
            return Err(PyValueError::new_err(text));
        }
        for (array, name) in [(q, "q"), (v, "v")] {
            if at(array, 2) > WIDEST {
                let text = format!("{name} must have at most {WIDEST} features, got {}", at(array, 2));
                return Err(PyValueError::new_err(text));
            }
        }
        let shape = Shape {
            batch: if ndim == 4 { q.shape()[0] } else { 1 },
            heads,
            key_heads,
            queries: at(q, 1),
            keys: at(k, 1),
            features: at(q, 2),
            width: at(v, 2),
        };
        let views = [q, k, v].map(|array| View::new(array, element));
        let [query, key, value] = views.each_ref().map(|view| operand(view, &view.strides));
        let call = Call { shape, query, key, value, bias: None, scale, causal, dropout: Dropout::none() };
        let mut checked =
            Self { call, element, has_batch: ndim == 4, inputs: SmallVec::from_iter(views), results: SmallVec::new() };
        let weights = checked.expected(Axes::Weights);
        if let Some(bias) = bias {
            checked.call.bias = Some(checked.bias(bias, &weights)?);
        }
        Ok(checked)
    }

    /// Sets the mask of the weights.
    fn drop(&mut self, mask: &Mask) -> PyResult<()> {
        let weights = self.expected(Axes::Weights);
        if !mask.shape().iter().map(|len| *len as usize).eq(weights.iter().copied()) {
            let (wanted, got) = (Extents::from(&weights[..]), Extents::from(mask.shape()));
            return Err(PyValueError::new_err(format!("mask must be of shape {wanted}, got {got}")));
        }
        self.call.dropout = Dropout::new(mask);
        Ok(())
    }

    fn bias(&mut self, bias: &Array<'py>, weights: &[usize]) -> PyResult<Operand> {
        let element = if is_bool(bias) { Element::Bool } else { checked_element(bias, "attn_mask")? };
        if element.parts() > 1 {
            let got = element_name(element);
            return Err(PyTypeError::new_err(format!("attn_mask must have a real dtype or bool, got {got}")));
        }
        let fits = bias.ndim() <= weights.len()
            && bias.shape().iter().rev().zip(weights.iter().rev()).all(|(own, all)| *own == 1 || own == all);
        if !fits {
            let (wanted, got) = (Extents::from(weights), Extents::from(bias.shape()));
            return Err(PyValueError::new_err(format!("attn_mask must broadcast to shape {wanted}, got {got}")));
        }
        let view = View::new(bias, element);
        let array = operand(&view, &shared_steps(&view.shape, &view.strides, weights));
        self.inputs.push(view);
        Ok(array)
    }

    /// The dtype that is computed in.
    fn computed(&self) -> Element {
        Element::number(self.element.is_double(), 1)
    }

    /// The shape of an array of the call.
    fn expected(&self, axes: Axes) -> SmallVec<[usize; 4]> {
        let Shape { batch, heads, key_heads, queries, keys, features, width } = self.call.shape;
        let last: &[usize] = match axes {
            Axes::Queries => &[heads, queries, features],
            Axes::Keys => &[key_heads, keys, features],
            Axes::KeyValues => &[key_heads, keys, width],
            Axes::Values => &[heads, queries, width],
            Axes::Rows => &[heads, queries],
            Axes::Weights => &[heads, queries, keys],
        };
        self.has_batch.then_some(batch).into_iter().chain(last.iter().copied()).collect()
    }

    /// What the forward pass computed, and its gradient.
    fn upstream(&mut self, (dy, y, lse): &Outputs<'py>) -> PyResult<Upstream> {
        let (element, computed) = (self.element, self.computed());
        let mut read = |array: &Array<'py>, name: &str, element: Element, axes: Axes| {
            same_dtype(array, name, element)?;
            let wanted = self.expected(axes);
            if array.shape() != &wanted[..] {
                let (wanted, got) = (Extents::from(&wanted[..]), Extents::from(array.shape()));
                return Err(PyValueError::new_err(format!("{name} must have the shape {wanted}, got {got}")));
            }
            let view = View::new(array, element);
            let array = if axes == Axes::Rows { rows(&view) } else { operand(&view, &view.strides) };
            self.inputs.push(view);
            Ok(array)
        };
        Ok(Upstream {
            dy: read(dy, "dy", element, Axes::Values)?,
            y: read(y, "y", element, Axes::Values)?,
            sums: read(lse, "lse", computed, Axes::Rows)?,
        })
    }

    /// An array to write.
    fn written(&mut self, array: &Array<'py>, element: Element, axes: Axes, name: &str) -> PyResult<Operand> {
        check_out(Some(array), element, &self.expected(axes))?;
        let view = View::new(array, element);
        if !view.surely_disjoint() {
            return Err(PyValueError::new_err(format!("{name} must not have elements that share memory")));
        }
        let array = if axes == Axes::Rows { rows(&view) } else { operand(&view, &view.strides) };
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
        work: impl FnOnce(&Call, Interrupt<'_>, bool) -> Result<(), crate::error::Error> + Send,
    ) -> PyResult<()> {
        let Shape { batch, heads, queries, keys, .. } = self.call.shape;
        let much = batch.saturating_mul(heads).saturating_mul(queries).saturating_mul(keys) >= DETACH;
        let mut held = Held::default();
        if much {
            self.inputs.iter().chain(&self.results).for_each(|view| held.hold(view));
        }
        let (call, double) = (&self.call, self.element.is_double());
        detached(py, much, &held, |interrupt| work(call, interrupt, double))
    }
}

fn same_dtype(array: &Array<'_>, name: &str, wanted: Element) -> PyResult<()> {
    if super::arrays::element(&dtype(array)) == Some(wanted) {
        return Ok(());
    }
    let (wanted, got) = (element_name(wanted), dtype_name(&dtype(array)));
    Err(PyTypeError::new_err(format!("{name} must have dtype {wanted}, got {got}: use {name}.astype(q.dtype)")))
}

/// An array whose last three axes are heads, rows and columns.
fn operand(view: &View<'_>, strides: &[isize]) -> Operand {
    let mut steps = [0; 4];
    let new = steps.len() - strides.len();
    steps[new..].copy_from_slice(strides);
    Operand { first: view.first, format: view.format, steps }
}

/// An array whose last two axes are heads and rows, of one column.
fn rows(view: &View<'_>) -> Operand {
    let mut strides: SmallVec<[isize; 4]> = view.strides.iter().copied().collect();
    strides.push(view.format.element.size() as isize);
    operand(view, &strides)
}
