//! Dropout with a key for Burn, on its CPU backend: an operation with a backward pass that keeps no mask, and a network
//! that learns with it. The losses are the same in each run, for any number of threads.
//!
//! `cargo run --release --manifest-path examples/burn/Cargo.toml`

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use fastdrop::{Float, Key, Mask, set_num_threads};

/// Drops the elements of `x` with probability p, and scales the others by 1 / (1 - p).
fn dropout<const D: usize>(x: Tensor<D>, p: f64, key: Key) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Drops>::drop_elements(x.into_dispatch(), p, key))
}

/// The operation of a backend.
#[backend_extension(Flex, Autodiff)]
trait Drops: Backend {
    fn drop_elements(x: FloatTensor<Self>, p: f64, key: Key) -> FloatTensor<Self>;
}

impl Drops for Flex {
    fn drop_elements(x: FloatTensor<Self>, p: f64, key: Key) -> FloatTensor<Self> {
        fn apply<T: Float>(mut elements: Vec<T>, dims: &[usize], p: f64, key: Key) -> Vec<T> {
            let dims: Vec<u64> = dims.iter().map(|len| *len as u64).collect();
            let mask = Mask::new(&dims, p, key).expect("p is a probability");
            mask.apply_in_place(&mut elements, None).expect("the mask has the shape of x");
            elements
        }
        let (dtype, data) = (x.dtype(), x.into_data());
        let shape = data.shape().clone();
        let dropped = match dtype {
            DType::F32 => TensorData::new(apply(data.try_into_vec::<f32>().unwrap(), &shape, p, key), shape),
            DType::F64 => TensorData::new(apply(data.try_into_vec::<f64>().unwrap(), &shape, p, key), shape),
            other => panic!("dropout needs float32 or float64, got {other:?}"),
        };
        FloatTensor::<Self>::from_data(dropped)
    }
}

/// The gradient: the same operation, with the key alone as what it keeps.
impl<B: Drops, C: CheckpointStrategy> Drops for Autodiff<B, C> {
    fn drop_elements(x: FloatTensor<Self>, p: f64, key: Key) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Dropout;

        impl<B: Drops> Backward<B, 1> for Dropout {
            type State = (f64, Key);

            fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (p, key) = ops.state;
                unary::<B, _>(ops.parents, ops.node, gradients, |dy| B::drop_elements(dy, p, key));
            }
        }

        let (x, node) = x.into_parts();
        match Dropout.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(call) => call.finish((p, key), B::drop_elements(x, p, key)),
            OpsKind::UnTracked(call) => call.finish(B::drop_elements(x, p, key)),
        }
    }
}

/// Normal numbers from a key.
fn normals(shape: [usize; 2], key: Key, device: &Device) -> Tensor<2> {
    let mut numbers = vec![0.0f32; shape[0] * shape[1]];
    key.normals(0, &mut numbers).expect("there is memory");
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// Trains on two arms of a spiral. Returns the mean cross-entropy after each step, and the share of points it gets right.
fn train(key: Key, steps: u64) -> (Vec<f32>, f32) {
    const POINTS: usize = 512;
    const HIDDEN: usize = 256;
    const RATE: f32 = 0.3;
    let [weights, masks] = [key.fold_in(0), key.fold_in(1)];
    let device = Device::flex();

    let (mut points, mut arms) = (Vec::new(), Vec::new());
    for i in 0..POINTS {
        let (radius, arm) = (i as f32 / POINTS as f32, i % 2);
        let angle = 5.0 * radius + std::f32::consts::PI * arm as f32;
        points.extend([2.0 * radius * angle.cos(), 2.0 * radius * angle.sin(), 1.0]);
        arms.extend([1.0 - arm as f32, arm as f32]);
    }
    let x = Tensor::<2>::from_data(TensorData::new(points, [POINTS, 3]), &device);
    let arms = Tensor::<2>::from_data(TensorData::new(arms, [POINTS, 2]), &device);

    let shapes = [[3, HIDDEN], [HIDDEN, HIDDEN], [HIDDEN, 2]];
    let layers = shapes
        .into_iter()
        .enumerate()
        .map(|(layer, shape)| normals(shape, weights.fold_in(layer as u64), &device) * (2.0 / shape[0] as f32).sqrt());
    let mut layers: Vec<Tensor<2>> = layers.collect();

    // The key of a mask follows from the step and the layer.
    let logits = |x: &Tensor<2>, layers: &[Tensor<2>], step: Option<u64>| {
        let mut h = x.clone();
        for (layer, weight) in layers.iter().enumerate() {
            if layer > 0 {
                h = activation::relu(h);
                if let Some(step) = step {
                    h = dropout(h, 0.25, masks.fold_in(step).fold_in(layer as u64));
                }
            }
            h = h.matmul(weight.clone());
        }
        h
    };

    let mut losses = Vec::new();
    for step in 0..steps {
        let tracked: Vec<_> = layers.iter().map(|weight| weight.clone().autodiff().require_grad()).collect();
        let likely = activation::log_softmax(logits(&x.clone().autodiff(), &tracked, Some(step)), 1);
        let loss = (likely * arms.clone().autodiff()).sum() / -(POINTS as f32);
        let mut gradients = loss.backward();
        for (weight, tracked) in layers.iter_mut().zip(&tracked) {
            let gradient = tracked.grad_remove(&mut gradients).expect("each weight takes part");
            *weight = weight.clone() - gradient * RATE;
        }
        losses.push(loss.into_scalar::<f32>());
    }
    let z = logits(&x, &layers, None).into_data().try_into_vec::<f32>().unwrap();
    let right = z.chunks(2).enumerate().filter(|(i, z)| (z[1] > z[0]) == (i % 2 == 1)).count();
    (losses, right as f32 / POINTS as f32)
}

fn main() {
    let key = Key::from_seed(0);

    // Both passes apply the mask that the key draws for the shape, in a transposed tensor too.
    let mut factors = vec![1.0f32; 96 * 64];
    Mask::new(&[96, 64], 0.5, key).and_then(|mask| mask.apply_in_place(&mut factors, None)).expect("there is memory");
    let factors = Tensor::from_data(TensorData::new(factors, [96, 64]), &Device::flex());
    let x = normals([64, 96], key, &Device::flex());
    let tracked = x.clone().autodiff().require_grad();
    let y = dropout(tracked.clone().transpose(), 0.5, key);
    let gradient = tracked.grad(&y.clone().sum().backward()).expect("x takes part");
    gradient.transpose().into_data().assert_eq(&factors.clone().into_data(), true);
    y.inner().into_data().assert_eq(&(x.transpose() * factors).into_data(), true);

    let mut runs = Vec::new();
    for threads in [1, 2, 4] {
        set_num_threads(threads).expect("at least 1");
        let (losses, right) = train(key, 200);
        println!(
            "{threads} threads: loss {:.6} -> {:.6}, {:.1} % right",
            losses[0],
            losses[losses.len() - 1],
            100.0 * right
        );
        assert!(right > 0.95, "the network learns the spiral");
        runs.push(losses);
    }
    assert!(runs.iter().all(|losses| *losses == runs[0]), "the losses do not depend on the number of threads");
}
