//! The inputs of a case: a hash of each element's place, so that another program can make the same ones.
//!
//! ```text
//! noise(i) = (h(i) >> 40)/2^23 − 1                        uniform in [−1, 1), 24 bits, deviation 1/√3
//! h(i): z = i·0x9E3779B97F4A7C15; z = (z ^ z>>30)·0xBF58476D1CE4E5B9; z = (z ^ z>>27)·0x94D049BB133111EB; z ^ z>>31
//! x[i] = ±ratio·0.5773502691896258 + noise(i)             + in even channels, − in odd ones
//! g[i] = 0.25 + noise(2^40 + i) + noise(i)/2              so that dγ grows with the length, as dβ does
//! γ[c] = 1 + c/2      β[c] = 1/4 − c/2
//! running mean[c] = ±ratio·0.5773502691896258 + 0.05      running variance[c] = 0.4
//! ```
//!
//! i is the index in storage order; integers wrap at 64 bits. Everything is computed in f64, rounded to f32, and x and g from there
//! to their element type, to nearest even.

use wgpu_batch_norm::ElementType;

use super::Case;

const DEVIATION: f64 = 0.577_350_269_189_625_8;

/// x and g have the values of their element type, in f32.
pub struct Data {
    pub x: Vec<f32>,
    pub g: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_variance: Vec<f32>,
}

fn noise(index: u64) -> f64 {
    let z = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let z = z ^ (z >> 31);
    (z >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn rounded(element: ElementType, value: f64) -> f32 {
    let value = value as f32;
    match element {
        ElementType::F16 => half::f16::from_f32(value).to_f32(),
        ElementType::Bf16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

impl Data {
    pub fn new(case: &Case) -> Self {
        let mean = |channel: usize| {
            let sign = if channel.is_multiple_of(2) { 1.0 } else { -1.0 };
            sign * case.ratio * DEVIATION
        };
        let means: Vec<f64> = (0..case.channels()).map(mean).collect();
        let x = |index: usize| rounded(case.element, means[case.channel(index)] + noise(index as u64));
        let g = |index: usize| {
            let value = 0.25 + noise((1 << 40) + index as u64) + 0.5 * noise(index as u64);
            rounded(case.element, value)
        };
        let vector = |value: fn(f64) -> f64| (0..case.channels()).map(|channel| value(channel as f64) as f32).collect();
        Self {
            x: (0..case.elements()).map(x).collect(),
            g: (0..case.elements()).map(g).collect(),
            gamma: vector(|channel| 1.0 + 0.5 * channel),
            beta: vector(|channel| 0.25 - 0.5 * channel),
            running_mean: means.iter().map(|mean| (mean + 0.05) as f32).collect(),
            running_variance: vec![0.4; case.channels()],
        }
    }

    /// Σ bits(x[i])·(2i + 1) + bits(g[i])·(2i + 3), wrapping at 64 bits: by which figures of another program tell that they are of the
    /// same inputs.
    pub fn digest(&self) -> u64 {
        let sum = |values: &[f32], first: u64| {
            let terms = (0..).zip(values).map(|(index, value)| u64::from(value.to_bits()) * (2 * index + first));
            terms.fold(0_u64, u64::wrapping_add)
        };
        sum(&self.x, 1).wrapping_add(sum(&self.g, 3))
    }
}
