//! `fastdrop.Mask`.

use std::hash::{Hash, Hasher};

use numpy::{PyArray1, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};
use smallvec::SmallVec;

use super::apply::apply_mask;
use super::arguments::{DETACH, detached, dims, finite, probability, shown};
use super::arrays::{axes, broadcast, data, empty, float_array, zeros};
use super::key::PyKey;
use crate::apply::Element;
use crate::bits::Bits;
use crate::dropout::{self, Arrays, Operation};
use crate::mask::Mask;

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
/// Whether an element is kept depends on key, p and the element's C-order index alone. Masks of one key are
/// nested: what a small p drops, a larger one drops too.
///
/// Examples
/// --------
/// >>> import fastdrop as fd
/// >>> mask = fd.Mask((2, 5), 0.5, fd.Key(0))
/// >>> mask.to_numpy()
/// array([[ True,  True,  True, False,  True],
///        [False,  True, False,  True, False]])
/// >>> mask.count()
/// 6
#[pyclass(name = "Mask", module = "fastdrop", frozen, eq, hash)]
#[derive(PartialEq)]
pub(super) struct PyMask(pub(super) Mask);

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
    /// array([ True,  True,  True, False])
    fn to_numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyUntypedArray>> {
        let shape: SmallVec<[usize; 6]> = self.0.shape().iter().map(|len| *len as usize).collect();
        let dtype = numpy::dtype::<bool>(py);
        let out = empty(py, &shape, &dtype)?;
        let (origin, steps) = self.0.indices();
        let axes = axes(&shape, None, out.strides(), steps.iter().map(|step| *step as isize));
        let dst = data(&out);
        let arrays = Arrays::new(dst, dst, Element::Bool);
        let bits = Bits::drawn(&self.0, origin);
        detached(py, out.len() >= DETACH, move |interrupt| {
            // SAFETY: `out` was just made in this shape, and nobody else has it yet.
            unsafe { dropout::run(arrays, axes, bits, Operation::Scale(1.0), interrupt) }
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
    /// array([87,  1], dtype=uint8)
    fn packbits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyUntypedArray>> {
        let size = self.0.size();
        let out = zeros(py, &[size.div_ceil(8) as usize], &numpy::dtype::<u8>(py))?;
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
    /// 750319
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
    ///     Of this extent.
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
    /// array([[2., 2., 2.],
    ///        [0., 2., 0.]], dtype=float32)
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
