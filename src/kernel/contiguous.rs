//! Elements that lie side by side: where the addresses of arrays become something that kernels may use.

use crate::operand::INPUTS;

/// As many elements in the output and in each input, side by side in this CPU's byte order.
#[derive(Clone, Copy)]
pub(super) struct Contiguous<T> {
    dst: *mut T,
    inputs: [*const T; INPUTS],
    len: usize,
}

impl<T> Contiguous<T> {
    /// # Safety
    /// As long as this is used, `len` elements must be writeable at `dst` and readable at each input that is used, by this
    /// thread alone. An input is the output itself, or does not overlap it. No alignment is needed.
    #[inline(always)]
    pub(super) unsafe fn new(dst: *mut T, inputs: [*const T; INPUTS], len: usize) -> Self {
        Self { dst, inputs, len }
    }

    #[inline(always)]
    pub(super) fn dst(&self) -> *mut T {
        self.dst
    }

    #[inline(always)]
    pub(super) fn inputs(&self) -> [*const T; INPUTS] {
        self.inputs
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}
