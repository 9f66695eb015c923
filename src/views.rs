//! Masks on `ndarray` views, in any memory layout.

use ndarray::{ArrayView, ArrayViewMut, Dimension};

use crate::driver;
use crate::error::{Error, Extents};
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::mask::Mask;
use crate::operand::{Each, Float, INPUTS, Operands, element_of};
use crate::slices::finite;
use crate::walk::source::Source;
use crate::walk::{Axes, Axis};

impl Mask {
    /// [`Mask::apply`] for views of the mask's shape in any layout. Only an element's logical index decides whether it
    /// is kept.
    ///
    /// ```
    /// use fastdrop::{Key, Mask};
    /// use ndarray::Array2;
    /// let mask = Mask::new(&[3, 5], 0.5, Key::from_seed(0))?;
    /// let x = Array2::<f32>::ones((3, 5));
    /// let (mut y, mut transposed) = (x.clone(), Array2::zeros((5, 3)));
    /// mask.apply_view(x.view(), y.view_mut(), None)?;
    /// mask.apply_view(x.view(), transposed.view_mut().reversed_axes(), None)?;
    /// assert_eq!(y, transposed.t());
    /// # Ok::<(), fastdrop::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if a view's shape is not the mask's; otherwise see [`Mask::apply`].
    pub fn apply_view<T: Float, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        out: ArrayViewMut<'_, T, D>,
        scale: Option<f64>,
    ) -> Result<(), Error> {
        let operation = Operation::select(self.scale(scale)?);
        self.run_views(&Source::keep_bits(self), operation, &[x], out)
    }

    /// [`Mask::apply_view`] in place.
    ///
    /// # Errors
    /// See [`Mask::apply_view`].
    pub fn apply_view_in_place<T: Float, D: Dimension>(
        &self,
        mut x: ArrayViewMut<'_, T, D>,
        scale: Option<f64>,
    ) -> Result<(), Error> {
        self.check_shape("x", x.shape())?;
        let operation = Operation::select(self.scale(scale)?);
        let first = x.as_mut_ptr().cast::<u8>();
        let operands = Operands::new(element_of::<T>(), first, &[first.cast_const()]);
        let steps = [x.strides(), x.strides(), &[], &[]];
        // SAFETY: the view is borrowed, has the mask's shape, and its elements share no memory.
        unsafe { driver::run(&Source::keep_bits(self), operation, operands, &mut self.axes::<T>(steps), &|| false) }
    }

    /// [`Mask::fused`] for views of the mask's shape in any layout.
    ///
    /// # Errors
    /// [`Error::Shape`] if a view's shape is not the mask's; otherwise see [`Mask::fused`].
    pub fn fused_view<T: Float, D: Dimension>(
        &self,
        formula: Formula,
        numbers: Numbers,
        inputs: &[ArrayView<'_, T, D>],
        out: ArrayViewMut<'_, T, D>,
    ) -> Result<(), Error> {
        formula.check(numbers, inputs.len(), element_of::<T>())?;
        self.run_views(&Source::keep_bits(self), Operation::Formula(formula, numbers), inputs, out)
    }

    /// [`Mask::gaussian`] for views of the mask's shape in any layout.
    ///
    /// # Errors
    /// [`Error::Shape`] if a view's shape is not the mask's; otherwise see [`Mask::gaussian`].
    pub fn gaussian_view<T: Float, D: Dimension>(
        &self,
        std: f64,
        x: ArrayView<'_, T, D>,
        out: ArrayViewMut<'_, T, D>,
    ) -> Result<(), Error> {
        let operation = Operation::Noise { std: finite("std", std)? };
        self.run_views(&Source::normals(self.key(), self.origin()), operation, &[x], out)
    }

    fn check_shape(&self, what: &'static str, got: &[usize]) -> Result<(), Error> {
        if got.len() == self.shape().len() && got.iter().zip(self.shape()).all(|(got, len)| *got as u64 == *len) {
            return Ok(());
        }
        Err(Error::Shape { what, expected: self.shape().into(), got: Extents::from(got) })
    }

    /// The axes of views of the mask's shape. `strides` are in elements.
    fn axes<T>(&self, strides: Each<&[isize]>) -> Axes {
        let step = |strides: &[isize], axis: usize| strides.get(axis).map_or(0, |step| step * size_of::<T>() as isize);
        (self.shape().iter().zip(&self.steps()).enumerate())
            .map(|(axis, (len, bit))| Axis {
                len: *len as usize,
                steps: strides.map(|strides| step(strides, axis)),
                bit: *bit as isize,
            })
            .collect()
    }

    /// Runs an operation on as many inputs as it takes, after checking all shapes.
    fn run_views<T: Float, D: Dimension>(
        &self,
        source: &Source,
        operation: Operation<'_>,
        inputs: &[ArrayView<'_, T, D>],
        mut out: ArrayViewMut<'_, T, D>,
    ) -> Result<(), Error> {
        for input in inputs {
            self.check_shape("each input", input.shape())?;
        }
        self.check_shape("out", out.shape())?;
        let mut addresses = [std::ptr::null(); INPUTS];
        let first = out.as_mut_ptr().cast();
        let mut strides: Each<&[isize]> = [out.strides(), &[], &[], &[]];
        for (which, input) in inputs.iter().enumerate() {
            addresses[which] = input.as_ptr().cast();
            strides[1 + which] = input.strides();
        }
        let operands = Operands::new(element_of::<T>(), first, &addresses);
        // SAFETY: the views are borrowed and have the mask's shape; the elements of a mutable view
        // share no memory with each other or with any other view.
        unsafe { driver::run(source, operation, operands, &mut self.axes::<T>(strides), &|| false) }
    }
}
