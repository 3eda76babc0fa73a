use wgpu_batch_norm::Convention;

use super::{check, everywhere, input, parameter};
use crate::network::activation::Activation;
use crate::network::dense::Dense;
use crate::network::perceptron::Perceptron;
use crate::network::tape::Tape;

/// By rows.
fn dense(x: &[f64], weight: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let output = |(weight, bias): (&[f64], &f64)| bias + weight.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        weight.chunks(inputs).zip(bias).map(output).collect()
    };
    x.chunks(inputs).flat_map(row).collect()
}

#[test]
fn dense_layers_have_their_gradients() {
    everywhere(|context| {
        // Blocks of four that are whole, cut off, and hardly begun.
        for (rows, inputs, outputs) in [(8, 12, 8), (7, 8, 10), (1, 4, 1)] {
            let layer = Dense::new(context, inputs, outputs, true);
            let mut tape = Tape::new(context);
            let x = input(&tape, &[rows, inputs]);
            let y = tape.dense(&layer, &x);
            let program = tape.finish().unwrap();
            let all: Vec<_> = std::iter::once(parameter(&x)).chain(layer.parameters()).collect();
            check(context, &program, &all, &[y], |v| vec![dense(&v[0], &v[1], &v[2], inputs)]);
        }
    });
}

#[test]
fn gradients_of_what_is_used_twice_add_up() {
    everywhere(|context| {
        let layer = Dense::new(context, 8, 6, true);
        let mut tape = Tape::new(context);
        let x = input(&tape, &[5, 8]);
        let (first, second) = (tape.dense(&layer, &x), tape.dense(&layer, &x));
        let bent = tape.activation(Activation::Sigmoid, &x);
        let program = tape.finish().unwrap();
        let all: Vec<_> = std::iter::once(parameter(&x)).chain(layer.parameters()).collect();
        check(context, &program, &all, &[first, second, bent], |v| {
            let y = dense(&v[0], &v[1], &v[2], 8);
            vec![y.clone(), y, v[0].iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()]
        });
    });
}

#[test]
fn activations_have_their_gradients() {
    everywhere(|context| {
        type Function = fn(f64) -> f64;
        let functions: [(Activation, Function); 3] = [
            (Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Activation::Tanh, f64::tanh),
            (Activation::Relu, |x| x.max(0.0)),
        ];
        for (kind, function) in functions {
            let mut tape = Tape::new(context);
            let x = input(&tape, &[7, 11]);
            let y = tape.activation(kind, &x);
            let program = tape.finish().unwrap();
            check(context, &program, &[parameter(&x)], &[y], |v| vec![v[0].iter().map(|&x| function(x)).collect()]);
        }
    });
}

#[test]
fn activations_of_large_numbers_are_finite() {
    everywhere(|context| {
        let x = context.upload("x", &[-1e30_f32, -200.0, 200.0, 1e30]);
        let x = crate::network::tensor::Tensor::data(x, &[4]);
        for (kind, expected) in
            [(Activation::Sigmoid, [0.0_f32, 0.0, 1.0, 1.0]), (Activation::Tanh, [-1.0, -1.0, 1.0, 1.0])]
        {
            let mut tape = Tape::forward_only(context);
            let y = tape.activation(kind, &x);
            let program = tape.finish().unwrap();
            context.gpu.submit(|pass| program.record(pass));
            for (y, expected) in context.read::<f32>(&y.values).into_iter().zip(expected) {
                assert!((y - expected).abs() < 1e-6, "{kind:?}: {y} in place of {expected}");
            }
        }
    });
}

#[test]
fn a_perceptron_is_its_layers_and_starts_alike_with_and_without_batch_norm() {
    everywhere(|context| {
        let widths = [8, 12, 4, 3];
        for kind in [Activation::Sigmoid, Activation::Relu] {
            let networks = [None, Some(Convention::pytorch())]
                .map(|convention| Perceptron::new(context, &widths, kind, convention).unwrap());
            let weights = networks.each_ref().map(|network| {
                network.reset(context, 3, |inputs| 1.0 / (inputs as f32).sqrt()).unwrap();
                network.layers.iter().map(|layer| context.read::<f32>(&layer.dense.weight.values)).collect::<Vec<_>>()
            });
            assert_eq!(weights[0], weights[1]);
            assert_eq!(networks[1].norms().len(), 2, "none on the logits");

            let network = &networks[0];
            let mut tape = Tape::new(context);
            let x = input(&tape, &[5, 8]);
            let outputs = network.forward(&mut tape, &x).unwrap();
            let program = tape.finish().unwrap();
            let all: Vec<_> = std::iter::once(parameter(&x)).chain(network.parameters()).collect();
            check(context, &program, &all, &[outputs[2].output.clone()], |v| {
                let mut values = v[0].clone();
                for (layer, width) in [8, 12, 4].into_iter().enumerate() {
                    values = dense(&values, &v[2 * layer + 1], &v[2 * layer + 2], width);
                    if layer < 2 {
                        let activated =
                            |x: f64| if kind == Activation::Relu { x.max(0.0) } else { 1.0 / (1.0 + (-x).exp()) };
                        values.iter_mut().for_each(|x| *x = activated(*x));
                    }
                }
                vec![values]
            });
        }
    });
}
