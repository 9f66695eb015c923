//! The arrays of a call: their element types and addresses.

use half::{bf16, f16};

/// The element type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    F32,
    F64,
    Complex64,
    Complex128,
    /// A byte, 0 or 1: a keep bit in an output or in a given mask.
    Bool,
    /// A 64-bit uniform in an output.
    U64,
    /// A packed keep bit in an output, whose offsets are in bits.
    Bit,
}

/// Size of the largest element.
pub(crate) const LARGEST: usize = 16;

impl Element {
    /// Bytes of an element.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Bool | Self::Bit => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::Complex64 | Self::U64 => 8,
            Self::Complex128 => 16,
        }
    }

    /// Real numbers in an element. Byte order applies to each of them.
    pub(crate) const fn parts(self) -> usize {
        match self {
            Self::Complex64 | Self::Complex128 => 2,
            _ => 1,
        }
    }

    /// Whether its parts are computed in double precision rather than single.
    pub(crate) const fn is_double(self) -> bool {
        matches!(self, Self::F64 | Self::Complex128)
    }

    /// The element type with this many parts, in double or single precision.
    pub(crate) const fn number(double: bool, parts: usize) -> Self {
        match (double, parts) {
            (false, 1) => Self::F32,
            (true, 1) => Self::F64,
            (false, _) => Self::Complex64,
            (true, _) => Self::Complex128,
        }
    }
}

/// How an array stores its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) element: Element,
    /// Whether the byte order differs from this CPU's.
    pub(crate) swapped: bool,
}

mod sealed {
    pub trait Sealed {
        const ELEMENT: super::Element;
    }
}

/// An element type: `f32`, `f64`, [`half::f16`], [`half::bf16`] and, with the feature `num-complex`, complex numbers of
/// `f32` and `f64`.
pub trait Float: sealed::Sealed + Copy + Send + Sync {}

macro_rules! float {
    ($($type:ty => $element:ident),+) => {$(
        impl sealed::Sealed for $type {
            const ELEMENT: Element = Element::$element;
        }
        impl Float for $type {}
    )+};
}
float!(f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64);
#[cfg(feature = "num-complex")]
float!(num_complex::Complex<f32> => Complex64, num_complex::Complex<f64> => Complex128);

pub(crate) const fn element_of<T: Float>() -> Element {
    T::ELEMENT
}

/// Maximum number of inputs to an operation.
pub(crate) const INPUTS: usize = 3;
/// One value for each array of a call: the output first, then the inputs. Values for absent inputs
/// are arbitrary.
pub(crate) type Each<T> = [T; 4];

/// The arrays of a call: the address of each array's first element, and its format. A call computes in double precision
/// if any of its arrays is in double precision, and rounds its results once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) first: Each<*mut u8>,
    formats: Each<Format>,
    alike: bool,
    double: bool,
    /// Whether the output was allocated for this call. A large one may have no pages mapped yet.
    pub(crate) fresh: bool,
}

impl Operands {
    /// Arrays of one element type in this CPU's byte order; inputs are not written.
    pub(crate) fn new(element: Element, output: *mut u8, inputs: &[*const u8]) -> Self {
        let mut first = [std::ptr::null_mut(); 1 + INPUTS];
        first[0] = output;
        for (first, input) in first[1..].iter_mut().zip(inputs) {
            *first = input.cast_mut();
        }
        let formats = [Format { element, swapped: false }; 1 + INPUTS];
        Self { first, formats, alike: true, double: element.is_double(), fresh: false }
    }

    /// Sets the format of each array; absent arrays have the output's. Only calls from Python mix formats.
    #[cfg(feature = "python")]
    pub(crate) fn set_formats(&mut self, formats: Each<Format>) {
        let native = Format { element: formats[0].element, swapped: false };
        self.formats = formats;
        self.alike = formats.iter().all(|format| *format == native);
        self.double = formats.iter().any(|format| format.element.is_double());
    }

    pub(crate) fn format(&self, which: usize) -> Format {
        self.formats[which]
    }

    /// The element type of the output.
    pub(crate) fn element(&self) -> Element {
        self.formats[0].element
    }

    /// Whether all arrays are of one element type in this CPU's byte order.
    pub(crate) fn are_alike(&self) -> bool {
        self.alike
    }

    /// Whether the call computes in double precision.
    pub(crate) fn is_double(&self) -> bool {
        self.double
    }
}

// SAFETY: the driver requires that nobody else touches the arrays, so any thread may work on them.
unsafe impl Send for Operands {}
// SAFETY: only the driver shares them among threads, and its units write disjoint elements.
unsafe impl Sync for Operands {}
