//! A table of formulas: what kept and dropped elements become. Some fuse dropout with other operations in one pass over
//! memory. In some, a dropped element does not become zero.
//!
//! A [`Formula`] is a row of the table. Python calls it an operation, by the name in its row. [`super::Operation`] is
//! what the driver runs: a formula with its numbers, or another use of drawn values. As in `select`, the unit is a word
//! of keep bits. Elements that are not contiguous floats go through `convert`.

use super::activation::{
    elu, elu_slope, hard_sigmoid, hardswish_slope, reciprocal_sigmoid, relu6, sigmoid_slope, silu_slope, tanh,
    tanh_slope,
};
use super::gelu::{Tail, gelu, slope};
use super::real::Real;
use super::{LINE, Memory, Run, WRITE_AHEAD};
use crate::error::Error;
use crate::operand::{Each, Element, INPUTS};
use crate::simd::{Kernel, LANES, Simd, WORD};
use crate::words::{twice, word_at};

/// Runs of at least this many elements are streamed even if they do not fill whole lines.
const STREAMED_LEN: usize = 2048;
/// Elements computed at a time.
const COMPUTED: usize = 16;

/// Makes the table: a type for each formula, so that each is compiled separately, and [`Formula`],
/// which names them.
macro_rules! formulas {
    (
        |$x:ident, $a:ident, $b:ident, $scale:ident, $shift:ident, $fill:ident, $zero:ident|
        $($(#[$doc:meta])* $name:ident, $text:literal, [$($input:literal),+], $complex:literal, $gradient:ident, $kept:expr, $dropped:expr;)+
    ) => {
        /// A formula of the inputs x, a and b.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Formula {
            $($(#[$doc])* $name,)+
        }

        impl Formula {
            /// All formulas.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name in Python.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The formula of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Names of its inputs in Python.
            #[must_use]
            pub const fn input_names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($input),+],)+
                }
            }

            /// Whether it is correct for complex numbers, computed as pairs of real ones.
            #[must_use]
            pub const fn takes_complex(self) -> bool {
                match self {
                    $(Self::$name => $complex,)+
                }
            }

            /// The formula of the gradient with respect to x.
            #[must_use]
            pub const fn gradient(self) -> Self {
                match self {
                    $(Self::$name => Self::$gradient,)+
                }
            }

            #[inline(always)]
            fn compute<R: Real + Tail, S: Simd>(self, simd: S, call: &Contiguous<'_, R>) {
                match self {
                    $(Self::$name => call.all::<S, table::$name>(simd),)+
                }
            }
        }

        mod table {
            use super::*;

            $(
                pub(super) struct $name;

                impl Compute for $name {
                    const INPUTS: usize = [$($input),+].len();

                    #[inline(always)]
                    #[allow(unused_variables, reason = "few formulas need all")]
                    fn value<R: Tail>(keep: bool, [$x, $a, $b]: [R; INPUTS], [$scale, $shift, $fill]: [R; 3]) -> R {
                        let $zero = R::from_f64(0.0);
                        let (kept, dropped) = ($kept, $dropped);
                        if keep { kept } else { dropped }
                    }
                }
            )+
        }
    };
}

// Columns: name; name in Python; names of x, a and b in Python; whether it is correct for complex numbers; gradient;
// value of a kept and of a dropped element. A gradient follows its function. Its x is the incoming gradient, and its a
// is the function's input. NaN is not <= 0, so it passes the rectifiers.
formulas! {
    |x, a, b, scale, shift, fill, zero|
    /// `kept ? x * scale : 0`, for a finite `scale`
    Select, "select", ["x"], true, Select, x * scale, zero;
    /// `kept ? x * scale + shift : fill`
    Affine, "affine", ["x"], false, Select, x * scale + shift, fill;
    /// `kept ? a + x * scale : a`
    Add, "add", ["x", "residual"], true, Select, a + x * scale, a;
    /// `kept ? b + (x + a) * scale : b`
    BiasAdd, "bias_add", ["x", "bias", "residual"], true, Select, b + (x + a) * scale, b;
    /// `kept ? x : a`
    Switch, "switch", ["new", "previous"], true, Select, x, a;
    /// `kept ? 0 : x`
    Complement, "complement", ["dy"], true, Select, zero, x;
    /// `x * scale + a * shift`
    Mix, "mix", ["new", "previous"], true, Select, x * scale + a * shift, x * scale + a * shift;
    /// `kept ? relu(x) * scale : 0`
    Relu, "relu", ["x"], false, ReluGradient, if x <= zero { zero } else { x * scale }, zero;
    /// `kept ? x * scale * relu'(a) : 0`
    ReluGradient, "relu_gradient", ["dy", "x"], false, Select, if a <= zero { zero } else { x * scale }, zero;
    /// `kept ? gelu(x) * scale : 0`
    Gelu, "gelu", ["x"], false, GeluGradient, gelu::<R, false>(x) * scale, zero;
    /// `kept ? x * scale * gelu'(a) : 0`
    GeluGradient, "gelu_gradient", ["dy", "x"], false, Select, x * slope::<R, false>(a) * scale, zero;
    /// `Gelu` with the approximation by tanh.
    GeluTanh, "gelu_tanh", ["x"], false, GeluTanhGradient, gelu::<R, true>(x) * scale, zero;
    /// `GeluGradient` with the approximation by tanh.
    GeluTanhGradient, "gelu_tanh_gradient", ["dy", "x"], false, Select, x * slope::<R, true>(a) * scale, zero;
    /// `kept ? x * sigmoid(x) * scale : 0`
    Silu, "silu", ["x"], false, SiluGradient, x / reciprocal_sigmoid(x) * scale, zero;
    /// `kept ? x * scale * silu'(a) : 0`
    SiluGradient, "silu_gradient", ["dy", "x"], false, Select, x * silu_slope(a) * scale, zero;
    /// `kept ? (x > 0 ? x : x * shift) * scale : 0`
    LeakyRelu, "leaky_relu", ["x"], false, LeakyReluGradient, (if x > zero { x } else { x * shift }) * scale, zero;
    /// `kept ? (a > 0 ? x : x * shift) * scale : 0`
    LeakyReluGradient, "leaky_relu_gradient", ["dy", "x"], false, Select, (if a > zero { x } else { x * shift }) * scale, zero;
    /// `kept ? (x > 0 ? x : (exp(x) - 1) * shift) * scale : 0`
    Elu, "elu", ["x"], false, EluGradient, elu(x, shift) * scale, zero;
    /// `kept ? x * scale * elu'(a) : 0`
    EluGradient, "elu_gradient", ["dy", "x"], false, Select, x * elu_slope(a, shift) * scale, zero;
    /// `kept ? tanh(x) * scale : 0`
    Tanh, "tanh", ["x"], false, TanhGradient, tanh(x) * scale, zero;
    /// `kept ? x * scale * tanh'(a) : 0`
    TanhGradient, "tanh_gradient", ["dy", "x"], false, Select, x * tanh_slope(a) * scale, zero;
    /// `kept ? sigmoid(x) * scale : 0`
    Sigmoid, "sigmoid", ["x"], false, SigmoidGradient, scale / reciprocal_sigmoid(x), zero;
    /// `kept ? x * scale * sigmoid'(a) : 0`
    SigmoidGradient, "sigmoid_gradient", ["dy", "x"], false, Select, x * sigmoid_slope(a) * scale, zero;
    /// `kept ? min(relu(x), 6) * scale : 0`
    Relu6, "relu6", ["x"], false, Relu6Gradient, relu6(x) * scale, zero;
    /// `kept ? x * scale * relu6'(a) : 0`
    Relu6Gradient, "relu6_gradient", ["dy", "x"], false, Select, if a <= zero || a >= R::from_f64(6.0) { zero } else { x * scale }, zero;
    /// `kept ? x * relu6(x + 3) / 6 * scale : 0`
    Hardswish, "hardswish", ["x"], false, HardswishGradient, x * hard_sigmoid(x) * scale, zero;
    /// `kept ? x * scale * hardswish'(a) : 0`
    HardswishGradient, "hardswish_gradient", ["dy", "x"], false, Select, x * hardswish_slope(a) * scale, zero;
}

/// The numbers in a formula. Each is rounded once, to the precision of the computation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// `scale` in a formula.
    pub scale: f64,
    /// `shift` in a formula.
    pub shift: f64,
    /// `fill` in a formula.
    pub fill: f64,
}

impl Numbers {
    /// The numbers of a formula that uses only a scale.
    #[must_use]
    pub const fn scale(scale: f64) -> Self {
        Self { scale, shift: 0.0, fill: 0.0 }
    }
}

/// One formula, compiled separately.
trait Compute {
    const INPUTS: usize;

    /// One element: from the inputs x, a, b and the numbers scale, shift, fill.
    fn value<R: Tail>(keep: bool, inputs: [R; INPUTS], numbers: [R; 3]) -> R;
}

impl Formula {
    /// Number of inputs.
    #[must_use]
    pub const fn inputs(self) -> usize {
        self.input_names().len()
    }

    /// Checks that it takes these numbers, and this many inputs of this element type.
    pub(crate) fn check(self, numbers: Numbers, count: usize, element: Element) -> Result<(), Error> {
        if self == Self::Select && !numbers.scale.is_finite() {
            return Err(Error::NotFinite { what: "scale", got: numbers.scale });
        }
        if count == self.inputs() && (element.parts() == 1 || self.takes_complex()) {
            return Ok(());
        }
        Err(Error::Inputs(self.name(), self.inputs()))
    }

    /// Handles one run with the keep bits of `words` from bit `offset` on. `words` must have a
    /// spare word.
    ///
    /// # Safety
    /// See [`super::Operation::run`].
    pub(super) unsafe fn run(self, numbers: Numbers, memory: &Memory, words: &[u64], offset: usize, run: &Run<'_>) {
        assert!(offset + run.len <= (words.len() - 1) * 64 || run.len == 0);
        // SAFETY: the obligations are the same.
        unsafe {
            if run.operands.is_double() {
                self.run_in::<f64>(numbers, memory, words, offset, run);
            } else {
                self.run_in::<f32>(numbers, memory, words, offset, run);
            }
        }
    }

    /// # Safety
    /// See [`Formula::run`]; no array may be wider than R.
    unsafe fn run_in<R: Real + Tail>(
        self,
        numbers: Numbers,
        memory: &Memory,
        words: &[u64],
        offset: usize,
        run: &Run<'_>,
    ) {
        let len = run.len;
        let inputs = self.inputs();
        let size = size_of::<R>();
        if run.operands.element().size() == size && run.is_contiguous(size, inputs) {
            let dst = run.address(0);
            // Partly written lines, at the ends of short runs, are better left to the cache.
            let lines = dst.addr().is_multiple_of(LINE) && (len * size).is_multiple_of(LINE);
            let streams = memory.stream && dst.cast::<R>().is_aligned() && (lines || len >= STREAMED_LEN);
            let ahead = streams.then(|| [memory.ahead[1], memory.ahead[2], memory.ahead[3]]);
            let inputs = [1, 2, 3].map(|which| run.address(which).cast::<R>().cast_const());
            let call = Contiguous { formula: self, numbers, ahead, inputs, dst: dst.cast(), words, offset, len };
            return memory.level.run(call);
        }
        let parts = run.operands.element().parts();
        let computed = Element::number(size == size_of::<f64>(), parts);
        let direct: Each<bool> = std::array::from_fn(|which| run.has(which, computed));
        let mut buffers = [[R::default(); 2 * WORD]; INPUTS];
        for at in (0..len).step_by(WORD) {
            let floats = WORD.min(len - at) * parts;
            let word = word_at(words, offset + at);
            let bits = if parts == 1 { [word, 0, 0] } else { [twice(word as u32), twice((word >> 32) as u32), 0] };
            let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
            for (buffer, which) in buffers[..inputs].iter_mut().zip(1..) {
                if !direct[which] {
                    // SAFETY: `at < len`, and the caller guarantees the elements.
                    unsafe { run.layout(which).load(place(which), parts, &mut buffer[..floats]) };
                }
            }
            let [x, a, b] = &mut buffers;
            let x = x.as_mut_ptr();
            let mut addresses = [x, x, a.as_mut_ptr(), b.as_mut_ptr()];
            for which in 0..addresses.len() {
                if direct[which] {
                    addresses[which] = place(which).cast();
                }
            }
            let [dst, inputs @ ..] = addresses;
            let (inputs, words, len) = (inputs.map(|input| input.cast_const()), &bits, floats);
            let ahead = None;
            memory.level.run(Contiguous { formula: self, numbers, ahead, inputs, dst, words, offset: 0, len });
            if !direct[0] {
                // SAFETY: `at < len`, and the caller guarantees the elements.
                unsafe { run.layout(0).store(&buffers[0][..floats], place(0)) };
            }
        }
    }
}

/// Contiguous floats. Only [`Formula::run_in`] makes one, from a run's elements or its own buffers;
/// inputs that the formula does not take are not read.
struct Contiguous<'a, R> {
    formula: Formula,
    numbers: Numbers,
    /// With streaming stores, how far ahead to prefetch each input, in bytes; `None` without them.
    ahead: Option<[isize; INPUTS]>,
    inputs: [*const R; INPUTS],
    dst: *mut R,
    words: &'a [u64],
    offset: usize,
    len: usize,
}

impl<R: Real + Tail> Kernel for Contiguous<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.formula.compute(simd, &self);
    }
}

impl<R: Real + Tail> Contiguous<'_, R> {
    #[inline(always)]
    fn all<S: Simd, C: Compute>(&self, simd: S) {
        // One call for what is not streamed, because each is compiled for every formula and level.
        let to_line = self.dst.addr().wrapping_neg() % LINE / size_of::<R>();
        let head = if self.ahead.is_some() { to_line.min(self.len) } else { self.len };
        self.part::<S, C, false>(simd, 0, head, [0; INPUTS]);
        if let Some(ahead) = self.ahead {
            self.part::<S, C, true>(simd, head, self.len, ahead);
        }
    }

    /// The elements from `start` to `end`.
    #[inline(always)]
    fn part<S: Simd, C: Compute, const STREAM: bool>(&self, simd: S, start: usize, end: usize, ahead: [isize; INPUTS]) {
        let Self { numbers: Numbers { scale, shift, fill }, inputs, dst, words, offset, .. } = *self;
        let numbers = [scale, shift, fill].map(R::from_f64);
        let zero = R::from_f64(0.0);
        let mut at = start;
        while at < end {
            let keep = word_at(words, offset + at);
            // SAFETY: `run_in`, which made this, guarantees `len` floats of each input in use and of the output. At
            // least as many as are computed are left from `at` on.
            at += unsafe {
                if end - at >= WORD {
                    for line in (0..WORD).step_by(COMPUTED) {
                        self.line::<S, C, STREAM>(simd, at + line, (keep >> line) as u32, numbers, ahead);
                    }
                    WORD
                } else if end - at >= COMPUTED {
                    self.line::<S, C, STREAM>(simd, at, keep as u32, numbers, ahead);
                    COMPUTED
                } else {
                    let read = |i: usize| if i < C::INPUTS { inputs[i].add(at).read_unaligned() } else { zero };
                    let y = C::value(keep & 1 != 0, [read(0), read(1), read(2)], numbers);
                    dst.add(at).write_unaligned(y);
                    1
                }
            };
        }
    }

    /// [`COMPUTED`] elements from `at` on.
    ///
    /// # Safety
    /// There must be that many; if they are streamed, a cache line of the output must start at `at`.
    #[inline(always)]
    unsafe fn line<S: Simd, C: Compute, const STREAM: bool>(
        &self,
        simd: S,
        at: usize,
        keep: u32,
        numbers: [R; 3],
        ahead: [isize; INPUTS],
    ) {
        let Self { inputs, dst, .. } = *self;
        let zeros = [R::from_f64(0.0); COMPUTED];
        // SAFETY: the caller guarantees the elements and the alignment.
        unsafe {
            let read = |i: usize| {
                if i < C::INPUTS { inputs[i].add(at).cast::<[R; COMPUTED]>().read_unaligned() } else { zeros }
            };
            let [x, a, b] = [read(0), read(1), read(2)];
            let mut y = zeros;
            for i in 0..COMPUTED {
                y[i] = C::value(keep & 1 << i != 0, [x[i], a[i], b[i]], numbers);
            }
            if !STREAM {
                for line in (0..COMPUTED * size_of::<R>()).step_by(LINE) {
                    simd.prefetch_write(dst.wrapping_add(at).cast::<u8>().wrapping_add(line + WRITE_AHEAD));
                }
                return dst.add(at).cast::<[R; COMPUTED]>().write_unaligned(y);
            }
            for line in (0..COMPUTED * size_of::<R>()).step_by(LINE) {
                for (input, ahead) in inputs.iter().zip(ahead).take(C::INPUTS) {
                    let address = input.wrapping_add(at).cast::<u8>().wrapping_offset(ahead);
                    simd.prefetch(address.wrapping_add(line));
                }
                let words = (&raw const y).cast::<u8>().add(line).cast::<[u64; LANES]>();
                simd.stream(dst.add(at).cast::<u8>().add(line), simd.load(&words.read_unaligned()));
            }
        }
    }
}
