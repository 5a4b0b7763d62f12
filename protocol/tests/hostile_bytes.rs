//! The bodies of the fuzz targets over seeded random and mutated inputs, without a fuzzer.
//!
//! A failure prints target, seed and input. Longer runs are what `protocol/fuzz` is for.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use plimsoll_protocol::fuzzing::{TARGETS, Target};

const ROUNDS_PER_SEED: usize = 2000;
const RANDOM_ROUNDS: usize = 10_000;

/// SplitMix64: a seed gives the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn run(target: &Target, seed: u64, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {} failed with seed {seed} on {hex}", target.name);
    }
}

fn mutate(numbers: &mut Numbers, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(input.len());
        match numbers.below(8) {
            0 => input.truncate(at),
            1 => input.insert(at.min(input.len()), numbers.next() as u8),
            2 if !input.is_empty() => drop(input.remove(at)),
            3 if !input.is_empty() => input[at] ^= 1 << numbers.below(8),
            4 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
            5 if input.len() >= 4 => {
                let at = at.min(input.len() - 4);
                let bombs = [0, 1, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
                input[at..at + 4].copy_from_slice(&bombs[numbers.below(6)].to_le_bytes());
            }
            6 => {
                let other = &others[numbers.below(others.len())];
                input.truncate(at);
                input.extend_from_slice(&other[numbers.below(other.len())..]);
            }
            _ if !input.is_empty() => input[at] = numbers.next() as u8,
            _ => {}
        }
    }
}

#[test]
fn mutated_samples_keep_every_promise() {
    for target in TARGETS {
        let samples = (target.seeds)();
        for (position, sample) in samples.iter().enumerate() {
            run(target, 0, sample);
            for round in 0..ROUNDS_PER_SEED {
                let seed = (position * ROUNDS_PER_SEED + round) as u64;
                let mut numbers = Numbers(seed);
                let mut input = sample.clone();
                mutate(&mut numbers, &mut input, &samples);
                run(target, seed, &input);
            }
        }
    }
}

#[test]
fn every_cut_of_every_sample_keeps_every_promise() {
    for target in TARGETS {
        for sample in (target.seeds)() {
            for cut in 0..sample.len() {
                run(target, cut as u64, &sample[..cut]);
            }
        }
    }
}

#[test]
fn random_bytes_keep_every_promise() {
    for target in TARGETS {
        for seed in 0..RANDOM_ROUNDS as u64 {
            let mut numbers = Numbers(seed ^ 0x5bd1_e995);
            let len = numbers.below(300);
            let input: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
            run(target, seed, &input);
        }
    }
}
