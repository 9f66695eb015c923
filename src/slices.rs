//! Masks and keys on slices: the API without Python.

use std::sync::atomic::AtomicU64;

use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::mask::Mask;
use crate::operand::{Each, Element, Float, INPUTS, Operands, element_of};
use crate::stream::bernoulli::Threshold;
use crate::stream::key::Key;
use crate::threads::batches::Interrupt;
use crate::walk::source::{MaskArray, Source};
use crate::walk::{Axes, Axis};

/// Calls on slices cannot be interrupted.
pub(crate) const NEVER: Interrupt<'static> = &|| false;

impl Mask {
    /// `kept ? x * scale : 0` for all elements in C order; scale `None` is 1 / (1 - p).
    ///
    /// ```
    /// use fastdrop::{Key, Mask};
    /// let mask = Mask::new(&[8], 0.5, Key::from_seed(0))?;
    /// let mut y = [0.0f32; 8];
    /// mask.apply(&[1.0; 8], &mut y, None)?;
    /// assert!(y.iter().all(|y| *y == 0.0 || *y == 2.0));
    /// # Ok::<(), fastdrop::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if a slice's size is not the mask's; [`Error::NotFinite`]; an invalid setting in the
    /// environment.
    pub fn apply<T: Float>(&self, x: &[T], out: &mut [T], scale: Option<f64>) -> Result<(), Error> {
        self.check_length("x", x.len())?;
        self.check_length("out", out.len())?;
        let operation = Operation::select(self.scale(scale)?);
        let operands = Operands::new(element_of::<T>(), out.as_mut_ptr().cast(), &[x.as_ptr().cast()]);
        // SAFETY: the slices are borrowed, and have as many elements as the mask.
        unsafe { self.run(&Source::keep_bits(self), operation, operands, NEVER) }
    }

    /// [`Mask::apply`] in place.
    ///
    /// # Errors
    /// See [`Mask::apply`].
    pub fn apply_in_place<T: Float>(&self, x: &mut [T], scale: Option<f64>) -> Result<(), Error> {
        self.check_length("x", x.len())?;
        let operation = Operation::select(self.scale(scale)?);
        let x = x.as_mut_ptr().cast::<u8>();
        let operands = Operands::new(element_of::<T>(), x, &[x.cast_const()]);
        // SAFETY: the slice is borrowed, and has as many elements as the mask.
        unsafe { self.run(&Source::keep_bits(self), operation, operands, NEVER) }
    }

    /// A fused operation: dropout combined with a residual, bias or activation in one pass. `inputs` are as many of x,
    /// a and b as the formula takes.
    ///
    /// ```
    /// use fastdrop::{Formula, Key, Mask, Numbers};
    /// let mask = Mask::new(&[4], 0.5, Key::from_seed(0))?;
    /// let mut y = [0.0f64; 4];
    /// // A residual connection: a + dropout(x).
    /// mask.fused(Formula::Add, Numbers::scale(2.0), &[&[1.0; 4], &[10.0; 4]], &mut y)?;
    /// assert!(y.iter().all(|y| *y == 10.0 || *y == 12.0));
    /// # Ok::<(), fastdrop::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Inputs`] for a wrong number of inputs, or complex ones that the formula does not take; otherwise see
    /// [`Mask::apply`].
    pub fn fused<T: Float>(
        &self,
        formula: Formula,
        numbers: Numbers,
        inputs: &[&[T]],
        out: &mut [T],
    ) -> Result<(), Error> {
        let element = element_of::<T>();
        formula.check(numbers, inputs.len(), element)?;
        for input in inputs {
            self.check_length("each input", input.len())?;
        }
        self.check_length("out", out.len())?;
        let mut addresses = [std::ptr::null(); INPUTS];
        for (address, input) in addresses.iter_mut().zip(inputs) {
            *address = input.as_ptr().cast();
        }
        let operands = Operands::new(element, out.as_mut_ptr().cast(), &addresses);
        // SAFETY: the slices are borrowed, and have as many elements as the mask.
        unsafe { self.run(&Source::keep_bits(self), Operation::Formula(formula, numbers), operands, NEVER) }
    }

    /// Gaussian dropout: `x * (1 + std * z)` with the standard normal numbers z of the mask's elements. The mask's p
    /// plays no part. A `std` of sqrt(p / (1 - p)) gives noise of the same variance as dropout with p.
    ///
    /// # Errors
    /// See [`Mask::apply`]; [`Error::NotFinite`] if `std` is not finite.
    pub fn gaussian<T: Float>(&self, std: f64, x: &[T], out: &mut [T]) -> Result<(), Error> {
        self.check_length("x", x.len())?;
        self.check_length("out", out.len())?;
        let operands = Operands::new(element_of::<T>(), out.as_mut_ptr().cast(), &[x.as_ptr().cast()]);
        let operation = Operation::Noise { std: finite("std", std)? };
        let source = Source::normals(self.key(), self.origin());
        // SAFETY: the slices are borrowed, and have as many elements as the mask.
        unsafe { self.run(&source, operation, operands, NEVER) }
    }

    /// Writes the mask in C order; true means kept.
    ///
    /// # Errors
    /// [`Error::Length`] if the size of `out` is not the mask's; an invalid setting in the environment.
    pub fn to_bools(&self, out: &mut [bool]) -> Result<(), Error> {
        self.check_length("out", out.len())?;
        let operands = Operands::new(Element::Bool, out.as_mut_ptr().cast(), &[]);
        // SAFETY: the slice is borrowed, and has as many elements as the mask; bytes 0 and 1 are bools.
        unsafe { self.run(&Source::keep_bits(self), Operation::Store, operands, NEVER) }
    }

    /// Writes the mask as packed bits in C order, eight to a byte, the first in the lowest bit. The
    /// last byte is padded with zeros.
    ///
    /// # Errors
    /// [`Error::Length`] unless `bytes` has one byte per eight elements, rounded up; an invalid setting in the
    /// environment.
    pub fn packbits(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let expected = self.size().div_ceil(8);
        if bytes.len() as u64 != expected {
            return Err(Error::Length { what: "bytes", expected, got: bytes.len() as u64 });
        }
        let operands = Operands::new(Element::Bit, bytes.as_mut_ptr(), &[]);
        // SAFETY: the slice is borrowed, and has a bit for each element of the mask.
        unsafe { self.run(&Source::keep_bits(self), Operation::Pack, operands, NEVER) }
    }

    /// Number of kept elements.
    ///
    /// # Errors
    /// An invalid setting in the environment.
    pub fn count(&self) -> Result<u64, Error> {
        self.count_until(NEVER)
    }

    /// [`Mask::count`] until the interrupt asks to stop.
    pub(crate) fn count_until(&self, interrupt: Interrupt<'_>) -> Result<u64, Error> {
        match self.probability().threshold() {
            Threshold::KeepAll => return Ok(self.size()),
            Threshold::DropAll => return Ok(0),
            Threshold::Below(_) => {}
        }
        let total = AtomicU64::new(0);
        let operands = Operands::new(Element::Bit, std::ptr::null_mut(), &[]);
        // SAFETY: the operation reads and writes no array.
        unsafe { self.run(&Source::keep_bits(self), Operation::Count(&total), operands, interrupt)? };
        Ok(total.into_inner())
    }

    fn check_length(&self, what: &'static str, got: usize) -> Result<(), Error> {
        check_length(what, self.size(), got)
    }

    pub(crate) fn scale(&self, scale: Option<f64>) -> Result<f64, Error> {
        scale.map_or_else(|| Ok(self.probability().inverted_scale()), |scale| finite("scale", scale))
    }

    /// Runs an operation on arrays of the mask's shape in C order.
    ///
    /// # Safety
    /// The operation's arrays must have as many elements as the mask, and nobody else may touch
    /// them during the call. The output must be one of the inputs, or overlap none.
    pub(crate) unsafe fn run(
        &self,
        source: &Source,
        operation: Operation<'_>,
        operands: Operands,
        interrupt: Interrupt<'_>,
    ) -> Result<(), Error> {
        let mut axes = Axes::new();
        let mut step = operands.element().size() as isize;
        for (len, bit) in self.shape().iter().zip(&self.steps()).rev() {
            axes.insert(0, Axis { len: *len as usize, steps: [step; 1 + INPUTS], bit: *bit as isize });
            step = step.wrapping_mul(*len as isize);
        }
        // SAFETY: the axes reach the elements that the caller guarantees.
        unsafe { driver::run(source, operation, operands, &mut axes, interrupt) }
    }
}

impl Key {
    /// The uniforms of elements `first`, `first + 1`, ... of this key's stream: 64-bit integers. A
    /// mask of this key drops elements whose uniform is below p 2^64.
    ///
    /// # Errors
    /// An invalid setting in the environment.
    pub fn uniforms(self, first: u64, out: &mut [u64]) -> Result<(), Error> {
        store(&Source::uniforms(self, first), Element::U64, out)
    }

    /// The standard normal numbers of elements `first`, `first + 1`, ... of this key's stream, which [`Mask::gaussian`]
    /// uses.
    ///
    /// # Errors
    /// An invalid setting in the environment.
    pub fn normals(self, first: u64, out: &mut [f32]) -> Result<(), Error> {
        store(&Source::normals(self, first), Element::F32, out)
    }
}

/// Stores values of this element type.
fn store<T>(source: &Source, element: Element, out: &mut [T]) -> Result<(), Error> {
    assert!(size_of::<T>() == element.size());
    let steps: Each<isize> = [size_of::<T>() as isize, 0, 0, 0];
    let mut axes = Axes::from_iter([Axis { len: out.len(), steps, bit: 1 }]);
    let operands = Operands::new(element, out.as_mut_ptr().cast(), &[]);
    // SAFETY: the slice is borrowed, and the axis covers its elements.
    unsafe { driver::run(source, Operation::Store, operands, &mut axes, NEVER) }
}

/// `kept ? x * scale : 0` with given keep bits instead of drawn ones.
///
/// ```
/// let mut y = [0.0f32; 3];
/// fastdrop::apply_bools(&[true, false, true], &[1.0, f32::NAN, 3.0], &mut y, 2.0)?;
/// assert_eq!(y, [2.0, 0.0, 6.0]);
/// # Ok::<(), fastdrop::Error>(())
/// ```
///
/// # Errors
/// See [`Mask::apply`].
pub fn apply_bools<T: Float>(keep: &[bool], x: &[T], out: &mut [T], scale: f64) -> Result<(), Error> {
    check_length("x", keep.len() as u64, x.len())?;
    check_length("out", keep.len() as u64, out.len())?;
    let operation = Operation::select(finite("scale", scale)?);
    let operands = Operands::new(element_of::<T>(), out.as_mut_ptr().cast(), &[x.as_ptr().cast()]);
    let mut axes = Axes::from_iter([Axis { len: keep.len(), steps: [size_of::<T>() as isize; 1 + INPUTS], bit: 1 }]);
    // SAFETY: the slices are borrowed, and have as many elements as `keep` has bytes.
    unsafe {
        let source = Source::Given(MaskArray::new(keep.as_ptr().cast()));
        driver::run(&source, operation, operands, &mut axes, NEVER)
    }
}

fn check_length(what: &'static str, expected: u64, got: usize) -> Result<(), Error> {
    let got = got as u64;
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

pub(crate) fn finite(what: &'static str, got: f64) -> Result<f64, Error> {
    if got.is_finite() { Ok(got) } else { Err(Error::NotFinite { what, got }) }
}
