//! Fixed calls for counting instructions: `instructions CASE REPEATS`, run under valgrind by `instructions.py`.
//!
//! Without arguments, as `cargo bench` calls it, this does nothing, because it measures no time.

use std::hint::black_box;

use fastdrop::{Attention, Formula, Key, Mask, Numbers, Real, Tensor, TensorMut, set_num_threads};
use half::bf16;

const KEY: Key = Key::from_bytes([7; 16]);

fn mask(elements: u64, p: f64) -> Mask {
    Mask::new(&[elements], p, KEY).expect("p is a probability")
}

fn apply(elements: u64, p: f64, repeats: u32) {
    let mask = mask(elements, p);
    let (x, mut out) = (vec![1.0f32; elements as usize], vec![0.0f32; elements as usize]);
    for _ in 0..repeats {
        mask.apply(black_box(&x), black_box(&mut out), None).expect("sizes agree");
    }
}

/// A region of `rows` rows of `len` elements.
fn rows(whole: [u64; 2], [rows, len]: [u64; 2], p: f64, repeats: u32) {
    let mask = Mask::new(&whole, p, KEY).and_then(|whole| whole.region(&[3, 5], &[rows, len]));
    let mask = mask.expect("the region is inside");
    let size = (rows * len) as usize;
    let (x, mut out) = (vec![1.0f32; size], vec![0.0f32; size]);
    for _ in 0..repeats {
        mask.apply(black_box(&x), black_box(&mut out), None).expect("sizes agree");
    }
}

fn bits(p: f64, repeats: u32) {
    let mask = mask(1 << 17, p);
    let mut bytes = vec![0; 1 << 14];
    for _ in 0..repeats {
        mask.packbits(black_box(&mut bytes)).expect("the size is right");
    }
}

fn noise(repeats: u32) {
    let mask = mask(1 << 17, 0.5);
    let (x, mut out) = (vec![1.0f32; 1 << 17], vec![0.0f32; 1 << 17]);
    for _ in 0..repeats {
        mask.gaussian(1.0, black_box(&x), black_box(&mut out)).expect("sizes agree");
    }
}

fn fused(formula: Formula, repeats: u32) {
    let mask = mask(1 << 17, 0.5);
    let (x, mut out) = (vec![1.0f32; 1 << 17], vec![0.0f32; 1 << 17]);
    let numbers = Numbers::scale(2.0);
    for _ in 0..repeats {
        mask.fused(formula, numbers, &[black_box(&x)], black_box(&mut out)).expect("sizes agree");
    }
}

/// Attention and its gradients.
fn attention<T: Real>(one: T, wide: T::Wide, repeats: u32) {
    const QUERIES: [usize; 4] = [1, 2, 70, 32];
    const KEYS: [usize; 4] = [1, 2, 150, 32];
    let mask = Mask::new(&[1, 2, 70, 150], 0.1, KEY).expect("p is a probability");
    let (queries, keys) = (vec![one; QUERIES.iter().product()], vec![one; KEYS.iter().product()]);
    let (mut y, mut dq, mut dk, mut dv) = (queries.clone(), queries.clone(), keys.clone(), keys.clone());
    let mut lse = vec![wide; 2 * 70];
    let call = || {
        let [q, dy] = [(); 2].map(|()| Tensor::new(black_box(&queries), &QUERIES));
        let [k, v] = [(); 2].map(|()| Tensor::new(black_box(&keys), &KEYS));
        let attention = Attention::new(&mask, q?, k?, v?);
        attention.forward(TensorMut::new(&mut y, &QUERIES)?, Some(TensorMut::new(&mut lse, &QUERIES[..3])?))?;
        let gradients =
            [TensorMut::new(&mut dq, &QUERIES)?, TensorMut::new(&mut dk, &KEYS)?, TensorMut::new(&mut dv, &KEYS)?];
        attention.backward(dy?, Tensor::new(&y, &QUERIES)?, Tensor::new(&lse, &QUERIES[..3])?, gradients)
    };
    std::iter::repeat_with(call).take(repeats as usize).for_each(|done| done.expect("shapes agree"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, repeats] = arguments.as_slice() else {
        return;
    };
    let repeats = repeats.parse().expect("REPEATS is a number");
    set_num_threads(1).expect("1 is a number of threads");
    match case.as_str() {
        "small p=0.5" => apply(64, 0.5, repeats),
        "large p=0.5" => apply(1 << 17, 0.5, repeats),
        "large p=0.1" => apply(1 << 17, 0.1, repeats),
        "odd length p=0.1" => apply(10_001, 0.1, repeats),
        "small p=0.1" => apply(64, 0.1, repeats),
        "short rows p=0.1" => rows([1 << 10, 1000], [1000, 37], 0.1, repeats),
        "rows of 3 p=0.5" => rows([12_000, 10], [11_000, 3], 0.5, repeats),
        "bits p=0.5" => bits(0.5, repeats),
        "bits p=0.1" => bits(0.1, repeats),
        "noise" => noise(repeats),
        "gelu p=0.5" => fused(Formula::Gelu, repeats),
        "gelu by tanh p=0.5" => fused(Formula::GeluTanh, repeats),
        "attention" => attention(1.0f32, 1.0, repeats),
        "attention in bfloat16" => attention(bf16::ONE, 1.0, repeats),
        other => panic!("unknown case {other:?}"),
    }
}
