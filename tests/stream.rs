//! The stream against its golden vectors, which pytest reads too, and against its scalar definition.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use fastdrop::{Error, Key, Level, Mask, Probability, Threshold, ars, keep_group};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    ars: Vec<Block>,
    fold_in: Vec<Child>,
    split: Vec<Split>,
    masks: Vec<Golden>,
    normals: Vec<Normals>,
}

#[derive(Deserialize)]
struct Block {
    counter: String,
    key: String,
    block: String,
}

#[derive(Deserialize)]
struct Child {
    key: String,
    index: String,
    child: String,
}

#[derive(Deserialize)]
struct Split {
    key: String,
    children: Vec<String>,
}

#[derive(Deserialize)]
struct Golden {
    key: String,
    p: f64,
    threshold: Option<String>,
    start_index: String,
    count: u64,
    kept: String,
}

#[derive(Deserialize)]
struct Normals {
    key: String,
    start_index: String,
    count: u64,
    bits: String,
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/stream_v2.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn block(hex: &str) -> [u8; 16] {
    bytes(hex).try_into().unwrap()
}

fn key(hex: &str) -> Key {
    Key::from_bytes(block(hex))
}

/// The level is a setting of the process; tests that change it take turns.
fn levels() -> (MutexGuard<'static, ()>, impl Iterator<Item = Level>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
    (turn, Level::available().inspect(|level| level.set_current()))
}

fn packed(mask: &Mask) -> Vec<u8> {
    let mut bytes = vec![0xAA; mask.size().div_ceil(8) as usize];
    mask.packbits(&mut bytes).unwrap();
    bytes
}

/// The mask of elements `start..start + count` of a very long row.
fn part(key: Key, p: f64, start: u64, count: u64) -> Mask {
    Mask::new(&[i64::MAX as u64], p, key).unwrap().region(&[start], &[count]).unwrap()
}

/// The keep bit that the scalar definition gives an element.
fn defined(key: Key, p: f64, index: u64) -> bool {
    let threshold = Probability::new(p).unwrap().threshold();
    let words = keep_group(key, threshold, index / 128);
    let lane = index % 128;
    words[lane as usize / 64] >> (lane % 64) & 1 == 1
}

#[test]
fn normals_match_golden_vectors() {
    let (_turn, levels) = levels();
    let vectors = vectors();
    for level in levels {
        for vector in &vectors.normals {
            let start: u64 = vector.start_index.parse().unwrap();
            let mut normals = vec![0.0; vector.count as usize];
            key(&vector.key).normals(start, &mut normals).unwrap();
            let drawn: String = normals.iter().map(|z| format!("{:08x}", z.to_bits())).collect();
            assert_eq!(drawn, vector.bits, "{level:?} from element {start}");
        }
    }
}

#[test]
fn blocks_match_golden_vectors() {
    let vectors = vectors().ars;
    assert!(vectors.len() >= 30);
    for vector in vectors {
        assert_eq!(ars(block(&vector.key), block(&vector.counter)), block(&vector.block), "{}", vector.counter);
    }
}

#[test]
fn child_keys_match_golden_vectors() {
    let Vectors { fold_in, split, .. } = vectors();
    assert!(!fold_in.is_empty() && !split.is_empty());
    for vector in fold_in {
        let child = key(&vector.key).fold_in(vector.index.parse().unwrap());
        assert_eq!(child, key(&vector.child), "child {} of {}", vector.index, vector.key);
    }
    for vector in split {
        let got: Vec<Key> = key(&vector.key).split(vector.children.len()).collect();
        assert_eq!(got, vector.children.iter().map(|child| key(child)).collect::<Vec<_>>());
    }
}

#[test]
fn masks_match_golden_vectors_at_every_level() {
    let vectors = vectors().masks;
    assert!(vectors.len() >= 50);
    let (_turn, levels) = levels();
    for level in levels {
        for golden in &vectors {
            let start: u64 = golden.start_index.parse().unwrap();
            // The last element of the stream lies beyond the largest mask.
            let count = golden.count.min(i64::MAX as u64 - start);
            let mut expected = bytes(&golden.kept);
            if count < golden.count {
                *expected.last_mut().unwrap() &= 0x7F;
            }
            let mask = part(key(&golden.key), golden.p, start, count);
            assert_eq!(packed(&mask), expected, "{level:?} p {} start {start}", golden.p);
        }
    }
}

#[test]
fn thresholds_are_exact() {
    for golden in vectors().masks {
        let expected = match golden.threshold.as_deref() {
            None => Threshold::DropAll,
            Some(text) => match u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap() {
                0 => Threshold::KeepAll,
                threshold => Threshold::Below(threshold),
            },
        };
        assert_eq!(Probability::new(golden.p).unwrap().threshold(), expected, "{}", golden.p);
    }
    assert_eq!(Probability::new(0.5f64.powi(64)).unwrap().threshold(), Threshold::Below(1));
    assert_eq!(Probability::new(0.5f64.powi(65)).unwrap().threshold(), Threshold::KeepAll);
    let key = Key::from_bytes([7; 16]);
    assert_eq!([Threshold::KeepAll, Threshold::DropAll].map(|all| keep_group(key, all, 5)), [[!0; 2], [0; 2]]);
}

#[test]
fn kept_elements_are_scaled_by_what_keeps_the_mean() {
    for (p, scale) in [(0.0, 1.0), (0.5, 2.0), (0.75, 4.0), (1.0, 0.0)] {
        assert_eq!(Probability::new(p).unwrap().inverted_scale(), scale, "{p}");
    }
}

#[test]
fn probabilities_outside_the_unit_interval_are_refused() {
    for p in [-0.1, 1.1, f64::NAN, f64::INFINITY, -f64::MIN_POSITIVE, 1.0 + f64::EPSILON] {
        assert!(matches!(Mask::new(&[1], p, Key::from_bytes([0; 16])), Err(Error::Probability(_))), "{p}");
    }
}

#[test]
fn group_indices_have_64_bits() {
    // Group index 2^32 is element 2^39; a 32-bit group index would repeat the first elements there.
    let key = Key::from_bytes([7; 16]);
    let (_turn, levels) = levels();
    for level in levels {
        for carry in [1u64 << 39, 1 << 56] {
            let start = carry - 1000;
            let bits = packed(&part(key, 0.3, start, 2000));
            for i in 0..2000 {
                let got = bits[i / 8] >> (i % 8) & 1 == 1;
                assert_eq!(got, defined(key, 0.3, start + i as u64), "{level:?} element {}", start + i as u64);
            }
        }
    }
}

#[test]
fn a_region_outside_its_whole_is_refused() {
    let mask = Mask::new(&[4, 6], 0.5, Key::from_bytes([0; 16])).unwrap();
    for (start, shape) in [([0, 0], [5, 6]), ([1, 0], [4, 6]), ([0, u64::MAX], [1, 2])] {
        assert!(matches!(mask.region(&start, &shape), Err(Error::Region { .. })), "{start:?} {shape:?}");
    }
    assert!(matches!(mask.region(&[0], &[1]), Err(Error::Region { .. })));
    assert!(matches!(Mask::new(&[1 << 32, 1 << 31], 0.5, mask.key()), Err(Error::Size(_))));
    assert!(Mask::new(&[(1 << 32) - 1, 1 << 31], 0.5, mask.key()).is_ok());
}

#[test]
fn unknown_levels_are_refused() {
    assert!(matches!(Level::from_name("sse9"), Err(Error::UnknownLevel(_))));
    for level in Level::available() {
        assert_eq!(Level::from_name(level.name()), Ok(level));
    }
}

/// Probabilities of every kind: few planes, many planes, near the ends.
fn probability() -> impl Strategy<Value = f64> {
    prop_oneof![
        (0u32..=64).prop_map(|n| f64::from(n) / 64.0),
        0.0..=1.0,
        (1i32..64).prop_map(|n| 0.5f64.powi(n)),
        (1i32..53).prop_map(|n| 1.0 - 0.5f64.powi(n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_part_has_the_bits_of_its_whole(
        bytes in any::<[u8; 16]>(),
        p in probability(),
        origin in prop_oneof![Just(0u64), Just(1 << 31), Just(1 << 39), Just(1 << 56), 0u64..1 << 60],
        back in 0u64..3000,
        count in prop_oneof![0u64..300, 1000u64..1050, 8100u64..8300],
    ) {
        let key = Key::from_bytes(bytes);
        let start = origin.saturating_sub(back);
        let mask = part(key, p, start, count);
        let (_turn, levels) = levels();
        for level in levels {
            let bits = packed(&mask);
            let kept: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
            prop_assert_eq!(mask.count(), Ok(kept));
            // The definition is slow, so only some elements are compared with it.
            for i in (0..count).step_by(37).chain(count.saturating_sub(3)..count) {
                let got = bits[i as usize / 8] >> (i % 8) & 1 == 1;
                prop_assert_eq!(got, defined(key, p, start + i), "{:?} element {}", level, start + i);
            }
        }
    }

    #[test]
    fn masks_are_nested_in_p(bytes in any::<[u8; 16]>(), a in probability(), b in probability()) {
        let key = Key::from_bytes(bytes);
        let (small, large) = (a.min(b), a.max(b));
        let few = packed(&part(key, large, 0, 4096));
        let many = packed(&part(key, small, 0, 4096));
        prop_assert!(few.iter().zip(&many).all(|(few, many)| few & !many == 0));
    }
}
