use wgpu_batch_norm::{BatchNormDescriptor, BatchNormLayerDescriptor, Layout, Shape};

use super::{check, everywhere, input, parameter};
use crate::network::norm::{Norm, NormOptions};
use crate::network::recurrent::Lengths;
use crate::network::tape::Tape;
use crate::network::tensor::Tensor;

const LENGTHS: [u32; 5] = [1, 2, 3, 2, 1];
const WIDTH: usize = 7;

#[test]
fn recurrent_cells_carry_the_state_of_ended_sequences_and_have_their_gradients() {
    everywhere(|context| {
        let lengths = Lengths(context.upload("lengths", &LENGTHS));
        let shape = [LENGTHS.len(), WIDTH];
        let zeros = Tensor::data(context.zeros("zeros", LENGTHS.len() * WIDTH), &shape);
        let mut tape = Tape::new(context);
        let inputs = [input(&tape, &shape), input(&tape, &shape), input(&tape, &shape)];
        let mut states = vec![tape.recurrent_cell((&lengths, 0), [&inputs[0], &zeros, &zeros])];
        for (step, input) in inputs.iter().enumerate().skip(1) {
            // The state is a summand too, so that its gradients add up.
            let last = states[step - 1].clone();
            states.push(tape.recurrent_cell((&lengths, step), [input, &last, &last]));
        }
        let program = tape.finish().unwrap();
        // The last one only: the gradients of the others are written on the way.
        let last = [states[2].clone()];
        check(context, &program, &inputs.each_ref().map(parameter), &last, |v| {
            let mut state = vec![0.0; LENGTHS.len() * WIDTH];
            for (step, inputs) in v.iter().enumerate() {
                for (index, (state, input)) in state.iter_mut().zip(inputs).enumerate() {
                    if step < LENGTHS[index / WIDTH] as usize {
                        *state = (*input + *state).tanh();
                    }
                }
            }
            vec![state]
        });
    });
}

/// Over rows of `WIDTH`; the statistics of those rows that `counted` gives to the same group, 0 for those in none.
fn masked(x: &[f64], gamma: &[f64], beta: &[f64], counted: impl Fn(usize) -> Option<usize>) -> Vec<f64> {
    let rows = x.len() / WIDTH;
    let mut y = vec![0.0; x.len()];
    for row in 0..rows {
        let Some(group) = counted(row) else { continue };
        let members: Vec<usize> = (0..rows).filter(|&other| counted(other) == Some(group)).collect();
        for channel in 0..WIDTH {
            let of = |function: &dyn Fn(f64) -> f64| {
                members.iter().map(|&other| function(x[other * WIDTH + channel])).sum::<f64>() / members.len() as f64
            };
            let mean = of(&|x| x);
            let variance = of(&|x| (x - mean).powi(2));
            let normal = (x[row * WIDTH + channel] - mean) / (variance + 1e-5).sqrt();
            y[row * WIDTH + channel] = gamma[channel] * normal + beta[channel];
        }
    }
    y
}

#[test]
fn padding_counts_for_nothing_over_sequences_and_at_each_step() {
    everywhere(|context| {
        let lengths = Lengths(context.upload("lengths", &LENGTHS));
        let (steps, sequences) = (2, LENGTHS.len());
        let batch_norm =
            BatchNormDescriptor { channels: WIDTH as u32, layout: Layout::ChannelsLast, ..Default::default() };
        let norm = Norm::new(context, &BatchNormLayerDescriptor { batch_norm, ..Default::default() }).unwrap();
        let mut tape = Tape::new(context);
        let (all, second) = (input(&tape, &[steps, sequences, WIDTH]), input(&tape, &[sequences, WIDTH]));
        let shape = Shape::new(&all.shape).unwrap();
        let valid = tape.valid_of_sequences(&norm, &shape, &lengths).unwrap();
        let options = NormOptions { valid: Some(&valid), ..Default::default() };
        let over_all = tape.batch_norm_with(&norm, &all, &options).unwrap();
        let by_step = shape.with_segments_along(0).unwrap();
        let valid = tape.valid_of_sequences(&norm, &by_step, &lengths).unwrap();
        let options = NormOptions { valid: Some(&valid), shape: Some(by_step), ..Default::default() };
        let by_step = tape.batch_norm_with(&norm, &all, &options).unwrap();
        let valid = tape.valid_at_step(&norm, WIDTH, (&lengths, 1)).unwrap();
        let options = NormOptions { valid: Some(&valid), ..Default::default() };
        let at_second = tape.batch_norm_with(&norm, &second, &options).unwrap();
        let program = tape.finish().unwrap();
        let inputs: Vec<_> = [parameter(&all), parameter(&second)].into_iter().chain(norm.parameters()).collect();
        check(context, &program, &inputs, &[over_all, by_step, at_second], |v| {
            let lasts = |step: usize, row: usize| step < LENGTHS[row] as usize;
            let counted = |row: usize| lasts(row / sequences, row % sequences).then_some(row / sequences);
            vec![
                masked(&v[0], &v[2], &v[3], |row| counted(row).map(|_| 0)),
                masked(&v[0], &v[2], &v[3], counted),
                masked(&v[1], &v[2], &v[3], |row| lasts(1, row).then_some(1)),
            ]
        });
    });
}
