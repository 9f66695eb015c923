//! The compiled base of `fastdrop.Key`.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyType};

use crate::stream::key::Key;

/// A key: 16 bytes. What a seed is, Python decides.
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

    /// The child key number `index`, of the same class.
    fn child<'py>(slf: &Bound<'py, Self>, index: u64) -> PyResult<Bound<'py, PyAny>> {
        Self::sibling(slf, slf.get().0.fold_in(index))
    }

    /// The first `n` keys of the other family of children.
    fn children<'py>(slf: &Bound<'py, Self>, n: usize) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        // Room for all of them first, so that too many are a MemoryError at once.
        let list = PyList::new(py, [py.None()])?.into_any().mul(n)?.cast_into::<PyList>()?;
        for (index, key) in slf.get().0.split(n).enumerate() {
            list.set_item(index, Self::sibling(slf, key)?)?;
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

impl PyKey {
    /// An object of the same class with another key.
    fn sibling<'py>(slf: &Bound<'py, Self>, key: Key) -> PyResult<Bound<'py, PyAny>> {
        of_class(Bound::new(slf.py(), Self(key))?.into_any(), &slf.get_type())
    }
}

/// A new object of one of this module's classes as one of a Python class that adds no fields to it: by assigning its
/// `__class__`, which calls no Python code.
pub(super) fn of_class<'py>(object: Bound<'py, PyAny>, class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    object.setattr(intern!(class.py(), "__class__"), class)?;
    Ok(object)
}
