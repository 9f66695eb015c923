//! Room for threads: memory and stacks, checked before they are needed.

#[cfg(feature = "python")]
use std::sync::Mutex;

#[cfg(feature = "python")]
use super::limits;
#[cfg(target_os = "linux")]
use super::linux::has_heaps;
#[cfg(all(feature = "python", target_os = "linux"))]
pub(crate) use super::linux::stack_left;

/// A helper's stack in bytes; the largest kernels use less than a tenth.
pub(super) const STACK: usize = 1 << 19;
/// Stack for units of work: about twice what the largest use.
#[cfg(feature = "python")]
pub(crate) const MEMBER_STACK: usize = 40 << 10;
/// Stack for a whole call: about twice what the largest uses.
#[cfg(feature = "python")]
pub(crate) const CALL_STACK: usize = 64 << 10;
/// Bytes that must be available per helper before it starts: its stack, and what the system and the standard library
/// allocate for a new thread. They abort the process if an allocation fails.
const THREAD: usize = 2 * STACK;

/// Whether this many bytes can be allocated right now.
///
/// Infallible allocations in the standard library and in rayon abort the process when memory runs
/// out. So a call that might run out first tests for more than it needs, while it can still return
/// an error.
pub(crate) fn has_memory(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Whether there is memory for this many more threads.
pub(super) fn has_room(threads: usize) -> bool {
    has_memory(threads.saturating_mul(THREAD)) && has_heaps(threads)
}

/// Calls `work` on a thread whose stack suffices for any call; `None` if the thread cannot start.
#[cfg(feature = "python")]
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if !has_room(1) {
        return None;
    }
    let most = limits::current().most;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, || limits::limited(most, work)).ok()?.join().ok()
    })
}

/// Whether this many more threads can start now: starts them, and waits for them to end.
#[cfg(feature = "python")]
pub(crate) fn can_start(threads: usize) -> bool {
    /// Size of a thread's stack unless its program chooses another.
    const DEFAULT_STACK: usize = 1 << 23;
    if !has_room(threads) {
        return false;
    }
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let closed = gate.lock();
        let start = || {
            let thread = std::thread::Builder::new().stack_size(DEFAULT_STACK);
            thread.spawn_scoped(scope, || {
                drop(gate.lock());
                std::fs::read_link("/proc/thread-self")
            })
        };
        let started: Vec<_> = (0..threads).map_while(|_| start().ok()).collect();
        drop(closed);
        let all = started.len() == threads;
        for thread in started {
            let name = thread.join();
            // The system still counts a thread for some microseconds after it was joined.
            if let Ok(Ok(name)) = name {
                let place = std::path::Path::new("/proc").join(name);
                (0..1000).take_while(|_| place.exists()).for_each(|_| std::thread::yield_now());
            }
        }
        all
    })
}

#[cfg(not(target_os = "linux"))]
fn has_heaps(_: usize) -> bool {
    true
}

#[cfg(all(feature = "python", not(target_os = "linux")))]
pub(crate) fn stack_left() -> usize {
    usize::MAX
}
