//! From a kernel to WGSL text: whole files of `shaders/`, one after the other.
//!
//! The files are plain WGSL; what varies in structure varies by which files are taken. The one textual change is the
//! access mode of bindings (see [`Variant::pooled`]), which WGSL has no constant for.

#[cfg(test)]
mod tests;

use crate::plan::{Access, Elementwise, Family, Kernel, Normalizer, Reduction};

/// A kernel as it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The kernel.
    pub kernel: Kernel,
    /// Declares every storage binding `read_write`, for steps in which one buffer is read and written through different
    /// slices: WebGPU tracks usage by whole buffers and refuses `read` beside `read_write`.
    pub pooled: bool,
}

impl Variant {
    /// Every variant there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Kernel::all().flat_map(|kernel| [false, true].map(|pooled| Self { kernel, pooled }))
    }

    /// A name that tells the variant, for labels and reports.
    #[must_use]
    pub fn name(self) -> String {
        let family = |family| match family {
            Family::Rows => "rows",
            Family::Columns => "columns",
        };
        let access = |access| match access {
            Access::Vector => "vector",
            Access::Scalar => "scalar",
        };
        let kernel = match self.kernel {
            Kernel::Reduce(Reduction::Statistics, f, a) => format!("statistics::{}::{}", family(f), access(a)),
            Kernel::Reduce(Reduction::GradientSums(Normalizer::Saved), f, a) => {
                format!("gradient_sums::{}::{}", family(f), access(a))
            }
            Kernel::Reduce(Reduction::GradientSums(Normalizer::Running), f, a) => {
                format!("frozen_gradient_sums::{}::{}", family(f), access(a))
            }
            Kernel::Apply(Elementwise::Normalize(Normalizer::Saved), f, a) => {
                format!("normalize::{}::{}", family(f), access(a))
            }
            Kernel::Apply(Elementwise::Normalize(Normalizer::Running), f, a) => {
                format!("inference::{}::{}", family(f), access(a))
            }
            Kernel::Apply(Elementwise::InputGradient, f, a) => format!("input_gradient::{}::{}", family(f), access(a)),
            Kernel::Apply(Elementwise::FrozenInputGradient, f, a) => {
                format!("frozen_input_gradient::{}::{}", family(f), access(a))
            }
            Kernel::FinalizeStatistics => "finalize_statistics".into(),
            Kernel::FinalizeGradients => "finalize_gradients".into(),
            Kernel::CountBatch => "count_batch".into(),
        };
        if self.pooled { format!("{kernel}::pooled") } else { kernel }
    }

    /// The WGSL source; its one entry point is `main`.
    #[must_use]
    pub fn source(self) -> String {
        let text = files(self.kernel).join("\n");
        if self.pooled { text.replace("var<storage, read>", "var<storage, read_write>") } else { text }
    }
}

macro_rules! wgsl {
    ($path:literal) => {
        include_str!(concat!("../../shaders/", $path))
    };
}

fn files(kernel: Kernel) -> Vec<&'static str> {
    match kernel {
        Kernel::Reduce(reduction, family, access) => {
            let mut files = vec![wgsl!("common/params.wgsl"), input(access)];
            match reduction {
                Reduction::Statistics => {
                    files.extend([wgsl!("reduction/moments.wgsl"), wgsl!("reduction/statistics.wgsl")]);
                }
                Reduction::GradientSums(source) => {
                    files.push(output_gradient(access));
                    files.extend(normalizer(source));
                    files.extend([wgsl!("reduction/sums.wgsl"), wgsl!("reduction/gradient_sums.wgsl")]);
                }
            }
            files.push(wgsl!("reduction/merge_positions.wgsl"));
            files.extend(match family {
                Family::Rows => [wgsl!("common/rows.wgsl"), wgsl!("reduction/rows.wgsl")],
                Family::Columns => [wgsl!("common/columns.wgsl"), wgsl!("reduction/columns.wgsl")],
            });
            files
        }
        Kernel::Apply(map, family, access) => {
            let mut files = vec![wgsl!("common/params.wgsl"), wgsl!("parameter/gamma.wgsl")];
            match map {
                Elementwise::Normalize(source) => {
                    files.extend([input(access), output(access), wgsl!("parameter/beta.wgsl")]);
                    files.extend(normalizer(source));
                    files.push(wgsl!("elementwise/normalize.wgsl"));
                }
                Elementwise::InputGradient => {
                    files.extend([input(access), output_gradient(access), input_gradient(access)]);
                    files.extend(normalizer(Normalizer::Saved));
                    files.push(wgsl!("elementwise/input_gradient.wgsl"));
                }
                Elementwise::FrozenInputGradient => {
                    files.extend([output_gradient(access), input_gradient(access)]);
                    files.extend(normalizer(Normalizer::Running));
                    files.push(wgsl!("elementwise/frozen_input_gradient.wgsl"));
                }
            }
            files.extend(match family {
                Family::Rows => [wgsl!("common/rows.wgsl"), wgsl!("elementwise/rows.wgsl")],
                Family::Columns => [wgsl!("common/columns.wgsl"), wgsl!("elementwise/columns.wgsl")],
            });
            files
        }
        Kernel::FinalizeStatistics => vec![
            wgsl!("common/params.wgsl"),
            wgsl!("common/inverse_deviation.wgsl"),
            wgsl!("reduction/moments.wgsl"),
            wgsl!("reduction/merge_positions.wgsl"),
            wgsl!("finalize/statistics.wgsl"),
        ],
        Kernel::FinalizeGradients => vec![
            wgsl!("common/params.wgsl"),
            wgsl!("normalizer/normalizer.wgsl"),
            wgsl!("reduction/sums.wgsl"),
            wgsl!("reduction/merge_positions.wgsl"),
            wgsl!("finalize/gradients.wgsl"),
        ],
        Kernel::CountBatch => vec![wgsl!("finalize/count_batch.wgsl")],
    }
}

fn normalizer(source: Normalizer) -> Vec<&'static str> {
    let mut files = match source {
        Normalizer::Saved => vec![wgsl!("normalizer/saved.wgsl")],
        Normalizer::Running => vec![wgsl!("common/inverse_deviation.wgsl"), wgsl!("normalizer/running.wgsl")],
    };
    files.extend([wgsl!("normalizer/normalizer.wgsl"), wgsl!("normalizer/channels.wgsl")]);
    files
}

fn input(access: Access) -> &'static str {
    match access {
        Access::Vector => wgsl!("tensor/vector/input.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/input.wgsl"),
    }
}

fn output(access: Access) -> &'static str {
    match access {
        Access::Vector => wgsl!("tensor/vector/output.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/output.wgsl"),
    }
}

fn output_gradient(access: Access) -> &'static str {
    match access {
        Access::Vector => wgsl!("tensor/vector/output_gradient.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/output_gradient.wgsl"),
    }
}

fn input_gradient(access: Access) -> &'static str {
    match access {
        Access::Vector => wgsl!("tensor/vector/input_gradient.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/input_gradient.wgsl"),
    }
}
