//! Trains a small convolutional network on handwritten digits, with this package's batch norm and with Burn's, from the same
//! weights and on the same batches.
//!
//! `cargo run --release --example train_digits`
//!
//! Where to look: [`Norm`] is all that differs between the two.

use std::time::Instant;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_wgpu_batch_norm::{Activation, BatchNorm, BatchNormConfig, init};

/// 1,797 digits of 8 × 8 pixels from 0 to 16, one a line, and which digit it is.
const DIGITS: &str = include_str!("../../../examples/data/digits.csv");
/// The customary split: the rest was written by other people.
const TRAINED: usize = 1437;
const CHANNELS: usize = 8;
const BATCH: usize = 64;
const STEPS: usize = 60;
const LEARNING_RATE: f64 = 3e-3;

/// A batch norm and the ReLU after it.
#[derive(Module, Debug)]
enum Norm {
    /// Both in one.
    Ours(BatchNorm),
    /// One after the other.
    Burns(burn::nn::BatchNorm),
}

impl Norm {
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Ours(norm) => norm.forward(input),
            Self::Burns(norm) => relu(norm.forward(input)),
        }
    }

    /// With what the block is added to.
    fn forward_residual(&self, input: Tensor<4>, residual: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Ours(norm) => norm.forward_residual(input, residual),
            Self::Burns(norm) => relu(norm.forward(input) + residual),
        }
    }
}

#[derive(Module, Debug)]
struct Network {
    first: Conv2d,
    first_norm: Norm,
    second: Conv2d,
    second_norm: Norm,
    output: Linear,
}

impl Network {
    fn new(norm: impl Fn() -> Norm, device: &Device) -> Self {
        let convolution = |channels, seed| {
            let mut convolution =
                Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Same).with_bias(false).init(device);
            convolution.weight = weights([channels[1], channels[0], 3, 3], seed, device);
            convolution
        };
        let mut output = LinearConfig::new(CHANNELS * 64, 10).with_bias(false).init(device);
        output.weight = weights([CHANNELS * 64, 10], 3, device);
        Self {
            first: convolution([1, CHANNELS], 1),
            first_norm: norm(),
            second: convolution([CHANNELS; 2], 2),
            second_norm: norm(),
            output,
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.first_norm.forward(self.first.forward(images));
        let hidden = self.second_norm.forward_residual(self.second.forward(hidden.clone()), hidden);
        self.output.forward(hidden.reshape([-1, CHANNELS as i32 * 64]))
    }
}

/// The same weights for both networks, uniform, with a variance of one over the fan-in.
fn weights<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Param<Tensor<D>> {
    let fan_in = if D == 2 { shape[0] } else { shape[1..].iter().product() };
    let bound = (3.0 / fan_in as f32).sqrt();
    let mut random = Random(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (random.next() * 2.0 - 1.0) * bound).collect();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Xorshift: enough to shuffle with.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Images, 64 pixels each, and their digits.
struct Digits {
    pixels: Vec<f32>,
    labels: Vec<i32>,
}

impl Digits {
    fn read() -> Result<Self, std::num::ParseIntError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for line in DIGITS.lines() {
            let numbers = line.split(',').map(|field| field.trim().parse::<i32>()).collect::<Result<Vec<_>, _>>()?;
            let (label, image) = numbers.split_last().unwrap_or((&0, &[]));
            pixels.extend(image.iter().map(|&pixel| pixel as f32 / 16.0 - 0.3));
            labels.push(*label);
        }
        Ok(Self { pixels, labels })
    }

    fn batch(&self, indices: &[usize], device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        let pixels: Vec<f32> = indices.iter().flat_map(|&index| self.pixels[index * 64..][..64].to_vec()).collect();
        let labels: Vec<i32> = indices.iter().map(|&index| self.labels[index]).collect();
        let images = Tensor::from_data(TensorData::new(pixels, [indices.len(), 1, 8, 8]), device);
        (images, Tensor::from_data(TensorData::new(labels, [indices.len()]), device))
    }
}

/// The share of the test digits that are told right, by the running statistics.
fn accuracy(network: &Network, digits: &Digits, device: &Device) -> f64 {
    let test: Vec<usize> = (TRAINED..digits.labels.len()).collect();
    let (images, labels) = digits.batch(&test, device);
    let guesses = network.forward(images).argmax(1).reshape([-1]);
    let right = guesses.equal(labels).int().sum().into_scalar::<i64>();
    right as f64 / test.len() as f64
}

fn train(
    mut network: Network,
    digits: &Digits,
    steps: usize,
    device: &Device,
) -> Result<(Vec<f32>, f64), Box<dyn std::error::Error>> {
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut random = Random(7);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let batch: Vec<usize> = (0..BATCH).map(|_| (random.next() * TRAINED as f32) as usize).collect();
        let (images, labels) = digits.batch(&batch, device);
        let loss = loss.forward(network.forward(images), labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = optimizer.step(LEARNING_RATE, network, gradients);
        losses.push(loss.into_scalar::<f32>());
    }
    Ok((losses, accuracy(&network.valid(), digits, &device.clone().inner())))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = init()?.autodiff();
    let digits = Digits::read()?;
    let ours = || Norm::Ours(BatchNormConfig::new(CHANNELS).with_activation(Activation::Relu).init(&device));
    let burns = || Norm::Burns(burn::nn::BatchNormConfig::new(CHANNELS).init(&device));
    if let Norm::Ours(norm) = ours() {
        norm.served(&Tensor::<4>::zeros([BATCH, CHANNELS, 8, 8], &device))?;
    }
    println!(
        "{STEPS} steps of {BATCH} digits; loss at the first, the middle and the last step; accuracy on 360 others' digits"
    );
    // Compiles what the first network would otherwise wait for.
    for network in [Network::new(ours, &device), Network::new(burns, &device)] {
        train(network, &digits, 2, &device)?;
    }
    let networks = [("this package", Network::new(ours, &device)), ("Burn's own  ", Network::new(burns, &device))];
    for (name, network) in networks {
        let start = Instant::now();
        let (losses, accuracy) = train(network, &digits, STEPS, &device)?;
        println!(
            "{name}  loss {:.4} {:.4} {:.4}  accuracy {:.1} %  {:.1} s",
            losses[0],
            losses[STEPS / 2],
            losses[STEPS - 1],
            accuracy * 100.0,
            start.elapsed().as_secs_f64()
        );
        if losses[STEPS - 1] > losses[0] / 2.0 {
            return Err("the network did not learn".into());
        }
    }
    Ok(())
}
