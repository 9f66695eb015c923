//! The compiled base of `fastdrop.Key`, and the keys of a layer's calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::PyArray1;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyType};

use crate::stream::ars::halves;
use crate::stream::key::Key;

/// The public classes `Key` and `Mask`, which add no fields to those of this module.
static PUBLIC: PyOnceLock<[Py<PyType>; 2]> = PyOnceLock::new();

/// Makes the core return keys and masks as objects of these classes.
#[pyfunction]
pub(super) fn publish(key: Py<PyType>, mask: Py<PyType>, py: Python<'_>) {
    // The first import wins.
    let _ = PUBLIC.set(py, [key, mask]);
}

/// A key: 16 bytes. The Python layer turns seeds into keys.
#[pyclass(name = "Key", module = "fastdrop._core", frozen, eq, hash, subclass)]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct PyKey(pub(super) Key);

#[pymethods]
impl PyKey {
    #[new]
    fn new(data: &Bound<'_, PyBytes>) -> PyResult<Self> {
        match data.as_bytes().try_into() {
            Ok(bytes) => Ok(Self(Key::from_bytes(bytes))),
            Err(_) => Err(PyValueError::new_err(format!("data must be 16 bytes, got {}", data.as_bytes().len()))),
        }
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// The bytes as two int64, little-endian. `torch.compile` makes an array from an attribute an input of the graph,
    /// and reads it again at each call.
    #[getter]
    fn _words<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, halves(self.0.to_bytes()).map(|half| half as i64))
    }

    /// Child key number `index`.
    fn _child<'py>(&self, py: Python<'py>, index: u64) -> PyResult<Bound<'py, PyAny>> {
        public_key(py, self.0.fold_in(index))
    }

    /// The first `n` keys of `split`, the other family of children.
    fn _children<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyList>> {
        // Allocates the list first, so that too large an `n` raises MemoryError at once.
        let list = PyList::new(py, [py.None()])?.into_any().mul(n)?.cast_into::<PyList>()?;
        for (index, key) in self.0.split(n).enumerate() {
            list.set_item(index, public_key(py, key)?)?;
            if index % (1 << 16) == 0 {
                py.check_signals()?;
            }
        }
        Ok(list)
    }

    fn __repr__(&self) -> String {
        format!("Key.from_bytes(bytes.fromhex('{}'))", self.0)
    }
}

/// A key as an object of the public class.
pub(super) fn public_key(py: Python<'_>, key: Key) -> PyResult<Bound<'_, PyAny>> {
    published(Bound::new(py, PyKey(key))?.into_any(), 0)
}

/// Turns a new object of this module into one of its public class. Assigning `__class__` calls no
/// Python code.
pub(super) fn published<'py>(object: Bound<'py, PyAny>, which: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    if let Some(public) = PUBLIC.get(py) {
        object.setattr(intern!(py, "__class__"), &public[which])?;
    }
    Ok(object)
}

/// The keys of successive calls: children 0, 1, ... of one key. Each goes to one call, even with
/// several threads.
#[pyclass(name = "CallKeys", module = "fastdrop._core", frozen)]
pub(super) struct CallKeys {
    root: Key,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    calls: u64,
    held: bool,
    /// Whether a call was made since `hold`.
    used: bool,
}

/// State before and after one `next`, to undo it if the call fails.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    before: State,
    after: State,
}

impl CallKeys {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of the next call, or the held one.
    pub(super) fn next(&self) -> PyResult<(Key, Taken)> {
        let mut state = self.state();
        let before = *state;
        if state.held {
            state.used = true;
        } else {
            state.calls =
                state.calls.checked_add(1).ok_or_else(|| PyOverflowError::new_err("calls must be below 2**64"))?;
        }
        Ok((self.root.fold_in(before.calls), Taken { before, after: *state }))
    }

    /// Undoes `next`, unless another call has come since.
    pub(super) fn undo(&self, taken: Taken) {
        let mut state = self.state();
        let same = |a: State, b: State| (a.calls, a.held, a.used) == (b.calls, b.held, b.used);
        if same(*state, taken.after) {
            *state = taken.before;
        }
    }
}

#[pymethods]
impl CallKeys {
    #[new]
    #[pyo3(signature = (key, calls=0, held=false, used=false))]
    fn new(key: PyRef<'_, PyKey>, calls: u64, held: bool, used: bool) -> Self {
        Self { root: key.0, state: Mutex::new(State { calls, held, used }) }
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        public_key(py, self.root)
    }

    /// Number of calls, whether the key is held, and whether a call was made since.
    #[getter(state)]
    fn get_state(&self) -> (u64, bool, bool) {
        let State { calls, held, used } = *self.state();
        (calls, held, used)
    }

    /// Gives all later calls the key of the next one.
    fn hold(&self) {
        self.state().held = true;
    }

    /// Ends `hold`; the calls since count as one.
    fn release(&self) {
        let mut state = self.state();
        let calls = state.calls.saturating_add(u64::from(state.used));
        *state = State { calls, held: false, used: false };
    }

    /// The key of the next call, and an object that can give it back.
    fn take<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, PyTaken)> {
        let (key, taken) = slf.get().next()?;
        Ok((public_key(slf.py(), key)?, PyTaken { keys: slf.clone().unbind(), taken }))
    }
}

/// The call number that `take` took.
#[pyclass(name = "Taken", module = "fastdrop._core", frozen)]
pub(super) struct PyTaken {
    keys: Py<CallKeys>,
    taken: Taken,
}

#[pymethods]
impl PyTaken {
    /// Undoes `take`, unless another call has come since.
    fn undo(&self) {
        self.keys.get().undo(self.taken);
    }
}
