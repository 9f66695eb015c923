//! The parts of XLA's foreign function interface in use, as jaxlib's header `xla/ffi/api/c_api.h` declares them. Each
//! struct begins with its size, which grows from version to version.

use std::ffi::{c_char, c_int, c_uint, c_void};

pub(super) const MAJOR: c_int = 0;
/// Minor version of the header that these declarations follow.
pub(super) const MINOR: c_int = 3;
pub(super) const METADATA: c_uint = 1;
pub(super) const EXECUTE: c_uint = 3;

pub(super) const SCALAR: c_uint = 3;
pub(super) const ARRAY: c_uint = 1;

pub(super) const PRED: c_uint = 1;
pub(super) const S32: c_uint = 4;
pub(super) const S64: c_uint = 5;
pub(super) const U32: c_uint = 8;
pub(super) const U64: c_uint = 9;
pub(super) const F16: c_uint = 10;
pub(super) const F32: c_uint = 11;
pub(super) const F64: c_uint = 12;
pub(super) const C64: c_uint = 15;
pub(super) const BF16: c_uint = 16;
pub(super) const C128: c_uint = 18;

pub(super) const INVALID_ARGUMENT: c_uint = 3;
pub(super) const RESOURCE_EXHAUSTED: c_uint = 8;
pub(super) const INTERNAL: c_uint = 13;

#[repr(C)]
pub(super) struct Extension {
    size: usize,
    pub(super) kind: c_uint,
    next: *mut Extension,
}

#[repr(C)]
pub(super) struct Version {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) major: c_int,
    pub(super) minor: c_int,
}

#[repr(C)]
pub(super) struct ErrorCreate {
    pub(super) size: usize,
    pub(super) extension: *mut Extension,
    pub(super) message: *const c_char,
    pub(super) code: c_uint,
}

#[repr(C)]
pub(super) struct Api {
    size: usize,
    extension: *mut Extension,
    pub(super) version: Version,
    internal: *const c_void,
    pub(super) error_create: unsafe extern "C" fn(*mut ErrorCreate) -> *mut c_void,
}

#[repr(C)]
pub(super) struct Buffer {
    size: usize,
    extension: *mut Extension,
    pub(super) dtype: c_uint,
    pub(super) data: *mut u8,
    pub(super) rank: i64,
    pub(super) dims: *const i64,
}

/// Operands or results, all of them buffers.
#[repr(C)]
pub(super) struct Buffers {
    size: usize,
    extension: *mut Extension,
    pub(super) len: i64,
    types: *const c_uint,
    pub(super) values: *const *const Buffer,
}

#[repr(C)]
pub(super) struct Name {
    pub(super) first: *const u8,
    pub(super) len: usize,
}

#[repr(C)]
pub(super) struct Scalar {
    pub(super) dtype: c_uint,
    pub(super) value: *const c_void,
}

#[repr(C)]
pub(super) struct Array {
    pub(super) dtype: c_uint,
    pub(super) len: usize,
    pub(super) data: *const c_void,
}

#[repr(C)]
pub(super) struct Attributes {
    size: usize,
    extension: *mut Extension,
    pub(super) len: i64,
    pub(super) types: *const c_uint,
    pub(super) names: *const *const Name,
    pub(super) values: *const *const c_void,
}

#[repr(C)]
pub(super) struct CallFrame {
    size: usize,
    pub(super) extension: *mut Extension,
    pub(super) api: *const Api,
    context: *mut c_void,
    pub(super) stage: c_uint,
    pub(super) operands: Buffers,
    pub(super) results: Buffers,
    pub(super) attributes: Attributes,
}

#[repr(C)]
pub(super) struct Metadata {
    size: usize,
    pub(super) version: Version,
    pub(super) traits: u32,
}

#[repr(C)]
pub(super) struct MetadataExtension {
    base: Extension,
    pub(super) metadata: *mut Metadata,
}
