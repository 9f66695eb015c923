//! The crate as a Rust developer uses it: keys, slices, fused operations, values, views and generators.

use std::collections::HashSet;

use fastdrop::{Error, Formula, Key, Mask, Numbers, apply_bools, set_num_threads};

fn mask(len: u64, p: f64) -> Mask {
    Mask::new(&[len], p, Key::from_seed(1)).unwrap()
}

fn bools(mask: &Mask) -> Vec<bool> {
    let mut bits = vec![false; mask.size() as usize];
    mask.to_bools(&mut bits).unwrap();
    bits
}

#[test]
fn booleans_packed_bits_and_counts_agree() {
    for len in [0, 1, 7, 8, 63, 64, 65, 8191, 8193, 300_000, 3_000_001] {
        for p in [0.0, 0.25, 0.3, 1.0] {
            let mask = mask(len, p);
            let mut packed = vec![0xAA; len.div_ceil(8) as usize];
            mask.packbits(&mut packed).unwrap();
            let bits = bools(&mask);
            assert!((0..bits.len()).all(|i| bits[i] == (packed[i / 8] >> (i % 8) & 1 == 1)), "{len} {p}");
            assert_eq!(mask.count(), Ok(bits.iter().filter(|kept| **kept).count() as u64), "{len} {p}");
        }
    }
}

/// Rows end inside bytes here: the first bits of a row share a byte with the last bits of the row before.
#[test]
fn packed_bits_of_regions_are_those_of_the_whole() {
    for (whole, start, shape) in [
        ([5, 7, 3], [1, 2, 0], [3, 4, 3]),
        ([2, 5, 2], [0, 1, 1], [2, 4, 1]),
        ([40, 3, 300], [3, 1, 5], [30, 2, 290]),
        ([4, 2000, 9], [0, 3, 8], [4, 1990, 1]),
    ] {
        let whole = Mask::new(&whole, 0.4, Key::from_seed(5)).unwrap();
        let all = bools(&whole);
        let part = whole.region(&start, &shape).unwrap();
        let mut expected = Vec::new();
        let [_, rows, columns] = whole.shape() else { unreachable!() };
        for a in start[0]..start[0] + shape[0] {
            for b in start[1]..start[1] + shape[1] {
                let first = ((a * rows + b) * columns + start[2]) as usize;
                expected.extend_from_slice(&all[first..first + shape[2] as usize]);
            }
        }
        assert_eq!(bools(&part), expected, "{part:?}");
        let mut packed = vec![0; expected.len().div_ceil(8)];
        part.packbits(&mut packed).unwrap();
        assert!((0..expected.len()).all(|i| expected[i] == (packed[i / 8] >> (i % 8) & 1 == 1)), "{part:?}");
    }
}

/// Unless the driver takes care, threads split rows inside a byte.
#[test]
fn packed_bits_do_not_depend_on_the_number_of_threads() {
    for columns in [3, 201, 1023] {
        for seed in 0..8 {
            let whole = Mask::new(&[(1 << 22) / columns, columns + 1], 0.4, Key::from_seed(seed)).unwrap();
            let part = whole.region(&[0, 1], &[whole.shape()[0], columns]).unwrap();
            let mut packed = [1, 4].map(|threads| {
                set_num_threads(threads).unwrap();
                let mut packed = vec![0; part.size().div_ceil(8) as usize];
                part.packbits(&mut packed).unwrap();
                packed
            });
            let [alone, shared] = &mut packed;
            assert!(alone == shared, "{columns} columns, seed {seed}");
        }
    }
}

/// The same for a region whose bits are consecutive along no axis.
#[test]
fn packed_bits_of_every_other_element_do_not_depend_on_the_number_of_threads() {
    let whole = Mask::new(&[(1 << 22) / 1023, 1024, 2], 0.4, Key::from_seed(1)).unwrap();
    let part = whole.region(&[0, 0, 1], &[whole.shape()[0], 1023, 1]).unwrap();
    let [alone, shared] = [1, 4].map(|threads| {
        set_num_threads(threads).unwrap();
        let mut packed = vec![0; part.size().div_ceil(8) as usize];
        part.packbits(&mut packed).unwrap();
        packed
    });
    assert!(alone == shared);
}

#[test]
fn every_fused_operation_is_its_formula() {
    let len = 1003;
    let mask = mask(len, 0.5);
    let keep = bools(&mask);
    let value = |i: usize, seed: f64| ((i as f64 + seed) * 0.618).fract() * 16.0 - 8.0;
    let input = |seed| -> Vec<f64> { (0..len as usize).map(|i| value(i, seed)).collect() };
    let (x, a, b) = (input(0.1), input(7.3), input(40.9));
    let numbers = Numbers { scale: 2.0, shift: 0.75, fill: -1.5 };
    let Numbers { scale, shift, fill } = numbers;
    let phi = |x: f64| 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let tanh_phi = |x: f64| 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh());
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let hard_sigmoid = |x: f64| (x + 3.0).clamp(0.0, 6.0) / 6.0;
    for formula in Formula::ALL {
        let inputs: Vec<&[f64]> = [&x[..], &a, &b].into_iter().take(formula.inputs()).collect();
        let mut y = vec![0.0; len as usize];
        mask.fused(*formula, numbers, &inputs, &mut y).unwrap();
        for i in 0..len as usize {
            let (x, a, b) = (x[i], a[i], b[i]);
            let slope = |f: &dyn Fn(f64) -> f64| (f(a + 1e-6) * (a + 1e-6) - f(a - 1e-6) * (a - 1e-6)) / 2e-6;
            let (kept, dropped) = match formula {
                Formula::Select => (x * scale, 0.0),
                Formula::Affine => (x * scale + shift, fill),
                Formula::Add => (a + x * scale, a),
                Formula::BiasAdd => (b + (x + a) * scale, b),
                Formula::Switch => (x, a),
                Formula::Complement => (0.0, x),
                Formula::Mix => (x * scale + a * shift, x * scale + a * shift),
                Formula::Relu => (x.max(0.0) * scale, 0.0),
                Formula::ReluGradient => (if a > 0.0 { x * scale } else { 0.0 }, 0.0),
                Formula::Gelu => (x * phi(x) * scale, 0.0),
                Formula::GeluGradient => (x * (phi(a) + a * density(a)) * scale, 0.0),
                Formula::GeluTanh => (x * tanh_phi(x) * scale, 0.0),
                Formula::GeluTanhGradient => (x * slope(&tanh_phi) * scale, 0.0),
                Formula::Silu => (x * sigmoid(x) * scale, 0.0),
                Formula::SiluGradient => (x * slope(&sigmoid) * scale, 0.0),
                Formula::LeakyRelu => (if x > 0.0 { x } else { x * shift } * scale, 0.0),
                Formula::LeakyReluGradient => (if a > 0.0 { x } else { x * shift } * scale, 0.0),
                Formula::Elu => (if x > 0.0 { x } else { shift * x.exp_m1() } * scale, 0.0),
                Formula::EluGradient => (x * if a > 0.0 { 1.0 } else { shift * a.exp() } * scale, 0.0),
                Formula::Tanh => (x.tanh() * scale, 0.0),
                Formula::TanhGradient => (x * (1.0 - a.tanh().powi(2)) * scale, 0.0),
                Formula::Sigmoid => (sigmoid(x) * scale, 0.0),
                Formula::SigmoidGradient => (x * sigmoid(a) * sigmoid(-a) * scale, 0.0),
                Formula::Relu6 => (x.clamp(0.0, 6.0) * scale, 0.0),
                Formula::Relu6Gradient => (if a > 0.0 && a < 6.0 { x * scale } else { 0.0 }, 0.0),
                Formula::Hardswish => (x * hard_sigmoid(x) * scale, 0.0),
                Formula::HardswishGradient => (x * slope(&hard_sigmoid) * scale, 0.0),
            };
            let expected = if keep[i] { kept } else { dropped };
            assert!((y[i] - expected).abs() < 1e-7, "{formula:?} element {i}: {} is not {expected}", y[i]);
        }
        let wrong = mask.fused(*formula, numbers, &[], &mut y);
        assert_eq!(wrong, Err(Error::Inputs(formula.name(), formula.inputs())));
    }
}

#[test]
fn the_gradient_of_an_operation_bears_its_name() {
    for formula in Formula::ALL {
        let name = format!("{}_gradient", formula.name());
        let expected = Formula::ALL.iter().find(|other| other.name() == name).unwrap_or(&Formula::Select);
        assert_eq!(formula.gradient(), *expected, "{formula:?}");
    }
}

/// Large outputs bypass the caches in whole lines. Their ends do not.
#[test]
fn a_large_fused_result_is_that_of_its_pieces() {
    let mask = mask((1 << 22) + 21, 0.5);
    let x: Vec<f32> = (0..mask.size()).map(|i| i as f32).collect();
    let a: Vec<f32> = x.iter().rev().copied().collect();
    let (add, numbers) = (Formula::Add, Numbers::scale(2.0));
    let mut pieces = vec![0.0; x.len()];
    for (piece, y) in pieces.chunks_mut(1 << 20).enumerate() {
        let range = piece << 20..(piece << 20) + y.len();
        let part = mask.region(&[range.start as u64], &[y.len() as u64]).unwrap();
        part.fused(add, numbers, &[&x[range.clone()], &a[range]], y).unwrap();
    }
    for start in [0, 5] {
        let mut y = vec![-1.0; x.len() + 64];
        mask.fused(add, numbers, &[&x, &a], &mut y[start..start + x.len()]).unwrap();
        assert!(y[start..start + x.len()] == pieces, "from {start}");
        assert!(y[..start].iter().chain(&y[start + x.len()..]).all(|y| *y == -1.0), "around {start}");
    }
}

#[test]
fn all_dropped_is_zero_up_to_both_ends_of_a_large_output() {
    const LEN: usize = 1 << 22;
    let x = vec![f32::NAN; LEN + 19];
    for (start, len) in [(0, LEN), (0, LEN + 3), (9, LEN), (15, LEN + 19), (1, LEN + 11)] {
        let mut y = vec![1.0; len + 64];
        mask(len as u64, 1.0).apply(&x[..len], &mut y[start..start + len], None).unwrap();
        let wrong = y.iter().enumerate().position(|(i, y)| *y != f32::from(!(start..start + len).contains(&i)));
        assert_eq!(wrong, None, "{len} from {start}");
    }
}

/// The error function, from its series without cancellation.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / (2 * n + 1) as f64;
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn given_bits_are_applied_like_drawn_ones() {
    let mask = mask(5000, 0.3);
    let x: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let (mut drawn, mut given) = (vec![0.0; 5000], vec![1.0; 5000]);
    mask.apply(&x, &mut drawn, Some(3.0)).unwrap();
    apply_bools(&bools(&mask), &x, &mut given, 3.0).unwrap();
    assert_eq!(drawn, given);
    assert!(matches!(apply_bools(&[true], &x, &mut given, 1.0), Err(Error::Length { what: "x", .. })));
}

#[test]
fn masks_compare_uniforms_with_p() {
    let key = Key::from_seed(3);
    let mask = Mask::new(&[1 << 40], 0.3, key).unwrap();
    for first in [0, 5, 127, 8_000, (1 << 39) - 77] {
        let mut uniforms = [0; 2000];
        key.uniforms(first, &mut uniforms).unwrap();
        let kept = bools(&mask.region(&[first], &[2000]).unwrap());
        let limit = (0.3 * 2f64.powi(64)) as u64;
        assert!(uniforms.iter().zip(kept).all(|(uniform, kept)| kept == (*uniform >= limit)), "from {first}");
    }
}

#[test]
fn gaussian_dropout_uses_the_normals_of_its_elements() {
    let key = Key::from_seed(3);
    let part = Mask::new(&[100_000], 0.5, key).unwrap().region(&[777], &[40_000]).unwrap();
    let mut normals = vec![0.0; 40_000];
    key.normals(777, &mut normals).unwrap();
    let x: Vec<f64> = (0..40_000).map(f64::from).collect();
    let mut y = vec![0.0; 40_000];
    part.gaussian(0.5, &x, &mut y).unwrap();
    assert!((0..40_000).all(|i| y[i] == x[i] * (1.0 + 0.5 * f64::from(normals[i]))));
    part.region(&[3], &[1]).unwrap().gaussian(0.5, &[2.0], &mut y[..1]).unwrap();
    assert_eq!(y[0], 2.0 + f64::from(normals[3]));
}

#[test]
fn equal_recipes_are_equal_and_hash_alike() {
    let key = Key::from_seed(1);
    let make = |p| Mask::new(&[4, 6], p, key).unwrap();
    let masks: HashSet<Mask> =
        [make(0.5), make(0.5), make(0.25), make(0.0), make(-0.0), make(0.5).region(&[0, 0], &[4, 5]).unwrap()].into();
    assert_eq!(masks.len(), 4);
}

#[test]
fn keys_come_from_seeds_words_and_entropy() {
    assert_ne!(Key::from_seed(0), Key::from_seed(1));
    assert_eq!(Key::from_seed(5), Key::from_bytes(*b"fastdrop's seeds").fold_in(5));
    assert_eq!(Key::from_words([1, 2]).to_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_ne!(Key::from_entropy().unwrap(), Key::from_entropy().unwrap());
    let key = Key::from_words([0xAB, 0]);
    assert_eq!((key.to_string(), format!("{key:?}")), (format!("ab{:030}", 0), format!("Key(ab{:030})", 0)));
    assert_eq!(format!("{:?}", mask(1, 0.25).probability()), "Probability(0.25)");
}

#[cfg(feature = "ndarray")]
mod views {
    use super::*;
    use ndarray::{Array, Array3, Axis, Ix3, ShapeBuilder, s};

    fn numbered() -> Array3<f32> {
        Array::from_shape_fn((40, 70, 30), |(a, b, c)| (a * 10_000 + b * 100 + c) as f32 + 1.0)
    }

    #[test]
    fn the_mask_goes_by_logical_index_in_every_layout() {
        let x = numbered();
        let mask = Mask::new(&[40, 70, 30], 0.4, Key::from_seed(2)).unwrap();
        let mut expected = x.clone();
        mask.apply(x.as_slice().unwrap(), expected.as_slice_mut().unwrap(), None).unwrap();

        let mut fortran = Array3::zeros((40, 70, 30).f());
        mask.apply_view(x.view(), fortran.view_mut(), None).unwrap();
        assert_eq!(fortran, expected);

        let mut reversed = x.clone();
        reversed.invert_axis(Axis(1));
        reversed.assign(&x);
        mask.apply_view_in_place(reversed.view_mut(), None).unwrap();
        assert_eq!(reversed, expected);

        let mut wide = Array3::zeros((40, 70, 60));
        mask.apply_view(x.view(), wide.slice_mut(s![.., .., ..;2]), None).unwrap();
        assert_eq!(wide.slice(s![.., .., ..;2]), expected);
        assert!(wide.slice(s![.., .., 1..;2]).iter().all(|y| *y == 0.0), "elements between were written");
        wide.slice_mut(s![.., .., ..;2]).assign(&x);
        mask.apply_view_in_place(wide.slice_mut(s![.., .., ..;2]), None).unwrap();
        assert_eq!(wide.slice(s![.., .., ..;2]), expected);

        let permuted = x.clone().permuted_axes([2, 0, 1]);
        let whole = Mask::new(&[30, 40, 70], 0.4, Key::from_seed(2)).unwrap();
        let mut y = Array3::zeros((30, 40, 70));
        whole.apply_view(permuted.view(), y.view_mut(), None).unwrap();
        let mut flat = permuted.as_standard_layout().into_owned();
        whole.apply_in_place(flat.as_slice_mut().unwrap(), None).unwrap();
        assert_eq!(y, flat);
    }

    #[test]
    fn fused_and_gaussian_views_agree_with_slices() {
        let (x, a) = (numbered(), numbered().mapv(|x| x * 0.5));
        let mask = Mask::new(&[40, 70, 30], 0.4, Key::from_seed(2)).unwrap();
        let (add, numbers) = (Formula::Add, Numbers::scale(2.0));
        let (mut slices, mut views) = (x.clone(), Array3::zeros((40, 70, 30).f()));
        let [x_slice, a_slice] = [&x, &a].map(|array| array.as_slice().unwrap());
        mask.fused(add, numbers, &[x_slice, a_slice], slices.as_slice_mut().unwrap()).unwrap();
        mask.fused_view(add, numbers, &[x.view(), a.view()], views.view_mut()).unwrap();
        assert_eq!(slices, views);
        mask.gaussian(0.3, x_slice, slices.as_slice_mut().unwrap()).unwrap();
        mask.gaussian_view(0.3, x.view(), views.view_mut()).unwrap();
        assert_eq!(slices, views);
    }

    #[test]
    fn views_of_another_shape_are_refused_and_left_alone() {
        let mask = Mask::new(&[2, 3, 4], 0.5, Key::from_seed(2)).unwrap();
        let x = Array::<f64, Ix3>::ones((2, 4, 3));
        let mut out = Array::<f64, Ix3>::ones((2, 3, 4));
        let refused = mask.apply_view(x.view(), out.view_mut(), None);
        assert!(matches!(refused, Err(Error::Shape { what: "each input", .. })));
        assert!(out.iter().all(|y| *y == 1.0));
    }
}

#[cfg(feature = "rand_core")]
mod generators {
    use fastdrop::{Key, KeyRng, ars};
    use rand_core::{Rng, SeedableRng};

    #[test]
    fn a_generator_yields_its_blocks_in_turn() {
        let key = Key::from_seed(4);
        let mut rng = key.rng();
        for index in 0u64..100 {
            let block = ars(key.to_bytes(), (u128::from(index) | 128 << 64).to_le_bytes());
            let block = u128::from_le_bytes(block);
            assert_eq!([rng.next_u64(), rng.next_u64()], [block as u64, (block >> 64) as u64], "block {index}");
        }
    }

    #[test]
    fn a_seed_is_a_key() {
        let key = Key::from_seed(4);
        assert_eq!(KeyRng::from_seed(key.to_bytes()).next_u32(), key.rng().next_u32());
    }

    #[test]
    fn normals_of_rand_distr_have_their_mean_and_deviation() {
        use rand_distr::{Distribution, StandardNormal};
        let draws: Vec<f64> = StandardNormal.sample_iter(Key::from_seed(6).rng()).take(100_000).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let square = draws.iter().map(|z| z * z).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.016 && (square - 1.0).abs() < 0.023, "{mean} {square}"); // five deviations
    }
}
