//! Numbers of other distributions from a mask's key: initial weights, and a mask for them.
//!
//! `cargo run --release --example distributions --features rand_core`

use fastdrop::{Error, Key, Mask};
use rand_distr::{Distribution, Normal};

fn main() -> Result<(), Error> {
    let key = Key::from_seed(7);
    let Ok(initial) = Normal::new(0.0f32, 0.05) else {
        unreachable!("0.05 is a standard deviation");
    };
    let weights: Vec<f32> = initial.sample_iter(key.fold_in(0).rng()).take(10_000).collect();
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    let std = (weights.iter().map(|w| (w - mean).powi(2)).sum::<f32>() / weights.len() as f32).sqrt();
    println!("weights: mean {mean:.4}, standard deviation {std:.4}");

    let connections = Mask::new(&[100, 100], 0.2, key.fold_in(1))?;
    let mut dropped = weights.clone();
    connections.apply_in_place(&mut dropped, None)?;
    println!("DropConnect keeps {} of {} weights", connections.count()?, weights.len());
    Ok(())
}
