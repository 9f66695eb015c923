//! Dropout of the elements of an array, and blocks of random bits.

use smallvec::SmallVec;

use super::frame::{Operand, buffers, element, scalar};
use super::masks::{Masks, key_at};
use super::{Failure, abi, unexpected};
use crate::driver;
use crate::kernel::Operation;
use crate::mask::Dims;
use crate::operand;
use crate::python::arrays::{Steps, shared_steps};
use crate::stream::key::Key;
use crate::walk::source::Source;
use crate::walk::{Axes, Axis, Cursor, positions};

/// # Safety
/// See [`super::handle`].
pub(super) unsafe fn apply_masks(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid.
    let (results, operands) = unsafe { (buffers(&frame.results)?, buffers(&frame.operands)?) };
    let (&[out], &[x, ref others @ ..]) = (&results[..], &operands[..]) else {
        return Err(unexpected("number of operands or results"));
    };
    // SAFETY: as above.
    let masks = unsafe { Masks::new(frame, others, out, 0)? };
    let element = element(out.dtype)?;
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
        let mask = unsafe { masks.at([place.offsets[2], place.offsets[3], place.bit], &extents)? };
        let sizes: SmallVec<[usize; 6]> = extents.iter().map(|len| *len as usize).collect();
        let bits: Steps = mask.steps().iter().map(|step| *step as isize).collect();
        let bits = shared_steps(&sizes, &bits, &shape);
        let mut axes: Axes = shared.iter().map(|axis| Axis { bit: 0, ..*axis }).collect();
        axes.extend(shape.iter().enumerate().map(|(axis, len)| {
            let [out, x] = [0, 1].map(|which: usize| steps[which][front.len() + axis]);
            Axis { len: *len, steps: [out, x, 0, 0], bit: bits[axis] }
        }));
        let operands = operand::Operands::new(element, at(out, 0).cast_mut(), &[at(x, 1)]);
        let operation = Operation::select(mask.scale(None)?);
        // SAFETY: the axes are those of the buffers, which XLA lends for the call; the result is in C order and shares
        // no memory with the operands, or is the first one.
        unsafe { driver::run(&Source::keep_bits(&mask), operation, operands, &mut axes, &|| false)? };
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
