//! The compiled base of `fastdrop.Mask`.

use std::hash::{Hash, Hasher};

use numpy::{PyArray1, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{axes, data, empty, zeros};
use super::key::{PyKey, of_class};
use crate::driver;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::operand::{Element, Operands};
use crate::walk::source::Source;

/// A mask, with the object that its key was given as.
#[pyclass(name = "Mask", module = "fastdrop._core", frozen, eq, hash, subclass)]
pub(super) struct PyMask {
    pub(super) mask: Mask,
    key: Py<PyKey>,
}

impl PartialEq for PyMask {
    fn eq(&self, other: &Self) -> bool {
        self.mask == other.mask
    }
}

impl Hash for PyMask {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.mask.hash(state);
    }
}

#[pymethods]
impl PyMask {
    #[new]
    fn new(shape: &Bound<'_, PyTuple>, p: f64, key: Py<PyKey>) -> PyResult<Self> {
        let shape = shape.iter_borrowed().map(|len| len.extract()).collect::<PyResult<Dims>>()?;
        Ok(Self { mask: Mask::new(&shape, p, key.get().0)?, key })
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.mask.shape())
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.mask.shape().len()
    }

    #[getter]
    fn size(&self) -> u64 {
        self.mask.size()
    }

    #[getter]
    fn p(&self) -> f64 {
        self.mask.probability().get()
    }

    #[getter]
    fn key(&self, py: Python<'_>) -> Py<PyKey> {
        self.key.clone_ref(py)
    }

    /// The shape of the whole, p, the key, and the box in the whole: its start and shape.
    #[getter]
    fn parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let dims = |dims: &[u64]| PyTuple::new(py, dims);
        let mask = &self.mask;
        let p = mask.probability().get();
        (dims(mask.whole())?, p, &self.key, dims(mask.start())?, dims(mask.shape())?).into_pyobject(py)
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
        let shape: SmallVec<[usize; 6]> = self.mask.shape().iter().map(|len| *len as usize).collect();
        let out = empty(py, &shape, &numpy::dtype::<bool>(py))?;
        let steps: SmallVec<[isize; 6]> = self.mask.steps().iter().map(|step| *step as isize).collect();
        let axes = axes(&shape, [out.strides(), &[], &[], &[]], &steps);
        let operands = Operands::new(Element::Bool, data(&out), &[]);
        let source = Source::keep_bits(&self.mask);
        detached(py, out.len() >= DETACH, move |interrupt| {
            // SAFETY: `out` was just made in this shape, and nobody else has it yet.
            unsafe { driver::run(&source, Operation::Store, operands, axes, interrupt) }
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
        let size = self.mask.size();
        let out = zeros(py, &[size.div_ceil(8) as usize], &numpy::dtype::<u8>(py))?;
        let out = out.cast_into::<PyArray1<u8>>()?;
        let mut lent = out.readwrite();
        let bytes = lent.as_slice_mut()?;
        detached(py, size >= DETACH as u64, move |interrupt| self.mask.packbits_until(bytes, interrupt))?;
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
        detached(py, self.mask.size() >= DETACH as u64, |interrupt| self.mask.count_until(interrupt))
    }

    /// The part of the mask in a box, of the same class.
    fn part<'py>(slf: &Bound<'py, Self>, start: Vec<u64>, shape: Vec<u64>) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        let part = this.mask.region(&start, &shape)?;
        let part = Bound::new(slf.py(), Self { mask: part, key: this.key.clone_ref(slf.py()) })?;
        of_class(part.into_any(), &slf.get_type())
    }
}
