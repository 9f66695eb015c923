//! `cargo bench`: the steps of a call, separately and fused, at every SIMD level of this CPU, on
//! one thread.
//!
//! Sizes range from the L1 cache to memory, with a memcpy of the same float32 elements for comparison. Rates are in
//! elements and in bytes read and written. `cargo bench -- avx2/0.1` runs the benchmarks whose names contain that.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastdrop::{Key, Level, Mask, ars, set_num_threads};

const SIZES: [u32; 5] = [12, 17, 20, 23, 26];
const PROBABILITIES: [f64; 3] = [0.5, 0.25, 0.1];
const KEY: Key = Key::from_bytes([7; 16]);

fn throughput(elements: usize, bytes_each: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: elements as u64, bytes: (elements * bytes_each) as u64 }
}

fn mask(elements: usize, p: f64) -> Mask {
    Mask::new(&[elements as u64], p, KEY).expect("p is a probability")
}

/// Input and output, with all pages mapped.
fn arrays(elements: usize) -> (Vec<f32>, Vec<f32>) {
    ((0..elements).map(|i| i as f32).collect(), vec![1.0; elements])
}

/// One block, computed with the scalar definition. At each SIMD level, a mask of p = 0.5, which takes one plane of
/// blocks.
fn blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ars");
    group.throughput(throughput(128, 0));
    group.bench_function("scalar", |bencher| {
        let mut index = 0u128;
        bencher.iter(|| {
            index += 1;
            ars(KEY.to_bytes(), index.to_le_bytes())
        });
    });
    let elements = 1 << 13;
    let (mask, mut bytes) = (mask(elements, 0.5), vec![0; elements / 8]);
    group.throughput(throughput(elements, 0));
    for level in Level::available() {
        level.set_current();
        group.bench_function(level.name(), |bencher| bencher.iter(|| mask.packbits(black_box(&mut bytes))));
    }
}

/// The mask as packed bits.
fn mask_bits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask bits");
    let elements = 1 << 20;
    let mut bytes = vec![0; elements / 8];
    group.throughput(throughput(elements, 0));
    for level in Level::available() {
        level.set_current();
        for p in PROBABILITIES {
            let mask = mask(elements, p);
            group.bench_function(BenchmarkId::new(level.name(), p), |bencher| {
                bencher.iter(|| mask.packbits(black_box(&mut bytes)));
            });
        }
    }
}

/// Whole passes: copying as the baseline, applying a mask that needs no bits, drawing and applying.
fn passes(criterion: &mut Criterion) {
    for size in SIZES {
        let mut group = criterion.benchmark_group(format!("2^{size}"));
        let elements = 1 << size;
        let (x, mut out) = arrays(elements);
        group.throughput(throughput(elements, 8));
        group.bench_function("memcpy", |bencher| bencher.iter(|| black_box(&mut out).copy_from_slice(black_box(&x))));
        for level in Level::available() {
            level.set_current();
            let all = mask(elements, 0.0);
            group.bench_function(BenchmarkId::new("apply", level.name()), |bencher| {
                bencher.iter(|| all.apply(black_box(&x), black_box(&mut out), Some(2.0)));
            });
            for p in PROBABILITIES {
                let mask = mask(elements, p);
                group.bench_function(BenchmarkId::new("dropout", format!("{}/{p}", level.name())), |bencher| {
                    bencher.iter(|| mask.apply(black_box(&x), black_box(&mut out), None));
                });
            }
        }
    }
}

fn one_thread(criterion: &mut Criterion) {
    set_num_threads(1).expect("1 is a number of threads");
    blocks(criterion);
    mask_bits(criterion);
    passes(criterion);
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = one_thread
}
criterion_main!(kernels);
