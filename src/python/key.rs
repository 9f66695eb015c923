//! The compiled base of `fastdrop.Key`.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple, PyType};

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
        let data = PyBytes::new(slf.py(), &key.to_bytes());
        new_object::<Self>(&slf.get_type(), &PyTuple::new(slf.py(), [data])?)
    }
}

/// A new object of a subclass of T, made by T's own `__new__` without a call of Python code.
pub(super) fn new_object<'py, T: PyTypeInfo>(
    class: &Bound<'py, PyType>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    // SAFETY: `__new__` of a class of this module is a C function of this type; `class` is T or a subclass of it, which
    // adds nothing to its objects, and the call returns a new reference or null with an exception set.
    unsafe {
        let slot = ffi::PyType_GetSlot(T::type_object_raw(py), ffi::Py_tp_new);
        let new: ffi::newfunc = std::mem::transmute(slot);
        let made = new(class.as_type_ptr(), arguments.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, made)
    }
}
