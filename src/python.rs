//! The extension module `fastdrop._core`: parses, checks, leaves the interpreter, calls, maps errors.
//!
//! What the arguments mean to a user (modes, training, which key) is decided in Python; what they must be to be
//! worked on is checked here.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};

use numpy::npyffi::{NPY_ORDER, PY_ARRAY_API, flags};
use numpy::{PyArray1, PyArrayDescr, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyList, PyTuple};
use smallvec::SmallVec;

use crate::apply::Element;
use crate::bits::{Bits, Given};
use crate::dropout::{self, Arrays};
use crate::error::{Error, Extents};
use crate::key::{INDEX_BITS, Key};
use crate::mask::{Dims, Interrupt, Mask};
use crate::pool;
use crate::simd::Level;
use crate::walk::{Axes, Axis};

/// Below this many elements the interpreter is not released: the work is over before another thread could use it.
const DETACH: usize = 1 << 14;

/// The words of a key, in Python.
type Words = (u32, u32, u32, u32);

/// Strides of an operand, one per axis of the result.
type Steps = SmallVec<[isize; 6]>;

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
fn detached<T: Send>(
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
fn shown(got: &Bound<'_, PyAny>) -> String {
    got.repr().map_or_else(|_| got.get_type().to_string(), |text| text.to_string())
}

/// An argument that must be an integer of at least 0 (and at most 2^64 - 1).
fn unsigned(name: &str, got: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Ok(number) = got.extract() {
        return Ok(number);
    }
    let text = format!("{name} must be an integer of at least 0, got {}", shown(got));
    if got.hasattr(intern!(got.py(), "__index__"))? {
        Err(PyValueError::new_err(text))
    } else {
        Err(PyTypeError::new_err(text))
    }
}

/// An argument that must be an integer of at least 0, or a sequence of them.
fn dims(name: &str, got: &Bound<'_, PyAny>) -> PyResult<Dims> {
    if let Ok(tuple) = got.cast::<PyTuple>() {
        return tuple.iter_borrowed().map(|item| unsigned(name, &item)).collect();
    }
    if got.hasattr(intern!(got.py(), "__index__"))? {
        return Ok(SmallVec::from_iter([unsigned(name, got)?]));
    }
    let items = got.try_iter().map_err(|_| {
        PyTypeError::new_err(format!("{name} must be an integer or a sequence of integers, got {}", shown(got)))
    })?;
    items.map(|item| unsigned(name, &item?)).collect()
}

/// Checks a probability to drop.
///
/// A float is returned as it is; whatever else is a number is converted.
#[pyfunction]
fn probability(p: &Bound<'_, PyAny>) -> PyResult<f64> {
    let number = p
        .extract::<f64>()
        .map_err(|_| PyTypeError::new_err(format!("p must be a number in [0, 1], got {}", shown(p))))?;
    if crate::Probability::new(number).is_err() {
        return Err(PyValueError::new_err(format!("p must be a number in [0, 1], got {}", shown(p))));
    }
    Ok(number)
}

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
/// Equal keys give equal masks. Bits are drawn by Philox4x32-10 [1]_, which is no cryptographic generator.
///
/// References
/// ----------
/// .. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
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
struct PyKey(Key);

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

    fn __repr__(&self) -> String {
        let [k0, k1, n0, n1] = self.0.words();
        format!("Key.from_words({k0}, {k1}, {n0}, {n1})")
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Words)> {
        Ok((slf.get_type().getattr(intern!(slf.py(), "from_words"))?, slf.get().words()))
    }
}

/// Which elements of an array are kept: a recipe of a few words, whatever the array's size.
///
/// Parameters
/// ----------
/// shape : int or sequence of int
///     Shape of the array, with at most 2**63 - 1 elements. No memory is used for them.
/// p : float
///     Probability to DROP an element, in [0, 1]; exact to 2**-64.
/// key : Key
///     Which bits to draw.
///
/// Attributes
/// ----------
/// shape : tuple of int
///     The shape.
/// ndim : int
///     Number of axes.
/// size : int
///     Number of elements.
/// p : float
///     Probability to drop.
/// key : Key
///     The key.
///
/// Raises
/// ------
/// TypeError, ValueError
///     If an argument is not of these kinds, or out of range.
///
/// Notes
/// -----
/// Whether an element is kept depends on `key`, `p` and the element's C-order index alone. Masks of one key are
/// nested: what a small `p` drops, a larger one drops too.
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> mask = fd.Mask((2, 5), 0.5, fd.Key(0))
/// >>> mask.to_numpy()
/// array([[ True, False,  True,  True,  True],
///        [ True, False,  True,  True,  True]])
/// >>> mask.count()
/// 8
#[pyclass(name = "Mask", module = "fastdrop", frozen, eq, hash)]
#[derive(PartialEq)]
struct PyMask(Mask);

impl Hash for PyMask {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
        self.0.probability().get().to_bits().hash(state);
        [self.0.whole(), self.0.start(), self.0.shape()].hash(state);
    }
}

#[pymethods]
impl PyMask {
    #[new]
    fn new(shape: &Bound<'_, PyAny>, p: &Bound<'_, PyAny>, key: &Bound<'_, PyAny>) -> PyResult<Self> {
        let key =
            key.cast::<PyKey>().map_err(|_| PyTypeError::new_err(format!("key must be a Key, got {}", shown(key))))?;
        Ok(Self(Mask::new(&dims("shape", shape)?, probability(p)?, key.get().0)?))
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.shape())
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.0.shape().len()
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    #[getter]
    fn p(&self) -> f64 {
        self.0.probability().get()
    }

    #[getter]
    fn key(&self) -> PyKey {
        PyKey(self.0.key())
    }

    /// Draw the mask as a boolean array.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray of bool
    ///     True where an element is kept; C order.
    ///
    /// Raises
    /// ------
    /// MemoryError
    ///     If there is no memory for a byte per element.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> fd.Mask(4, 0.5, fd.Key(0)).to_numpy()
    /// array([ True, False,  True,  True])
    fn to_numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyUntypedArray>> {
        let shape: SmallVec<[usize; 6]> = self.0.shape().iter().map(|len| *len as usize).collect();
        let dtype = numpy::dtype::<bool>(py);
        let out = empty(py, &shape, &dtype)?;
        let (origin, steps) = self.0.indices();
        let axes = axes(&shape, None, out.strides(), steps.iter().map(|step| *step as isize));
        let dst = data(&out);
        let arrays = Arrays { src: dst, dst, element: Element::Bool, swapped: [false; 2] };
        let bits = Bits::drawn(&self.0, origin);
        detached(py, out.len() >= DETACH, move |interrupt| {
            // SAFETY: `out` was just made in this shape, and nobody else has it yet.
            unsafe { dropout::run(arrays, axes, bits, 1.0, interrupt) }
        })?;
        Ok(out)
    }

    /// Draw the mask as packed bits.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray of uint8, shape (ceil(size / 8),)
    ///     What `np.packbits(mask.to_numpy(), axis=None, bitorder="little")` gives, without the boolean array.
    ///
    /// Raises
    /// ------
    /// MemoryError
    ///     If there is no memory for a bit per element.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> fd.Mask(10, 0.5, fd.Key(0)).packbits()
    /// array([189,   3], dtype=uint8)
    fn packbits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyUntypedArray>> {
        let size = self.0.size();
        let out = empty(py, &[size.div_ceil(8) as usize], &numpy::dtype::<u8>(py))?;
        let out = out.cast_into::<PyArray1<u8>>()?;
        let mut lent = out.readwrite();
        let bytes = lent.as_slice_mut()?;
        detached(py, size >= DETACH as u64, move |interrupt| self.0.packbits(bytes, interrupt))?;
        drop(lent);
        Ok(out.into_any().cast_into()?)
    }

    /// Count the kept elements.
    ///
    /// Returns
    /// -------
    /// int
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> fd.Mask((1000, 1000), 0.25, fd.Key(0)).count()
    /// 749970
    fn count(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, self.0.size() >= DETACH as u64, |interrupt| self.0.count(interrupt))
    }

    /// Take the part of the mask in a box: the same elements of the whole get the same bits.
    ///
    /// Parameters
    /// ----------
    /// start : int or sequence of int
    ///     Position of the box's first element, one number per axis.
    /// shape : int or sequence of int
    ///     Extent of the box along each axis.
    ///
    /// Returns
    /// -------
    /// Mask
    ///     Of shape `shape`.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     If the box is not inside this mask.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> whole = fd.Mask((1000, 1000), 0.5, fd.Key(0))
    /// >>> part = whole.region((500, 20), (2, 3))
    /// >>> bool((part.to_numpy() == whole.to_numpy()[500:502, 20:23]).all())
    /// True
    fn region(&self, start: &Bound<'_, PyAny>, shape: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self(self.0.region(&dims("start", start)?, &dims("shape", shape)?)?))
    }

    /// Apply the mask: kept elements times `scale`, +0.0 for the others.
    ///
    /// Parameters
    /// ----------
    /// x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
    ///     Array that broadcasts with the mask as in NumPy.
    /// scale : float, optional
    ///     What kept elements are multiplied by; 1 / (1 - p) if not given. Rounded once, to float64 for float64 and
    ///     complex128 and to float32 for all others. Finite.
    /// out : numpy.ndarray, optional
    ///     Array to write into, of the result's shape and of x's dtype; may be `x` itself.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     `out`, or a new array of x's dtype, with the memory layout that `np.empty_like(x)` has.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     If an argument is not of these kinds; no array is changed then.
    ///
    /// Examples
    /// --------
    /// >>> import fastdrop as fd
    /// >>> import numpy as np
    /// >>> mask = fd.Mask((2, 3), 0.5, fd.Key(0))
    /// >>> mask.apply(np.ones((2, 3), dtype=np.float32))
    /// array([[2., 0., 2.],
    ///        [2., 2., 2.]], dtype=float32)
    #[pyo3(signature = (x, scale=None, out=None))]
    fn apply<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        scale: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let x = float_array(x, "x")?;
        let scale = match scale {
            None => self.0.probability().inverted_scale(),
            Some(scale) => finite(scale)?,
        };
        let shape = broadcast(self.0.shape(), x.shape())?;
        apply_mask(&self.0, &shape, x, scale, out)
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        slf: &Bound<'py, Self>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(PyValueError::new_err("a Mask becomes an array only by drawing it, so copy must not be False"));
        }
        let array = slf.get().to_numpy(slf.py())?.into_any();
        match dtype {
            None => Ok(array),
            Some(dtype) => array.call_method(
                intern!(slf.py(), "astype"),
                (dtype,),
                Some(&[(intern!(slf.py(), "copy"), false)].into_py_dict(slf.py())?),
            ),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let [whole, start, shape] = [self.0.whole(), self.0.start(), self.0.shape()].map(|dims| PyTuple::new(py, dims));
        let (whole, start, shape) = (whole?, start?, shape?);
        let p = self.0.probability().get();
        let key = self.key().__repr__();
        let base = format!("Mask({whole}, {p:?}, {key})");
        Ok(if whole.eq(&shape)? { base } else { format!("{base}.region({start}, {shape})") })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, mask) = (slf.py(), &slf.get().0);
        let dims = |dims: &[u64]| PyTuple::new(py, dims);
        let arguments = (
            dims(mask.whole())?,
            mask.probability().get(),
            PyKey(mask.key()),
            dims(mask.start())?,
            dims(mask.shape())?,
        );
        Ok((slf.get_type().getattr(intern!(py, "_rebuild"))?, arguments.into_pyobject(py)?))
    }

    /// What pickle calls: the region of a whole.
    #[staticmethod]
    fn _rebuild(
        whole: &Bound<'_, PyAny>,
        p: &Bound<'_, PyAny>,
        key: &Bound<'_, PyAny>,
        start: &Bound<'_, PyAny>,
        shape: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        Self::new(whole, p, key)?.region(start, shape)
    }
}

/// A scale given by the user.
fn finite(scale: &Bound<'_, PyAny>) -> PyResult<f64> {
    let number = scale
        .extract::<f64>()
        .map_err(|_| PyTypeError::new_err(format!("scale must be a finite number, got {}", shown(scale))))?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(PyValueError::new_err(format!("scale must be a finite number, got {}", shown(scale))))
    }
}

/// The element type of a dtype that fastdrop works on.
fn element(dtype: &Bound<'_, PyArrayDescr>) -> Option<Element> {
    /// Type number that ml_dtypes has registered for bfloat16; 0 while it was not met.
    static BFLOAT16: AtomicI32 = AtomicI32::new(0);
    const FIRST_USER_TYPE: i32 = 256;
    match dtype.num() {
        23 => Some(Element::F16),
        11 => Some(Element::F32),
        12 => Some(Element::F64),
        14 => Some(Element::Complex64),
        15 => Some(Element::Complex128),
        num if num < FIRST_USER_TYPE => None,
        num if num == BFLOAT16.load(Ordering::Relaxed) => Some(Element::Bf16),
        num => {
            let is_it = dtype.itemsize() == 2 && dtype.typeobj().name().is_ok_and(|name| name == "bfloat16");
            is_it.then(|| {
                BFLOAT16.store(num, Ordering::Relaxed);
                Element::Bf16
            })
        }
    }
}

/// `x` as a NumPy array and no subclass of it, sharing its memory where it can.
fn plain_array<'py>(x: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyUntypedArray>> {
    static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Ok(array) = x.cast_exact::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let as_array = AS_ARRAY.import(x.py(), "fastdrop._validate", "as_array")?;
    Ok(as_array.call1((x, name))?.cast_into()?)
}

/// `x` as a NumPy array of a dtype that fastdrop works on; `x` itself if it is one.
///
/// Raises TypeError if it cannot be one.
#[pyfunction]
fn float_array<'py>(x: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = plain_array(x, name)?;
    if element(&array.dtype()).is_none() {
        return Err(PyTypeError::new_err(format!(
            "{name} must have dtype float32, float64, float16, bfloat16, complex64 or complex128, got {}",
            array.dtype()
        )));
    }
    Ok(array)
}

fn swapped(dtype: &Bound<'_, PyArrayDescr>) -> bool {
    dtype.is_native_byteorder() == Some(false)
}

fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: the array is alive, so its struct can be read.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

/// A new array in C order.
fn empty<'py>(
    py: Python<'py>,
    shape: &[usize],
    dtype: &Bound<'py, PyArrayDescr>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();
    // SAFETY: the call takes its own reference of the dtype, and copies the shape.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            PyUntypedArray::type_object_raw(py),
            dtype.clone().into_dtype_ptr(),
            shape.len() as _,
            shape.as_mut_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// A new array with the shape, dtype and layout of `x`.
fn empty_like<'py>(x: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = x.py();
    // SAFETY: `x` is an array, and no dtype is passed that would lose a reference.
    unsafe {
        let keep = NPY_ORDER::NPY_KEEPORDER;
        let array = PY_ARRAY_API.PyArray_NewLikeArray(py, x.as_array_ptr(), keep, std::ptr::null_mut(), 0);
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// A copy of `x` in the same layout.
fn copied<'py>(x: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let copy = empty_like(x)?;
    copy_into(&copy, x)?;
    Ok(copy)
}

fn copy_into(dst: &Bound<'_, PyUntypedArray>, src: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    // SAFETY: both are arrays.
    let status = unsafe { PY_ARRAY_API.PyArray_CopyInto(dst.py(), dst.as_array_ptr(), src.as_array_ptr()) };
    if status == 0 { Ok(()) } else { Err(PyErr::fetch(dst.py())) }
}

/// The shape that two shapes broadcast to.
fn broadcast(mask: &[u64], array: &[usize]) -> PyResult<SmallVec<[usize; 6]>> {
    let ndim = mask.len().max(array.len());
    let at = |axis: usize, len: usize| (axis + len).checked_sub(ndim);
    (0..ndim)
        .map(|axis| {
            let one = at(axis, mask.len()).map_or(1, |axis| mask[axis] as usize);
            let other = at(axis, array.len()).map_or(1, |axis| array[axis]);
            match (one, other) {
                (one, other) if one == other => Some(one),
                (1, other) => Some(other),
                (one, 1) => Some(one),
                _ => None,
            }
        })
        .collect::<Option<_>>()
        .ok_or_else(|| mismatch(mask, array))
}

fn mismatch(mask: &[u64], array: &[usize]) -> PyErr {
    Error::Broadcast { mask: mask.into(), array: array.into() }.into()
}

/// Strides of an operand of shape `from`, with 0 where it is shared along an axis of `shape`, which it broadcasts to.
fn shared_steps(from: &[usize], strides: &[isize], shape: &[usize]) -> Steps {
    let new = shape.len() - from.len();
    (0..shape.len()).map(|axis| if axis < new || from[axis - new] == 1 { 0 } else { strides[axis - new] }).collect()
}

fn axes(shape: &[usize], src: Option<&[isize]>, dst: &[isize], bits: impl Iterator<Item = isize>) -> Axes {
    (shape.iter().zip(dst).zip(bits).enumerate())
        .map(|(axis, ((len, dst), bit))| Axis { len: *len, src: src.map_or(0, |src| src[axis]), dst: *dst, bit })
        .collect()
}

/// The addresses that an array's elements span: from the first byte to behind the last.
fn span(array: &Bound<'_, PyUntypedArray>) -> (usize, usize) {
    let first = data(array).addr();
    let (mut low, mut high) = (first, first + array.dtype().itemsize());
    for (len, stride) in array.shape().iter().zip(array.strides()) {
        let reach = (*len as isize - 1).wrapping_mul(*stride);
        if reach < 0 { low = low.wrapping_add_signed(reach) } else { high = high.wrapping_add_signed(reach) }
    }
    if array.is_empty() { (first, first) } else { (low, high) }
}

fn may_overlap(a: &Bound<'_, PyUntypedArray>, b: &Bound<'_, PyUntypedArray>) -> bool {
    let ((a_low, a_high), (b_low, b_high)) = (span(a), span(b));
    a_low < b_high && b_low < a_high
}

/// Whether no two elements of an array share memory, as far as the strides show at a glance.
fn surely_disjoint(array: &Bound<'_, PyUntypedArray>) -> bool {
    let mut steps: SmallVec<[(usize, usize); 6]> = (array.shape().iter().zip(array.strides()))
        .filter(|(len, _)| **len > 1)
        .map(|(len, stride)| (stride.unsigned_abs(), *len))
        .collect();
    steps.sort_unstable();
    let mut span = array.dtype().itemsize();
    steps.into_iter().all(|(stride, len)| {
        let fits = stride >= span;
        span += stride * (len - 1);
        fits
    })
}

/// Checks `out`, and returns it as an array.
fn check_out<'py>(
    out: &Bound<'py, PyAny>,
    x: &Bound<'py, PyUntypedArray>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    if !out.is_instance_of::<PyUntypedArray>() {
        return Err(PyTypeError::new_err(format!("out must be a numpy.ndarray, got {}", out.get_type().name()?)));
    }
    let array = plain_array(out, "out")?;
    if element(&array.dtype()) != element(&x.dtype()) {
        let text = format!("out must have the dtype of x, {}, got {}", x.dtype(), array.dtype());
        return Err(PyTypeError::new_err(text));
    }
    if array.shape() != shape {
        let text = format!("out must have shape {}, got {}", Extents::from(shape), Extents::from(array.shape()));
        return Err(PyValueError::new_err(text));
    }
    // SAFETY: the array is alive, so its struct can be read.
    if unsafe { (*array.as_array_ptr()).fields.flags } & flags::NPY_ARRAY_WRITEABLE == 0 {
        return Err(PyValueError::new_err("out must be writeable, got a read-only array"));
    }
    let shared = array.shape().iter().zip(array.strides()).any(|(len, stride)| *len > 1 && *stride == 0);
    if shared && !array.is_empty() {
        return Err(PyValueError::new_err("out must not have a stride of 0, got a broadcast array"));
    }
    Ok(array)
}

/// Applies bits to `x`, broadcast to `shape`, into `out` or a new array. `bit_steps` are the bits' strides along
/// the axes of `shape`; `given` is the array they are read from, if any.
fn apply_bits<'py>(
    x: Bound<'py, PyUntypedArray>,
    shape: &[usize],
    bits: Bits,
    bit_steps: &[isize],
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let Some(element) = element(&x.dtype()) else {
        return Err(PyTypeError::new_err("x has a dtype that fastdrop does not work on"));
    };
    let (target, mut x) = match out {
        Some(out) => (check_out(out, &x, shape)?, x),
        None if x.shape() == shape => (empty_like(&x)?, x),
        None => (empty(py, shape, &x.dtype())?, x),
    };
    let in_place = out.is_some()
        && data(&target) == data(&x)
        && target.strides() == x.strides()
        && target.shape() == x.shape()
        && swapped(&target.dtype()) == swapped(&x.dtype());
    if out.is_some() && !in_place && may_overlap(&x, &target) {
        x = copied(&x)?;
    }
    let direct = out.is_none() || surely_disjoint(&target);
    let written = if direct { target.clone() } else { empty(py, shape, &target.dtype())? };
    if !direct && in_place {
        x = copied(&x)?;
    }
    let src_steps = shared_steps(x.shape(), x.strides(), shape);
    let axes = axes(shape, Some(&src_steps), written.strides(), bit_steps.iter().copied());
    let swapped = [swapped(&x.dtype()), swapped(&written.dtype())];
    let arrays = Arrays { src: data(&x), dst: data(&written), element, swapped };
    detached(py, written.len() >= DETACH, move |interrupt| {
        // SAFETY: 1. `x` and `written` are held for the whole call, and the axes are their shapes and strides, so
        // all places are inside them. 2. `written` is writeable and its elements share no memory: it is new, or was
        // checked. 3. It is the same as `x` element by element, or does not overlap it: `x` was copied otherwise.
        // 4. That no other Python thread writes either array meanwhile is asked of users, as NumPy does.
        unsafe { dropout::run(arrays, axes, bits, scale, interrupt) }
    })?;
    if !direct {
        copy_into(&target, &written)?;
    }
    Ok(out.cloned().unwrap_or_else(|| target.into_any()))
}

/// Applies a mask that broadcasts to `shape`.
fn apply_mask<'py>(
    mask: &Mask,
    shape: &[usize],
    x: Bound<'py, PyUntypedArray>,
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (origin, steps) = mask.indices();
    let new = shape.len() - mask.shape().len();
    let bit_steps: Steps = (0..shape.len())
        .map(|axis| if axis < new || mask.shape()[axis - new] == 1 { 0 } else { steps[axis - new] as isize })
        .collect();
    apply_bits(x, shape, Bits::drawn(mask, origin), &bit_steps, scale, out)
}

/// `kept ? x * scale : 0` in the shape of `x`, with a mask or a boolean array that broadcasts to it; None keeps all.
#[pyfunction]
#[pyo3(signature = (mask, x, scale, out=None))]
fn apply<'py>(
    mask: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    scale: f64,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = float_array(x, "x")?;
    let shape: SmallVec<[usize; 6]> = x.shape().into();
    if mask.is_none() {
        let steps: Steps = SmallVec::from_elem(0, shape.len());
        return apply_bits(x, &shape, Bits::Constant(true), &steps, scale, out);
    }
    if let Ok(mask) = mask.cast::<PyMask>() {
        let mask = &mask.get().0;
        if broadcast(mask.shape(), &shape)? != shape {
            return Err(mismatch(mask.shape(), &shape));
        }
        return apply_mask(mask, &shape, x, scale, out);
    }
    let mut given = match mask.cast::<PyUntypedArray>() {
        Ok(given) if given.dtype().is_equiv_to(&numpy::dtype::<bool>(mask.py())) => given.clone(),
        _ => {
            let text = format!("mask must be a Mask or a boolean array, got {}", mask.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        }
    };
    let extents: Dims = given.shape().iter().map(|len| *len as u64).collect();
    if broadcast(&extents, &shape)? != shape {
        return Err(mismatch(&extents, &shape));
    }
    let written = out.map(|out| check_out(out, &x, &shape)).transpose()?;
    if written.is_some_and(|out| may_overlap(&given, &out)) {
        given = copied(&given)?;
    }
    let steps = shared_steps(given.shape(), given.strides(), &shape);
    // SAFETY: `given` is held for the whole call, the steps are its own, and it does not overlap what is written.
    let bits = Bits::Given(unsafe { Given::new(data(&given)) });
    apply_bits(x, &shape, bits, &steps, scale, out)
}

/// Set how many threads large calls use.
///
/// Parameters
/// ----------
/// n : int
///     At least 1. The environment variable FASTDROP_NUM_THREADS, or else the number of CPUs that the process may
///     use, is where it starts.
///
/// Raises
/// ------
/// TypeError, ValueError
///     If `n` is no integer of at least 1.
///
/// Notes
/// -----
/// Masks and results do not depend on it.
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> before = fd.get_num_threads()
/// >>> fd.set_num_threads(1)
/// >>> fd.get_num_threads()
/// 1
/// >>> fd.set_num_threads(before)
#[pyfunction]
fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    let threads = unsigned("n", n).ok().filter(|threads| *threads > 0);
    match threads.and_then(|threads| usize::try_from(threads).ok()) {
        Some(threads) => Ok(pool::set_num_threads(threads)?),
        None => {
            let text = format!("n must be an integer of at least 1, got {}", shown(n));
            Err(if n.extract::<i64>().is_ok() { PyValueError::new_err(text) } else { PyTypeError::new_err(text) })
        }
    }
}

/// Get how many threads large calls use.
///
/// Returns
/// -------
/// int
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> fd.get_num_threads() >= 1
/// True
#[pyfunction]
fn get_num_threads() -> PyResult<usize> {
    Ok(pool::num_threads()?)
}

/// The SIMD level in use.
#[pyfunction]
fn simd() -> PyResult<&'static str> {
    Ok(Level::current()?.name())
}

/// The SIMD levels of this CPU, slowest first.
#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    Level::available().map(Level::name).collect()
}

/// Use this SIMD level from now on.
#[pyfunction]
fn set_simd(name: &str) -> PyResult<()> {
    Level::from_name(name)?.set_current();
    Ok(())
}

/// One Philox4x32-10 block.
#[pyfunction]
fn philox(counter: [u32; 4], key: [u32; 2]) -> Words {
    crate::philox::block(key, counter).into()
}

/// The compiled part of fastdrop. Private: use the package's own names.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A bad setting in the environment is said at import, not in the middle of a run.
    Level::current()?;
    pool::num_threads()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<PyKey>()?;
    module.add_class::<PyMask>()?;
    module.add_function(wrap_pyfunction!(apply, module)?)?;
    module.add_function(wrap_pyfunction!(float_array, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(philox, module)?)?;
    module.add_function(wrap_pyfunction!(probability, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd, module)?)?;
    module.add_function(wrap_pyfunction!(simd_levels, module)?)?;
    Ok(())
}
