//! Kernels of torch's operators in machine code, which run without the interpreter.
//!
//! `dropout` of plain tensors is computed here, or recorded through `native_dropout`. Everything else goes to the kernel
//! in Python.
//!
//! torch differentiates `native_dropout` in C++: it keeps the operator's second result, a mask, and passes it to
//! `native_dropout_backward`. A call that `request` has announced returns a few words instead, a [`Receipt`], from which
//! the backward kernel draws the mask again. torch's gradient of that gradient is `grad * (mask.type_as(grad) * scale)`,
//! so `type_as` knows receipts as well. All other calls go to operators in Python, or do what torch does.

mod random;
mod torch;

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyTuple;

pub(super) use self::random::native_random;
use self::torch::{Failure, Handle, Kernel, Owned, TORCH, Tensor, Torch};
use super::arrays::{Lengths, Steps, axes, shared_steps};
use super::key::{PyKey, public_key};
use super::plan::formula_of;
use super::tensors;
use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::mask::{Dims, Mask};
use crate::operand::{Element, Format, Operands};
use crate::stream::ars::halves;
use crate::stream::bernoulli::Probability;
use crate::stream::key::Key;
use crate::threads::limits;
use crate::walk::source::Source;

// --- Registration --------------------------------------------------------------------------------

/// The libraries of registered kernels: first those of calls, then those of gradients.
static REGISTERED: [AtomicPtr<c_void>; 5] = [const { AtomicPtr::new(null_mut()) }; 5];
/// How many of them are of calls.
const CALLS: usize = 3;

/// Held while kernels are registered or removed: one thread at a time opens and closes the libraries.
static REGISTERING: Mutex<()> = Mutex::new(());

/// The dispatch keys of the kernels of `dropout` and the like in Python.
static IN_PYTHON: AtomicU64 = AtomicU64::new(0);

/// Registers the kernels, or, without a number, removes those of calls: the others stay, for the gradients of calls from
/// before. `in_python` is the set with the dispatch key of the kernel of `dropout` in Python. Returns whether all are there:
/// torch may lack functions that they need.
#[pyfunction]
pub(super) fn native_kernels(in_python: Option<u64>) -> bool {
    let _alone = REGISTERING.lock();
    let Some(torch) = TORCH.get_or_init(Torch::find) else {
        return false;
    };
    let Some(in_python) = in_python else {
        for registered in &REGISTERED[..CALLS] {
            let library = registered.swap(null_mut(), Ordering::Relaxed);
            if !library.is_null() {
                // SAFETY: it was opened, and nobody else has it.
                unsafe { (torch.close)(library) };
            }
        }
        return false;
    };
    IN_PYTHON.store(in_python, Ordering::Relaxed);
    const CALLED: [(&CStr, Kernel); 4] = [
        (c"dropout", dropout),
        (c"dropout_", dropout_),
        (c"feature_dropout", feature_dropout),
        (c"feature_dropout_", feature_dropout_),
    ];
    let libraries: [(&CStr, &[(&CStr, Kernel)]); 5] = [
        (c"CPU", &CALLED),
        (c"CPU", &[(c"native_dropout", native_dropout)]),
        (c"AutogradCPU", &CALLED),
        (c"CPU", &[(c"native_dropout_backward", backward), (c"type_as", type_as)]),
        (c"AutogradCPU", &[(c"type_as", type_as)]),
    ];
    libraries.into_iter().zip(&REGISTERED).all(|((key, kernels), registered)| {
        if !registered.load(Ordering::Relaxed).is_null() {
            return true;
        }
        let mut library = null_mut();
        // SAFETY: names end with 0, and torch copies them; the kernels have the signature that it asks for.
        unsafe {
            if (torch.open)(c"aten".as_ptr(), key.as_ptr(), c"fastdrop".as_ptr(), 0, &raw mut library) != 0 {
                return false;
            }
            registered.store(library, Ordering::Relaxed);
            kernels.iter().all(|(name, kernel)| (torch.register)(library, name.as_ptr(), *kernel) == 0)
        }
    })
}

// --- Calls of `native_dropout` -------------------------------------------------------------------

/// A call that wants a receipt instead of a mask.
#[derive(Clone, Copy)]
struct Call {
    formula: Formula,
    numbers: Numbers,
    receipt: Receipt,
    /// Whether the key is yet to be drawn.
    draws: bool,
    /// Whether the result takes the input's memory.
    in_place: bool,
}

/// The input of such a call, by which the kernel knows it.
enum Input {
    Read(Tensor),
    /// The address of its first element.
    At(*mut u8),
}

impl Input {
    /// The input, if it is the tensor that the kernel was called with.
    ///
    /// # Safety
    /// `given` must be a tensor.
    unsafe fn of_call(self, torch: &Torch, given: Handle) -> Option<Tensor> {
        // SAFETY: the caller guarantees the tensor.
        unsafe {
            match self {
                Self::Read(x) => (x.implementation == torch::implementation(given)).then_some(x),
                Self::At(first) => Tensor::read(torch, given).filter(|x| x.first == first),
            }
        }
    }
}

impl Call {
    /// Inverted dropout of elements or channels, unless the result is large, with a key from torch's generator.
    fn dropout(x: &Tensor, p: f64, of_channels: bool, in_place: bool) -> Option<Self> {
        let scale = Probability::new(p).ok()?.inverted_scale();
        let (ndim, len) = (x.shape.len(), x.shape.iter().product::<usize>());
        let fits = if in_place { x.is_dense() } else { len * x.element.size() < LARGE };
        if len == 0 || !fits || (of_channels && ndim < 2) || ndim > 64 {
            return None;
        }
        let shared = if of_channels { (!0 >> (64 - ndim)) & !0b11 } else { 0 };
        let receipt = Receipt { key: Key::from_words([0; 2]), p, scale, shared };
        let (formula, numbers) = (Formula::Select, Numbers::scale(scale));
        Some(Self { formula, numbers, receipt, draws: true, in_place })
    }

    /// The result for an input, and what its mask is drawn from.
    fn compute(mut self, input: Owned<'static>, x: &Tensor) -> Result<(Owned<'static>, Receipt), Failure> {
        let torch = input.0;
        if self.draws {
            self.receipt.key = torch.draw_key()?;
        }
        let call = (self.formula, self.numbers);
        let y = if self.in_place {
            apply(torch, x, x, &self.receipt, call, false)?;
            input
        } else {
            let (y, target) = x.like(torch)?;
            apply(torch, x, &target, &self.receipt, call, true)?;
            y
        };
        Ok((y, self.receipt))
    }
}

thread_local! {
    /// The call that this thread will make next.
    static REQUEST: Cell<Option<(Input, Call)>> = const { Cell::new(None) };
}

/// The time in which a thread makes the call that it has announced.
struct Announced;

impl Announced {
    fn new(x: Tensor, call: Call) -> Self {
        REQUEST.set(Some((Input::Read(x), call)));
        Self
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        REQUEST.set(None);
    }
}

/// What the mask of a call is drawn from: the words of a tensor of int64.
#[derive(Clone, Copy)]
struct Receipt {
    key: Key,
    p: f64,
    /// What the gradient is multiplied with.
    scale: f64,
    /// Axes along which elements share a decision, as bits.
    shared: u64,
}

/// Words of a receipt.
const WORDS: usize = 7;
/// The first words of a receipt: random ones.
const MAGIC: [u64; 2] = [0xD5A2_6C1B_94E7_3F08, 0x7B09_E3D4_581C_A62F];

impl Receipt {
    fn words(&self) -> [u64; WORDS] {
        let [low, high] = halves(self.key.to_bytes());
        [MAGIC[0], MAGIC[1], low, high, self.p.to_bits(), self.scale.to_bits(), self.shared]
    }

    fn from_words(words: [u64; WORDS]) -> Option<Self> {
        let [first, second, low, high, p, scale, shared] = words;
        let [p, scale] = [p, scale].map(f64::from_bits);
        ([first, second] == MAGIC).then(|| Self { key: Key::from_words([low, high]), p, scale, shared })
    }

    fn mask(&self, shape: &[usize]) -> Result<Mask, Error> {
        let dims =
            shape.iter().enumerate().map(|(axis, len)| if self.shared >> axis & 1 == 1 { 1 } else { *len as u64 });
        Mask::new(&dims.collect::<Dims>(), self.p, self.key)
    }
}

/// Announces that this thread calls `native_dropout` with `x` and p next, and wants a receipt instead of a mask. Returns
/// false, and does nothing, if the kernel does not take the call.
#[pyfunction]
pub(super) fn request_receipt(
    x: &Bound<'_, PyAny>,
    key: &Bound<'_, PyKey>,
    operation: &str,
    p: f64,
    shared: &Bound<'_, PyTuple>,
    numbers: Numbers,
) -> PyResult<bool> {
    let view = tensors::number(tensors::view(x, "input")?, "input")?;
    let mut axes = 0;
    for axis in shared.iter_borrowed() {
        let axis: u32 = axis.extract()?;
        if axis >= u64::BITS {
            return Ok(false);
        }
        axes |= 1 << axis;
    }
    let receipt = Receipt { key: key.get().0, p, scale: numbers.scale, shared: axes };
    receipt.mask(&view.shape)?;
    let formula = formula_of(operation)?;
    let call = Call { formula, numbers, receipt, draws: false, in_place: false };
    REQUEST.set(Some((Input::At(view.first), call)));
    Ok(true)
}

/// The key, p, scale and shared axes of a receipt.
type Parts<'py> = (Bound<'py, PyAny>, f64, f64, Vec<u32>);

/// What a tensor of int64 says, or None if it is no receipt.
#[pyfunction]
pub(super) fn read_receipt<'py>(tensor: &Bound<'py, PyAny>) -> PyResult<Option<Parts<'py>>> {
    let view = tensors::view(tensor, "mask")?.0;
    if !view.follows(&[WORDS]) {
        return Ok(None);
    }
    // SAFETY: the tensor has as many words, and they are read before anybody else runs.
    let words = unsafe { view.first.cast::<[u64; WORDS]>().read_unaligned() };
    let Some(receipt) = Receipt::from_words(words) else {
        return Ok(None);
    };
    let shared = (0..u64::BITS).filter(|axis| receipt.shared >> axis & 1 == 1).collect();
    Ok(Some((public_key(tensor.py(), receipt.key)?, receipt.p, receipt.scale, shared)))
}

// --- Kernels -------------------------------------------------------------------------------------

/// Size in bytes from which results have memory of their own, which the kernel in Python lends.
pub(super) const LARGE: usize = 1 << 22;

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident: $options:expr, $in_python:expr;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Torch must call it as a kernel of this schema.
            unsafe extern "C-unwind" fn $name(stack: *mut u64, _: u64, _: u64) {
                // SAFETY: torch passes three arguments, and so do we.
                unsafe { serve(stack, $options, $in_python) };
            }
        )+
    };
}

kernels! {
    /// `dropout(Tensor input, float p, bool train) -> Tensor`
    dropout: [false, false], |torch, keys, x, p, train| (torch.dropout)(keys, x, p, train).one(torch).given() as Handle;
    /// `dropout_(Tensor(a!) self, float p, bool train) -> Tensor(a!)`
    dropout_: [false, true], |torch, keys, x, p, train| (torch.dropout_)(keys, x, p, train);
    /// `feature_dropout(Tensor input, float p, bool train) -> Tensor`
    feature_dropout: [true, false], |torch, keys, x, p, train| (torch.feature_dropout)(keys, x, p, train).one(torch).given() as Handle;
    /// `feature_dropout_(Tensor(a!) self, float p, bool train) -> Tensor(a!)`
    feature_dropout_: [true, true], |torch, keys, x, p, train| (torch.feature_dropout_)(keys, x, p, train);
}

/// Computes a call of dropout, or leaves it to the kernel in Python.
///
/// # Safety
/// The stack must have the arguments of a kernel with a tensor, p and whether to drop, and room for a tensor.
unsafe fn serve(
    stack: *mut u64,
    [of_channels, in_place]: [bool; 2],
    in_python: impl FnOnce(&Torch, u64, Handle, f64, bool) -> Handle,
) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: the caller guarantees the arguments.
    unsafe {
        let [input, p, train] = *stack.cast::<[u64; 3]>();
        let (input, p, train) = (Owned(torch, input as Handle), f64::from_bits(p), train as u8 != 0);
        let handle = input.1;
        if (0.0..=1.0).contains(&p) && (!train || p == 0.0) {
            *stack = input.given();
            return;
        }
        let records = torch.records(handle);
        let plain = torch.is_plain(handle) && !(in_place && records && !torch.is_single(handle));
        let x = if plain { Tensor::read(torch, handle) } else { None };
        let call = x.and_then(|x| Some((Call::dropout(&x, p, of_channels, in_place)?, x)));
        let Some((call, x)) = call else {
            let result = in_python(torch, IN_PYTHON.load(Ordering::Relaxed), handle, p, train);
            let result = if in_place { input } else { Owned(torch, result) };
            *stack = result.given();
            return;
        };
        if in_place {
            (torch.count_change)(handle); // raises where torch allows none
        }
        if records {
            let _announced = Announced::new(x, call);
            let [y, _receipt] = (torch.native_dropout)(handle, p, 0).pair(torch);
            *stack = y.given();
        } else {
            torch.raise(call.compute(input, &x).map(|(y, _)| *stack = y.given()));
        }
    }
}

/// `native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn native_dropout(stack: *mut u64, _: u64, _: u64) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: torch passes three arguments, the first a tensor, and takes two results.
    unsafe {
        let [input, p, train] = *stack.cast::<[u64; 3]>();
        let input = Owned(torch, input as Handle);
        let request = REQUEST.take().filter(|(_, call)| train == 0 && call.receipt.p.to_bits() == p);
        torch.raise((|| {
            let known = request.and_then(|(x, call)| Some((x.of_call(torch, input.1)?, call)));
            let results = if let Some((x, call)) = known {
                let (y, receipt) = call.compute(input, &x)?;
                [y.given(), torch.new_words(&receipt.words())?.given()]
            } else {
                let probability = f64::from_bits(p);
                if !(0.0..=1.0).contains(&probability) {
                    // torch's sentence, because `dispatch` would lose it.
                    let text = format!("dropout probability has to be between 0 and 1, but got {probability}");
                    return Err(Failure(text));
                }
                let mut arguments = [input.given(), p, train];
                torch.dispatch(c"fastdrop::native_dropout", c"", &mut arguments)?;
                [arguments[0], arguments[1]]
            };
            *stack.cast::<[u64; 2]>() = results;
            Ok(())
        })());
    }
}

/// `native_dropout_backward(Tensor grad_output, Tensor mask, float scale) -> Tensor`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn backward(stack: *mut u64, _: u64, _: u64) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: torch passes three arguments, of which two are tensors, and takes a result.
    unsafe {
        let [gradient, mask, scale] = *stack.cast::<[u64; 3]>();
        let [gradient, mask] = [gradient, mask].map(|handle| Owned(torch, handle as Handle));
        torch.raise((|| {
            *stack = if let (Some(receipt), Some(dy)) = (torch.receipt(mask.1), Tensor::read(torch, gradient.1)) {
                let numbers = Numbers::scale(receipt.scale * f64::from_bits(scale));
                let (dx, target) = dy.like(torch)?;
                apply(torch, &dy, &target, &receipt, (Formula::Select, numbers), true)?;
                dx.given()
            } else {
                let mut arguments = [gradient.given(), mask.given(), scale];
                torch.dispatch(c"fastdrop::native_dropout_backward", c"", &mut arguments)?;
                arguments[0]
            };
            Ok(())
        })());
    }
}

/// `type_as(Tensor self, Tensor other) -> Tensor`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn type_as(stack: *mut u64, _: u64, _: u64) {
    let Some(Some(torch)) = TORCH.get() else { return };
    // SAFETY: torch passes two tensors, and takes a result.
    unsafe {
        let [own, other] = (*stack.cast::<[u64; 2]>()).map(|handle| Owned(torch, handle as Handle));
        torch.raise((|| {
            *stack = if let (Some(receipt), Some(like)) = (torch.receipt(own.1), Tensor::read(torch, other.1)) {
                let numbers = Numbers::scale(receipt.scale);
                let (scaled, target) = like.like(torch)?;
                apply(torch, &Tensor::one(&like), &target, &receipt, (Formula::Select, numbers), true)?;
                scaled.given()
            } else {
                let mut arguments = [own.given(), other.given(), 0, 0, 0]; // not non_blocking, no copy, any memory format
                torch.dispatch(c"aten::to", c"other", &mut arguments)?;
                arguments[0]
            };
            Ok(())
        })());
    }
}

impl Torch {
    /// A new tensor of these words.
    fn new_words(&self, words: &[u64; WORDS]) -> Result<Owned<'_>, Failure> {
        let (owned, first) = self.new_tensor(&[WORDS as i64], &[1], self.int64)?;
        // SAFETY: the tensor has as many words.
        unsafe { first.cast::<[u64; WORDS]>().write(*words) };
        Ok(owned)
    }

    /// The receipt that a tensor is, if it is one.
    ///
    /// # Safety
    /// It must be a tensor.
    unsafe fn receipt(&self, tensor: Handle) -> Option<Receipt> {
        // SAFETY: the caller guarantees the tensor.
        unsafe {
            let x = Tensor::read_as(self, tensor, &[(self.int64, Element::U64)])?;
            if x.shape[..] != [WORDS] || x.strides[..] != [8] || x.first.is_null() {
                return None;
            }
            Receipt::from_words(x.first.cast::<[u64; WORDS]>().read_unaligned())
        }
    }
}

/// Applies a formula to `x`, and writes the result to `y`, which has its shape, and is new if `fresh`.
fn apply(
    torch: &Torch,
    x: &Tensor,
    y: &Tensor,
    receipt: &Receipt,
    (formula, numbers): (Formula, Numbers),
    fresh: bool,
) -> Result<(), Failure> {
    let mut threads = 1;
    if x.shape.iter().product::<usize>() >= driver::SHARED {
        // SAFETY: the function writes a number.
        Torch::check(unsafe { (torch.threads)(&raw mut threads) }, "count its threads")?;
    }
    Failure::of_panic(|| {
        let (shape, mask) = (&y.shape[..], receipt.mask(&x.shape)?);
        // Multiplying by 0 would keep signs and NaN.
        let source = if numbers.scale == 0.0 { Source::Constant(false) } else { Source::keep_bits(&mask) };
        let extents: Lengths = mask.shape().iter().map(|len| *len as usize).collect();
        let bits: Steps = mask.steps().iter().map(|step| *step as isize).collect();
        let bits = shared_steps(&extents, &bits, shape);
        let mut axes = axes(shape, [&y.strides, &x.strides, &[], &[]], &bits);
        let mut operands = Operands::new(y.element, y.first, &[x.first.cast_const()]);
        let own = |element| Format { element, swapped: false };
        operands.set_formats([own(y.element), own(x.element), own(y.element), own(y.element)]);
        operands.fresh = fresh;
        let operation = Operation::Formula(formula, numbers);
        // SAFETY: the tensors are alive, the axes are their shapes and strides, and the result is new or the input.
        let run = || unsafe { driver::run(&source, operation, operands, &mut axes, &|| false) };
        Ok(limits::with_team(threads as usize, run)?)
    })
}
