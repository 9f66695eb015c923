//! `fastdrop.Key`.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

use super::arguments::{shown, unsigned};
use crate::key::Key;

/// The name of a stream of random bits: 16 bytes, immutable.
///
/// Parameters
/// ----------
/// seed : None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
///     As for `numpy.random.default_rng`. `None` draws fresh entropy from the operating system; a BitGenerator or
///     Generator is advanced by two draws of 64 bits.
///
/// Raises
/// ------
/// TypeError, ValueError
///     If `seed` is none of these, or is negative.
///
/// Notes
/// -----
/// Equal keys give equal masks. `bytes(key)` is the key itself, and `Key.from_bytes` takes it back. Bits are drawn by
/// ARS-7, which is not a cryptographic generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1,
/// 2, 3", SC 2011.
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> key = fd.Key(42)
/// >>> key == fd.Key(42)
/// True
/// >>> layer_keys = key.split(2)
/// >>> step_key = layer_keys[0].fold_in(1000)
#[pyclass(name = "Key", module = "fastdrop", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct PyKey(pub(super) Key);

#[pymethods]
impl PyKey {
    #[new]
    #[pyo3(signature = (seed=None))]
    fn new(py: Python<'_>, seed: Option<Bound<'_, PyAny>>) -> PyResult<Self> {
        static SEED_BYTES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let bytes = SEED_BYTES.import(py, "fastdrop.random", "seed_bytes")?.call1((seed,))?;
        Self::from_bytes(&bytes)
    }

    /// Return the key with these bytes.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    ///     16 bytes, such as `bytes(key)` gives.
    ///
    /// Returns
    /// -------
    /// Key
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> key = fd.Key(42)
    /// >>> fd.Key.from_bytes(bytes(key)) == key
    /// True
    #[staticmethod]
    fn from_bytes(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let text = || format!("data must be 16 bytes, got {}", shown(data));
        let bytes = data.cast::<PyBytes>().map_err(|_| PyTypeError::new_err(text()))?;
        match bytes.as_bytes().try_into() {
            Ok(bytes) => Ok(Self(Key::from_bytes(bytes))),
            Err(_) => Err(PyValueError::new_err(text())),
        }
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Derive the child key of a number, such as a step, a layer or a rank.
    ///
    /// Parameters
    /// ----------
    /// index : int
    ///     Number of the child, in [0, 2**64).
    ///
    /// Returns
    /// -------
    /// Key
    ///     A key whose masks are independent of this key's and of the other children's.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     If `index` is no integer, or out of range.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> fd.Key(0).fold_in(1) == fd.Key(0).fold_in(1)
    /// True
    /// >>> fd.Key(0).fold_in(1) == fd.Key(0).fold_in(2)
    /// False
    fn fold_in(&self, index: &Bound<'_, PyAny>) -> PyResult<Self> {
        let number = unsigned("index", index)?;
        Ok(Self(self.0.fold_in(number)))
    }

    /// Derive several child keys at once.
    ///
    /// Parameters
    /// ----------
    /// n : int
    ///     How many, at least 0.
    ///
    /// Returns
    /// -------
    /// list of Key
    ///     Independent of each other, of this key, and of what `fold_in` gives.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     If `n` is no integer, or negative.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> first, second = fd.Key(0).split(2)
    fn split<'py>(&self, n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = n.py();
        let count = unsigned("n", n)?;
        // Room for all of them first, so that too many are a MemoryError at once.
        let list = PyList::new(py, [py.None()])?.into_any().mul(count)?.cast_into::<PyList>()?;
        for (index, key) in self.0.split(count as usize).enumerate() {
            list.set_item(index, Self(key))?;
            if index % (1 << 16) == 0 {
                py.check_signals()?;
            }
        }
        Ok(list)
    }

    pub(super) fn __repr__(&self) -> String {
        format!("Key.from_bytes(bytes.fromhex('{}'))", self.0)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().getattr(intern!(slf.py(), "from_bytes"))?, (slf.get().__bytes__(slf.py()),)))
    }
}
