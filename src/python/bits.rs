//! A key's words in sequence, through the C interface of NumPy's bit generators.

use std::ffi::{CStr, c_void};

use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::key::{PyKey, public_key};
use crate::stream::key::Key;
use crate::stream::sequence::{Sequence, WORDS};

/// The name of the capsule with which NumPy's generators find their functions.
const CAPSULE: &CStr = c"BitGenerator";

/// `bitgen_t` of NumPy's header `bitgen.h`.
#[repr(C)]
struct Interface {
    state: *mut c_void,
    next_uint64: unsafe extern "C" fn(*mut c_void) -> u64,
    next_uint32: unsafe extern "C" fn(*mut c_void) -> u32,
    next_double: unsafe extern "C" fn(*mut c_void) -> f64,
    next_raw: unsafe extern "C" fn(*mut c_void) -> u64,
}

struct State {
    key: Key,
    sequence: Sequence,
    words: [u64; WORDS],
    /// How many of them are used.
    used: usize,
    /// The second half of a word of which 32 bits were drawn.
    half: Option<u32>,
}

impl State {
    fn new(key: Key) -> Self {
        Self { key, sequence: Sequence::new(key), words: [0; WORDS], used: WORDS, half: None }
    }

    #[inline]
    fn word(&mut self) -> u64 {
        if self.used >= WORDS {
            self.sequence.draw(&mut self.words);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    fn half(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let word = self.word();
            self.half = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// Index of the next word, modulo 2^65.
    fn position(&self) -> u128 {
        let ahead = (WORDS - self.used) as u128;
        (2 * u128::from(self.sequence.next)).wrapping_sub(ahead) % PERIOD
    }

    fn seek(&mut self, position: u128) {
        self.sequence.next = (position / 2) as u64;
        (self.used, self.half) = (WORDS, None);
        if position % 2 == 1 {
            self.word();
        }
    }
}

/// Words in a stream.
const PERIOD: u128 = 1 << 65;

/// # Safety
/// It must be the state of an interface, and no other thread may use it: NumPy holds the generator's lock.
unsafe fn of<'a>(state: *mut c_void) -> &'a mut State {
    // SAFETY: the caller guarantees it.
    unsafe { &mut *state.cast() }
}

/// # Safety
/// See [`of`].
unsafe extern "C" fn next_uint64(state: *mut c_void) -> u64 {
    // SAFETY: NumPy calls it with the interface's state, and the lock held.
    unsafe { of(state) }.word()
}

/// # Safety
/// See [`of`].
unsafe extern "C" fn next_uint32(state: *mut c_void) -> u32 {
    // SAFETY: as above.
    unsafe { of(state) }.half()
}

/// # Safety
/// See [`of`].
unsafe extern "C" fn next_double(state: *mut c_void) -> f64 {
    // SAFETY: as above.
    (unsafe { of(state) }.word() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The state of a bit generator. Its methods must be called with the generator's lock held.
#[pyclass(name = "Bits", module = "fastdrop._core", frozen)]
pub(super) struct PyBits(*mut State);

// SAFETY: the lock of the generator serves one thread at a time.
unsafe impl Send for PyBits {}
// SAFETY: as above.
unsafe impl Sync for PyBits {}

impl Drop for PyBits {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and the generator, which is gone, held this object for as long as its functions were
        // called.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

#[pymethods]
impl PyBits {
    /// Makes the functions of a generator, in its capsule, draw this key's words. The generator must keep this object.
    #[new]
    fn new(key: PyRef<'_, PyKey>, capsule: &Bound<'_, PyCapsule>) -> PyResult<Self> {
        let interface = capsule.pointer_checked(Some(CAPSULE))?.cast::<Interface>();
        let state = Box::into_raw(Box::new(State::new(key.0)));
        // SAFETY: NumPy promises that a capsule of this name points to the struct, which is the generator's own.
        unsafe {
            interface.write(Interface {
                state: state.cast(),
                next_uint64,
                next_uint32,
                next_double,
                next_raw: next_uint64,
            });
        }
        Ok(Self(state))
    }

    /// The key, the position of the next word, and the second half of the last word, if it comes next.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, u128, Option<u32>)> {
        // SAFETY: the caller holds the lock.
        let state = unsafe { of(self.0.cast()) };
        Ok((public_key(py, state.key)?, state.position(), state.half))
    }

    /// Continues with this state; `position` must be below 2^65.
    fn seek(&self, key: PyRef<'_, PyKey>, position: u128, half: Option<u32>) {
        // SAFETY: as above.
        let state = unsafe { of(self.0.cast()) };
        if state.key != key.0 {
            *state = State::new(key.0);
        }
        state.seek(position);
        state.half = half;
    }
}
