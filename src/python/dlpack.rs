//! The parts of DLPack 1 in use, as its header `dlpack.h` declares them.

use std::ffi::{CStr, c_int, c_void};

pub(super) const CAPSULE: &CStr = c"dlpack_exchange_api";
pub(super) const MAJOR: u32 = 1;
pub(super) const CPU: i32 = 1;
pub(super) const INT: u8 = 0;
pub(super) const FLOAT: u8 = 2;
pub(super) const BFLOAT: u8 = 4;
pub(super) const BOOL: u8 = 6;

#[repr(C)]
pub(super) struct Tensor {
    pub(super) data: *mut c_void,
    pub(super) device: [i32; 2],
    pub(super) ndim: i32,
    pub(super) code: u8,
    pub(super) bits: u8,
    pub(super) lanes: u16,
    pub(super) shape: *const i64,
    /// In elements; null for C order.
    pub(super) strides: *const i64,
    pub(super) byte_offset: u64,
}

#[repr(C)]
pub(super) struct Exchange {
    pub(super) version: [u32; 2],
    previous: *const c_void,
    unused: [*const c_void; 3],
    /// Describes an object in place; 0 on success, else an exception is set.
    pub(super) describe: Option<unsafe extern "C" fn(object: *mut c_void, tensor: *mut Tensor) -> c_int>,
    stream: *const c_void,
}
