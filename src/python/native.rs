//! Kernels of torch's operators in machine code, through torch's stable C interface. They run without the interpreter.
//!
//! torch differentiates `native_dropout` in C++: it keeps the operator's second result, a mask, and passes it to
//! `native_dropout_backward`. A call that `request` has announced returns a few words instead, a [`Receipt`], from which
//! the backward kernel draws the mask again. torch's gradient of that gradient is `grad * (mask.type_as(grad) * scale)`,
//! so `type_as` knows receipts as well. All other calls go to operators in Python, or do what torch does.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{Lengths, Steps, axes, shared_steps};
use super::key::{PyKey, public_key};
use super::plan::formula_of;
use super::tensors;
use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::kernel::formula::{Formula, Numbers};
use crate::mask::{Dims, Mask};
use crate::operand::{Element, Operands};
use crate::stream::ars::halves;
use crate::stream::bernoulli::Probability;
use crate::stream::key::Key;
use crate::threads::limits;
use crate::walk::source::Source;

/// A tensor of torch's.
type Handle = *mut c_void;
/// 0, or an error.
type Status = i32;
/// A kernel: its arguments and results on a stack of numbers, and how many there are.
type Kernel = unsafe extern "C-unwind" fn(stack: *mut u64, arguments: u64, results: u64);

macro_rules! interface {
    ($($name:ident: $symbol:literal as fn($($type:ty),*) $(-> $result:ty)?;)+) => {
        /// The functions of torch that kernels use.
        #[derive(Clone, Copy)]
        struct Torch {
            $($name: unsafe extern "C-unwind" fn($($type),*) $(-> $result)?,)+
        }

        impl Torch {
            /// Finds all of them in a library that is already loaded.
            fn find() -> Option<Self> {
                let library = library()?;
                // SAFETY: torch promises these signatures for as long as the names are there.
                Some(Self { $($name: unsafe { std::mem::transmute::<*mut c_void, Option<_>>(symbol(library, $symbol)) }?,)+ })
            }
        }
    };
}

interface! {
    data: c"aoti_torch_get_data_ptr" as fn(Handle, *mut *mut c_void) -> Status;
    ndim: c"aoti_torch_get_dim" as fn(Handle, *mut i64) -> Status;
    sizes: c"aoti_torch_get_sizes" as fn(Handle, *mut *const i64) -> Status;
    strides: c"aoti_torch_get_strides" as fn(Handle, *mut *const i64) -> Status;
    dtype: c"aoti_torch_get_dtype" as fn(Handle, *mut i32) -> Status;
    device: c"aoti_torch_get_device_type" as fn(Handle, *mut i32) -> Status;
    layout: c"aoti_torch_get_layout" as fn(Handle, *mut i32) -> Status;
    empty: c"aoti_torch_empty_strided" as fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Status;
    delete: c"aoti_torch_delete_tensor_object" as fn(Handle) -> Status;
    call: c"aoti_torch_call_dispatcher" as fn(*const c_char, *const c_char, *mut u64) -> Status;
    randint: c"aoti_torch_cpu_randint_low" as fn(i64, i64, *const i64, i64, *mut i32, *mut i32, *mut i32, i32, *mut i32, *mut Handle) -> Status;
    threads: c"torch_get_num_threads" as fn(*mut u32) -> Status;
    open: c"aoti_torch_library_init_impl" as fn(*const c_char, *const c_char, *const c_char, u32, *mut *mut c_void) -> Status;
    register: c"aoti_torch_library_impl" as fn(*mut c_void, *const c_char, Kernel) -> Status;
    close: c"aoti_torch_delete_library_object" as fn(*mut c_void) -> Status;
    raise: c"_ZN3c106detail14torchCheckFailEPKcS2_jS2_" as fn(*const c_char, *const c_char, u32, *const c_char);
    cpu: c"aoti_torch_device_type_cpu" as fn() -> i32;
    strided: c"aoti_torch_layout_strided" as fn() -> i32;
    float16: c"aoti_torch_dtype_float16" as fn() -> i32;
    bfloat16: c"aoti_torch_dtype_bfloat16" as fn() -> i32;
    float32: c"aoti_torch_dtype_float32" as fn() -> i32;
    float64: c"aoti_torch_dtype_float64" as fn() -> i32;
    int64: c"aoti_torch_dtype_int64" as fn() -> i32;
}

static TORCH: OnceLock<Option<Torch>> = OnceLock::new();

#[cfg(target_os = "linux")]
fn library() -> Option<*mut c_void> {
    unsafe extern "C" {
        fn dlopen(name: *const c_char, mode: c_int) -> *mut c_void;
    }
    const LAZY_IF_LOADED: c_int = 1 | 4;
    // SAFETY: the library is only looked up, because it is loaded already or not at all.
    let found = unsafe { dlopen(c"libtorch_cpu.so".as_ptr(), LAZY_IF_LOADED) };
    (!found.is_null()).then_some(found)
}

#[cfg(not(target_os = "linux"))]
fn library() -> Option<*mut c_void> {
    None
}

/// A symbol of the library or of those that it needs; null if there is none.
#[cfg(target_os = "linux")]
fn symbol(library: *mut c_void, name: &CStr) -> *mut c_void {
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    // SAFETY: the handle is open, and the name ends with 0.
    unsafe { dlsym(library, name.as_ptr()) }
}

#[cfg(not(target_os = "linux"))]
fn symbol(_: *mut c_void, _: &CStr) -> *mut c_void {
    null_mut()
}

// --- Registration --------------------------------------------------------------------------------

/// The libraries of registered kernels.
static REGISTERED: [AtomicPtr<c_void>; 3] = [const { AtomicPtr::new(null_mut()) }; 3];

/// Registers the kernels, or removes that of `native_dropout`: the others stay, for the gradients of its calls. Returns
/// whether all are there: torch may lack the functions they need. Must not be called by two threads at once.
#[pyfunction]
pub(super) fn native_kernels(wanted: bool) -> bool {
    let Some(torch) = TORCH.get_or_init(Torch::find) else {
        return false;
    };
    let calls: &[(&CStr, Kernel)] = &[(c"native_dropout", dropout)];
    let gradients: &[(&CStr, Kernel)] = &[(c"native_dropout_backward", backward), (c"type_as", type_as)];
    let under_autograd: &[(&CStr, Kernel)] = &[(c"type_as", type_as)];
    let [first, ..] = &REGISTERED;
    if !wanted {
        let library = first.swap(null_mut(), Ordering::Relaxed);
        if !library.is_null() {
            // SAFETY: it was opened, and nobody else has it.
            unsafe { (torch.close)(library) };
        }
        return false;
    }
    let all = [(c"CPU", calls), (c"CPU", gradients), (c"AutogradCPU", under_autograd)];
    all.into_iter().zip(&REGISTERED).all(|((key, kernels), registered)| {
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

// --- Calls ---------------------------------------------------------------------------------------

/// A call of `native_dropout` that this thread will make next.
#[derive(Clone, Copy)]
struct Request {
    /// Address of the input's first element.
    first: *mut u8,
    formula: Formula,
    numbers: Numbers,
    receipt: Receipt,
    /// Whether the kernel draws the key.
    draws: bool,
}

thread_local! {
    static REQUEST: Cell<Option<Request>> = const { Cell::new(None) };
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
    REQUEST.set(Some(Request { first: view.first, formula, numbers, receipt, draws: false }));
    Ok(true)
}

/// `request_receipt` for inverted dropout of single elements, with a key that the kernel draws from torch's generator.
/// Returns false as well for large tensors, whose results have memory of their own, and for other dtypes.
#[pyfunction]
pub(super) fn request_dropout(x: &Bound<'_, PyAny>, p: f64, most: usize) -> bool {
    let Ok(view) = tensors::view(x, "input").and_then(|view| tensors::number(view, "input")) else {
        return false;
    };
    let Ok(probability) = Probability::new(p) else { return false };
    let len = view.len();
    if len == 0 || len * view.format.element.size() >= most {
        return false;
    }
    let scale = probability.inverted_scale();
    let receipt = Receipt { key: Key::from_words([0; 2]), p, scale, shared: 0 };
    let (first, numbers) = (view.first, Numbers::scale(scale));
    REQUEST.set(Some(Request { first, formula: Formula::Select, numbers, receipt, draws: true }));
    true
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

/// `native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn dropout(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes three arguments.
    let [input, p, train] = unsafe { *stack.cast::<[u64; 3]>() };
    let request = REQUEST.take().filter(|request| train == 0 && request.receipt.p.to_bits() == p);
    guarded(|torch| {
        // SAFETY: the argument is a tensor.
        let x = request.and_then(|_| unsafe { Tensor::read(torch, input as Handle) });
        if let (Some(mut request), Some(x)) = (request, x)
            && x.first == request.first
        {
            let input = Owned(torch, input as Handle);
            if request.draws {
                request.receipt.key = torch.draw_key()?;
            }
            let mask = request.receipt.mask(&x.shape)?;
            let y = x.like(torch)?;
            apply(torch, &x, &y.1, &mask, request.formula, request.numbers)?;
            drop(input);
            let receipt = torch.new_words(&request.receipt.words())?;
            // SAFETY: there is room for two results.
            unsafe { *stack.cast::<[u64; 2]>() = [y.0.given(), receipt.given()] };
            return Ok(());
        }
        let probability = f64::from_bits(p);
        if !(0.0..=1.0).contains(&probability) {
            // torch's sentence, because `dispatch` would lose it.
            let text = format!("dropout probability has to be between 0 and 1, but got {probability}");
            return Err(Failure(text));
        }
        let mut arguments = [input, p, train];
        torch.dispatch(c"fastdrop::native_dropout", c"", &mut arguments)?;
        // SAFETY: as above.
        unsafe { *stack.cast::<[u64; 2]>() = [arguments[0], arguments[1]] };
        Ok(())
    });
}

/// `native_dropout_backward(Tensor grad_output, Tensor mask, float scale) -> Tensor`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn backward(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes three arguments.
    let [gradient, mask, scale] = unsafe { *stack.cast::<[u64; 3]>() };
    guarded(|torch| {
        // SAFETY: the arguments are tensors.
        let (receipt, dy) = unsafe { (torch.receipt(mask as Handle), Tensor::read(torch, gradient as Handle)) };
        if let (Some(receipt), Some(dy)) = (receipt, dy) {
            let owned = [gradient, mask].map(|handle| Owned(torch, handle as Handle));
            let numbers = Numbers::scale(receipt.scale * f64::from_bits(scale));
            let dx = dy.like(torch)?;
            apply(torch, &dy, &dx.1, &receipt.mask(&dy.shape)?, Formula::Select, numbers)?;
            drop(owned);
            // SAFETY: there is room for a result.
            unsafe { *stack = dx.0.given() };
            return Ok(());
        }
        let mut arguments = [gradient, mask, scale];
        torch.dispatch(c"fastdrop::native_dropout_backward", c"", &mut arguments)?;
        // SAFETY: as above.
        unsafe { *stack = arguments[0] };
        Ok(())
    });
}

/// `type_as(Tensor self, Tensor other) -> Tensor`
///
/// # Safety
/// Torch must call it as a kernel of this schema.
unsafe extern "C-unwind" fn type_as(stack: *mut u64, _: u64, _: u64) {
    // SAFETY: torch passes two arguments.
    let [own, other] = unsafe { *stack.cast::<[u64; 2]>() };
    guarded(|torch| {
        // SAFETY: the arguments are tensors.
        let (receipt, like) = unsafe { (torch.receipt(own as Handle), Tensor::read(torch, other as Handle)) };
        if let (Some(receipt), Some(like)) = (receipt, like) {
            let owned = [own, other].map(|handle| Owned(torch, handle as Handle));
            let scaled = like.like(torch)?;
            let one = Tensor::one(&like);
            apply(torch, &one, &scaled.1, &receipt.mask(&like.shape)?, Formula::Select, Numbers::scale(receipt.scale))?;
            drop(owned);
            // SAFETY: there is room for a result.
            unsafe { *stack = scaled.0.given() };
            return Ok(());
        }
        let mut arguments = [own, other, 0, 0, 0]; // not non_blocking, no copy, any memory format
        torch.dispatch(c"aten::to", c"other", &mut arguments)?;
        // SAFETY: as above.
        unsafe { *stack = arguments[0] };
        Ok(())
    });
}

/// Runs the work of a kernel. An error or a panic becomes an exception of torch's.
fn guarded(work: impl FnOnce(&Torch) -> Result<(), Failure>) {
    let Some(Some(torch)) = TORCH.get() else { return };
    let text = match catch_unwind(AssertUnwindSafe(|| work(torch))) {
        Ok(Ok(())) => return,
        Ok(Err(Failure(text))) => text,
        Err(_) => "bug in fastdrop, please report it".to_owned(),
    };
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: the function copies the text, and raises.
    unsafe { (torch.raise)(c"fastdrop".as_ptr(), c"fastdrop".as_ptr(), 0, text.as_ptr()) };
}

/// Why a kernel failed.
struct Failure(String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl Torch {
    fn check(status: Status, what: &str) -> Result<(), Failure> {
        if status == 0 { Ok(()) } else { Err(Failure(format!("torch could not {what}"))) }
    }

    /// Calls an operator, which takes the arguments and leaves its results in their place.
    fn dispatch(&self, name: &CStr, overload: &CStr, stack: &mut [u64]) -> Result<(), Failure> {
        // SAFETY: the stack has the operator's arguments.
        let status = unsafe { (self.call)(name.as_ptr(), overload.as_ptr(), stack.as_mut_ptr()) };
        Self::check(status, &format!("call {}", name.to_string_lossy()))
    }

    /// A new tensor of these words.
    fn new_words(&self, words: &[u64; WORDS]) -> Result<Owned<'_>, Failure> {
        // SAFETY: the function has no arguments.
        let int64 = unsafe { (self.int64)() };
        let (owned, first) = self.new_tensor(&[WORDS as i64], &[1], int64)?;
        // SAFETY: the tensor has as many words.
        unsafe { first.cast::<[u64; WORDS]>().write(*words) };
        Ok(owned)
    }

    /// A key from torch's generator, the one that Python's `draw_key` draws.
    fn draw_key(&self) -> Result<Key, Failure> {
        let (mut handle, mut first) = (null_mut(), null_mut());
        // SAFETY: options that are null are torch's defaults: int64, on the CPU.
        unsafe {
            let mut dtype = (self.int64)();
            let status = (self.randint)(
                i64::MIN,
                i64::MAX,
                [2].as_ptr(),
                1,
                &raw mut dtype,
                null_mut(),
                null_mut(),
                0,
                null_mut(),
                &raw mut handle,
            );
            Self::check(status, "draw a key")?;
            let _owned = Owned(self, handle);
            Self::check((self.data)(handle, &raw mut first), "draw a key")?;
            Ok(Key::from_words(first.cast::<[u64; 2]>().read_unaligned()))
        }
    }

    fn new_tensor(&self, sizes: &[i64], strides: &[i64], dtype: i32) -> Result<(Owned<'_>, *mut u8), Failure> {
        let (mut handle, mut first) = (null_mut(), null_mut());
        // SAFETY: there are as many strides as sizes.
        unsafe {
            let (cpu, axes) = ((self.cpu)(), sizes.len() as i64);
            let status = (self.empty)(axes, sizes.as_ptr(), strides.as_ptr(), dtype, cpu, 0, &raw mut handle);
            Self::check(status, "allocate the result of dropout")?;
            let owned = Owned(self, handle);
            Self::check((self.data)(handle, &raw mut first), "allocate the result of dropout")?;
            Ok((owned, first.cast()))
        }
    }

    /// The receipt that a tensor is, if it is one.
    ///
    /// # Safety
    /// It must be a tensor.
    unsafe fn receipt(&self, tensor: Handle) -> Option<Receipt> {
        let (mut dtype, mut ndim) = (0, 0);
        // SAFETY: the caller guarantees the tensor.
        unsafe {
            if (self.dtype)(tensor, &raw mut dtype) != 0 || dtype != (self.int64)() {
                return None;
            }
            if (self.ndim)(tensor, &raw mut ndim) != 0 || ndim != 1 {
                return None;
            }
            let x = Tensor::read_any(self, tensor, Element::U64)?;
            if x.shape[..] != [WORDS] || x.strides[..] != [8] || x.first.is_null() {
                return None;
            }
            Receipt::from_words(x.first.cast::<[u64; WORDS]>().read_unaligned())
        }
    }
}

/// A reference to a tensor.
struct Owned<'a>(&'a Torch, Handle);

impl Owned<'_> {
    /// Gives the reference away.
    fn given(self) -> u64 {
        let handle = self.1 as u64;
        std::mem::forget(self);
        handle
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's.
        unsafe { (self.0.delete)(self.1) };
    }
}

/// Where a tensor's elements are.
struct Tensor {
    first: *mut u8,
    element: Element,
    dtype: i32,
    shape: Lengths,
    /// In bytes.
    strides: Steps,
}

impl Tensor {
    /// A dense tensor on the CPU, of a dtype that the core computes.
    ///
    /// # Safety
    /// It must be a tensor.
    unsafe fn read(torch: &Torch, tensor: Handle) -> Option<Self> {
        let mut dtype = 0;
        // SAFETY: the caller guarantees the tensor.
        unsafe {
            if (torch.dtype)(tensor, &raw mut dtype) != 0 {
                return None;
            }
            let element = match dtype {
                _ if dtype == (torch.float32)() => Element::F32,
                _ if dtype == (torch.float64)() => Element::F64,
                _ if dtype == (torch.bfloat16)() => Element::Bf16,
                _ if dtype == (torch.float16)() => Element::F16,
                _ => return None,
            };
            Self::read_any(torch, tensor, element)
        }
    }

    /// # Safety
    /// As for `read`; it must have these elements.
    unsafe fn read_any(torch: &Torch, tensor: Handle, element: Element) -> Option<Self> {
        let (mut device, mut layout, mut dtype, mut ndim) = (0, 0, 0, 0);
        let (mut sizes, mut strides, mut first) = (std::ptr::null(), std::ptr::null(), null_mut());
        // SAFETY: the caller guarantees the tensor; sizes and strides live as long as it and have a length per axis.
        unsafe {
            let fails = (torch.device)(tensor, &raw mut device) != 0
                || device != (torch.cpu)()
                || (torch.layout)(tensor, &raw mut layout) != 0
                || layout != (torch.strided)()
                || (torch.dtype)(tensor, &raw mut dtype) != 0
                || (torch.ndim)(tensor, &raw mut ndim) != 0
                || (torch.sizes)(tensor, &raw mut sizes) != 0
                || (torch.strides)(tensor, &raw mut strides) != 0
                || (torch.data)(tensor, &raw mut first) != 0;
            if fails {
                return None;
            }
            let (sizes, strides) = (tensors::lengths(sizes, ndim as usize), tensors::lengths(strides, ndim as usize));
            let size = element.size() as isize;
            let shape: Lengths = sizes.iter().map(|len| *len as usize).collect();
            let strides = strides.iter().map(|stride| *stride as isize * size).collect();
            Some(Self { first: first.cast(), element, dtype, shape, strides })
        }
    }

    /// A one, in the shape of another.
    fn one(like: &Self) -> Self {
        static ONE: f32 = 1.0;
        let first = (&raw const ONE).cast_mut().cast();
        let (shape, strides) = (like.shape.clone(), Steps::from_elem(0, like.shape.len()));
        Self { first, element: Element::F32, dtype: like.dtype, shape, strides }
    }

    /// The strides of `torch.empty_like`, in elements: its own if its elements are adjacent, else those of adjacent ones
    /// in its order of axes. Axes of stride 0 stay where they are.
    fn dense_strides(&self) -> Steps {
        let mut order: Lengths = (0..self.shape.len()).rev().collect();
        for end in 1..order.len() {
            let mut at = end;
            for before in (0..end).rev() {
                let [outer, inner] = [order[before], order[at]].map(|axis| (self.strides[axis], self.shape[axis]));
                if outer.0 == 0 || inner.0 == 0 {
                    continue;
                }
                match outer.cmp(&inner) {
                    std::cmp::Ordering::Greater => {
                        order.swap(before, at);
                        at = before;
                    }
                    std::cmp::Ordering::Less if outer.0 < inner.0 => break,
                    _ => {}
                }
            }
        }
        let size = self.element.size() as isize;
        let (mut dense, mut step, mut is_dense) = (Steps::from_elem(0, order.len()), 1, true);
        for axis in order {
            dense[axis] = step;
            is_dense &= self.shape[axis] == 1 || self.strides[axis] == step * size;
            step *= self.shape[axis].max(1) as isize;
        }
        if is_dense { self.strides.iter().map(|stride| stride / size).collect() } else { dense }
    }

    /// A new tensor of the same shape, dtype and order of axes.
    fn like<'a>(&self, torch: &'a Torch) -> Result<(Owned<'a>, Self), Failure> {
        let mut strides = self.dense_strides();
        let sizes: smallvec::SmallVec<[i64; 4]> = self.shape.iter().map(|len| *len as i64).collect();
        let steps: smallvec::SmallVec<[i64; 4]> = strides.iter().map(|step| *step as i64).collect();
        let (owned, first) = torch.new_tensor(&sizes, &steps, self.dtype)?;
        let size = self.element.size() as isize;
        strides.iter_mut().for_each(|stride| *stride *= size);
        Ok((owned, Self { first, strides, shape: self.shape.clone(), ..*self }))
    }
}

/// Applies a formula to `x`, and writes the result to `y`, which has its shape.
fn apply(
    torch: &Torch,
    x: &Tensor,
    y: &Tensor,
    mask: &Mask,
    formula: Formula,
    numbers: Numbers,
) -> Result<(), Failure> {
    let shape = &y.shape[..];
    // Multiplying by 0 would keep signs and NaN.
    let source = if numbers.scale == 0.0 { Source::Constant(false) } else { Source::keep_bits(mask) };
    let extents: Lengths = mask.shape().iter().map(|len| *len as usize).collect();
    let bits: Steps = mask.steps().iter().map(|step| *step as isize).collect();
    let bits = shared_steps(&extents, &bits, shape);
    let mut axes = axes(shape, [&y.strides, &x.strides, &[], &[]], &bits);
    let mut operands = Operands::new(y.element, y.first, &[x.first.cast_const()]);
    let own = |element| crate::operand::Format { element, swapped: false };
    operands.set_formats([own(y.element), own(x.element), own(y.element), own(y.element)]);
    operands.fresh = true;
    let mut threads = 1;
    // SAFETY: the function writes a number.
    Torch::check(unsafe { (torch.threads)(&raw mut threads) }, "count its threads")?;
    let operation = Operation::Formula(formula, numbers);
    // SAFETY: the tensors are alive, the axes are their shapes and strides, and the result is new. torch's users must
    // not write to tensors during a call.
    let run = || unsafe { driver::run(&source, operation, operands, &mut axes, &|| false) };
    Ok(limits::with_team(threads as usize, run)?)
}
