//! Arrays as they were when a call began.
//!
//! Python code may run in the middle of a call: signal handlers, finalizers, and other threads while the interpreter is
//! released. It may change the shape, strides and dtype of an array. So a call reads each array once, before any of
//! that, and works with what it read.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arrays::{Array, Lengths, Steps, base, data, dtype, empty, swapped};
use crate::operand::{Element, Format};

/// An array or a tensor: where its elements are, and what they are.
#[derive(Clone)]
pub(super) struct View<'py> {
    /// Keeps the memory alive, unless somebody resizes the array.
    pub(super) owner: Bound<'py, PyAny>,
    pub(super) first: *mut u8,
    pub(super) format: Format,
    pub(super) shape: Lengths,
    pub(super) strides: Steps,
    /// Whether the elements are adjacent, in C order.
    pub(super) is_contiguous: bool,
}

impl<'py> View<'py> {
    /// The view of an array whose dtype means this element.
    #[inline]
    pub(super) fn new(array: &Array<'py>, element: Element) -> Self {
        Self {
            owner: array.as_any().clone(),
            first: data(array),
            format: Format { element, swapped: swapped(&dtype(array)) },
            shape: Lengths::from_slice(array.shape()),
            strides: Steps::from_slice(array.strides()),
            is_contiguous: array.is_c_contiguous(),
        }
    }

    /// New memory for elements of this type, in the shape of `like` and its order of axes.
    pub(super) fn temporary(like: &Self, element: Element) -> PyResult<Self> {
        let py = like.owner.py();
        let mut order: SmallVec<[usize; 6]> = (0..like.shape.len()).collect();
        order.sort_by_key(|axis| like.strides[*axis].unsigned_abs());
        let mut strides = Steps::from_elem(0, like.shape.len());
        let mut step = element.size();
        for axis in order {
            strides[axis] = step as isize;
            step *= like.shape[axis];
        }
        let memory = empty(py, &[step], &numpy::dtype::<u8>(py))?;
        let format = Format { element, swapped: false };
        let (first, shape) = (data(&memory), like.shape.clone());
        Ok(Self { owner: memory.into_any(), first, format, shape, strides, is_contiguous: false })
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has this shape, and its elements are adjacent, in C order.
    pub(super) fn follows(&self, shape: &[usize]) -> bool {
        self.is_contiguous && self.shape[..] == *shape
    }

    /// Whether each element is the element of `other` at the same position.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.first == other.first
            && self.format == other.format
            && self.strides == other.strides
            && self.shape == other.shape
    }

    /// The addresses of its elements: from the first byte to one past the last.
    fn span(&self) -> (usize, usize) {
        let (first, size) = (self.first.addr(), self.format.element.size());
        if self.is_contiguous {
            return (first, first + self.len() * size);
        }
        if self.shape.contains(&0) {
            return (first, first);
        }
        let (mut low, mut high) = (first, first + size);
        for (len, stride) in self.shape.iter().zip(&self.strides) {
            let reach = (*len as isize - 1).wrapping_mul(*stride);
            if reach < 0 { low = low.wrapping_add_signed(reach) } else { high = high.wrapping_add_signed(reach) }
        }
        (low, high)
    }

    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        let ((low, high), (other_low, other_high)) = (self.span(), other.span());
        low < other_high && other_low < high
    }

    /// Whether the strides show, without a full search, that no two elements share memory.
    pub(super) fn surely_disjoint(&self) -> bool {
        if self.is_contiguous {
            return true;
        }
        let mut steps: SmallVec<[(usize, usize); 6]> = (self.shape.iter().zip(&self.strides))
            .filter(|(len, _)| **len > 1)
            .map(|(len, stride)| (stride.unsigned_abs(), *len))
            .collect();
        steps.sort_unstable();
        let mut span = self.format.element.size();
        steps.into_iter().all(|(stride, len)| {
            let fits = stride >= span;
            span += stride * (len - 1);
            fits
        })
    }
}

/// Memory that must stay alive until a call ends.
///
/// A reference to an array keeps its memory alive, except when a program calls `resize(refcheck=False)`, `__setstate__`
/// and the like. NumPy leaves these to its users. Users can keep other threads from such calls, but not a signal
/// handler.
#[derive(Default)]
pub(super) struct Held {
    /// Arrays that own memory, with its address and size.
    arrays: SmallVec<[(Py<PyUntypedArray>, usize, usize); 4]>,
    /// Whether some memory belongs to other objects, so that `check` cannot watch it.
    pub(super) elsewhere: bool,
}

impl Held {
    pub(super) fn hold(&mut self, view: &View<'_>) {
        let Ok(array) = view.owner.cast::<PyUntypedArray>() else {
            self.elsewhere = true;
            return;
        };
        let mut array = array.clone();
        while let Some(base) = base(&array) {
            let Ok(base) = base.cast_into() else {
                self.elsewhere = true;
                return;
            };
            array = base;
        }
        let (address, size) = memory(&array);
        self.arrays.push((array.unbind(), address, size));
    }

    /// Raises RuntimeError if an array has other memory than before.
    pub(super) fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.arrays.iter().all(|(array, address, size)| memory(array.bind(py)) == (*address, *size)) {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "the arrays of a call must keep their memory until it ends, but a signal handler resized or replaced one",
        ))
    }
}

/// Address and size of the memory that an array owns.
fn memory(array: &Array<'_>) -> (usize, usize) {
    (data(array).addr(), array.len() * dtype(array).itemsize())
}
