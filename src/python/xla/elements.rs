//! Dropout of the elements of an array, uniforms, and blocks of random bits.

use smallvec::SmallVec;

use super::frame::{Operand, buffers, element, scalar};
use super::masks::{Masks, key_at};
use super::{Failure, abi, unexpected};
use crate::driver;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::kernel::relaxed::Relaxed;
use crate::mask::{Dims, Mask};
use crate::operand::{self, Element};
use crate::python::arrays::{Steps, shared_steps};
use crate::stream::key::Key;
use crate::walk::source::Source;
use crate::walk::{Axes, Axis, Cursor, positions};

/// What becomes of the elements.
#[derive(Clone, Copy)]
enum Work {
    /// Kept ones are divided by 1 - p, the others 0.
    Scale,
    /// Kept ones stay, the others are 0.
    Keep,
    /// Dropped ones stay, the others are 0.
    Complement,
    /// All are multiplied by normal noise.
    Noise,
    /// All are multiplied by relaxed decisions, which have the logit of p in place of p.
    Relaxed { temperature: f64 },
}

impl Work {
    /// Reads the attributes, and returns their number.
    ///
    /// # Safety
    /// The attributes must be valid.
    unsafe fn new(attributes: &abi::Attributes) -> Result<(Self, i64), Failure> {
        // SAFETY: the caller guarantees it.
        let (number, temperature) = unsafe {
            (scalar::<i64>(attributes, "operation", abi::S64), scalar::<f64>(attributes, "temperature", abi::F64))
        };
        let work = match (number, temperature) {
            (None, None) => return Ok((Self::Scale, 0)),
            (Some(1), None) => Self::Keep,
            (Some(2), None) => Self::Complement,
            (Some(3), None) => Self::Noise,
            (Some(4), Some(temperature)) => Self::Relaxed { temperature },
            _ => return Err(unexpected("operation")),
        };
        Ok((work, 1 + i64::from(temperature.is_some())))
    }

    /// The source and the operation of a call with this p, or logit.
    fn on(self, mask: &Mask, p: f64) -> Result<(Source, Operation<'static>), Failure> {
        let bits = Source::keep_bits(mask);
        Ok(match self {
            Self::Scale => (bits, Operation::select(mask.scale(None)?)),
            Self::Noise if p > 0.0 && p < 1.0 => {
                (Source::normals(mask.key(), mask.origin()), Operation::Noise { std: (p / (1.0 - p)).sqrt() })
            }
            Self::Keep | Self::Noise => (bits, Operation::select(1.0)),
            Self::Complement => (bits, Operation::Formula(Formula::Complement, Numbers::scale(1.0))),
            Self::Relaxed { temperature } => {
                let relaxed = Relaxed { logit: p, temperature, order: 0 };
                (Source::uniforms(mask.key(), mask.origin()), Operation::Relaxed(relaxed))
            }
        })
    }
}

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn apply_masks(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let (&[out], &[x, ref others @ ..]) = (&results[..], &operands[..]) else {
        return Err(unexpected("number of operands or results"));
    };
    // SAFETY: as above.
    let (masks, work) = unsafe {
        let (work, attributes) = Work::new(&frame.attributes)?;
        (Masks::new(frame, others, out, attributes)?, work)
    };
    let element = element(out.dtype)?;
    let is_relaxed = matches!(work, Work::Relaxed { .. });
    if is_relaxed && element.parts() > 1 {
        return Err(unexpected("dtype"));
    }
    let (front, inner) = out.dims.split_at(masks.front.len());
    if x.dtype != out.dtype || !x.fits(front, inner) {
        return Err(unexpected("shape"));
    }
    let shape: SmallVec<[usize; 6]> = inner.iter().map(|len| *len as usize).collect();
    let extents = masks.whole.iter().zip(inner).map(|(whole, len)| if *whole == 1 { 1 } else { *len as u64 });
    let extents: Dims = extents.collect();
    let steps = [out.steps(out.dims.len()), x.steps(x.dims.len())];
    let [key_steps, p_steps, start_steps] = masks.steps();
    let step = |steps: &Steps, axis: usize| steps.get(axis).copied().unwrap_or(0);
    // Axes with steps of output, input, key and p, and of the start as `bit`. Each position along `calls` has decisions
    // of its own.
    let (mut calls, mut shared) = (Axes::new(), Axes::new());
    for (axis, len) in front.iter().enumerate() {
        let (out, x, bit) = (steps[0][axis], step(&steps[1], axis), step(&start_steps, axis));
        let steps = [out, x, step(&key_steps, axis), step(&p_steps, axis)];
        let own = steps[2] != 0 || steps[3] != 0 || bit != 0;
        if own { &mut calls } else { &mut shared }.push(Axis { len: *len as usize, steps, bit });
    }
    if out.dims.contains(&0) {
        return Ok(());
    }
    let mut cursor = Cursor::at(&calls, 0);
    for _ in 0..positions(&calls) {
        let place = cursor.place();
        let at = |operand: Operand<'_>, which: usize| operand.first.wrapping_offset(place.offsets[which]).cast_const();
        // SAFETY: offsets along axes of the operands stay inside them.
        let (mask, p) = unsafe {
            let p = masks.p(place.offsets[3]);
            // Uniforms are the same for every p.
            (masks.with(if is_relaxed { 0.5 } else { p }, place.offsets[2], place.bit, &extents)?, p)
        };
        let sizes: SmallVec<[usize; 6]> = extents.iter().map(|len| *len as usize).collect();
        let bits: Steps = mask.steps().iter().map(|step| *step as isize).collect();
        let bits = shared_steps(&sizes, &bits, &shape);
        let mut axes: Axes = shared.iter().map(|axis| Axis { bit: 0, ..*axis }).collect();
        axes.extend(shape.iter().enumerate().map(|(axis, len)| {
            let [out, x] = [0, 1].map(|which: usize| steps[which][front.len() + axis]);
            Axis { len: *len, steps: [out, x, 0, 0], bit: bits[axis] }
        }));
        let operands = operand::Operands::new(element, at(out, 0).cast_mut(), &[at(x, 1)]);
        let (source, operation) = work.on(&mask, p)?;
        // SAFETY: the axes are those of the buffers, which XLA lends for the call; the result is in C order and shares
        // no memory with the operands, or is the first one.
        unsafe { driver::run(&source, operation, operands, &mut axes, &|| false)? };
        cursor.advance();
    }
    Ok(())
}

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn draw_uniforms(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let &[out] = &results[..] else { return Err(unexpected("number of results")) };
    let out = out.doubled().filter(|out| out.dtype == abi::U32).ok_or_else(|| unexpected("shape"))?;
    // SAFETY: as above.
    let masks = unsafe { Masks::new(frame, &operands, out, 0)? };
    let inner = &out.dims[masks.front.len()..];
    if out.dims.contains(&0) {
        return Ok(());
    }
    let steps = out.steps(out.dims.len());
    let others = masks.steps();
    let front: Axes = (masks.front.iter().enumerate())
        .map(|(axis, len)| {
            let [key, _, start] = others.each_ref().map(|steps| steps.get(axis).copied().unwrap_or(0));
            Axis { len: *len as usize, steps: [steps[axis], key, 0, 0], bit: start }
        })
        .collect();
    let extents: Dims = inner.iter().map(|len| *len as u64).collect();
    let mut cursor = Cursor::at(&front, 0);
    for _ in 0..positions(&front) {
        let place = cursor.place();
        // SAFETY: offsets along axes of the operands stay inside them.
        let mask = unsafe { masks.with(0.5, place.offsets[1], place.bit, &extents)? };
        let axis = |(axis, bit): (usize, &u64)| Axis {
            len: inner[axis] as usize,
            steps: [steps[masks.front.len() + axis], 0, 0, 0],
            bit: *bit as isize,
        };
        let mut axes: Axes = mask.steps().iter().enumerate().map(axis).collect();
        let first = out.first.wrapping_offset(place.offsets[0]);
        let source = Source::uniforms(mask.key(), mask.origin());
        let operands = operand::Operands::new(Element::U64, first, &[]);
        // SAFETY: as for `apply_masks`; a pair of words has the size of a uniform, and XLA aligns buffers further.
        unsafe { driver::run(&source, Operation::Store, operands, &mut axes, &|| false)? };
        cursor.advance();
    }
    Ok(())
}

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn draw_blocks(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands, tag) = unsafe {
        (buffers(&frame.results)?, buffers(&frame.operands)?, scalar::<i64>(&frame.attributes, "tag", abi::S64))
    };
    let (&[out], &[key, index], Some(tag), 1) =
        (&results[..], &operands[..], tag.and_then(|tag| u8::try_from(tag).ok()), frame.attributes.len)
    else {
        return Err(unexpected("number of operands, results or attributes"));
    };
    let front = out.dims.strip_suffix(&[4]).ok_or_else(|| unexpected("shape"))?;
    let words = out.dtype == abi::U32 && key.dtype == abi::U32 && matches!(index.dtype, abi::U32 | abi::U64);
    if frame.stage != abi::EXECUTE || !words || !key.fits(front, &[4]) || !index.fits(front, &[]) {
        return Err(unexpected("shape"));
    }
    if front.contains(&0) {
        return Ok(());
    }
    let steps = [out, key, index].map(|operand| operand.steps(front.len()));
    let axis = |axis: usize| Axis {
        len: front[axis] as usize,
        steps: [steps[0][axis], steps[1][axis], steps[2][axis], 0],
        bit: 0,
    };
    let axes: Axes = (0..front.len()).map(axis).collect();
    let mut cursor = Cursor::at(&axes, 0);
    for _ in 0..positions(&axes) {
        let [to, from, at, _] = cursor.place().offsets;
        // SAFETY: offsets along axes of the operands stay inside them.
        unsafe {
            let key = Key::from_bytes(key_at(key.first.wrapping_offset(from)));
            let from = index.first.wrapping_offset(at).cast_const();
            let index = match index.dtype {
                abi::U32 => u64::from(from.cast::<u32>().read_unaligned()),
                _ => from.cast::<u64>().read_unaligned(),
            };
            let block = key.block(index, tag);
            let block: [u32; 4] = std::array::from_fn(|word| u32::from_le_bytes(block.as_chunks().0[word]));
            out.first.wrapping_offset(to).cast::<[u32; 4]>().write_unaligned(block);
        }
        cursor.advance();
    }
    Ok(())
}
