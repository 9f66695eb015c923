//! Linux-only system calls: the CPUs of a thread, room for more threads, room on a stack.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

/// Words for 8192 CPUs, the most that Linux can be built for.
const WORDS: usize = 128;

/// A set of CPUs, the affinity of a thread.
///
/// A thread inherits the affinity of the thread that starts it. If the program later moves to other CPUs, the threads
/// of a pool stay behind. So each helper takes the affinity of the calling thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus([u64; WORDS]);

unsafe extern "C" {
    fn sched_getaffinity(thread: c_int, size: usize, set: *mut u64) -> c_int;
    fn sched_setaffinity(thread: c_int, size: usize, set: *const u64) -> c_int;
    fn mmap(at: *mut c_void, size: usize, access: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn munmap(at: *mut c_void, size: usize) -> c_int;
    #[cfg(feature = "python")]
    fn pthread_self() -> usize;
    #[cfg(feature = "python")]
    fn pthread_getattr_np(thread: usize, attributes: *mut Attributes) -> c_int;
    #[cfg(feature = "python")]
    fn pthread_attr_getstack(attributes: *const Attributes, end: *mut *mut c_void, size: *mut usize) -> c_int;
    #[cfg(feature = "python")]
    fn pthread_attr_destroy(attributes: *mut Attributes) -> c_int;
}

/// `pthread_attr_t`, which has 56 bytes in the C libraries of 64-bit systems.
#[cfg(feature = "python")]
type Attributes = [u64; 16];

thread_local! {
    /// The affinity this thread last applied.
    static TAKEN: Cell<Option<Cpus>> = const { Cell::new(None) };
}

#[cfg(feature = "python")]
thread_local! {
    /// Lowest address of this thread's stack; 0 until first needed.
    static STACK_END: Cell<usize> = const { Cell::new(0) };
}

/// Bytes left on this thread's stack; nearly the whole address space if the system reports no stack.
#[cfg(feature = "python")]
#[inline]
pub(crate) fn stack_left() -> usize {
    let end = match STACK_END.get() {
        0 => find_stack_end(),
        end => end,
    };
    let here = 0_u8;
    (&raw const here).addr().saturating_sub(end)
}

#[cfg(feature = "python")]
#[cold]
fn find_stack_end() -> usize {
    let (mut attributes, mut end, mut size) = ([0; 16], std::ptr::without_provenance_mut(1), 0);
    // SAFETY: the attributes have room. The first call initializes them, and they are used only if it succeeds.
    unsafe {
        if pthread_getattr_np(pthread_self(), &raw mut attributes) == 0 {
            pthread_attr_getstack(&raw const attributes, &raw mut end, &raw mut size);
            pthread_attr_destroy(&raw mut attributes);
        }
    }
    STACK_END.set(end.addr());
    end.addr()
}

impl Cpus {
    /// CPUs that this thread may run on; none if the system reports none.
    pub(crate) fn of_this_thread() -> Self {
        let mut set = [0; WORDS];
        // SAFETY: 0 means this thread, and the array has as many bytes as the call names.
        let failed = unsafe { sched_getaffinity(0, size_of_val(&set), set.as_mut_ptr()) } != 0;
        Self(if failed { [0; WORDS] } else { set })
    }

    /// Restricts this thread to these CPUs. This is a hint: if the system refuses, the results are the same.
    pub(crate) fn take(&self) {
        if TAKEN.get() != Some(*self) {
            // SAFETY: 0 means this thread, and the array has as many bytes as the call names. The system refuses an
            // empty set.
            unsafe { sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr()) };
            TAKEN.set(Some(*self));
        }
    }
}

/// Whether there are addresses for the heaps of this many threads.
///
/// glibc reserves `HEAP` bytes of addresses for a thread's own heap before its first allocation. If it cannot, the
/// thread gets no memory at all, even if other heaps have plenty, and aborts the process.
pub(crate) fn has_heaps(threads: usize) -> bool {
    const HEAP: usize = 1 << 26;
    const NO_ACCESS: c_int = 0;
    const PRIVATE_ANONYMOUS: c_int = 0x22;
    let size = threads.saturating_mul(HEAP);
    // SAFETY: the pages are new, at any address. Nobody accesses them, and they are given back.
    unsafe {
        let first = mmap(std::ptr::null_mut(), size, NO_ACCESS, PRIVATE_ANONYMOUS, -1, 0);
        first.addr() != usize::MAX && munmap(first, size) == 0
    }
}
