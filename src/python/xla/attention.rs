//! Attention: a call of the core for each position along the axes in front.

use std::ffi::c_uint;

use smallvec::SmallVec;

use super::frame::{Operand, Operands, buffers, element, scalar};
use super::masks::Masks;
use super::{Failure, abi, unexpected};
use crate::attention::{self, Array, Axes, Call, Gradients, Upstream};
use crate::mask::Dims;
use crate::operand::{Element, Format};
use crate::python::arrays::{Lengths, Steps};

/// Position along the axes in front.
type Place = SmallVec<[usize; 4]>;

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn forward(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let &[y, lse] = &results[..] else { return Err(unexpected("number of results")) };
    // SAFETY: as above.
    let calls = unsafe { Calls::new(frame, &operands, y)? };
    let y = calls.result(y, calls.element, Layout::Heads, "result")?;
    let lse = calls.result(lse, calls.computed(), Layout::Heads, "logarithms")?;
    for place in calls.places() {
        // SAFETY: the place is one of the call. `Call` checks shapes, XLA lends the buffers until this call returns, and
        // results share no memory with operands.
        unsafe {
            let (call, _) = calls.at(&place)?;
            let y = call.array(&y.at(&place), Axes::Values)?;
            let lse = Some(call.array(&lse.at(&place), Axes::Rows)?);
            if calls.element.is_double() {
                attention::forward::<f64>(&call, y, lse, &|| false)?;
            } else {
                attention::forward::<f32>(&call, y, lse, &|| false)?;
            }
        }
    }
    Ok(())
}

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn backward(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let &[dq, dk, dv] = &results[..] else { return Err(unexpected("number of results")) };
    let (outputs, operands) = outputs(&operands)?;
    // SAFETY: as above.
    let calls = unsafe { Calls::new(frame, operands, dq)? };
    let outputs = Outputs::new(&calls, outputs)?;
    let results = [
        (calls.result(dq, calls.computed(), Layout::Heads, "gradient")?, Axes::Queries),
        (calls.result(dk, calls.element, Layout::Heads, "gradient")?, Axes::Keys),
        (calls.result(dv, calls.element, Layout::Heads, "gradient")?, Axes::KeyValues),
    ];
    for place in calls.places() {
        // SAFETY: as for `forward`.
        unsafe {
            let (call, drops_all) = calls.at(&place)?;
            let upstream = outputs.at(&call, &place)?;
            let [query, key, value] = results.each_ref().map(|(buffer, axes)| call.array(&buffer.at(&place), *axes));
            let gradients = Gradients { query: query?, key: key?, value: value? };
            if drops_all {
                results.iter().for_each(|(buffer, _)| buffer.clear(&place));
            } else if calls.element.is_double() {
                attention::backward::<f64>(&call, &upstream, &gradients, &|| false)?;
            } else {
                attention::backward::<f32>(&call, &upstream, &gradients, &|| false)?;
            }
        }
    }
    Ok(())
}

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn bias_gradient(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let &[gradient] = &results[..] else { return Err(unexpected("number of results")) };
    let (outputs, operands) = outputs(&operands)?;
    // SAFETY: as above.
    let calls = unsafe { Calls::new(frame, operands, gradient)? };
    let outputs = Outputs::new(&calls, outputs)?;
    let gradient = calls.result(gradient, calls.computed(), Layout::Weights, "gradient")?;
    let own = <[usize; 4]>::try_from(&gradient.shape[..]).ok();
    let own = own.filter(|_| calls.bias.as_ref().is_some_and(|bias| bias.shape == gradient.shape));
    let own = own.ok_or_else(|| unexpected("shape"))?;
    for place in calls.places() {
        // SAFETY: as for `forward`; the core adds to zeros.
        unsafe {
            let (call, drops_all) = calls.at(&place)?;
            let upstream = outputs.at(&call, &place)?;
            let array = call.broadcast(&gradient.at(&place))?;
            gradient.clear(&place);
            if drops_all {
                continue;
            }
            if calls.element.is_double() {
                attention::bias_gradient::<f64>(&call, &upstream, &array, own, &|| false)?;
            } else {
                attention::bias_gradient::<f32>(&call, &upstream, &array, own, &|| false)?;
            }
        }
    }
    Ok(())
}

/// The element type of real numbers or bools.
fn real(dtype: c_uint) -> Result<Element, Failure> {
    let element = if dtype == abi::PRED { Element::Bool } else { element(dtype)? };
    if element.parts() > 1 { Err(unexpected("dtype")) } else { Ok(element) }
}

/// The gradient of the result, the result and the logarithms; and the other operands.
fn outputs<'a, 'b>(operands: &'b Operands<'a>) -> Result<(&'b [Operand<'a>; 3], &'b [Operand<'a>]), Failure> {
    operands.split_first_chunk().ok_or_else(|| unexpected("number of operands"))
}

/// The order of the axes of a buffer, behind those in front.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Batch, queries or keys, heads and, if there are any, features.
    Heads,
    /// Batch, heads, queries, keys.
    Weights,
}

/// A buffer of arrays in the core's order of axes, one for each position along the axes in front.
struct Buffer {
    name: &'static str,
    first: *mut u8,
    format: Format,
    /// Steps along the axes in front, in bytes.
    front: Steps,
    shape: Lengths,
    strides: Steps,
}

impl Buffer {
    fn new(
        operand: Operand<'_>,
        element: Element,
        layout: Layout,
        front: &[i64],
        name: &'static str,
    ) -> Result<Self, Failure> {
        let inner = operand.dims.len().saturating_sub(front.len());
        if !(3..=4).contains(&inner) || !operand.is_behind(front, inner) || real(operand.dtype)? != element {
            return Err(unexpected("shape or dtype"));
        }
        let mut front_steps = operand.steps(operand.dims.len());
        let mut strides: Steps = front_steps.drain(front.len()..).collect();
        let mut shape: Lengths = operand.dims[front.len()..].iter().map(|len| *len as usize).collect();
        if layout == Layout::Heads {
            strides.swap(1, 2);
            shape.swap(1, 2);
        }
        let format = Format { element, swapped: false };
        Ok(Self { name, first: operand.first, format, front: front_steps, shape, strides })
    }

    fn at(&self, place: &Place) -> attention::Operand<'_> {
        let first = self.first.wrapping_offset(offset(&self.front, place));
        let Self { name, format, shape, strides, .. } = self;
        attention::Operand { name, first, format: *format, shape, strides }
    }

    /// Sets the array at a position to 0.
    ///
    /// # Safety
    /// The buffer must be a result, and the position one of it.
    unsafe fn clear(&self, place: &Place) {
        let bytes = self.shape.iter().product::<usize>() * self.format.element.size();
        // SAFETY: arrays of a result are in C order, and the caller may write them.
        unsafe { self.at(place).first.write_bytes(0, bytes) };
    }
}

fn offset(steps: &Steps, place: &Place) -> isize {
    steps.iter().zip(place).map(|(step, at)| step * *at as isize).sum()
}

/// The calls of a frame.
struct Calls<'a> {
    masks: Masks<'a>,
    mask_steps: [Steps; 3],
    element: Element,
    inputs: [Buffer; 3],
    bias: Option<Buffer>,
    scale: f64,
    is_causal: bool,
}

impl<'a> Calls<'a> {
    /// Reads the operands from the queries on, and the attributes; `of` is a result with four axes behind those in front.
    ///
    /// # Safety
    /// The frame must be valid.
    unsafe fn new(frame: &abi::CallFrame, operands: &[Operand<'a>], of: Operand<'a>) -> Result<Self, Failure> {
        let attributes = &frame.attributes;
        // SAFETY: the caller guarantees it.
        let options = unsafe {
            let flag = |name| scalar::<i64>(attributes, name, abi::S64).map(|flag| flag != 0);
            (scalar::<f64>(attributes, "scale", abi::F64), flag("causal"), flag("bias"))
        };
        let (Some(scale), Some(is_causal), Some(has_bias)) = options else {
            return Err(unexpected("attribute"));
        };
        let (inputs, others) = operands.split_first_chunk().ok_or_else(|| unexpected("number of operands"))?;
        let (bias, others) =
            others.split_at_checked(has_bias.into()).ok_or_else(|| unexpected("number of operands"))?;
        // SAFETY: as above.
        let masks = unsafe { Masks::new(frame, others, of, 3)? };
        let &[query, key, value] = inputs;
        let element = real(query.dtype)?;
        if masks.whole.len() != 4 || element == Element::Bool {
            return Err(unexpected("shape"));
        }
        let buffer = |operand, name| Buffer::new(operand, element, Layout::Heads, masks.front, name);
        let inputs = [buffer(query, "query")?, buffer(key, "key")?, buffer(value, "value")?];
        let bias = bias.first().map(|bias| Buffer::new(*bias, real(bias.dtype)?, Layout::Weights, masks.front, "bias"));
        Ok(Self { mask_steps: masks.steps(), masks, element, inputs, bias: bias.transpose()?, scale, is_causal })
    }

    /// The dtype that is computed in.
    fn computed(&self) -> Element {
        Element::number(self.element.is_double(), 1)
    }

    /// A result, which has an array of its own for each position.
    fn result(
        &self,
        operand: Operand<'_>,
        element: Element,
        layout: Layout,
        name: &'static str,
    ) -> Result<Buffer, Failure> {
        if !operand.dims.starts_with(self.masks.front) {
            return Err(unexpected("shape"));
        }
        Buffer::new(operand, element, layout, self.masks.front, name)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let front: Place = self.masks.front.iter().map(|len| *len as usize).collect();
        (0..front.iter().product()).map(move |mut index| {
            let mut place = front.clone();
            for at in place.iter_mut().rev() {
                let len = *at;
                *at = index % len;
                index /= len;
            }
            place
        })
    }

    /// The call at a position, and whether it drops all weights.
    ///
    /// # Safety
    /// The frame must be valid, and the position one of it.
    unsafe fn at(&self, place: &Place) -> Result<(Call, bool), Failure> {
        let offsets = self.mask_steps.each_ref().map(|steps| offset(steps, place));
        let [query, key, value] = self.inputs.each_ref().map(|buffer| buffer.at(place));
        let bias = self.bias.as_ref().map(|bias| bias.at(place));
        let mut extents: Dims = query.shape[..3].iter().map(|len| *len as u64).collect();
        extents.push(key.shape[2] as u64);
        // SAFETY: the caller guarantees it.
        let mask = unsafe { self.masks.at(offsets, &extents)? };
        let &[_, _, query_start, key_start] = mask.start() else { return Err(unexpected("shape")) };
        let causal = self.is_causal.then(|| query_start.wrapping_sub(key_start) as isize);
        let mut call = Call::new([&query, &key, &value], bias.as_ref(), self.scale, causal)?;
        call.drop(&mask)?;
        Ok((call, mask.probability().get() == 1.0))
    }
}

/// What the forward pass computed, and its gradient.
struct Outputs {
    dy: Buffer,
    y: Buffer,
    lse: Buffer,
}

impl Outputs {
    fn new(calls: &Calls<'_>, &[dy, y, lse]: &[Operand<'_>; 3]) -> Result<Self, Failure> {
        let buffer = |operand, element, name| Buffer::new(operand, element, Layout::Heads, calls.masks.front, name);
        Ok(Self {
            dy: buffer(dy, calls.element, "gradient")?,
            y: buffer(y, calls.element, "result")?,
            lse: buffer(lse, calls.computed(), "logarithms")?,
        })
    }

    fn at(&self, call: &Call, place: &Place) -> Result<Upstream, Failure> {
        let array = |buffer: &Buffer, axes| -> Result<Array, Failure> { Ok(call.array(&buffer.at(place), axes)?) };
        Ok(Upstream {
            dy: array(&self.dy, Axes::Values)?,
            y: array(&self.y, Axes::Values)?,
            sums: array(&self.lse, Axes::Rows)?,
        })
    }
}
