//! From a kernel to WGSL text: whole files of `shaders/`, one after the other.
//!
//! The files are plain WGSL; what varies in structure varies by which files are taken. The one textual change is the
//! access mode of bindings (see [`Variant::pooled`]), which WGSL has no constant for.

#[cfg(test)]
mod tests;

use crate::plan::{Access, Elementwise, Family, Kernel, Normalizer, Operation, Reduction, Trips};

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
            Access::Whole => "whole",
            Access::Shared => "shared",
            Access::Scalar => "scalar",
        };
        let operation = |operation| match operation {
            Operation::Training => "training",
            Operation::Backward => "backward",
            Operation::FrozenBackward => "backward_frozen",
        };
        let kernel = match self.kernel {
            Kernel::Reduce(Reduction::Statistics, f, a) => format!("statistics::{}::{}", family(f), access(a)),
            Kernel::Reduce(Reduction::GradientSums(Normalizer::Saved), f, a) => {
                format!("gradient_sums::{}::{}", family(f), access(a))
            }
            Kernel::Reduce(Reduction::GradientSums(Normalizer::Running), f, a) => {
                format!("frozen_gradient_sums::{}::{}", family(f), access(a))
            }
            Kernel::Apply(Elementwise::Normalize, f, a) => format!("inference::{}::{}", family(f), access(a)),
            Kernel::Apply(Elementwise::FrozenInputGradient, f, a) => {
                format!("frozen_input_gradient::{}::{}", family(f), access(a))
            }
            Kernel::MergeAndApply(o, f, a) => {
                format!("{}::merge_and_apply::{}::{}", operation(o), family(f), access(a))
            }
            Kernel::ChannelLoop(o, f, a) => format!("{}::channel_loop::{}::{}", operation(o), family(f), access(a)),
            Kernel::Resident(o, f, a, trips) => {
                format!("{}::resident_{}::{}::{}", operation(o), trips.count(), family(f), access(a))
            }
            Kernel::MergePartials(Reduction::Statistics) => "merge_partial_statistics".into(),
            Kernel::MergePartials(Reduction::GradientSums(_)) => "merge_partial_gradient_sums".into(),
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

/// The files of a kernel; an entry point uses what the files before it define.
fn files(kernel: Kernel) -> Vec<&'static str> {
    match kernel {
        Kernel::Reduce(reduction, family, access) => [
            vec![wgsl!("common/params.wgsl")],
            walk(family, access),
            reads(reduction, access),
            accumulator(reduction),
            reduces(reduction, family),
            vec![wgsl!("reduction/loop.wgsl"), wgsl!("partials/buffer.wgsl")],
            match reduction {
                Reduction::Statistics => vec![wgsl!("counter/record.wgsl")],
                Reduction::GradientSums(source) => [vec![wgsl!("counter/none.wgsl")], normalizer(source)].concat(),
            },
            match family {
                Family::Rows => vec![wgsl!("entry/reduce_rows.wgsl")],
                Family::Columns => vec![wgsl!("accumulator/segment.wgsl"), wgsl!("entry/reduce_columns.wgsl")],
            },
        ]
        .concat(),
        Kernel::MergePartials(reduction) => [
            vec![wgsl!("common/params.wgsl"), wgsl!("walk/quads.wgsl")],
            accumulator(reduction),
            merges(reduction, Family::Columns),
            vec![wgsl!("conclusion/partial.wgsl"), wgsl!("entry/finalize.wgsl")],
        ]
        .concat(),
        Kernel::FinalizeStatistics => [
            vec![wgsl!("common/params.wgsl"), wgsl!("common/inverse_deviation.wgsl"), wgsl!("walk/quads.wgsl")],
            accumulator(Reduction::Statistics),
            merges(Reduction::Statistics, Family::Columns),
            vec![wgsl!("conclusion/record.wgsl"), wgsl!("entry/finalize.wgsl")],
        ]
        .concat(),
        Kernel::FinalizeGradients => [
            vec![wgsl!("common/params.wgsl"), wgsl!("walk/quads.wgsl")],
            accumulator(Operation::Backward.reduction()),
            merges(Operation::Backward.reduction(), Family::Columns),
            commits(Operation::Backward),
            vec![wgsl!("entry/finalize.wgsl")],
        ]
        .concat(),
        Kernel::Apply(map, family, access) => [
            vec![wgsl!("common/params.wgsl")],
            walk(family, access),
            match map {
                Elementwise::Normalize => {
                    [vec![input(access), wgsl!("block/input.wgsl"), wgsl!("block/block.wgsl")], normalizes(access)]
                        .concat()
                }
                Elementwise::FrozenInputGradient => [
                    vec![output_gradient(access), wgsl!("block/output_gradient.wgsl"), wgsl!("block/block.wgsl")],
                    frozen(access),
                ]
                .concat(),
            },
            normalizer(Normalizer::Running),
            vec![stores(access), loop_of(access), wgsl!("entry/apply.wgsl")],
        ]
        .concat(),
        Kernel::MergeAndApply(operation, family, access) => [
            vec![wgsl!("common/params.wgsl")],
            walk(family, access),
            match operation {
                // The input gradient through frozen statistics does not depend on the input.
                Operation::FrozenBackward => {
                    vec![output_gradient(access), wgsl!("block/output_gradient.wgsl"), wgsl!("block/block.wgsl")]
                }
                Operation::Training | Operation::Backward => reads(operation.reduction(), access),
            },
            accumulator(operation.reduction()),
            merges(operation.reduction(), family),
            match operation {
                Operation::Training => vec![wgsl!("counter/recorded.wgsl")],
                Operation::Backward | Operation::FrozenBackward => Vec::new(),
            },
            commits(operation),
            maps(operation, access),
            vec![loop_of(access), wgsl!("entry/merge_and_apply.wgsl")],
        ]
        .concat(),
        Kernel::ChannelLoop(operation, family, access) => [
            whole_channels(operation, family, access),
            vec![wgsl!("reduction/loop.wgsl"), loop_of(access), wgsl!("entry/channel_loop.wgsl")],
        ]
        .concat(),
        Kernel::Resident(operation, family, access, trips) => [
            whole_channels(operation, family, access),
            vec![match trips {
                Trips::One => wgsl!("entry/resident_1.wgsl"),
                Trips::Two => wgsl!("entry/resident_2.wgsl"),
                Trips::Four => wgsl!("entry/resident_4.wgsl"),
            }],
        ]
        .concat(),
        Kernel::CountBatch => vec![wgsl!("entry/count_batch.wgsl")],
    }
}

/// What the kernels of one dispatch share.
fn whole_channels(operation: Operation, family: Family, access: Access) -> Vec<&'static str> {
    [
        vec![wgsl!("common/params.wgsl")],
        walk(family, access),
        reads(operation.reduction(), access),
        accumulator(operation.reduction()),
        reduces(operation.reduction(), family),
        match family {
            Family::Rows => vec![wgsl!("channel/rows.wgsl")],
            Family::Columns => vec![wgsl!("accumulator/segment.wgsl"), wgsl!("channel/columns.wgsl")],
        },
        vec![match operation {
            Operation::Training => wgsl!("counter/direct.wgsl"),
            Operation::Backward | Operation::FrozenBackward => wgsl!("counter/none.wgsl"),
        }],
        commits(operation),
        maps(operation, access),
    ]
    .concat()
}

fn walk(family: Family, access: Access) -> Vec<&'static str> {
    let trip = match access {
        Access::Whole => wgsl!("walk/trip_whole.wgsl"),
        Access::Shared | Access::Scalar => wgsl!("walk/trip_shared.wgsl"),
    };
    let walk = match family {
        Family::Rows => wgsl!("walk/rows.wgsl"),
        Family::Columns => wgsl!("walk/columns.wgsl"),
    };
    vec![wgsl!("walk/extent.wgsl"), trip, walk]
}

/// The tensors that a reduction reads.
fn reads(reduction: Reduction, access: Access) -> Vec<&'static str> {
    match reduction {
        Reduction::Statistics => vec![input(access), wgsl!("block/input.wgsl"), wgsl!("block/block.wgsl")],
        Reduction::GradientSums(_) => {
            vec![input(access), output_gradient(access), wgsl!("block/both.wgsl"), wgsl!("block/block.wgsl")]
        }
    }
}

fn accumulator(reduction: Reduction) -> Vec<&'static str> {
    let accumulator = match reduction {
        Reduction::Statistics => wgsl!("accumulator/moments.wgsl"),
        Reduction::GradientSums(_) => wgsl!("accumulator/sums.wgsl"),
    };
    vec![accumulator, wgsl!("accumulator/positions.wgsl")]
}

fn reduces(reduction: Reduction, family: Family) -> Vec<&'static str> {
    match (reduction, family) {
        (Reduction::Statistics, Family::Rows) => {
            vec![wgsl!("reduction/samples_rows.wgsl"), wgsl!("reduction/statistics.wgsl")]
        }
        (Reduction::Statistics, Family::Columns) => {
            vec![wgsl!("reduction/samples_columns.wgsl"), wgsl!("reduction/statistics.wgsl")]
        }
        (Reduction::GradientSums(_), _) => vec![wgsl!("reduction/gradient_sums.wgsl")],
    }
}

/// The merge of a place's slots; the quads of finalize have channels like columns.
fn merges(reduction: Reduction, family: Family) -> Vec<&'static str> {
    let slots = match family {
        Family::Rows => wgsl!("partials/slots_rows.wgsl"),
        Family::Columns => wgsl!("partials/slots_channels.wgsl"),
    };
    let mut files = vec![wgsl!("partials/buffer.wgsl"), slots, wgsl!("partials/share_slots.wgsl")];
    files.extend(match reduction {
        Reduction::Statistics => vec![wgsl!("partials/merge_statistics.wgsl")],
        Reduction::GradientSums(_) => vec![wgsl!("partials/merge_gradients.wgsl")],
    });
    files
}

/// What the results of a channel are written to.
fn commits(operation: Operation) -> Vec<&'static str> {
    match operation {
        Operation::Training => vec![wgsl!("conclusion/statistics.wgsl")],
        Operation::Backward | Operation::FrozenBackward => vec![wgsl!("conclusion/gradients.wgsl")],
    }
}

/// The map of an operation, the statistics it maps with, and the way there from what was reduced.
fn maps(operation: Operation, access: Access) -> Vec<&'static str> {
    let files = match operation {
        Operation::Training => [
            vec![wgsl!("common/inverse_deviation.wgsl"), wgsl!("normalizer/normalizer.wgsl")],
            normalizes(access),
            vec![wgsl!("conclusion/normalize.wgsl")],
        ],
        Operation::Backward => [
            normalizer(Normalizer::Saved),
            vec![input_gradient(access), wgsl!("parameter/gamma.wgsl"), wgsl!("elementwise/input_gradient.wgsl")],
            vec![wgsl!("conclusion/input_gradient.wgsl")],
        ],
        Operation::FrozenBackward => {
            [normalizer(Normalizer::Running), frozen(access), vec![wgsl!("conclusion/frozen_input_gradient.wgsl")]]
        }
    };
    [files.concat(), vec![stores(access)]].concat()
}

fn loop_of(access: Access) -> &'static str {
    match access {
        Access::Whole => wgsl!("elementwise/loop_whole.wgsl"),
        Access::Shared | Access::Scalar => wgsl!("elementwise/loop_shared.wgsl"),
    }
}

fn stores(access: Access) -> &'static str {
    match access {
        Access::Whole => wgsl!("elementwise/trip_whole.wgsl"),
        Access::Shared | Access::Scalar => wgsl!("elementwise/trip_shared.wgsl"),
    }
}

fn normalizes(access: Access) -> Vec<&'static str> {
    let output = match access {
        Access::Whole => wgsl!("tensor/vector/output.wgsl"),
        Access::Shared | Access::Scalar => wgsl!("tensor/scalar/output.wgsl"),
    };
    vec![output, wgsl!("parameter/gamma.wgsl"), wgsl!("parameter/beta.wgsl"), wgsl!("elementwise/normalize.wgsl")]
}

fn frozen(access: Access) -> Vec<&'static str> {
    vec![input_gradient(access), wgsl!("parameter/gamma.wgsl"), wgsl!("elementwise/frozen_input_gradient.wgsl")]
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
        Access::Whole | Access::Shared => wgsl!("tensor/vector/input.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/input.wgsl"),
    }
}

fn output_gradient(access: Access) -> &'static str {
    match access {
        Access::Whole | Access::Shared => wgsl!("tensor/vector/output_gradient.wgsl"),
        Access::Scalar => wgsl!("tensor/scalar/output_gradient.wgsl"),
    }
}

fn input_gradient(access: Access) -> &'static str {
    match access {
        Access::Whole => wgsl!("tensor/vector/input_gradient.wgsl"),
        Access::Shared | Access::Scalar => wgsl!("tensor/scalar/input_gradient.wgsl"),
    }
}
