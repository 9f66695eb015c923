//! Numbers and shapes from Python, errors to Python, and the way out of the interpreter.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyKeyboardInterrupt, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use crate::error::Error;
use crate::mask::{Dims, Interrupt};

/// Below this many elements the interpreter is not released: the work is over before another thread could use it.
pub(super) const DETACH: usize = 1 << 14;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            error => PyValueError::new_err(error.to_string()),
        }
    }
}

/// Calls `work` without holding the interpreter if there is `much` to do. It can be interrupted by signals, and a
/// panic in it becomes an exception.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    much: bool,
    work: impl FnOnce(Interrupt<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let guarded = || {
        let signal = RefCell::new(None);
        let interrupt = || {
            let raised = Python::attach(|py| py.check_signals());
            raised.map_err(|error| signal.borrow_mut().replace(error)).is_err()
        };
        let result = catch_unwind(AssertUnwindSafe(|| work(&interrupt)));
        match (result, signal.take()) {
            (_, Some(error)) => Err(error),
            (Ok(result), None) => Ok(result?),
            (Err(panic), None) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(PyRuntimeError::new_err(format!("bug in fastdrop, please report it: {text}")))
            }
        }
    };
    if much { py.detach(guarded) } else { guarded() }
}

/// How Python shows an argument, in error messages.
pub(super) fn shown(got: &Bound<'_, PyAny>) -> String {
    got.repr().map_or_else(|_| got.get_type().to_string(), |text| text.to_string())
}

/// An argument that must be an integer of at least 0 (and at most 2^64 - 1).
pub(super) fn unsigned(name: &str, got: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Ok(number) = got.extract() {
        return Ok(number);
    }
    let negative = got.lt(0).unwrap_or(true);
    let range = if negative { "of at least 0" } else { "below 2**64" };
    let text = format!("{name} must be an integer {range}, got {}", shown(got));
    if got.hasattr(intern!(got.py(), "__index__"))? {
        Err(PyValueError::new_err(text))
    } else {
        Err(PyTypeError::new_err(text))
    }
}

/// An argument that must be an integer of at least 0, or a sequence of them.
pub(super) fn dims(name: &str, got: &Bound<'_, PyAny>) -> PyResult<Dims> {
    if let Ok(tuple) = got.cast::<PyTuple>() {
        return tuple.iter_borrowed().map(|item| unsigned(name, &item)).collect();
    }
    if let Ok(items) = got.try_iter() {
        return items.map(|item| unsigned(name, &item?)).collect();
    }
    if got.hasattr(intern!(got.py(), "__index__"))? {
        return Ok(SmallVec::from_iter([unsigned(name, got)?]));
    }
    let text = format!("{name} must be an integer or a sequence of integers, got {}", shown(got));
    Err(PyTypeError::new_err(text))
}

/// An argument that must be a number; `must` says so. An integer that no double holds is one, but out of range.
fn number(must: &str, got: &Bound<'_, PyAny>) -> PyResult<f64> {
    got.extract::<f64>().map_err(|error| {
        let text = format!("{must}, got {}", shown(got));
        if error.is_instance_of::<PyOverflowError>(got.py()) {
            PyValueError::new_err(text)
        } else {
            PyTypeError::new_err(text)
        }
    })
}

/// Checks a probability to drop.
///
/// A float is returned as it is; whatever else is a number is converted.
#[pyfunction]
pub(super) fn probability(p: &Bound<'_, PyAny>) -> PyResult<f64> {
    let number = number("p must be a number in [0, 1]", p)?;
    if crate::Probability::new(number).is_err() {
        return Err(PyValueError::new_err(format!("p must be a number in [0, 1], got {}", shown(p))));
    }
    Ok(number + 0.0) // -0.0 becomes 0.0
}

/// A scale given by the user.
pub(super) fn finite(scale: &Bound<'_, PyAny>) -> PyResult<f64> {
    let number = number("scale must be a finite number", scale)?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(PyValueError::new_err(format!("scale must be a finite number, got {}", shown(scale))))
    }
}
