//! The reference, proved before it proves anything else: closed forms, finite differences, conventions, policies.

mod activations;
mod batch_in_parts;
mod case;
mod elements;
mod errors;
mod folding;
mod forward;
mod gradients;
mod output_backward;
mod parts;
mod population;
mod renormalization;
mod running;
mod segments;
mod valid;

use wgpu_batch_norm::reference::{BatchNorm, Plan};
use wgpu_batch_norm::{Activation, BatchNormDescriptor, Convention, Layout, Shape};

/// Every activation.
const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.125 },
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

fn planned(shape: &[usize], layout: Layout, convention: Convention) -> (BatchNorm, Plan) {
    let channels = shape[layout.channel_axis(shape.len())] as u32;
    let bn = BatchNorm::new(&BatchNormDescriptor { channels, layout, convention, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
    (bn, plan)
}

fn activated(shape: &[usize], layout: Layout, activation: Activation) -> (BatchNorm, Plan) {
    let channels = shape[layout.channel_axis(shape.len())] as u32;
    let bn = BatchNorm::new(&BatchNormDescriptor { channels, layout, activation, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
    (bn, plan)
}
