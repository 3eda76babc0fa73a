//! What one run of a case produced, under the names that the case's expected tensors have.

use wgpu_batch_norm::ChannelStatistics;

/// The name added to gradients that were computed without the statistics that forward saved.
pub const RECOMPUTED: &str = " (recomputed statistics)";

/// One produced tensor.
#[derive(Debug)]
pub struct Produced {
    /// The expected tensor that it is compared with.
    pub tensor: &'static str,
    /// Which of several ways to compute it; empty for the plain one.
    pub variant: &'static str,
    pub values: Vec<f32>,
}

/// All that a run produced, and what is wrong with it whatever the values are.
#[derive(Debug, Default)]
pub struct Results {
    pub produced: Vec<Produced>,
    pub problems: Vec<String>,
}

impl Results {
    pub fn push(&mut self, tensor: &'static str, variant: &'static str, values: Vec<f32>) {
        self.produced.push(Produced { tensor, variant, values });
    }

    /// The saved statistics, as the three vectors that they hold.
    pub fn push_statistics(&mut self, saved: &[ChannelStatistics]) {
        let vector = |value: fn(&ChannelStatistics) -> f32| saved.iter().map(value).collect();
        self.push("save_mean", "", vector(ChannelStatistics::mean));
        self.push("save_invstd", "", vector(|saved| saved.inverse_deviation));
        self.push("save_var", "", vector(|saved| saved.variance));
    }

    /// The counter of batches must have grown by one, or stayed if the batch was empty.
    pub fn check_tracked(&mut self, before: u32, after: u32, batch_is_empty: bool) {
        let expected = if batch_is_empty { before } else { before.saturating_add(1) };
        if after != expected {
            self.problems.push(format!("batches_tracked went from {before} to {after}, expected {expected}"));
        }
    }
}
