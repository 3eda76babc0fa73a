//! What one run of a case produced, under the names that the case's expected tensors have.

use wgpu_batch_norm::{ActivationSource, ChannelHealth, ChannelMoments, ChannelRenormalization, ChannelStatistics};

/// In the variant of gradients that were computed without the statistics that forward saved.
pub const RECOMPUTED: &str = "recomputed statistics";
/// In the variant of results that replaced the tensor that they were computed from.
pub const IN_PLACE: &str = "in place";

/// In the variant of a population that came in one batch instead of those of the case.
pub const ONE_BATCH: &str = "one batch";

/// Which of several ways to compute a result; empty for the plain one.
#[derive(Clone, Debug, Default)]
pub struct Variant(Vec<String>);

impl Variant {
    /// With one more thing about it, where `applies`.
    pub fn with(mut self, applies: bool, what: &str) -> Self {
        self.0.extend(applies.then(|| what.to_owned()));
        self
    }

    /// With the source of the activation's derivative, unless it is the plain one.
    pub fn from_source(source: ActivationSource) -> Self {
        Self::default().with(source != ActivationSource::Recompute, &format!("derivative from {source}"))
    }

    /// What is added to a tensor's name.
    pub fn suffix(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!(" ({})", self.0.join(", ")) }
    }
}

/// One produced tensor.
#[derive(Debug)]
pub struct Produced {
    /// The expected tensor that it is compared with.
    pub tensor: &'static str,
    pub variant: Variant,
    /// Widened from the type in which they are stored.
    pub values: Vec<f32>,
}

/// All that a run produced, and what is wrong with it whatever the values are.
#[derive(Debug, Default)]
pub struct Results {
    pub produced: Vec<Produced>,
    pub problems: Vec<String>,
}

impl Results {
    pub fn push(&mut self, tensor: &'static str, variant: &Variant, values: Vec<f32>) {
        self.produced.push(Produced { tensor, variant: variant.clone(), values });
    }

    /// The saved statistics, as the three vectors that they hold.
    pub fn push_statistics(&mut self, variant: &Variant, saved: &[ChannelStatistics]) {
        let vector = |value: fn(&ChannelStatistics) -> f32| saved.iter().map(value).collect();
        self.push("save_mean", variant, vector(ChannelStatistics::mean));
        self.push("save_invstd", variant, vector(|saved| saved.inverse_deviation));
        self.push("save_var", variant, vector(|saved| saved.variance));
    }

    /// How the batch was renormalised, as the two vectors that the records hold.
    pub fn push_renormalization(&mut self, variant: &Variant, saved: &[ChannelRenormalization]) {
        self.push("save_scale", variant, saved.iter().map(|saved| saved.scale).collect());
        self.push("save_shift", variant, saved.iter().map(|saved| saved.shift).collect());
    }

    /// The flags of each instance, as a number.
    pub fn push_health(&mut self, variant: &Variant, health: &[ChannelHealth]) {
        self.push("save_health", variant, health.iter().map(|health| health.0 as f32).collect());
    }

    /// The moments of a population, as the three vectors that they hold, and the statistics taken from them.
    pub fn push_population(&mut self, variant: &Variant, moments: &[ChannelMoments], running: [Vec<f32>; 2]) {
        let vector = |value: fn(&ChannelMoments) -> f32| moments.iter().map(value).collect();
        self.push("moments_count", variant, vector(|moments| moments.count as f32));
        self.push("moments_mean", variant, vector(ChannelMoments::mean));
        self.push("moments_m2", variant, vector(|moments| moments.m2));
        let [mean, variance] = running;
        self.push("new_running_mean", variant, mean);
        self.push("new_running_var", variant, variance);
    }

    /// The counter of batches must have grown by `batches`, 0 for an empty one.
    pub fn check_tracked(&mut self, before: u32, after: u32, batches: u32) {
        let expected = before.saturating_add(batches);
        if after != expected {
            self.problems.push(format!("batches_tracked went from {before} to {after}, expected {expected}"));
        }
    }
}
