//! The compiled base of `fastdrop.Mask`.

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use super::arguments::{DETACH, detached};
use super::arrays::{axes, data, empty};
use super::key::{PyKey, public_key, published};
use super::view::Held;
use crate::driver;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::operand::{Element, Operands};
use crate::walk::source::Source;

/// A mask.
#[pyclass(name = "Mask", module = "fastdrop._core", frozen, eq, hash, subclass)]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct PyMask(pub(super) Mask);

/// The most axes of a NumPy array.
const MOST_AXES: usize = 64;

/// A shape or a position. Its length is checked before it takes memory, because running out of memory would abort the
/// process.
pub(super) fn dims(lengths: &Bound<'_, PyTuple>, name: &str) -> PyResult<Dims> {
    if lengths.len() > MOST_AXES {
        let text = format!("{name} must have at most {MOST_AXES} axes, got {}", lengths.len());
        return Err(PyValueError::new_err(text));
    }
    lengths.iter_borrowed().map(|len| len.extract()).collect()
}

/// A mask as an object of the public class.
pub(super) fn public_mask(py: Python<'_>, mask: Mask) -> PyResult<Bound<'_, PyAny>> {
    published(Bound::new(py, PyMask(mask))?.into_any(), 1)
}

#[pymethods]
impl PyMask {
    #[new]
    fn new(shape: &Bound<'_, PyTuple>, p: f64, key: PyRef<'_, PyKey>) -> PyResult<Self> {
        Ok(Self(Mask::new(&dims(shape, "shape")?, p, key.0)?))
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
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        public_key(py, self.0.key())
    }

    /// The shape of the whole, p, the key, and the box in the whole: its start and shape.
    #[getter]
    fn parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let dims = |dims: &[u64]| PyTuple::new(py, dims);
        let mask = &self.0;
        let p = mask.probability().get();
        (dims(mask.whole())?, p, public_key(py, mask.key())?, dims(mask.start())?, dims(mask.shape())?)
            .into_pyobject(py)
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
        let out = empty(py, &shape, &numpy::dtype::<bool>(py))?;
        let steps: SmallVec<[isize; 6]> = self.0.steps().iter().map(|step| *step as isize).collect();
        let mut axes = axes(&shape, [out.strides(), &[], &[], &[]], &steps);
        let operands = Operands::new(Element::Bool, data(&out), &[]);
        let source = Source::keep_bits(&self.0);
        detached(py, out.len() >= DETACH, &Held::default(), |interrupt| {
            // SAFETY: `out` was just made in this shape, and nobody else has it yet.
            unsafe { driver::run(&source, Operation::Store, operands, &mut axes, interrupt) }
        })?;
        Ok(out)
    }

    /// Draw the mask as packed bits.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray of uint8, shape (ceil(size / 8),)
    ///     The same as `np.packbits(mask.to_numpy(), axis=None, bitorder="little")`, without the
    ///     boolean array.
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
        let out = empty(py, &[size.div_ceil(8) as usize], &numpy::dtype::<u8>(py))?;
        let operands = Operands::new(Element::Bit, data(&out), &[]);
        detached(py, size >= DETACH as u64, &Held::default(), |interrupt| {
            // SAFETY: `out` was just made with a bit for each element, and nobody else has it yet.
            unsafe { self.0.run(&Source::keep_bits(&self.0), Operation::Pack, operands, interrupt) }
        })?;
        Ok(out)
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
        detached(py, self.0.size() >= DETACH as u64, &Held::default(), |interrupt| self.0.count_until(interrupt))
    }

    /// The part of the mask in a box.
    fn part<'py>(
        &self,
        py: Python<'py>,
        start: &Bound<'py, PyTuple>,
        shape: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        public_mask(py, self.0.region(&dims(start, "start")?, &dims(shape, "shape")?)?)
    }
}
