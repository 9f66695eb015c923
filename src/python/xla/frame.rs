//! What a call has: buffers and attributes.

use std::ffi::{c_uint, c_void};

use smallvec::SmallVec;

use super::{Failure, abi, unexpected};
use crate::operand::Element;
use crate::python::arrays::Steps;

/// A buffer of a frame, in C order.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) dtype: c_uint,
    pub(super) first: *mut u8,
    pub(super) dims: &'a [i64],
    /// Bytes of an element.
    size: usize,
}

pub(super) type Operands<'a> = SmallVec<[Operand<'a>; 5]>;

impl Operand<'_> {
    /// The step in bytes along each of the first `axes` axes; 0 where the length is 1.
    pub(super) fn steps(&self, axes: usize) -> Steps {
        let mut steps = Steps::from_elem(0, self.dims.len());
        let mut step = self.size as isize;
        for (axis, len) in self.dims.iter().enumerate().rev() {
            steps[axis] = if *len == 1 { 0 } else { step };
            step *= *len as isize;
        }
        steps.truncate(axes);
        steps
    }

    /// Whether all axes but the last `inner` have their lengths in `front`, or 1.
    pub(super) fn is_behind(&self, front: &[i64], inner: usize) -> bool {
        let mine = &self.dims[..self.dims.len().saturating_sub(inner)];
        self.dims.len() == front.len() + inner && mine.iter().zip(front).all(|(len, of)| len == of || *len == 1)
    }

    /// Whether the last axes have the lengths `inner`, and each axis in front of them has its length in `front` or 1.
    pub(super) fn fits(&self, front: &[i64], inner: &[i64]) -> bool {
        self.is_behind(front, inner.len()) && self.dims.ends_with(inner)
    }

    /// The same buffer as one of pairs, if its last axis has a length of 2.
    pub(super) fn doubled(self) -> Option<Self> {
        let dims = self.dims.strip_suffix(&[2])?;
        Some(Self { dims, size: 2 * self.size, ..self })
    }

    pub(super) fn is_integer(&self) -> bool {
        matches!(self.dtype, abi::S32 | abi::S64)
    }

    /// The integer at `index` after an offset in bytes. As a u64, a negative one exceeds every length.
    ///
    /// # Safety
    /// The operand must be of integers, and have one there.
    pub(super) unsafe fn integer(&self, offset: isize, index: usize) -> u64 {
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
pub(super) fn element(dtype: c_uint) -> Result<Element, Failure> {
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
pub(super) unsafe fn buffers(buffers: &abi::Buffers) -> Result<Operands<'_>, Failure> {
    (0..buffers.len as usize)
        .map(|index| {
            // SAFETY: there are `len` buffers, each of `rank` lengths.
            let (buffer, dims) = unsafe {
                let buffer = &**buffers.values.add(index);
                let rank = buffer.rank as usize;
                (buffer, if rank == 0 { &[][..] } else { std::slice::from_raw_parts(buffer.dims, rank) })
            };
            let size = match buffer.dtype {
                abi::PRED => 1,
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
pub(super) unsafe fn attribute(attributes: &abi::Attributes, name: &str, kind: c_uint) -> Option<*const c_void> {
    (0..attributes.len as usize).find_map(|index| {
        // SAFETY: there are `len` names, types and values; a name has `len` bytes.
        unsafe {
            let abi::Name { first, len } = **attributes.names.add(index);
            let found = std::slice::from_raw_parts(first, len) == name.as_bytes();
            (found && *attributes.types.add(index) == kind).then(|| *attributes.values.add(index))
        }
    })
}

/// A number among the attributes.
///
/// # Safety
/// The attributes must be valid, and numbers of this dtype must be `T`.
pub(super) unsafe fn scalar<T: Copy>(attributes: &abi::Attributes, name: &str, dtype: c_uint) -> Option<T> {
    // SAFETY: the caller guarantees it, and attributes of a kind have their struct.
    unsafe {
        let found = attribute(attributes, name, abi::SCALAR).map(|scalar| &*scalar.cast::<abi::Scalar>());
        found.filter(|scalar| scalar.dtype == dtype).map(|scalar| scalar.value.cast::<T>().read_unaligned())
    }
}
