//! torch's C and C++ functions, found in the library that the process has loaded. Nothing is linked.

use std::cell::OnceCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use smallvec::SmallVec;

use crate::error::Error;
use crate::operand::Element;
use crate::python::arrays;
use crate::python::tensors;
use crate::stream::key::Key;

/// A tensor of torch's.
pub(super) type Handle = *mut c_void;
/// 0, or an error.
pub(super) type Status = i32;
/// A kernel: its arguments and results on a stack of numbers, and how many there are.
pub(super) type Kernel = unsafe extern "C-unwind" fn(stack: *mut u64, arguments: u64, results: u64);

macro_rules! interface {
    ($(#[$doc:meta])* $interface:ident: $($name:ident: $symbol:literal as fn($($type:ty),*) $(-> $result:ty)?;)+) => {
        $(#[$doc])*
        pub(super) struct $interface {
            $(pub(super) $name: unsafe extern "C-unwind" fn($($type),*) $(-> $result)?,)+
        }

        impl $interface {
            /// Finds all of them in a library that is already loaded.
            pub(super) fn find() -> Option<Self> {
                let library = library()?;
                // SAFETY: torch promises these signatures for as long as the names are there.
                Some(Self { $($name: unsafe { std::mem::transmute::<*mut c_void, Option<_>>(symbol(library, $symbol)) }?,)+ })
            }
        }
    };
}

interface! {
    /// Functions of torch 2.13 and later, which passes generators to kernels.
    Random:
    bool: c"aoti_torch_dtype_bool" as fn() -> i32;
    what: c"torch_exception_get_what_without_backtrace" as fn() -> *const c_char;
}

interface! {
    /// The functions of torch that all kernels use.
    Functions:
    // torch's stable C interface.
    data: c"aoti_torch_get_data_ptr" as fn(Handle, *mut *mut c_void) -> Status;
    ndim: c"aoti_torch_get_dim" as fn(Handle, *mut i64) -> Status;
    sizes: c"aoti_torch_get_sizes" as fn(Handle, *mut *const i64) -> Status;
    strides: c"aoti_torch_get_strides" as fn(Handle, *mut *const i64) -> Status;
    dtype: c"aoti_torch_get_dtype" as fn(Handle, *mut i32) -> Status;
    device: c"aoti_torch_get_device_type" as fn(Handle, *mut i32) -> Status;
    layout: c"aoti_torch_get_layout" as fn(Handle, *mut i32) -> Status;
    delete: c"aoti_torch_delete_tensor_object" as fn(Handle) -> Status;
    call: c"aoti_torch_call_dispatcher" as fn(*const c_char, *const c_char, *mut u64) -> Status;
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

    // C++ functions, whose names include the types of their arguments. A reference is an address. An optional is its value,
    // then whether there is one; 0 is none. A tensor is the address of its implementation.
    native_dropout: c"_ZN2at4_ops14native_dropout4callERKNS_6TensorEdSt8optionalIbE" as fn(Handle, f64, u16) -> Results;
    dropout: c"_ZN2at4_ops7dropout10redispatchEN3c1014DispatchKeySetERKNS_6TensorEdb" as fn(u64, Handle, f64, bool) -> Results;
    dropout_: c"_ZN2at4_ops8dropout_10redispatchEN3c1014DispatchKeySetERNS_6TensorEdb" as fn(u64, Handle, f64, bool) -> Handle;
    feature_dropout: c"_ZN2at4_ops15feature_dropout10redispatchEN3c1014DispatchKeySetERKNS_6TensorEdb" as fn(u64, Handle, f64, bool) -> Results;
    feature_dropout_: c"_ZN2at4_ops16feature_dropout_10redispatchEN3c1014DispatchKeySetERNS_6TensorEdb" as fn(u64, Handle, f64, bool) -> Handle;
    random_: c"_ZN2at3cpu7random_ERNS_6TensorElSt8optionalIlES3_INS_9GeneratorEE" as fn(Handle, i64, Bound, *const [u64; 2]) -> Handle;
    empty: c"_ZN2at6detail17empty_strided_cpuEN3c108ArrayRefIlEES3_NS1_10ScalarTypeEb" as fn(Lengths, Lengths, i8, bool) -> Results;
    count_change: c"_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE" as fn(Handle);
    hooks: c"_ZN5torch8autograd4impl5hooksERKN2at6TensorE" as fn(Handle) -> *const [*const c_void; 2];
    is_leaf: c"_ZNK2at10TensorBase7is_leafEv" as fn(Handle) -> bool;
    is_view: c"_ZNK2at10TensorBase7is_viewEv" as fn(Handle) -> bool;
    retains_grad: c"_ZNK2at10TensorBase12retains_gradEv" as fn(Handle) -> bool;
    has_modes: c"_ZN3c104impl21dispatch_mode_enabledEv" as fn() -> bool;
    is_subclass: c"_ZN2at4impl19tensor_has_dispatchERKNS_6TensorE" as fn(Handle) -> bool;
    tracing: c"_ZN5torch3jit6tracer15getTracingStateEv" as fn() -> *const *const c_void;
    requires_grad: c"_ZNK3c1010TensorImpl13requires_gradEv" as fn(*const c_void) -> bool;
    grad_mode: c"_ZN3c108GradMode10is_enabledEv" as fn() -> bool;
    tangent: c"_ZNK3c1010TensorImpl8_fw_gradEmRKN2at10TensorBaseE" as fn(*const c_void, u64, Handle) -> *const *const c_void;
    undefined: c"_ZN3c1019UndefinedTensorImpl10_singletonE" as fn();
    allocate: c"_Znwm" as fn(usize) -> *mut c_void;
}

/// torch's functions, and what some of them always return.
pub(super) struct Torch {
    functions: Functions,
    cpu: i32,
    strided: i32,
    pub(super) int64: i32,
    /// The dtypes that the core computes.
    numbers: [(i32, Element); 4],
}

impl Deref for Torch {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

impl Torch {
    /// Finds everything in a library that is already loaded.
    pub(super) fn find() -> Option<Self> {
        let functions = Functions::find()?;
        // SAFETY: the functions have no arguments.
        unsafe {
            let numbers = [
                ((functions.float32)(), Element::F32),
                ((functions.bfloat16)(), Element::Bf16),
                ((functions.float16)(), Element::F16),
                ((functions.float64)(), Element::F64),
            ];
            let (cpu, strided, int64) = ((functions.cpu)(), (functions.strided)(), (functions.int64)());
            Some(Self { functions, cpu, strided, int64, numbers })
        }
    }
}

/// `c10::ArrayRef<int64_t>`
#[repr(C)]
pub(super) struct Lengths(*const i64, usize);

impl From<&[i64]> for Lengths {
    fn from(lengths: &[i64]) -> Self {
        Self(lengths.as_ptr(), lengths.len())
    }
}

/// `std::optional<int64_t>`
#[repr(C)]
pub(super) struct Bound(i64, bool);

/// Tensors that a C++ function returns, in memory that its caller provides. A C compiler does so for a struct of this
/// size. A tuple of two tensors has the second one first.
#[repr(C)]
pub(super) struct Results([MaybeUninit<*mut c_void>; 4]);

impl Results {
    /// The one tensor.
    ///
    /// # Safety
    /// A function that returns one must have written it.
    pub(super) unsafe fn one(self, torch: &Torch) -> Owned<'_> {
        // SAFETY: the caller guarantees the tensor.
        unsafe { torch.handle(self.0[0].assume_init()) }
    }

    /// The two tensors.
    ///
    /// # Safety
    /// A function that returns two must have written them.
    pub(super) unsafe fn pair(self, torch: &Torch) -> [Owned<'_>; 2] {
        // SAFETY: the caller guarantees the tensors.
        unsafe { [self.0[1], self.0[0]].map(|tensor| torch.handle(tensor.assume_init())) }
    }
}

/// The address of a tensor's implementation.
///
/// # Safety
/// It must be a tensor.
pub(super) unsafe fn implementation(tensor: Handle) -> *const c_void {
    // SAFETY: a handle is the address of a C++ object that consists of this address.
    unsafe { *tensor.cast::<*const c_void>() }
}

impl Torch {
    /// Moves a tensor to a handle.
    ///
    /// # Safety
    /// `implementation` must own a reference.
    unsafe fn handle(&self, implementation: *mut c_void) -> Owned<'_> {
        // SAFETY: a handle is an allocated C++ object of one address; torch deletes it. The allocation does not return null.
        unsafe {
            let handle = (self.allocate)(size_of::<*mut c_void>()).cast::<*mut c_void>();
            handle.write(implementation);
            Owned(self, handle.cast())
        }
    }

    /// Whether nothing but autograd stands between a call on a tensor and its kernel: no mode, trace, subclass in Python
    /// or tangent.
    ///
    /// # Safety
    /// It must be a tensor.
    pub(super) unsafe fn is_plain(&self, tensor: Handle) -> bool {
        // SAFETY: the caller guarantees the tensor. A shared pointer begins with its address, and the tangent of a tensor
        // that has none is torch's undefined tensor.
        unsafe {
            !(self.has_modes)()
                && (*(self.tracing)()).is_null()
                && !(self.is_subclass)(tensor)
                && *(self.tangent)(implementation(tensor), 0, tensor) == self.undefined as *const c_void
        }
    }

    /// Whether autograd's node may be that of another call from now on: no view, hook or leaf depends on it.
    ///
    /// # Safety
    /// It must be a tensor.
    pub(super) unsafe fn is_single(&self, tensor: Handle) -> bool {
        // SAFETY: the caller guarantees the tensor.
        unsafe {
            let [first, end] = *(self.hooks)(tensor);
            first == end && !((self.is_leaf)(tensor) || (self.is_view)(tensor) || (self.retains_grad)(tensor))
        }
    }

    /// Whether autograd records a call on a tensor.
    ///
    /// # Safety
    /// It must be a tensor.
    pub(super) unsafe fn records(&self, tensor: Handle) -> bool {
        // SAFETY: the caller guarantees the tensor.
        unsafe { (self.grad_mode)() && (self.requires_grad)(implementation(tensor)) }
    }
}

pub(super) static TORCH: OnceLock<Option<Torch>> = OnceLock::new();

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

/// Why a kernel failed.
pub(super) struct Failure(pub(super) String);

impl Failure {
    /// Runs work that calls nothing of torch that raises: a panic must not leave a kernel, and an exception of torch's must
    /// not be caught.
    pub(super) fn of_panic<T>(work: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        let panicked = |_| Err(Self("bug in fastdrop, please report it".to_owned()));
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl Torch {
    /// Makes an error of a kernel an exception of torch's.
    pub(super) fn raise(&self, outcome: Result<(), Failure>) {
        if let Err(Failure(text)) = outcome {
            let text = std::ffi::CString::new(text).unwrap_or_default();
            // SAFETY: the function copies the text, and raises.
            unsafe { (self.raise)(c"fastdrop".as_ptr(), c"fastdrop".as_ptr(), 0, text.as_ptr()) };
        }
    }

    pub(super) fn check(status: Status, what: &str) -> Result<(), Failure> {
        if status == 0 { Ok(()) } else { Err(Failure(format!("torch could not {what}"))) }
    }

    /// Calls an operator, which takes the arguments and leaves its results in their place.
    pub(super) fn dispatch(&self, name: &CStr, overload: &CStr, stack: &mut [u64]) -> Result<(), Failure> {
        // SAFETY: the stack has the operator's arguments.
        let status = unsafe { (self.call)(name.as_ptr(), overload.as_ptr(), stack.as_mut_ptr()) };
        Self::check(status, &format!("call {}", name.to_string_lossy()))
    }
}

impl Torch {
    /// A key from torch's generator, the one that Python's `draw_key` draws.
    pub(super) fn draw_key(&'static self) -> Result<Key, Failure> {
        thread_local! {
            /// Two words for the generator, which has no other way to give them.
            static WORDS: OnceCell<(Owned<'static>, *mut u8)> = const { OnceCell::new() };
        }
        let draw = |words: &OnceCell<_>| {
            if words.get().is_none() {
                let _ = words.set(self.new_tensor(&[2], &[1], self.int64)?);
            }
            let Some((Owned(_, words), first)) = words.get() else { unreachable!("it has just been set") };
            // SAFETY: the tensor has two words, which are this thread's, and no generator is torch's default.
            unsafe {
                (self.random_)(*words, i64::MIN, Bound(i64::MAX, true), &[0; 2]);
                Ok(Key::from_words(first.cast::<[u64; 2]>().read_unaligned()))
            }
        };
        WORDS.try_with(draw).unwrap_or_else(|_| draw(&OnceCell::new())) // while the thread ends, a tensor of the call's own
    }

    pub(super) fn new_tensor(
        &self,
        sizes: &[i64],
        strides: &[i64],
        dtype: i32,
    ) -> Result<(Owned<'_>, *mut u8), Failure> {
        let mut first = null_mut();
        // SAFETY: there are as many strides as sizes.
        unsafe {
            let owned = (self.empty)(sizes.into(), strides.into(), dtype as i8, false).one(self);
            Self::check((self.data)(owned.1, &raw mut first), "allocate the result of dropout")?;
            Ok((owned, first.cast()))
        }
    }
}

/// A reference to a tensor.
pub(super) struct Owned<'a>(pub(super) &'a Torch, pub(super) Handle);

impl Owned<'_> {
    /// Gives the reference away.
    pub(super) fn given(self) -> u64 {
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
pub(super) struct Tensor {
    pub(super) implementation: *const c_void,
    pub(super) first: *mut u8,
    pub(super) element: Element,
    pub(super) dtype: i32,
    pub(super) shape: arrays::Lengths,
    /// In bytes.
    pub(super) strides: arrays::Steps,
}

impl Tensor {
    /// A dense tensor on the CPU, of a dtype that the core computes.
    ///
    /// # Safety
    /// It must be a tensor.
    pub(super) unsafe fn read(torch: &Torch, tensor: Handle) -> Option<Self> {
        // SAFETY: the caller guarantees the tensor.
        unsafe { Self::read_as(torch, tensor, &torch.numbers) }
    }

    /// # Safety
    /// As for `read`.
    pub(super) unsafe fn read_as(torch: &Torch, tensor: Handle, dtypes: &[(i32, Element)]) -> Option<Self> {
        let (mut device, mut layout, mut dtype, mut ndim) = (0, 0, 0, 0);
        let (mut sizes, mut strides, mut first) = (null(), null(), null_mut());
        // SAFETY: the caller guarantees the tensor; sizes and strides live as long as it and have a length per axis.
        unsafe {
            if (torch.dtype)(tensor, &raw mut dtype) != 0 {
                return None;
            }
            let element = dtypes.iter().find(|(code, _)| *code == dtype)?.1;
            let fails = (torch.device)(tensor, &raw mut device) != 0
                || device != torch.cpu
                || (torch.layout)(tensor, &raw mut layout) != 0
                || layout != torch.strided
                || (torch.ndim)(tensor, &raw mut ndim) != 0
                || (torch.sizes)(tensor, &raw mut sizes) != 0
                || (torch.strides)(tensor, &raw mut strides) != 0
                || (torch.data)(tensor, &raw mut first) != 0;
            if fails {
                return None;
            }
            let (sizes, strides) = (tensors::lengths(sizes, ndim as usize), tensors::lengths(strides, ndim as usize));
            let size = element.size() as isize;
            let shape = sizes.iter().map(|len| *len as usize).collect();
            let strides = strides.iter().map(|stride| *stride as isize * size).collect();
            Some(Self { implementation: implementation(tensor), first: first.cast(), element, dtype, shape, strides })
        }
    }

    /// A one, in the shape of another.
    pub(super) fn one(like: &Self) -> Self {
        static ONE: f32 = 1.0;
        let first = (&raw const ONE).cast_mut().cast();
        let (shape, strides) = (like.shape.clone(), arrays::Steps::from_elem(0, like.shape.len()));
        Self { implementation: null(), first, element: Element::F32, dtype: like.dtype, shape, strides }
    }

    /// The strides of `torch.empty_like`, in elements: its own if its elements are adjacent, else those of adjacent ones
    /// in its order of axes. Axes of stride 0 stay where they are. Then, whether its elements are adjacent.
    fn dense_strides(&self) -> (arrays::Steps, bool) {
        let mut order: arrays::Lengths = (0..self.shape.len()).rev().collect();
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
        let (mut dense, mut step, mut is_dense) = (arrays::Steps::from_elem(0, order.len()), 1, true);
        for axis in order {
            dense[axis] = step;
            is_dense &= self.shape[axis] == 1 || self.strides[axis] == step * size;
            step *= self.shape[axis].max(1) as isize;
        }
        let strides = if is_dense { self.strides.iter().map(|stride| stride / size).collect() } else { dense };
        (strides, is_dense)
    }

    /// Whether its elements are adjacent, in memory of their own.
    pub(super) fn is_dense(&self) -> bool {
        !self.first.is_null() && self.dense_strides().1
    }

    /// A new tensor of the same shape, dtype and order of axes.
    pub(super) fn like<'a>(&self, torch: &'a Torch) -> Result<(Owned<'a>, Self), Failure> {
        let mut strides = self.dense_strides().0;
        let sizes: SmallVec<[i64; 4]> = self.shape.iter().map(|len| *len as i64).collect();
        let steps: SmallVec<[i64; 4]> = strides.iter().map(|step| *step as i64).collect();
        let (owned, first) = torch.new_tensor(&sizes, &steps, self.dtype)?;
        let size = self.element.size() as isize;
        strides.iter_mut().for_each(|stride| *stride *= size);
        let implementation = null();
        Ok((owned, Self { implementation, first, strides, shape: self.shape.clone(), ..*self }))
    }
}
