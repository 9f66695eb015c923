//! Operations that go with dropout in one pass over memory, and those where a dropped element becomes no zero.
//!
//! [`value`] is the definition of all of them. As in `apply`, a word of keep bits is the unit; what has another
//! layout or type than floats side by side goes through a buffer.

use crate::apply::{Apply, Element, twice};
use crate::bits::word_at;
use crate::dropout::Arrays;
use crate::gelu::{Arithmetic, gelu, slope};
use crate::lanes::{Layout, Real};
use crate::simd::{Kernel, LANES, Simd, WORD};
use crate::walk::MORE;

/// Inputs at most.
const INPUTS: usize = 1 + MORE;
/// Bytes that are streamed at a time, to multiples of that.
const STREAMED: usize = 64;
/// Runs of this many elements are streamed, wherever they begin.
const STREAMED_LEN: usize = 2048;
/// Elements that are computed at a time.
const LINE: usize = 16;

/// What is computed of the inputs x, a and b. The names are the ones that Python uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `kept ? x * scale + shift : fill`
    Affine,
    /// `kept ? a + x * scale : a`
    Add,
    /// `kept ? b + (x + a) * scale : b`
    BiasAdd,
    /// `kept ? x : a`
    Switch,
    /// `x * scale + a * shift`
    Mix,
    /// `kept ? relu(x) * scale : 0`
    Relu,
    /// `kept ? x * scale * relu'(a) : 0`
    ReluGradient,
    /// `kept ? gelu(x) * scale : 0`
    Gelu,
    /// `kept ? x * scale * gelu'(a) : 0`
    GeluGradient,
    /// As `Gelu`, with the approximation by tanh.
    GeluTanh,
    /// As `GeluGradient`, with the approximation by tanh.
    GeluTanhGradient,
}

impl Kind {
    /// All kinds, with their names and numbers of inputs.
    pub(crate) const ALL: [(&str, Self, usize); 11] = [
        ("affine", Self::Affine, 1),
        ("add", Self::Add, 2),
        ("bias_add", Self::BiasAdd, 3),
        ("switch", Self::Switch, 2),
        ("mix", Self::Mix, 2),
        ("relu", Self::Relu, 1),
        ("relu_gradient", Self::ReluGradient, 2),
        ("gelu", Self::Gelu, 1),
        ("gelu_gradient", Self::GeluGradient, 2),
        ("gelu_tanh", Self::GeluTanh, 1),
        ("gelu_tanh_gradient", Self::GeluTanhGradient, 2),
    ];

    /// Whether complex numbers, taken as two real ones, come out right.
    pub(crate) fn is_linear(self) -> bool {
        matches!(self, Self::Add | Self::BiasAdd | Self::Switch | Self::Mix)
    }
}

/// A kind and its numbers, which are rounded once to the precision that elements are computed in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) scale: f64,
    pub(crate) shift: f64,
    pub(crate) fill: f64,
}

/// One element.
#[inline(always)]
fn value<R: Arithmetic, const KIND: usize>(keep: bool, [x, a, b]: [R; INPUTS], [scale, shift, fill]: [R; 3]) -> R {
    let zero = R::from_f64(0.0);
    let (kept, dropped) = match Kind::ALL[KIND].1 {
        Kind::Affine => (x * scale + shift, fill),
        Kind::Add => (a + x * scale, a),
        Kind::BiasAdd => (b + (x + a) * scale, b),
        Kind::Switch => (x, a),
        Kind::Mix => return x * scale + a * shift,
        // NaN is not at most 0, and stays.
        Kind::Relu => (if x <= zero { zero } else { x * scale }, zero),
        Kind::ReluGradient => (if a <= zero { zero } else { x * scale }, zero),
        Kind::Gelu => (gelu::<R, false>(x) * scale, zero),
        Kind::GeluGradient => (x * slope::<R, false>(a) * scale, zero),
        Kind::GeluTanh => (gelu::<R, true>(x) * scale, zero),
        Kind::GeluTanhGradient => (x * slope::<R, true>(a) * scale, zero),
    };
    if keep { kept } else { dropped }
}

/// Handles one run along an axis, with the keep bits from bit `offset` of `words` on, which have a word to spare.
///
/// # Safety
/// As for `dropout::run`; the steps are those of the first input, the output, and the further inputs.
pub(crate) unsafe fn run(
    memory: Apply,
    operation: Operation,
    arrays: Arrays,
    steps: [isize; 2 + MORE],
    words: &[u64],
    offset: usize,
    len: usize,
) {
    assert!(offset + len <= (words.len() - 1) * 64 || len == 0);
    let call = Call { memory, operation, arrays, steps, len };
    // SAFETY: the obligations are the same.
    unsafe {
        match arrays.element {
            Element::F64 | Element::Complex128 => call.run::<f64>(words, offset),
            _ => call.run::<f32>(words, offset),
        }
    }
}

struct Call {
    memory: Apply,
    operation: Operation,
    arrays: Arrays,
    steps: [isize; 2 + MORE],
    len: usize,
}

impl Call {
    /// # Safety
    /// As for [`run`]; R must be what the elements are computed in.
    unsafe fn run<R: Real>(&self, words: &[u64], offset: usize) {
        let Self { memory, operation, arrays, steps, len } = *self;
        let level = memory.level;
        let inputs = Kind::ALL[operation.kind as usize].2;
        let size = size_of::<R>() as isize;
        let used = &[0, 1, 2, 3][..1 + inputs];
        if arrays.element.size() as isize == size && used.iter().all(|i| steps[*i] == size && !arrays.swapped[*i]) {
            let inputs = [arrays.src, arrays.more[0], arrays.more[1]].map(<*const u8>::cast::<R>);
            let dst = arrays.dst.cast::<R>();
            // Lines that are written in parts are better left to the cache: at the ends of short runs.
            let lines = arrays.dst.addr().is_multiple_of(STREAMED) && (len * size_of::<R>()).is_multiple_of(STREAMED);
            let streams = memory.stream && dst.is_aligned() && (lines || len >= STREAMED_LEN);
            let ahead = streams.then_some(memory.ahead);
            level.run(Contiguous { operation, ahead, inputs, dst, words, offset, len });
            return;
        }
        let layouts: [Layout; 2 + MORE] =
            std::array::from_fn(|i| Layout { element: arrays.element, swapped: arrays.swapped[i], step: steps[i] });
        let parts = layouts[0].parts();
        let mut buffers = [[R::default(); 2 * WORD]; INPUTS];
        for at in (0..len).step_by(WORD) {
            let floats = WORD.min(len - at) * parts;
            let word = word_at(words, offset + at);
            let bits = if parts == 1 { [word, 0, 0] } else { [twice(word as u32), twice((word >> 32) as u32), 0] };
            let from = [(arrays.src, 0), (arrays.more[0], 2), (arrays.more[1], 3)];
            for (buffer, (src, which)) in buffers.iter_mut().zip(from).take(inputs) {
                // SAFETY: `at < len`, and the caller vouches for the elements.
                unsafe {
                    layouts[which].load(src.wrapping_offset(at as isize * steps[which]), &mut buffer[..floats]);
                }
            }
            let [x, a, b] = &mut buffers;
            let (dst, more) = (x.as_mut_ptr(), [a.as_ptr(), b.as_ptr()]);
            let inputs = [dst.cast_const(), more[0], more[1]];
            level.run(Contiguous { operation, ahead: None, inputs, dst, words: &bits, offset: 0, len: floats });
            // SAFETY: `at < len`, and the caller vouches for the elements.
            unsafe { layouts[1].store(&buffers[0][..floats], arrays.dst.wrapping_offset(at as isize * steps[1])) };
        }
    }
}

/// Floats that lie side by side. Only [`Call::run`] makes one, of the caller's elements or its own buffers; inputs that
/// the operation does not have are not read.
struct Contiguous<'a, R> {
    operation: Operation,
    /// Whether to write past the caches, and then how far ahead of its use memory is asked for, in bytes.
    ahead: Option<isize>,
    inputs: [*const R; INPUTS],
    dst: *mut R,
    words: &'a [u64],
    offset: usize,
    len: usize,
}

impl<R: Real> Kernel for Contiguous<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.operation.kind {
            Kind::Affine => self.all::<S, { Kind::Affine as usize }>(simd),
            Kind::Add => self.all::<S, { Kind::Add as usize }>(simd),
            Kind::BiasAdd => self.all::<S, { Kind::BiasAdd as usize }>(simd),
            Kind::Switch => self.all::<S, { Kind::Switch as usize }>(simd),
            Kind::Mix => self.all::<S, { Kind::Mix as usize }>(simd),
            Kind::Relu => self.all::<S, { Kind::Relu as usize }>(simd),
            Kind::ReluGradient => self.all::<S, { Kind::ReluGradient as usize }>(simd),
            Kind::Gelu => self.all::<S, { Kind::Gelu as usize }>(simd),
            Kind::GeluGradient => self.all::<S, { Kind::GeluGradient as usize }>(simd),
            Kind::GeluTanh => self.all::<S, { Kind::GeluTanh as usize }>(simd),
            Kind::GeluTanhGradient => self.all::<S, { Kind::GeluTanhGradient as usize }>(simd),
        }
    }
}

impl<R: Real> Contiguous<'_, R> {
    #[inline(always)]
    fn all<S: Simd, const KIND: usize>(self, simd: S) {
        match self.ahead {
            Some(ahead) => {
                let head = (self.dst.addr().wrapping_neg() % STREAMED / size_of::<R>()).min(self.len);
                self.part::<S, KIND, false>(simd, 0, head, 0);
                self.part::<S, KIND, true>(simd, head, self.len, ahead);
            }
            None => self.part::<S, KIND, false>(simd, 0, self.len, 0),
        }
    }

    /// The elements from `start` to `end`.
    #[inline(always)]
    fn part<S: Simd, const KIND: usize, const STREAM: bool>(&self, simd: S, start: usize, end: usize, ahead: isize) {
        let Self { operation: Operation { scale, shift, fill, .. }, inputs, dst, words, offset, .. } = *self;
        let numbers = [scale, shift, fill].map(R::from_f64);
        let used = Kind::ALL[KIND].2;
        let zero = R::from_f64(0.0);
        let mut at = start;
        while at < end {
            let keep = word_at(words, offset + at);
            // SAFETY: whoever made this vouches for `len` floats of each input in use and of the output; `at` is before
            // the end by as much as is computed.
            at += unsafe {
                if end - at >= WORD {
                    for line in (0..WORD).step_by(LINE) {
                        self.line::<S, KIND, STREAM>(simd, at + line, (keep >> line) as u32, numbers, ahead);
                    }
                    WORD
                } else if end - at >= LINE {
                    self.line::<S, KIND, STREAM>(simd, at, keep as u32, numbers, ahead);
                    LINE
                } else {
                    let read = |input: usize| if input < used { inputs[input].add(at).read_unaligned() } else { zero };
                    let y = value::<R, KIND>(keep & 1 != 0, [read(0), read(1), read(2)], numbers);
                    dst.add(at).write_unaligned(y);
                    1
                }
            };
        }
    }

    /// [`LINE`] elements from `at` on.
    ///
    /// # Safety
    /// There must be as many; if they are streamed, `at` must be where a streamed line can begin.
    #[inline(always)]
    unsafe fn line<S: Simd, const KIND: usize, const STREAM: bool>(
        &self,
        simd: S,
        at: usize,
        keep: u32,
        numbers: [R; 3],
        ahead: isize,
    ) {
        let Self { inputs, dst, .. } = *self;
        let used = Kind::ALL[KIND].2;
        let zeros = [R::from_f64(0.0); LINE];
        // SAFETY: the caller vouches for the elements and the alignment.
        unsafe {
            let read = |input: usize| {
                if input < used { inputs[input].add(at).cast::<[R; LINE]>().read_unaligned() } else { zeros }
            };
            let [x, a, b] = [read(0), read(1), read(2)];
            let mut y = zeros;
            for i in 0..LINE {
                y[i] = value::<R, KIND>(keep & 1 << i != 0, [x[i], a[i], b[i]], numbers);
            }
            if !STREAM {
                return dst.add(at).cast::<[R; LINE]>().write_unaligned(y);
            }
            for line in (0..LINE * size_of::<R>()).step_by(STREAMED) {
                for input in &inputs[..used] {
                    let address = input.wrapping_add(at).cast::<u8>().wrapping_offset(ahead);
                    simd.prefetch(address.wrapping_add(line));
                }
                let words = (&raw const y).cast::<u8>().add(line).cast::<[u64; LANES]>();
                simd.stream(dst.add(at).cast::<u8>().add(line), simd.load(&words.read_unaligned()));
            }
        }
    }
}
