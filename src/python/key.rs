//! `fastdrop.Key`.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use super::arguments::{shown, unsigned};
use crate::error::Error;
use crate::key::{INDEX_BITS, Key};

/// The words of a key, in Python.
pub(super) type Words = (u32, u32, u32, u32);

/// The name of a stream of random bits: 128 bits, immutable.
///
/// Parameters
/// ----------
/// seed : None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
///     As for `numpy.random.default_rng`. `None` draws fresh entropy from the operating system; a BitGenerator or
///     Generator is advanced by two draws of 64 bits.
///
/// Attributes
/// ----------
/// words : tuple of four int
///     The key itself, as four 32-bit words (k0, k1, n0, n1).
///
/// Raises
/// ------
/// TypeError, ValueError
///     If `seed` is none of these, or is negative.
///
/// Notes
/// -----
/// Equal keys give equal masks. Bits are drawn by Philox4x32-10, which is no cryptographic generator: Salmon, Moraes,
/// Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
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
        static SEED_WORDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let words = SEED_WORDS.import(py, "fastdrop.random", "seed_words")?.call1((seed,))?.extract()?;
        Ok(Self(Key::from_words(words)))
    }

    /// The key with these four words.
    ///
    /// Parameters
    /// ----------
    /// k0, k1, n0, n1 : int
    ///     Words in [0, 2**32).
    ///
    /// Returns
    /// -------
    /// Key
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     If a word is no integer, or out of range.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> fd.Key.from_words(1, 2, 3, 4).words
    /// (1, 2, 3, 4)
    #[staticmethod]
    fn from_words(
        k0: &Bound<'_, PyAny>,
        k1: &Bound<'_, PyAny>,
        n0: &Bound<'_, PyAny>,
        n1: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let word = |name: &str, got: &Bound<'_, PyAny>| {
            u32::try_from(unsigned(name, got)?).map_err(|_| {
                PyValueError::new_err(format!("{name} must be an integer in [0, 2**32), got {}", shown(got)))
            })
        };
        Ok(Self(Key::from_words([word("k0", k0)?, word("k1", k1)?, word("n0", n0)?, word("n1", n1)?])))
    }

    #[getter]
    fn words(&self) -> Words {
        self.0.words().into()
    }

    /// Derive the child key of a number, such as a step, a layer or a rank.
    ///
    /// Parameters
    /// ----------
    /// index : int
    ///     Number of the child, in [0, 2**56).
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
        self.0.fold_in(number).map(Self).map_err(Into::into)
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
        if count > 1 << INDEX_BITS {
            return Err(Error::Child(count - 1).into());
        }
        // Room for all of them first, so that too many are a MemoryError at once.
        let list = PyList::new(py, [py.None()])?.into_any().mul(count)?.cast_into::<PyList>()?;
        for (index, key) in self.0.split(count).enumerate() {
            list.set_item(index, Self(key))?;
            if index % (1 << 16) == 0 {
                py.check_signals()?;
            }
        }
        Ok(list)
    }

    pub(super) fn __repr__(&self) -> String {
        let [k0, k1, n0, n1] = self.0.words();
        format!("Key.from_words({k0}, {k1}, {n0}, {n1})")
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Words)> {
        Ok((slf.get_type().getattr(intern!(slf.py(), "from_words"))?, slf.get().words()))
    }
}
