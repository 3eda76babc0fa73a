//! What needs a device, on every adapter of the machine. A file a subject.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::network::context::Context;
use crate::network::support;
use crate::network::tape::{Program, Tape};
use crate::network::tensor::{Parameter, Tensor};

mod dense;
mod images;
mod norm;
mod recurrent;
mod training;

/// What device and host may differ by, relative to the largest value of a tensor.
///
/// Sums here have up to a few hundred terms: f32 rounds their partial sums by 2⁻²⁴ each, which makes 3e-5 in the worst case and
/// 1e-6 in the usual one; exp and tanh add some units in the last place, and central differences in f64 err by 1e-8. What a wrong
/// index, sign or factor makes is of the size of the values.
const TOLERANCE: f64 = 3e-5;
/// Half the distance of central differences.
const STEP: f64 = 1e-4;

/// Runs a test on all adapters; without one it fails, since it would show nothing.
fn everywhere(test: impl Fn(&Context)) {
    let all = support::open_all(None);
    assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
    for gpu in all {
        println!("{gpu}");
        test(&Context::new(gpu));
    }
}

/// Values between −1 and 1, none within 0.05 of 0, where ReLU has a kink.
fn noise(random: &mut StdRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(0.05..1.0_f32) * if random.random() { 1.0 } else { -1.0 }).collect()
}

fn random() -> StdRng {
    StdRng::seed_from_u64(11)
}

/// A tensor for data that asks for a gradient.
fn input(tape: &Tape<'_>, shape: &[usize]) -> Tensor {
    tape.tensor("input", shape)
}

fn parameter(tensor: &Tensor) -> Parameter {
    Parameter { values: tensor.values.clone(), gradient: tensor.gradient.clone().expect("inputs have gradients") }
}

/// Fills `inputs` with noise and checks outputs and gradients of `Σ noise · outputs` against `reference`, which has the values of
/// the inputs and gives those of all outputs.
fn check(
    context: &Context,
    program: &Program,
    inputs: &[Parameter],
    outputs: &[Tensor],
    reference: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
) {
    let mut random = random();
    let widen = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    let mut values = Vec::new();
    for input in inputs {
        let drawn = noise(&mut random, input.values.len);
        context.write(&input.values, &drawn);
        // What is left from before must be overwritten.
        context.write(&input.gradient, &vec![7.0_f32; drawn.len()]);
        values.push(widen(&drawn));
    }
    let mut weights = Vec::new();
    for output in outputs {
        let drawn = noise(&mut random, output.len());
        context.write(output.gradient.as_ref().expect("outputs have gradients"), &drawn);
        weights.push(widen(&drawn));
    }
    context.gpu.submit(|pass| program.record(pass));

    let expected = reference(&values);
    for (index, (output, expected)) in outputs.iter().zip(&expected).enumerate() {
        compare(&format!("output {index}"), &context.read(&output.values), expected);
    }
    let loss = |values: &[Vec<f64>]| -> f64 {
        let outputs = reference(values);
        outputs.iter().zip(&weights).flat_map(|(y, w)| y.iter().zip(w)).map(|(y, w)| y * w).sum()
    };
    for (index, input) in inputs.iter().enumerate() {
        let mut moved = values.clone();
        let difference = |element: usize| {
            let at = values[index][element];
            moved[index][element] = at + STEP;
            let above = loss(&moved);
            moved[index][element] = at - STEP;
            let below = loss(&moved);
            moved[index][element] = at;
            (above - below) / (2.0 * STEP)
        };
        let expected: Vec<f64> = (0..input.values.len).map(difference).collect();
        compare(&format!("gradient of input {index}"), &context.read(&input.gradient), &expected);
    }
}

fn compare(what: &str, actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    assert!(scale > 0.0, "{what}: nothing but zeros shows nothing");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(*actual) - expected).abs();
        assert!(difference <= TOLERANCE * scale, "{what}, element {index}: {actual} in place of {expected} ({scale})");
    }
}
