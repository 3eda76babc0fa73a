//! What is right, by the crate's CPU reference in f64 on exactly the device's inputs.

use wgpu_batch_norm::reference::{self, BackwardBuffers, FrozenBackwardBuffers, Gradient};
use wgpu_batch_norm::{ChannelStatistics, Error};

use super::{Case, Data};

/// The reference on a case.
pub struct Truth<'a> {
    case: &'a Case,
    bn: reference::BatchNorm,
    plan: reference::Plan,
    x: Vec<f64>,
    g: Vec<f64>,
    vectors: [Vec<f64>; 4],
}

/// What training finds beside y.
pub struct Statistics {
    pub mean: Vec<f64>,
    pub inverse_deviation: Vec<f64>,
    pub running_mean: Vec<f64>,
    pub running_variance: Vec<f64>,
}

impl<'a> Truth<'a> {
    pub fn new(case: &'a Case, data: &Data) -> Result<Self, Error> {
        let bn = reference::BatchNorm::new(&case.descriptor())?;
        let plan = bn.plan(&case.shape()?)?;
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect();
        let vectors = [&data.gamma, &data.beta, &data.running_mean, &data.running_variance];
        let vectors = vectors.map(|values| wide(values));
        Ok(Self { case, bn, plan, x: wide(&data.x), g: wide(&data.g), vectors })
    }

    /// y of inference.
    pub fn inference(&self) -> Result<Vec<f64>, Error> {
        let mut output = vec![0.0; self.x.len()];
        let [gamma, beta, running_mean, running_variance] = self.vectors.each_ref().map(|values| &values[..]);
        let buffers = reference::InferenceBuffers {
            input: &self.x[..],
            output: &mut output[..],
            gamma: Some(gamma),
            beta: Some(beta),
            running_mean,
            running_variance,
            ..Default::default()
        };
        self.bn.inference(&self.plan, buffers)?;
        Ok(output)
    }

    /// y of training, and the statistics.
    ///
    /// The reference's records are f32. Around their means, which are as near as that, sums in f64 lose nothing.
    pub fn training(&self) -> Result<(Vec<f64>, Statistics), Error> {
        let instances = self.case.segments() * self.case.channels();
        let mut output = vec![0.0; self.x.len()];
        let mut saved = vec![ChannelStatistics::default(); instances];
        let [gamma, beta, running_mean, running_variance] = &self.vectors;
        let (mut running_mean, mut running_variance) = (running_mean.clone(), running_variance.clone());
        let (mean, variance) = (&mut running_mean[..], &mut running_variance[..]);
        self.bn.training(
            &self.plan,
            reference::TrainingBuffers {
                input: &self.x[..],
                output: &mut output[..],
                gamma: Some(gamma),
                beta: Some(beta),
                running: Some(reference::RunningStatistics { mean, variance, batches_tracked: None }),
                saved: Some(&mut saved),
                ..Default::default()
            },
        )?;
        let near: Vec<f64> = saved.iter().map(|saved| f64::from(saved.pivot)).collect();
        let mut sums = vec![[0.0; 2]; instances];
        for (index, x) in self.x.iter().enumerate() {
            let instance = self.case.segment(index) * self.case.channels() + self.case.channel(index);
            let off = x - near[instance];
            sums[instance][0] += off;
            sums[instance][1] += off * off;
        }
        let count = (self.case.length() / self.case.segments() as u64) as f64;
        let epsilon = self.bn.descriptor().convention.epsilon;
        let inverse = |[sum, square]: &[f64; 2]| {
            let variance = square / count - (sum / count) * (sum / count);
            1.0 / (variance.max(0.0) + epsilon).sqrt()
        };
        let statistics = Statistics {
            mean: near.iter().zip(&sums).map(|(near, [sum, _])| near + sum / count).collect(),
            inverse_deviation: sums.iter().map(inverse).collect(),
            running_mean,
            running_variance,
        };
        Ok((output, statistics))
    }

    /// dx, and dγ and dβ with it, through the batch's statistics or through the running ones.
    pub fn backward(&self, frozen: bool) -> Result<(Vec<f64>, [Vec<f64>; 2]), Error> {
        let mut dx = vec![0.0; self.x.len()];
        let mut vectors = [(); 2].map(|()| vec![0.0; self.case.channels()]);
        let [gamma, beta, running_mean, running_variance] = self.vectors.each_ref().map(|values| &values[..]);
        let [dgamma, dbeta] = vectors.each_mut().map(|values| Some(Gradient::Overwrite(&mut values[..])));
        let input_gradient = Some(Gradient::Overwrite(&mut dx[..]));
        if frozen {
            let buffers = FrozenBackwardBuffers {
                input: Some(&self.x[..]),
                output_gradient: &self.g[..],
                gamma: Some(gamma),
                beta: Some(beta),
                running_mean,
                running_variance,
                input_gradient,
                gamma_gradient: dgamma,
                beta_gradient: dbeta,
                ..Default::default()
            };
            self.bn.backward_frozen(&self.plan, buffers)?;
        } else {
            let buffers = BackwardBuffers {
                input: &self.x[..],
                output_gradient: &self.g[..],
                gamma: Some(gamma),
                beta: Some(beta),
                input_gradient,
                gamma_gradient: dgamma,
                beta_gradient: dbeta,
                ..Default::default()
            };
            self.bn.backward(&self.plan, buffers)?;
        }
        Ok((dx, vectors))
    }

    /// Σ|g| of each channel, and Σ|g|·max(1, |x̂|) with x̂ by the running statistics.
    pub fn scales(&self) -> [Vec<f64>; 2] {
        let [_, _, mean, variance] = &self.vectors;
        let epsilon = self.bn.descriptor().convention.epsilon;
        let mut sums = [(); 2].map(|()| vec![0.0; self.case.channels()]);
        for (index, (x, g)) in self.x.iter().zip(&self.g).enumerate() {
            let channel = self.case.channel(index);
            let normalised = (x - mean[channel]) / (variance[channel] + epsilon).sqrt();
            sums[0][channel] += g.abs();
            sums[1][channel] += g.abs() * normalised.abs().max(1.0);
        }
        sums
    }
}
