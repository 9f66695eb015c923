//! A random campaign with one digest, the same for all levels, numbers of threads, chunks and CPUs.
//!
//! `FASTDROP_CASES=100000 cargo test --release --test campaign -- --nocapture` runs a longer one, and prints its digest
//! for comparison with other machines.

use std::fmt::Debug;

use fastdrop::{Error, Float, Formula, Key, Level, Mask, Numbers, set_num_threads};
use half::{bf16, f16};

/// Cases of the default campaign, and its digest.
const CASES: u64 = 400;
const DIGEST: u64 = 0xE930_6595_ED6F_0072;

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
    /// Bits of the number, the same for every NaN.
    fn to_bits64(self) -> u64;
    /// Its bits, including a NaN's payload.
    fn payload(self) -> u64;
}

macro_rules! bits {
    ($($type:ty, $bits:ty;)+) => {$(
        impl Bits for $type {
            fn from_bits64(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
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
    f32, u32;
    f64, u64;
    f16, u16;
    bf16, u16;
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
