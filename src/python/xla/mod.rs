//! Handlers that compiled JAX programs call, through XLA's foreign function interface. It is plain C, so the build
//! needs no jaxlib. Handlers run without the interpreter.

mod abi;

use std::any::Any;
use std::ffi::{CString, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::ffi::PyCapsule_New;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smallvec::SmallVec;

use super::arrays::{Steps, shared_steps};
use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::operand::{self, Element};
use crate::stream::ars::joined;
use crate::stream::key::Key;
use crate::walk::source::Source;
use crate::walk::{Axes, Axis, Cursor, positions};

type Handler = unsafe extern "C" fn(frame: *mut abi::CallFrame) -> *mut c_void;

/// The handlers by name, as capsules for `jax.ffi.register_ffi_target`.
#[pyfunction]
pub(super) fn xla_handlers(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let handlers = PyDict::new(py);
    for (name, handler) in [("dropout", dropout as Handler), ("blocks", blocks)] {
        // SAFETY: a capsule of a function, which lives as long as the process; it has no name and no destructor.
        let capsule =
            unsafe { Bound::from_owned_ptr_or_err(py, PyCapsule_New(handler as *mut c_void, std::ptr::null(), None))? };
        handlers.set_item(name, capsule)?;
    }
    Ok(handlers)
}

/// Why a call failed: a code of the interface, and a sentence.
struct Failure(c_uint, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error == Error::Memory { abi::RESOURCE_EXHAUSTED } else { abi::INVALID_ARGUMENT };
        Self(code, error.to_string())
    }
}

fn unexpected(what: &str) -> Failure {
    Failure(abi::INVALID_ARGUMENT, format!("fastdrop was called with an unexpected {what}"))
}

/// Multiplies kept elements by 1 / (1 - p) and sets the others to 0.
///
/// Operands:
/// - the elements;
/// - the key, 4 uint32;
/// - if `whole` contains -1, the lengths that it leaves open, integers;
/// - p, a float, unless it is an attribute;
/// - if the elements do not start the whole, the position of the first one in it, an integer per axis.
///
/// All operands but the lengths may have more axes in front, as many as the elements have. Each position along these
/// axes is a call of its own. A length of 1 broadcasts along them.
///
/// Attributes: `whole`, the mask's whole shape, with 1 along axes that share decisions; and `p`.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn dropout(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: XLA promises a frame that is valid for the call.
    unsafe { handle(frame, apply_masks) }
}

/// The blocks of keys.
///
/// Operands: the key, 4 uint32; the index, a uint32 or uint64. Axes in front: see `dropout`. Attribute: `tag`, an
/// int64.
///
/// # Safety
/// See [`handle`].
unsafe extern "C" fn blocks(frame: *mut abi::CallFrame) -> *mut c_void {
    // SAFETY: as above.
    unsafe { handle(frame, draw_blocks) }
}

/// # Safety
/// The frame must be valid, with its buffers and attributes, and only this call may use its results.
unsafe fn handle(frame: *mut abi::CallFrame, work: unsafe fn(&abi::CallFrame) -> Result<(), Failure>) -> *mut c_void {
    // SAFETY: the caller guarantees the frame. An extension of this kind has this struct.
    let (frame, metadata) = unsafe {
        let frame = &*frame;
        let asked = frame.extension.as_ref().is_some_and(|extension| extension.kind == abi::METADATA);
        (frame, if asked { (*frame.extension.cast::<abi::MetadataExtension>()).metadata } else { null_mut() })
    };
    // SAFETY: every frame has the interface, even a request for metadata, from jaxlib 0.9 on.
    let api = unsafe { &*frame.api };
    // SAFETY: null, or to be filled in by this call.
    if let Some(metadata) = unsafe { metadata.as_mut() } {
        // The parts in use are the same in all versions so far, so an older runtime works as well.
        let (major, minor) = (abi::MAJOR, api.version.minor.min(abi::MINOR));
        metadata.version = abi::Version { size: size_of::<abi::Version>(), extension: null_mut(), major, minor };
        metadata.traits = 0;
        return null_mut();
    }
    // SAFETY: the caller guarantees the frame.
    let result = catch_unwind(AssertUnwindSafe(|| unsafe { work(frame) })).unwrap_or_else(|panic| Err(bug(&panic)));
    let Err(Failure(code, message)) = result else {
        return null_mut();
    };
    let message = CString::new(message).unwrap_or_default();
    let size = size_of::<abi::ErrorCreate>();
    let mut arguments = abi::ErrorCreate { size, extension: null_mut(), message: message.as_ptr(), code };
    // SAFETY: the function copies the message.
    unsafe { (api.error_create)(&raw mut arguments) }
}

fn bug(panic: &Box<dyn Any + Send>) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Failure(abi::INTERNAL, format!("a bug in fastdrop: {}", text.unwrap_or("no message")))
}

/// A buffer of a frame, in C order.
#[derive(Clone, Copy)]
struct Operand<'a> {
    dtype: c_uint,
    first: *mut u8,
    dims: &'a [i64],
    /// Bytes of an element.
    size: usize,
}

type Operands<'a> = SmallVec<[Operand<'a>; 5]>;

impl Operand<'_> {
    /// The step in bytes along each of the first `axes` axes; 0 where the length is 1.
    fn steps(&self, axes: usize) -> Steps {
        let mut steps = Steps::from_elem(0, self.dims.len());
        let mut step = self.size as isize;
        for (axis, len) in self.dims.iter().enumerate().rev() {
            steps[axis] = if *len == 1 { 0 } else { step };
            step *= *len as isize;
        }
        steps.truncate(axes);
        steps
    }

    /// Whether the last axes have the lengths `inner`, and each axis in front of them has its length in `front` or 1.
    fn fits(&self, front: &[i64], inner: &[i64]) -> bool {
        let (mine, last) = self.dims.split_at(self.dims.len().saturating_sub(inner.len()));
        mine.len() == front.len() && last == inner && mine.iter().zip(front).all(|(len, of)| len == of || *len == 1)
    }

    fn is_integer(&self) -> bool {
        matches!(self.dtype, abi::S32 | abi::S64)
    }

    /// The integer at `index` after an offset in bytes. As a u64, a negative one exceeds every length.
    ///
    /// # Safety
    /// The operand must be of integers, and have one there.
    unsafe fn integer(&self, offset: isize, index: usize) -> u64 {
        let from = self.first.wrapping_offset(offset).cast_const();
        // SAFETY: the caller guarantees it.
        let number = unsafe {
            match self.dtype {
                abi::S32 => i64::from(from.cast::<i32>().add(index).read_unaligned()),
                _ => from.cast::<i64>().add(index).read_unaligned(),
            }
        };
        number as u64
    }
}

/// The element type that a dtype means.
fn element(dtype: c_uint) -> Result<Element, Failure> {
    Ok(match dtype {
        abi::F16 => Element::F16,
        abi::BF16 => Element::Bf16,
        abi::F32 => Element::F32,
        abi::F64 => Element::F64,
        abi::C64 => Element::Complex64,
        abi::C128 => Element::Complex128,
        _ => return Err(unexpected("dtype")),
    })
}

/// All operands, or all results.
///
/// # Safety
/// The buffers must be valid as long as the result lives.
unsafe fn buffers(buffers: &abi::Buffers) -> Result<Operands<'_>, Failure> {
    (0..buffers.len as usize)
        .map(|index| {
            // SAFETY: there are `len` buffers, each of `rank` lengths.
            let (buffer, dims) = unsafe {
                let buffer = &**buffers.values.add(index);
                let rank = buffer.rank as usize;
                (buffer, if rank == 0 { &[][..] } else { std::slice::from_raw_parts(buffer.dims, rank) })
            };
            let size = match buffer.dtype {
                abi::U32 | abi::S32 => 4,
                abi::S64 | abi::U64 => 8,
                dtype => element(dtype)?.size(),
            };
            Ok(Operand { dtype: buffer.dtype, first: buffer.data, dims, size })
        })
        .collect()
}

/// # Safety
/// The attributes must be valid.
unsafe fn attribute(attributes: &abi::Attributes, name: &str, kind: c_uint) -> Option<*const c_void> {
    (0..attributes.len as usize).find_map(|index| {
        // SAFETY: there are `len` names, types and values; a name has `len` bytes.
        unsafe {
            let abi::Name { first, len } = **attributes.names.add(index);
            let found = std::slice::from_raw_parts(first, len) == name.as_bytes();
            (found && *attributes.types.add(index) == kind).then(|| *attributes.values.add(index))
        }
    })
}

/// # Safety
/// See [`handle`].
unsafe fn apply_masks(frame: &abi::CallFrame) -> Result<(), Failure> {
    let attributes = &frame.attributes;
    // SAFETY: the frame is valid, and attributes of a kind have its struct.
    let (results, operands, whole, fixed) = unsafe {
        let whole = attribute(attributes, "whole", abi::ARRAY).map(|array| &*array.cast::<abi::Array>());
        let whole =
            whole.filter(|array| array.dtype == abi::S64 || array.len == 0).ok_or_else(|| unexpected("whole"))?;
        let whole =
            if whole.len == 0 { &[][..] } else { std::slice::from_raw_parts(whole.data.cast::<i64>(), whole.len) };
        let p = attribute(attributes, "p", abi::SCALAR).map(|scalar| &*scalar.cast::<abi::Scalar>());
        let p = p.filter(|scalar| scalar.dtype == abi::F64).map(|scalar| scalar.value.cast::<f64>().read_unaligned());
        (buffers(&frame.results)?, buffers(&frame.operands)?, whole, p)
    };
    let (&[out], &[x, key, ref others @ ..]) = (&results[..], &operands[..]) else {
        return Err(unexpected("number of operands or results"));
    };
    let unknown = whole.iter().filter(|len| **len < 0).count();
    let mut others = others.iter().copied();
    let lengths = if unknown > 0 { others.next() } else { None };
    let p = if fixed.is_none() { others.next() } else { None };
    let start = others.next();
    if others.next().is_some() || attributes.len != 1 + i64::from(fixed.is_some()) || frame.stage != abi::EXECUTE {
        return Err(unexpected("operand, attribute or stage"));
    }
    let element = element(out.dtype)?;
    let (front, inner) = out.dims.split_at(out.dims.len().checked_sub(whole.len()).ok_or_else(|| unexpected("shape"))?);
    let fits = x.dtype == out.dtype
        && x.fits(front, inner)
        && key.dtype == abi::U32
        && key.fits(front, &[4])
        && (fixed.is_some() || p.is_some_and(|p| matches!(p.dtype, abi::F32 | abi::F64) && p.fits(front, &[])))
        && (unknown == 0
            || lengths
                .is_some_and(|lengths| lengths.is_integer() && lengths.dims.iter().product::<i64>() == unknown as i64))
        && start.is_none_or(|start| start.is_integer() && start.fits(front, &[whole.len() as i64]));
    if !fits {
        return Err(unexpected("shape"));
    }
    let shape: SmallVec<[usize; 6]> = inner.iter().map(|len| *len as usize).collect();
    let mut given = 0..unknown;
    let whole: Dims = whole
        .iter()
        .map(|len| match (*len, lengths) {
            // SAFETY: `lengths` has an integer for each unknown length.
            (..0, Some(lengths)) => given.next().map_or(0, |index| unsafe { lengths.integer(0, index) }),
            (len, _) => len as u64,
        })
        .collect();
    let extents: Dims = whole.iter().zip(inner).map(|(whole, len)| if *whole == 1 { 1 } else { *len as u64 }).collect();
    let steps = [out.steps(out.dims.len()), x.steps(x.dims.len())];
    let [key_steps, p_steps, start_steps] =
        [Some(key), p, start].map(|operand| operand.map_or_else(Steps::new, |operand| operand.steps(front.len())));
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
        let (bytes, rate) = unsafe {
            let rate = match (fixed, p) {
                (None, Some(p)) if p.dtype == abi::F32 => f64::from(at(p, 3).cast::<f32>().read_unaligned()),
                (None, Some(p)) => at(p, 3).cast::<f64>().read_unaligned(),
                (fixed, _) => fixed.unwrap_or(f64::NAN),
            };
            (key_at(at(key, 2)), rate)
        };
        let mut first: Dims = SmallVec::from_elem(0, whole.len());
        if let Some(start) = start {
            for (axis, first) in first.iter_mut().enumerate() {
                // SAFETY: there is a number for each axis.
                *first = unsafe { start.integer(place.bit, axis) };
            }
        }
        let mask = Mask::new(&whole, rate, Key::from_bytes(bytes))?.region(&first, &extents)?;
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
/// See [`handle`].
unsafe fn draw_blocks(frame: &abi::CallFrame) -> Result<(), Failure> {
    // SAFETY: the frame is valid, and an attribute of a kind has its struct.
    let (results, operands, tag) = unsafe {
        let tag = attribute(&frame.attributes, "tag", abi::SCALAR).map(|scalar| &*scalar.cast::<abi::Scalar>());
        let tag =
            tag.filter(|scalar| scalar.dtype == abi::S64).map(|scalar| scalar.value.cast::<i64>().read_unaligned());
        (buffers(&frame.results)?, buffers(&frame.operands)?, tag)
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

/// The bytes of a key in four words.
///
/// # Safety
/// The words must be readable.
unsafe fn key_at(words: *const u8) -> [u8; 16] {
    // SAFETY: the caller guarantees it.
    let [a, b, c, d] = unsafe { words.cast::<[u32; 4]>().read_unaligned() }.map(u64::from);
    joined([a | b << 32, c | d << 32])
}
