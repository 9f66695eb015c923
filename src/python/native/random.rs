//! Kernels of torch's random operators in machine code, for calls with the default generator. All other calls go to
//! operators in Python of the same names.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;

use super::REGISTERING;
use super::torch::{Failure, Handle, Kernel, Owned, Random, TORCH, Tensor, Torch};
use crate::operand::Element;
use crate::python::arguments::DETACH;
use crate::python::random::{NO_PROBABILITY, Place, Wanted};
use crate::threads::batches::Interrupt;
use crate::threads::limits;

static RANDOM: OnceLock<Option<Random>> = OnceLock::new();
/// The library of registered kernels.
static REGISTERED: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Registers the kernels, or removes them. Returns whether they are there: torch may lack functions that they need, as
/// those before 2.13 do.
#[pyfunction]
pub(in crate::python) fn native_random(wanted: bool) -> bool {
    let _alone = REGISTERING.lock();
    let (Some(torch), Some(_)) = (TORCH.get_or_init(Torch::find), RANDOM.get_or_init(Random::find)) else {
        return false;
    };
    let library = REGISTERED.swap(null_mut(), Ordering::Relaxed);
    if !library.is_null() {
        // SAFETY: it was opened, and nobody else has it.
        unsafe { (torch.close)(library) };
    }
    if !wanted {
        return false;
    }
    let kernels: [(&CStr, Kernel); 5] = [
        (c"uniform_", uniform),
        (c"normal_", normal),
        (c"exponential_", exponential),
        (c"bernoulli_.float", bernoulli),
        (c"bernoulli_.Tensor", bernoulli_of),
    ];
    let mut library = null_mut();
    // SAFETY: names end with 0, and torch copies them; the kernels have the signature that it asks for.
    unsafe {
        if (torch.open)(c"aten".as_ptr(), c"CPU".as_ptr(), c"fastdrop".as_ptr(), 0, &raw mut library) != 0 {
            return false;
        }
        REGISTERED.store(library, Ordering::Relaxed);
        kernels.iter().all(|(name, kernel)| (torch.register)(library, name.as_ptr(), *kernel) == 0)
    }
}

/// `uniform_(Tensor(a!) self, float from, float to, *, Generator? generator) -> Tensor(a!)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn uniform(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes four arguments.
    unsafe {
        let [_, from, to, _] = *stack.cast::<[u64; 4]>();
        let [from, to] = [from, to].map(f64::from_bits);
        draw::<4>(stack, c"fastdrop::uniform_", Wanted::Uniform { from, to });
    }
}

/// `normal_(Tensor(a!) self, float mean, float std, *, Generator? generator) -> Tensor(a!)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn normal(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes four arguments.
    unsafe {
        let [_, mean, std, _] = *stack.cast::<[u64; 4]>();
        let [mean, std] = [mean, std].map(f64::from_bits);
        draw::<4>(stack, c"fastdrop::normal_", Wanted::Normal { mean, std });
    }
}

/// `exponential_(Tensor(a!) self, float lambd, *, Generator? generator) -> Tensor(a!)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn exponential(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes three arguments.
    unsafe {
        let rate = f64::from_bits(*stack.add(1));
        draw::<3>(stack, c"fastdrop::exponential_", Wanted::Exponential { rate });
    }
}

/// `bernoulli_.float(Tensor(a!) self, float p, *, Generator? generator) -> Tensor(a!)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn bernoulli(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes three arguments.
    unsafe {
        let p = f64::from_bits(*stack.add(1));
        draw::<3>(stack, c"fastdrop::bernoulli_", Wanted::Bernoulli { p });
    }
}

/// `bernoulli_.Tensor(Tensor(a!) self, Tensor p, *, Generator? generator) -> Tensor(a!)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn bernoulli_of(stack: *mut u64, _: u64, _: u64) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: torch passes three arguments, the first two tensors.
    unsafe {
        let [own, given, generator] = *stack.cast::<[u64; 3]>();
        let (own, given) = (own as Handle, given as Handle);
        torch.raise((|| {
            let places = if generator == 0 { written(torch, own, true).zip(Tensor::read(torch, given)) } else { None };
            let places = places.map(|(place, p)| (place, Place::from(p)));
            let Some((place, p)) = places.filter(|(place, p)| place.shape == p.shape && !place.may_overlap(p)) else {
                return in_python::<3>(torch, stack, c"fastdrop::bernoulli_", c"Tensor");
            };
            let (owned, _given) = (Owned(torch, own), Owned(torch, given));
            place.check_written().map_err(Failure)?;
            if !with_threads(torch, place.len(), || Ok(p.are_probabilities(NEVER)?))? {
                return Err(Failure(NO_PROBABILITY.to_owned()));
            }
            if place.len() > 0 {
                let key = torch.draw_key()?;
                with_threads(torch, place.len(), || Ok(place.draw_below(&p, place.one(), key, NEVER)?))?;
            }
            *stack = owned.given();
            Ok(())
        })());
    }
}

/// Draws into the first of N arguments, and returns it.
///
/// # Safety
/// The stack must have as many arguments: a tensor first, an optional generator last.
unsafe fn draw<const N: usize>(stack: *mut u64, name: &CStr, wanted: Wanted) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: the caller guarantees the arguments. torch's users must not write to a tensor during a call.
    unsafe {
        let (own, generator) = (*stack as Handle, *stack.add(N - 1));
        torch.raise((|| {
            let bits = matches!(wanted, Wanted::Bernoulli { .. });
            let place = if generator == 0 { written(torch, own, bits) } else { None };
            let Some(place) = place else {
                return in_python::<N>(torch, stack, name, if bits { c"float" } else { c"" });
            };
            let owned = Owned(torch, own);
            wanted.check(place.element).and_then(|()| place.check_written()).map_err(Failure)?;
            if place.len() > 0 {
                let key = torch.draw_key()?;
                with_threads(torch, place.len(), || Ok(place.draw(wanted, place.one(), key, NEVER)?))?;
            }
            *stack = owned.given();
            Ok(())
        })());
    }
}

const NEVER: Interrupt<'static> = &|| false;

/// The elements of a tensor of floats, or, for `bits`, of booleans.
///
/// # Safety
/// It must be a tensor.
unsafe fn written(torch: &Torch, tensor: Handle, bits: bool) -> Option<Place> {
    let random = RANDOM.get()?.as_ref()?;
    // SAFETY: the caller guarantees the tensor.
    unsafe {
        let number = Tensor::read(torch, tensor);
        let of_bits = || Tensor::read_as(torch, tensor, &[((random.bool)(), Element::Bool)]);
        number.or_else(|| bits.then(of_bits)?).map(Place::from)
    }
}

impl From<Tensor> for Place {
    fn from(tensor: Tensor) -> Self {
        Self { first: tensor.first, element: tensor.element, shape: tensor.shape, strides: tensor.strides }
    }
}

/// Runs `work` on `len` elements, with as many threads as torch uses.
fn with_threads<T>(torch: &Torch, len: usize, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if len < DETACH {
        return Failure::of_panic(work); // too little for threads
    }
    let mut threads = 1;
    // SAFETY: the function writes a number.
    Torch::check(unsafe { (torch.threads)(&raw mut threads) }, "count its threads")?;
    Failure::of_panic(|| limits::with_team(threads as usize, work))
}

/// Calls the operator in Python with N arguments.
///
/// # Safety
/// The stack must have the operator's arguments.
unsafe fn in_python<const N: usize>(
    torch: &Torch,
    stack: *mut u64,
    name: &CStr,
    overload: &CStr,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees the arguments. The text is that of the exception that the operator raised, and stays
    // until the next one.
    unsafe {
        let mut arguments = *stack.cast::<[u64; N]>();
        if (torch.call)(name.as_ptr(), overload.as_ptr(), arguments.as_mut_ptr()) == 0 {
            *stack = arguments[0];
            return Ok(());
        }
        let text = RANDOM.get().and_then(|random| Some((random.as_ref()?.what)())).unwrap_or(c"".as_ptr());
        let text = CStr::from_ptr(text).to_string_lossy();
        // Python's exceptions begin with the name of their type, and end with the place in the code.
        let text = text.split("\n\nAt:\n").next().unwrap_or_default();
        let text = text.split_once("Error: ").map_or(text, |(_, rest)| rest);
        Err(Failure(text.to_owned()))
    }
}
