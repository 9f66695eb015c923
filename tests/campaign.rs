//! A random campaign with one digest, the same for all levels, numbers of threads, chunks and CPUs.
//!
//! `FASTDROP_CASES=100000 cargo test --release --test campaign -- --nocapture` runs a longer one, and prints its digest
//! for comparison with other machines.

use std::fmt::Debug;

use fastdrop::{
    Attention, Bias, Error, Float, Formula, Key, Level, Mask, Numbers, Real, Tensor, TensorMut, set_num_threads,
};
use half::{bf16, f16};

/// Cases of the default campaign, and its digest.
const CASES: u64 = 400;
const DIGEST: u64 = 0xA3B1_F743_3430_BDB5;

/// The generator of Steele, Lea and Flood ("SplitMix"), so that the cases do not depend on what is tested.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// FNV-1a.
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
    }
}

/// An element type, as bit patterns.
trait Bits: Float + Debug {
    fn from_bits64(bits: u64) -> Self;
    fn from_number(number: f64) -> Self;
    /// Bits of the number, the same for every NaN.
    fn to_bits64(self) -> u64;
    /// Its bits, including a NaN's payload.
    fn payload(self) -> u64;
}

macro_rules! bits {
    ($($type:ty, $bits:ty, $from_number:expr;)+) => {$(
        impl Bits for $type {
            fn from_bits64(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
            fn from_number(number: f64) -> Self {
                $from_number(number)
            }
            fn to_bits64(self) -> u64 {
                if self.is_nan() { u64::MAX } else { u64::from(self.to_bits()) }
            }
            fn payload(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )+};
}
bits! {
    f32, u32, |number| number as f32;
    f64, u64, |number| number;
    f16, u16, f16::from_f64;
    bf16, u16, bf16::from_f64;
}

fn probability(random: &mut Random) -> f64 {
    match random.below(8) {
        0 => 0.5,
        1 => [0.0, 1.0, 5e-324, 1.0 - f64::EPSILON / 2.0][random.below(4) as usize],
        2 => random.below(65) as f64 / 64.0,
        3 => (-(random.below(60) as f64)).exp2(),
        _ => random.next() as f64 / u64::MAX as f64,
    }
}

/// A mask of one to three axes, perhaps in a larger whole.
fn mask(random: &mut Random, large: bool) -> Mask {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next().to_le_bytes());
    let axes = 1 + random.below(3) as usize;
    let most = if large { 300_000 } else { [3000, 60, 14][axes - 1] };
    let shape: Vec<u64> = match (large, axes) {
        (true, _) => vec![most - random.below(9)],
        _ => (0..axes).map(|_| random.below(most)).collect(),
    };
    let p = probability(random);
    let key = Key::from_bytes(bytes);
    if random.below(2) == 0 {
        return Mask::new(&shape, p, key).unwrap();
    }
    let most = if shape.len() == 1 { 1 << 61 } else { 1 << 20 };
    let start: Vec<u64> = shape.iter().map(|_| random.below(most)).collect();
    let whole: Vec<u64> = shape.iter().zip(&start).map(|(extent, start)| start + extent + random.below(999)).collect();
    Mask::new(&whole, p, key).unwrap().region(&start, &shape).unwrap()
}

/// Runs `compute` at every level, with one and with three threads; all results must have the bits of the first.
fn everywhere<T: Bits>(len: usize, what: &str, compute: impl Fn(&mut [T]) -> Result<(), Error>) -> Vec<T> {
    let mut first: Option<Vec<T>> = None;
    for level in Level::available() {
        for threads in [1, 3] {
            level.set_current();
            set_num_threads(threads).unwrap();
            let mut out = vec![T::from_bits64(0x5A5A_5A5A_5A5A_5A5A); len];
            compute(&mut out).unwrap();
            let first = first.get_or_insert_with(|| out.clone());
            let differs = first.iter().zip(&out).position(|(one, other)| one.to_bits64() != other.to_bits64());
            assert_eq!(differs, None, "{what}: {level:?} with {threads} threads differs");
        }
    }
    first.unwrap_or_default()
}

/// The calls of one case, for one element type.
fn values<T: Bits>(random: &mut Random, mask: &Mask, digest: &mut Digest, payloads: &mut Digest) {
    let len = mask.size() as usize;
    let x: Vec<T> = (0..len).map(|_| T::from_bits64(random.next())).collect();
    let scale = if random.below(2) == 0 { None } else { Some(random.below(1000) as f64 / 64.0) };
    let y = everywhere(len, "select", |out| mask.apply(&x, out, scale));
    let in_place = everywhere(len, "in place", |out: &mut [T]| {
        out.copy_from_slice(&x);
        mask.apply_in_place(out, scale)
    });
    // In pieces along the first axis.
    let pieces = everywhere(len, "pieces", |out: &mut [T]| {
        let row = len / (mask.shape()[0].max(1) as usize);
        let step = 1 + mask.shape()[0] / 3;
        let mut first = 0;
        while first < mask.shape()[0] && row > 0 {
            let extent = step.min(mask.shape()[0] - first);
            let mut start = vec![0; mask.shape().len()];
            start[0] = first;
            let shape: Vec<u64> = [extent].into_iter().chain(mask.shape()[1..].iter().copied()).collect();
            let range = first as usize * row..(first + extent) as usize * row;
            mask.region(&start, &shape)?.apply(&x[range.clone()], &mut out[range], scale)?;
            first += extent;
        }
        Ok(())
    });
    for (i, y) in y.iter().enumerate() {
        assert_eq!(y.to_bits64(), in_place[i].to_bits64(), "in place, element {i}");
        assert_eq!(y.to_bits64(), pieces[i].to_bits64(), "in pieces, element {i}");
        digest.add(&y.to_bits64().to_le_bytes());
        payloads.add(&y.payload().to_le_bytes());
    }
    let others = &Formula::ALL[1..]; // all but `Select`, which `apply` computes
    let formula = others[random.below(others.len() as u64) as usize];
    let [scale, shift, fill] = [2.0, 0.25, -1.5].map(|number| number * (1 + random.below(4)) as f64);
    let numbers = Numbers { scale, shift, fill };
    let other: Vec<T> = x.iter().rev().copied().collect();
    let inputs = [&x[..], &other, &x];
    let fused = everywhere(len, formula.name(), |out| mask.fused(formula, numbers, &inputs[..formula.inputs()], out));
    let noisy = everywhere(len, "noise", |out| mask.gaussian(0.5, &x, out));
    for y in fused.iter().chain(&noisy) {
        digest.add(&y.to_bits64().to_le_bytes());
    }
}

/// Attention and its gradients, for one element type.
fn attention<T: Bits + Real>(random: &mut Random, large: bool, digest: &mut Digest)
where
    T::Wide: Bits,
{
    let mut length = |most: u64| 1 + random.below(most) as usize;
    let (batch, key_heads, group) = (length(2), length(2), length(2));
    let (queries, keys) = if large { (130 - length(9), 300 - length(9)) } else { (length(70), length(140)) };
    let (features, width) = (length(12), length(20));
    let heads = key_heads * group;
    let axes = |[heads, rows, columns]: [usize; 3]| [batch, heads, rows, columns];
    let [of_q, of_k, of_v, of_y] =
        [[heads, queries, features], [key_heads, keys, features], [key_heads, keys, width], [heads, queries, width]]
            .map(axes);
    let [of_weights, of_rows] = [[heads, queries, keys], [batch, heads, queries]].map(|axes| axes.to_vec());
    let of_weights = [vec![batch], of_weights].concat();
    let of_bias: Vec<usize> = of_weights.iter().map(|len| if random.below(2) == 0 { 1 } else { *len }).collect();
    let size = |shape: &[usize]| shape.iter().product::<usize>();

    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    let start: Vec<u64> = of_weights.iter().map(|_| random.below(300)).collect();
    let extent: Vec<u64> = of_weights.iter().map(|len| *len as u64).collect();
    let whole: Vec<u64> = extent.iter().zip(&start).map(|(extent, start)| extent + start + random.below(2)).collect();
    let mask = Mask::new(&whole, probability(random), Key::from_bytes(bytes)).unwrap();
    let mask = mask.region(&start, &extent).unwrap();

    let mut numbers = |shape: &[usize]| -> Vec<T> {
        let mut number = || T::from_number(random.below(1 << 20) as f64 / f64::from(1 << 18) - 2.0);
        (0..size(shape)).map(|_| number()).collect()
    };
    let [mut q, k, v, dy] = [&of_q, &of_k, &of_v, &of_y].map(|shape| numbers(shape));
    let added = numbers(&of_bias);
    let seen: Vec<bool> = added.iter().map(|bias| bias.to_bits64() % 3 != 0).collect();
    if random.below(8) == 0 {
        let special = [f64::NAN, f64::INFINITY, -0.0, 1e30][random.below(4) as usize];
        q[random.below(size(&of_q) as u64) as usize] = T::from_number(special);
    }
    let (kind, causal) = (random.below(3), random.below(2) == 0);
    let offset = random.below(keys as u64) as isize - queries as isize / 2;
    let lengths = [&of_y[..], &of_rows, &of_q, &of_k, &of_v, &of_bias].map(size);
    let bits = everywhere::<f64>(lengths.iter().sum(), "attention", |out| {
        let [q, k, v] = [Tensor::new(&q, &of_q)?, Tensor::new(&k, &of_k)?, Tensor::new(&v, &of_v)?];
        let bias = match kind {
            0 => None,
            1 => Some(Bias::Seen(Tensor::new(&seen, &of_bias)?)),
            _ => Some(Bias::Added(Tensor::new(&added, &of_bias)?)),
        };
        let attention = Attention { bias, causal: causal.then_some(offset), ..Attention::new(&mask, q, k, v) };
        let [mut y, mut dq, mut dk, mut dv] =
            [0, 2, 3, 4].map(|which| vec![T::from_bits64(0x5A5A_5A5A_5A5A_5A5A); lengths[which]]);
        let [mut lse, mut dbias] = [1, 5].map(|which| vec![T::Wide::from_number(0.0); lengths[which]]);
        let rows = TensorMut::new(&mut lse, &of_rows)?;
        attention.forward(TensorMut::new(&mut y, &of_y)?, Some(rows))?;
        let results = || Ok::<_, Error>([Tensor::new(&dy, &of_y)?, Tensor::new(&y, &of_y)?]);
        let gradients =
            [TensorMut::new(&mut dq, &of_q)?, TensorMut::new(&mut dk, &of_k)?, TensorMut::new(&mut dv, &of_v)?];
        let [given, result] = results()?;
        attention.backward(given, result, Tensor::new(&lse, &of_rows)?, gradients)?;
        if kind > 1 {
            let [given, result] = results()?;
            let target = TensorMut::new(&mut dbias, &of_bias)?;
            attention.bias_gradient(given, result, Tensor::new(&lse, &of_rows)?, target)?;
        }
        let of_wide = |numbers: Vec<T::Wide>| numbers.into_iter().map(T::Wide::to_bits64);
        let others = [y, dq, dk, dv].into_iter().flatten().map(T::to_bits64);
        let all = others.chain(of_wide(lse)).chain(of_wide(dbias));
        out.iter_mut().zip(all).for_each(|(out, bits)| *out = f64::from_bits(bits));
        Ok(())
    });
    bits.iter().for_each(|bits| digest.add(&bits.to_bits64().to_le_bytes()));
}

#[test]
fn a_campaign_has_one_digest_everywhere() {
    let cases = std::env::var("FASTDROP_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let mut random = Random(1);
    let (mut digest, mut payloads) = (Digest(0xCBF2_9CE4_8422_2325), Digest(0xCBF2_9CE4_8422_2325));
    for case in 0..cases {
        let mask = mask(&mut random, case % 100 == 99);
        let mut bytes = vec![0; mask.size().div_ceil(8) as usize];
        mask.packbits(&mut bytes).unwrap();
        digest.add(&bytes);
        match case % 4 {
            0 => values::<f32>(&mut random, &mask, &mut digest, &mut payloads),
            1 => values::<f64>(&mut random, &mask, &mut digest, &mut payloads),
            2 => values::<f16>(&mut random, &mask, &mut digest, &mut payloads),
            _ => values::<bf16>(&mut random, &mask, &mut digest, &mut payloads),
        }
        // One in three, because the portable level takes long.
        let large = case % 400 < 4;
        match case % 12 {
            0 => attention::<f32>(&mut random, large, &mut digest),
            1 => attention::<f64>(&mut random, large, &mut digest),
            2 => attention::<f16>(&mut random, large, &mut digest),
            3 => attention::<bf16>(&mut random, large, &mut digest),
            _ => {}
        }
        let mut uniforms = [0; 40];
        mask.key().uniforms(random.next() >> 1, &mut uniforms).unwrap();
        let mut normals = [0.0; 40];
        mask.key().normals(random.next() >> 1, &mut normals).unwrap();
        uniforms.iter().for_each(|word| digest.add(&word.to_le_bytes()));
        normals.iter().for_each(|normal| digest.add(&normal.to_bits().to_le_bytes()));
    }
    println!("{cases} cases: {:016x}; with the payloads of NaN: {:016x}", digest.0, payloads.0);
    if cases == CASES {
        assert_eq!(digest.0, DIGEST);
    }
}
