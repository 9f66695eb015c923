//! Attention with dropout on slices and on views: the API without Python.

use std::marker::PhantomData;

use half::{bf16, f16};
use smallvec::SmallVec;

use crate::attention::{Axes, Call, Gradients, Operand, Upstream, backward, bias_gradient, forward};
use crate::error::{Error, Extents};
use crate::mask::Mask;
use crate::operand::{Element, Float, Format, element_of};
use crate::slices::{NEVER, finite};

/// An element type of attention: [`Float`] without complex numbers.
pub trait Real: Float {
    /// What it is computed in: `f64` for `f64`, and `f32` for the others.
    type Wide: Real;
}

macro_rules! real {
    ($($type:ty => $wide:ty),+) => {$(
        impl Real for $type {
            type Wide = $wide;
        }
    )+};
}
real!(f16 => f32, bf16 => f32, f32 => f32, f64 => f64);

/// Where the elements of an array lie; strides are in bytes.
#[derive(Debug, Clone)]
struct Place {
    first: *mut u8,
    shape: SmallVec<[usize; 4]>,
    strides: SmallVec<[isize; 4]>,
}

impl Place {
    /// Of `len` elements of `size` bytes in C order.
    fn new(first: *mut u8, (len, size): (usize, usize), shape: &[usize]) -> Result<Self, Error> {
        if shape.iter().try_fold(1usize, |size, len| size.checked_mul(*len)) != Some(len) {
            let rule = format!("have as many elements as the shape {}", Extents::from(shape));
            return Err(Error::Operand { what: "the slice", rule, got: len.to_string() });
        }
        let mut strides = SmallVec::from_elem(size as isize, shape.len());
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis] as isize;
        }
        Ok(Self { first, shape: shape.into(), strides })
    }

    fn operand(&self, name: &'static str, element: Element) -> Operand<'_> {
        let format = Format { element, swapped: false };
        Operand { name, first: self.first, format, shape: &self.shape, strides: &self.strides }
    }
}

/// An array that attention reads: a slice in C order or, with the feature `ndarray`, a view of any layout.
#[derive(Debug, Clone)]
pub struct Tensor<'a, T>(Place, PhantomData<&'a [T]>);

/// An array that attention writes. See [`Tensor`].
#[derive(Debug)]
pub struct TensorMut<'a, T>(Place, PhantomData<&'a mut [T]>);

impl<'a, T> Tensor<'a, T> {
    /// A slice as an array of this shape.
    ///
    /// # Errors
    /// [`Error::Operand`] if the slice has another number of elements.
    pub fn new(elements: &'a [T], shape: &[usize]) -> Result<Self, Error> {
        let first = elements.as_ptr().cast_mut().cast();
        Ok(Self(Place::new(first, (elements.len(), size_of::<T>()), shape)?, PhantomData))
    }
}

impl<'a, T> TensorMut<'a, T> {
    /// A slice as an array of this shape.
    ///
    /// # Errors
    /// [`Error::Operand`] if the slice has another number of elements.
    pub fn new(elements: &'a mut [T], shape: &[usize]) -> Result<Self, Error> {
        let first = elements.as_mut_ptr().cast();
        Ok(Self(Place::new(first, (elements.len(), size_of::<T>()), shape)?, PhantomData))
    }
}

#[cfg(feature = "ndarray")]
mod views {
    use ndarray::{ArrayView, ArrayViewMut, Dimension};

    use super::{PhantomData, Place, Tensor, TensorMut};

    fn place<T>(first: *mut T, shape: &[usize], strides: &[isize]) -> Place {
        let strides = strides.iter().map(|step| step * size_of::<T>() as isize).collect();
        Place { first: first.cast(), shape: shape.into(), strides }
    }

    impl<'a, T, D: Dimension> From<ArrayView<'a, T, D>> for Tensor<'a, T> {
        fn from(view: ArrayView<'a, T, D>) -> Self {
            Self(place(view.as_ptr().cast_mut(), view.shape(), view.strides()), PhantomData)
        }
    }

    impl<'a, T, D: Dimension> From<ArrayViewMut<'a, T, D>> for TensorMut<'a, T> {
        fn from(mut view: ArrayViewMut<'a, T, D>) -> Self {
            Self(place(view.as_mut_ptr(), view.shape(), view.strides()), PhantomData)
        }
    }
}

/// What happens to scores before the softmax. Both broadcast to the shape of the weights.
#[derive(Debug, Clone)]
pub enum Bias<'a, T> {
    /// Numbers that are added.
    Added(Tensor<'a, T>),
    /// False where a query does not see a key.
    Seen(Tensor<'a, bool>),
}

/// Attention with dropout of its weights, which are never stored: `y = dropout(softmax(scale * q k^T + bias)) v`.
///
/// The shape of queries is (batch, heads, queries, features), that of keys (batch, key heads, keys, features), and that of
/// values (batch, key heads, keys, width); everywhere the batch may be absent. Consecutive heads of queries share one of
/// keys and values, so the number of these divides theirs. There are at most 256 features, and the width is at most 256.
///
/// Results are rounded once, and have the same bits on every CPU and for every number of threads. Rows that see no key,
/// and those whose weights are all dropped, are 0.
///
/// ```
/// use fastdrop::{Attention, Key, Mask, Tensor, TensorMut};
/// let (shape, x) = ([2, 4, 10, 8], vec![1.0f32; 640]);
/// let [q, k, v] = [Tensor::new(&x, &shape)?, Tensor::new(&x, &shape)?, Tensor::new(&x, &shape)?];
/// let weights = Mask::new(&[2, 4, 10, 10], 0.1, Key::from_seed(1))?;
/// let attention = Attention { causal: Some(0), ..Attention::new(&weights, q, k, v) };
///
/// let (mut y, mut lse) = (vec![0.0; 640], vec![0.0; 80]);
/// attention.forward(TensorMut::new(&mut y, &shape)?, Some(TensorMut::new(&mut lse, &shape[..3])?))?;
///
/// let (dy, mut dq, mut dk, mut dv) = (x.clone(), x.clone(), x.clone(), x.clone());
/// let [dy, y] = [Tensor::new(&dy, &shape)?, Tensor::new(&y, &shape)?];
/// let gradients = [TensorMut::new(&mut dq, &shape)?, TensorMut::new(&mut dk, &shape)?, TensorMut::new(&mut dv, &shape)?];
/// attention.backward(dy, y, Tensor::new(&lse, &shape[..3])?, gradients)?;
/// # Ok::<(), fastdrop::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Attention<'a, T: Real> {
    /// Which weights are dropped: of the shape (batch, heads, queries, keys).
    pub mask: &'a Mask,
    /// Queries.
    pub q: Tensor<'a, T>,
    /// Keys.
    pub k: Tensor<'a, T>,
    /// Values.
    pub v: Tensor<'a, T>,
    /// If given, changes scores before the softmax.
    pub bias: Option<Bias<'a, T>>,
    /// Factor of the products; if not given, 1 / sqrt(features).
    pub scale: Option<f64>,
    /// If given, query i sees the keys up to i plus this.
    pub causal: Option<isize>,
}

impl<'a, T: Real> Attention<'a, T> {
    /// Attention of queries to all keys.
    pub fn new(mask: &'a Mask, q: Tensor<'a, T>, k: Tensor<'a, T>, v: Tensor<'a, T>) -> Self {
        Self { mask, q, k, v, bias: None, scale: None, causal: None }
    }

    /// Writes the result, of the shape (batch, heads, queries, width), and the logarithm of each row's sum of exponentials
    /// of scores, of the shape (batch, heads, queries), which the gradients need.
    ///
    /// # Errors
    /// [`Error::Operand`] for an array or a mask that does not fit the others; [`Error::NotFinite`]; [`Error::Memory`];
    /// an invalid setting in the environment.
    pub fn forward(&self, y: TensorMut<'_, T>, lse: Option<TensorMut<'_, T::Wide>>) -> Result<(), Error> {
        let call = self.call()?;
        let y = call.array(&y.0.operand("y", element_of::<T>()), Axes::Values)?;
        let lse = lse.map(|lse| call.array(&lse.0.operand("lse", element_of::<T::Wide>()), Axes::Rows)).transpose()?;
        // SAFETY: the arrays are borrowed, and `call` checked their shapes. The elements of a mutable array share no
        // memory with each other or with another array.
        unsafe {
            if element_of::<T>().is_double() {
                forward::<f64>(&call, y, lse, NEVER)
            } else {
                forward::<f32>(&call, y, lse, NEVER)
            }
        }
    }

    /// Writes the gradients with respect to queries, keys and values, in their shapes. `dy` is that with respect to `y`;
    /// `y` and `lse` are the results of [`Attention::forward`].
    ///
    /// # Errors
    /// See [`Attention::forward`].
    pub fn backward(
        &self,
        dy: Tensor<'_, T>,
        y: Tensor<'_, T>,
        lse: Tensor<'_, T::Wide>,
        [dq, dk, dv]: [TensorMut<'_, T>; 3],
    ) -> Result<(), Error> {
        let (call, element) = (self.call()?, element_of::<T>());
        let upstream = upstream(&call, &dy, &y, &lse)?;
        let gradients = Gradients {
            query: call.array(&dq.0.operand("dq", element), Axes::Queries)?,
            key: call.array(&dk.0.operand("dk", element), Axes::Keys)?,
            value: call.array(&dv.0.operand("dv", element), Axes::KeyValues)?,
        };
        // SAFETY: as in `forward`.
        unsafe {
            if element.is_double() {
                backward::<f64>(&call, &upstream, &gradients, NEVER)
            } else {
                backward::<f32>(&call, &upstream, &gradients, NEVER)
            }
        }
    }

    /// Adds the gradient with respect to the bias to `gradient`, which has its shape. See [`Attention::backward`].
    ///
    /// # Errors
    /// See [`Attention::forward`]; [`Error::Operand`] if there is no bias of numbers.
    pub fn bias_gradient(
        &self,
        dy: Tensor<'_, T>,
        y: Tensor<'_, T>,
        lse: Tensor<'_, T::Wide>,
        gradient: TensorMut<'_, T::Wide>,
    ) -> Result<(), Error> {
        let call = self.call()?;
        let upstream = upstream(&call, &dy, &y, &lse)?;
        let shape = match &self.bias {
            Some(Bias::Added(bias)) => &bias.0.shape,
            other => {
                let got = if other.is_some() { "booleans" } else { "none" };
                let rule = "be numbers that are added, to have a gradient".to_owned();
                return Err(Error::Operand { what: "bias", rule, got: got.to_owned() });
            }
        };
        if gradient.0.shape != *shape {
            let (rule, got) = (format!("have the shape {}", Extents::from(&shape[..])), &gradient.0.shape[..]);
            return Err(Error::Operand { what: "gradient", rule, got: Extents::from(got).to_string() });
        }
        let mut own = [1; 4];
        own[4 - shape.len()..].copy_from_slice(shape);
        let gradient = call.broadcast(&gradient.0.operand("gradient", element_of::<T::Wide>()))?;
        // SAFETY: as in `forward`.
        unsafe {
            if element_of::<T>().is_double() {
                bias_gradient::<f64>(&call, &upstream, &gradient, own, NEVER)
            } else {
                bias_gradient::<f32>(&call, &upstream, &gradient, own, NEVER)
            }
        }
    }

    fn call(&self) -> Result<Call, Error> {
        let features = self.q.0.shape.last().map_or(1, |features| (*features).max(1));
        let scale = self.scale.map_or_else(|| Ok(1.0 / (features as f64).sqrt()), |scale| finite("scale", scale))?;
        let element = element_of::<T>();
        let [q, k, v] = [(&self.q, "q"), (&self.k, "k"), (&self.v, "v")].map(|(x, name)| x.0.operand(name, element));
        let bias = self.bias.as_ref().map(|bias| match bias {
            Bias::Added(bias) => bias.0.operand("bias", element),
            Bias::Seen(bias) => bias.0.operand("bias", Element::Bool),
        });
        let mut call = Call::new([&q, &k, &v], bias.as_ref(), scale, self.causal)?;
        call.drop(self.mask)?;
        Ok(call)
    }
}

fn upstream<T: Real>(
    call: &Call,
    dy: &Tensor<'_, T>,
    y: &Tensor<'_, T>,
    lse: &Tensor<'_, T::Wide>,
) -> Result<Upstream, Error> {
    Ok(Upstream {
        dy: call.array(&dy.0.operand("dy", element_of::<T>()), Axes::Values)?,
        y: call.array(&y.0.operand("y", element_of::<T>()), Axes::Values)?,
        sums: call.array(&lse.0.operand("lse", element_of::<T::Wide>()), Axes::Rows)?,
    })
}
