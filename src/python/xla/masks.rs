//! The masks of a call: each position along the axes in front may have one of its own.

use super::frame::{Operand, attribute, scalar};
use super::{Failure, abi, unexpected};
use crate::mask::{Dims, Mask};
use crate::python::arrays::Steps;
use crate::stream::ars::joined;
use crate::stream::key::Key;

/// What masks are made of, in operands and attributes that `dropout` describes.
pub(super) struct Masks<'a> {
    pub(super) whole: Dims,
    /// Lengths of the axes in front.
    pub(super) front: &'a [i64],
    fixed: Option<f64>,
    key: Operand<'a>,
    p: Option<Operand<'a>>,
    start: Option<Operand<'a>>,
}

impl<'a> Masks<'a> {
    /// Reads the operands from the key on, and the attributes; `more` is the number of others. The axes of `of` are
    /// those in front and those of a mask, or at least as many.
    ///
    /// # Safety
    /// The frame must be valid.
    pub(super) unsafe fn new(
        frame: &abi::CallFrame,
        operands: &[Operand<'a>],
        of: Operand<'a>,
        more: i64,
    ) -> Result<Self, Failure> {
        let attributes = &frame.attributes;
        // SAFETY: the frame is valid, and attributes of a kind have their struct.
        let (whole, fixed) = unsafe {
            let whole = attribute(attributes, "whole", abi::ARRAY).map(|array| &*array.cast::<abi::Array>());
            let whole =
                whole.filter(|array| array.dtype == abi::S64 || array.len == 0).ok_or_else(|| unexpected("whole"))?;
            let whole =
                if whole.len == 0 { &[][..] } else { std::slice::from_raw_parts(whole.data.cast::<i64>(), whole.len) };
            (whole, scalar(attributes, "p", abi::F64))
        };
        let (&key, others) = operands.split_first().ok_or_else(|| unexpected("number of operands or results"))?;
        let unknown = whole.iter().filter(|len| **len < 0).count();
        let mut others = others.iter().copied();
        let lengths = if unknown > 0 { others.next() } else { None };
        let p = if fixed.is_none() { others.next() } else { None };
        let start = others.next();
        let known = 1 + i64::from(fixed.is_some()) + more;
        if others.next().is_some() || attributes.len != known || frame.stage != abi::EXECUTE {
            return Err(unexpected("operand, attribute or stage"));
        }
        let front = of.dims.len().checked_sub(whole.len()).map(|axes| &of.dims[..axes]);
        let front = front.ok_or_else(|| unexpected("shape"))?;
        let fits = key.dtype == abi::U32
            && key.fits(front, &[4])
            && (fixed.is_some() || p.is_some_and(|p| matches!(p.dtype, abi::F32 | abi::F64) && p.fits(front, &[])))
            && (unknown == 0
                || lengths.is_some_and(|lengths| {
                    lengths.is_integer() && lengths.dims.iter().product::<i64>() == unknown as i64
                }))
            && start.is_none_or(|start| start.is_integer() && start.fits(front, &[whole.len() as i64]));
        if !fits {
            return Err(unexpected("shape"));
        }
        let mut given = 0..unknown;
        let whole: Dims = whole
            .iter()
            .map(|len| match (*len, lengths) {
                // SAFETY: `lengths` has an integer for each unknown length.
                (..0, Some(lengths)) => given.next().map_or(0, |index| unsafe { lengths.integer(0, index) }),
                (len, _) => len as u64,
            })
            .collect();
        Ok(Self { whole, front, fixed, key, p, start })
    }

    /// The steps of key, p and start along the axes in front, in bytes.
    pub(super) fn steps(&self) -> [Steps; 3] {
        [Some(self.key), self.p, self.start]
            .map(|operand| operand.map_or_else(Steps::new, |operand| operand.steps(self.front.len())))
    }

    /// p, or the number that a call has instead, at this offset.
    ///
    /// # Safety
    /// The offset must be that of a position.
    pub(super) unsafe fn p(&self, offset: isize) -> f64 {
        let from = |operand: Operand<'_>| operand.first.wrapping_offset(offset).cast_const();
        match (self.fixed, self.p) {
            // SAFETY: the caller guarantees the offset.
            (None, Some(operand)) if operand.dtype == abi::F32 => unsafe {
                f64::from(from(operand).cast::<f32>().read_unaligned())
            },
            // SAFETY: as above.
            (None, Some(operand)) => unsafe { from(operand).cast::<f64>().read_unaligned() },
            (fixed, _) => fixed.unwrap_or(f64::NAN),
        }
    }

    /// The part of a mask that has these extents; key, p and start lie at these offsets.
    ///
    /// # Safety
    /// The offsets must be those of a position.
    pub(super) unsafe fn at(&self, [key, p, start]: [isize; 3], extents: &[u64]) -> Result<Mask, Failure> {
        // SAFETY: the caller guarantees it.
        unsafe { self.with(self.p(p), key, start, extents) }
    }

    /// The same for a given p.
    ///
    /// # Safety
    /// The offsets must be those of a position.
    pub(super) unsafe fn with(&self, p: f64, key: isize, start: isize, extents: &[u64]) -> Result<Mask, Failure> {
        // SAFETY: the caller guarantees the offsets, and there is a start for each axis.
        let (key, start) = unsafe {
            let first = |axis| self.start.map_or(0, |operand| operand.integer(start, axis));
            let start: Dims = (0..self.whole.len()).map(first).collect();
            (Key::from_bytes(key_at(self.key.first.wrapping_offset(key))), start)
        };
        Ok(Mask::new(&self.whole, p, key)?.region(&start, extents)?)
    }
}

/// The bytes of a key in four words.
///
/// # Safety
/// The words must be readable.
pub(super) unsafe fn key_at(words: *const u8) -> [u8; 16] {
    // SAFETY: the caller guarantees it.
    let [a, b, c, d] = unsafe { words.cast::<[u32; 4]>().read_unaligned() }.map(u64::from);
    joined([a | b << 32, c | d << 32])
}
