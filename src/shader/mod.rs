//! From a kernel to WGSL text: whole files of `shaders/`, one after the other.
//!
//! The files are plain WGSL; what varies in structure varies by which files are taken. The one textual change is the
//! access mode of bindings (see [`Variant::pooled`]), which WGSL has no constant for.

#[cfg(test)]
mod tests;

use crate::plan::{
    Access, Elementwise, Family, Fusion, Kernel, Normalizer, Operation, Reduction, Role, Storage, Trips, Walk,
};

/// A kernel as it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The kernel.
    pub kernel: Kernel,
    /// How tensors are stored; single for kernels without tensors.
    pub storage: Storage,
    /// Writes the result over the tensor that it replaces (y over x, dx over g), through one binding.
    pub in_place: bool,
    /// Declares every storage binding `read_write`, for steps in which one buffer is read and written through different
    /// slices: WebGPU tracks usage by whole buffers and refuses `read` beside `read_write`.
    pub pooled: bool,
    /// Loads tensors that are only read by 64-bit integers, see
    /// [`KernelsDescriptor::double_words`](crate::KernelsDescriptor::double_words).
    pub double_words: bool,
}

/// What a pipeline fixes, where its kernel has a use for it: the values of the `override` declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constants {
    pub workgroup_size: Option<u32>,
    pub activation: Option<u32>,
    pub companion: Option<u32>,
    pub input_gradient: Option<u32>,
    pub residual_gradient: Option<u32>,
    pub brain_float: Option<bool>,
    pub keeps_in_step: Option<bool>,
    pub stores_in_turn: Option<bool>,
    pub span: Option<u32>,
}

impl Constants {
    /// The names in WGSL, with their values.
    pub(crate) fn list(self) -> Vec<(&'static str, f64)> {
        [
            ("WORKGROUP_SIZE", self.workgroup_size.map(f64::from)),
            ("ACTIVATION", self.activation.map(f64::from)),
            ("COMPANION", self.companion.map(f64::from)),
            ("INPUT_GRADIENT", self.input_gradient.map(f64::from)),
            ("RESIDUAL_GRADIENT", self.residual_gradient.map(f64::from)),
            ("BRAIN_FLOAT", self.brain_float.map(|set| f64::from(u8::from(set)))),
            ("KEEPS_IN_STEP", self.keeps_in_step.map(|set| f64::from(u8::from(set)))),
            ("STORES_IN_TURN", self.stores_in_turn.map(|set| f64::from(u8::from(set)))),
            ("SPAN", self.span.map(f64::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

impl Variant {
    /// Every variant there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Kernel::all().flat_map(|kernel| {
            let storages =
                [Storage::Single, Storage::Packed].into_iter().filter(move |storage| kernel.serves(*storage));
            let placements: &[bool] = if kernel.in_place().is_some() { &[false, true] } else { &[false] };
            storages.flat_map(move |storage| {
                placements.iter().flat_map(move |&in_place| {
                    let loads: &[bool] = if has_double_words(kernel, in_place) { &[false, true] } else { &[false] };
                    loads.iter().flat_map(move |&double_words| {
                        [false, true].map(|pooled| Self { kernel, storage, in_place, pooled, double_words })
                    })
                })
            })
        })
    }

    /// A name that tells the variant, for labels and reports.
    #[must_use]
    pub fn name(self) -> String {
        let walk = |Walk { family, access, skips_padding }| {
            let family = match family {
                Family::Rows => "rows",
                Family::Columns => "columns",
                Family::Quads => "quads",
            };
            let access = match access {
                Access::Whole => "whole",
                Access::Runs => "runs",
                Access::Spans => "spans",
                Access::Shared => "shared",
                Access::Scalar => "scalar",
            };
            format!("{family}::{access}{}", if skips_padding { "::padded" } else { "" })
        };
        let from = |source| match source {
            Normalizer::Saved => "",
            Normalizer::Running => "_frozen",
            Normalizer::Prepared => "_prepared",
        };
        let fused = |fusion| match fusion {
            Fusion::None => "",
            Fusion::Activation => "::activation",
            Fusion::Companion => "::companion",
            Fusion::Mask => "::mask",
            Fusion::Inverted => "::inverted",
        };
        let operation = |operation, fusion| {
            let operation = match operation {
                Operation::Training => "training",
                Operation::Backward => "backward",
                Operation::FrozenBackward => "backward_frozen",
            };
            format!("{operation}{}", fused(fusion))
        };
        let mut name = match self.kernel {
            Kernel::Reduce(Reduction::Statistics, w) => format!("statistics::{}", walk(w)),
            Kernel::Reduce(Reduction::GradientSums(source, fusion), w) => {
                format!("gradient_sums{}{}::{}", from(source), fused(fusion), walk(w))
            }
            Kernel::Apply(Elementwise::Normalize(source, fusion), w) => {
                format!("normalize{}{}::{}", from(source), fused(fusion), walk(w))
            }
            Kernel::Apply(Elementwise::InputGradient(fusion), w) => {
                format!("input_gradient{}::{}", fused(fusion), walk(w))
            }
            Kernel::Apply(Elementwise::FrozenInputGradient(source, fusion), w) => {
                format!("frozen_input_gradient{}{}::{}", from(source), fused(fusion), walk(w))
            }
            Kernel::MergeAndApply(o, fusion, w) => format!("{}::merge_and_apply::{}", operation(o, fusion), walk(w)),
            Kernel::ChannelLoop(o, fusion, w) => format!("{}::channel_loop::{}", operation(o, fusion), walk(w)),
            Kernel::Resident(o, fusion, w, trips) => {
                format!("{}::resident_{}::{}", operation(o, fusion), trips.count(), walk(w))
            }
            Kernel::MergePartials(Reduction::Statistics) => "merge_partial_statistics".into(),
            Kernel::MergePartials(Reduction::GradientSums(..)) => "merge_partial_gradient_sums".into(),
            Kernel::FinalizeStatistics => "finalize_statistics".into(),
            Kernel::FinalizeGradients => "finalize_gradients".into(),
            Kernel::Prepare(source) => format!("prepare{}", from(source)),
            Kernel::ConcludeStatistics => "conclude_statistics".into(),
            Kernel::ConcludeGradients => "conclude_gradients".into(),
            Kernel::UpdateRunning => "update_running".into(),
            Kernel::ShareGradients => "share_gradients".into(),
            Kernel::PackValid => "pack_valid".into(),
            Kernel::MarkValid => "mark_valid".into(),
            Kernel::CountValid => "count_valid".into(),
            Kernel::ReportHealth => "report_health".into(),
            Kernel::FoldBias => "fold_bias".into(),
            Kernel::AccumulateMoments => "accumulate_moments".into(),
            Kernel::Population => "population".into(),
            Kernel::PartMoments => "part_moments".into(),
            Kernel::MergeMoments => "merge_moments".into(),
            Kernel::ConcludeMoments => "conclude_moments".into(),
            Kernel::UpdateRunningFromParts => "update_running_from_parts".into(),
            Kernel::PartGradientSums => "part_gradient_sums".into(),
            Kernel::MergeGradientSums => "merge_gradient_sums".into(),
            Kernel::ConcludeGradientSums => "conclude_gradient_sums".into(),
            Kernel::CountBatch => "count_batch".into(),
        };
        for (set, suffix) in [
            (self.storage == Storage::Packed, "::packed"),
            (self.in_place, "::in_place"),
            (self.pooled, "::pooled"),
            (self.double_words, "::double_words"),
        ] {
            if set {
                name.push_str(suffix);
            }
        }
        name
    }

    /// The WGSL source; its one entry point is `main`.
    #[must_use]
    pub fn source(self) -> String {
        let text = Files { storage: self.storage, in_place: self.in_place, double_words: self.double_words }
            .of(self.kernel)
            .join("\n");
        if self.pooled { text.replace("var<storage, read>", "var<storage, read_write>") } else { text }
    }

    /// The roles that are bound and whether each is declared as written, in the order of their numbers.
    pub(crate) fn bindings(self) -> Vec<(Role, bool)> {
        let replaced = if self.in_place { self.kernel.in_place().map(|(read, _)| read) } else { None };
        let bindings = self.kernel.bindings().into_iter().filter(|(role, _)| Some(*role) != replaced);
        bindings.map(|(role, written)| (role, written || self.pooled)).collect()
    }

    /// Of the values that a pipeline may be given, those that this variant has a use for.
    pub(crate) fn constants(self, given: Constants) -> Constants {
        let kernel = self.kernel;
        Constants {
            workgroup_size: given.workgroup_size,
            activation: given.activation.filter(|_| kernel.activates()),
            companion: given.companion.filter(|_| kernel.has_companion()),
            input_gradient: given.input_gradient.filter(|_| kernel.writes(Role::InputGradient)),
            residual_gradient: given.residual_gradient.filter(|_| kernel.writes(Role::ResidualGradient)),
            brain_float: given.brain_float.filter(|_| self.storage == Storage::Packed),
            keeps_in_step: given
                .keeps_in_step
                .filter(|_| kernel.walk().is_some_and(|walk| walk.family == Family::Columns && !walk.has_spans())),
            stores_in_turn: given
                .stores_in_turn
                .filter(|_| kernel.maps_by_trips() && kernel.walk().is_some_and(has_whole_trips)),
            span: given.span.filter(|_| kernel.walk().is_some_and(Walk::has_spans)),
        }
    }
}

macro_rules! wgsl {
    ($path:literal) => {
        include_str!(concat!("../../shaders/", $path))
    };
}

/// The four files of one tensor, by storage and access.
macro_rules! tensor {
    ($name:literal) => {
        [
            include_str!(concat!("../../shaders/tensor/vector/", $name)),
            include_str!(concat!("../../shaders/tensor/scalar/", $name)),
            include_str!(concat!("../../shaders/tensor/packed/", $name)),
            include_str!(concat!("../../shaders/tensor/packed_scalar/", $name)),
        ]
    };
}

/// The files of a tensor that is only read, by double words, by storage.
macro_rules! double_words {
    ($name:literal) => {
        [
            include_str!(concat!("../../shaders/tensor/double_words/", $name)),
            include_str!(concat!("../../shaders/tensor/packed_double_words/", $name)),
        ]
    };
}

/// Whether a kernel has tensors that it may load by double words: of whole units, and only read.
pub(crate) fn has_double_words(kernel: Kernel, in_place: bool) -> bool {
    let replaced = if in_place { kernel.in_place().map(|(read, _)| read) } else { None };
    let mut bindings = kernel.bindings().into_iter();
    kernel.walk().is_some_and(|walk| walk.access != Access::Scalar)
        && bindings.any(|(role, written)| role.is_tensor() && !written && Some(role) != replaced)
}

/// Chooses the files of a kernel; an entry point uses what the files before it define.
#[derive(Clone, Copy)]
struct Files {
    storage: Storage,
    in_place: bool,
    double_words: bool,
}

impl Files {
    fn of(self, kernel: Kernel) -> Vec<&'static str> {
        let mut codec = match (self.storage, kernel.walk()) {
            (Storage::Packed, Some(_)) => vec![wgsl!("tensor/packed/codec.wgsl")],
            _ => Vec::new(),
        };
        if self.double_words {
            codec.push(match self.storage {
                Storage::Single => wgsl!("tensor/double_words/codec.wgsl"),
                Storage::Packed => wgsl!("tensor/packed_double_words/codec.wgsl"),
            });
        }
        let files = match kernel {
            Kernel::Reduce(reduction, walk) => self.reduce(reduction, walk),
            Kernel::Apply(map, walk) => self.apply(map, walk),
            Kernel::MergeAndApply(operation, fusion, walk) => self.merge_and_apply(operation, fusion, walk),
            Kernel::ChannelLoop(operation, fusion, walk) => [
                self.whole_channels(operation, fusion, walk, derivative(fusion, true)),
                reduction_loop(walk),
                vec![loop_of(walk), entry_of_channel_loop(walk)],
            ]
            .concat(),
            Kernel::Resident(operation, fusion, walk, trips) => [
                self.whole_channels(operation, fusion, walk, kept_derivative(fusion, walk)),
                match operation {
                    Operation::Training => vec![wgsl!("block/unchanged.wgsl")],
                    Operation::Backward | Operation::FrozenBackward => Vec::new(),
                },
                vec![match trips {
                    Trips::One => wgsl!("entry/resident_1.wgsl"),
                    Trips::Two => wgsl!("entry/resident_2.wgsl"),
                    Trips::Four => wgsl!("entry/resident_4.wgsl"),
                }],
            ]
            .concat(),
            Kernel::MergePartials(reduction) => [
                finalized_merges(reduction),
                vec![wgsl!("common/count_of_shape.wgsl"), wgsl!("conclusion/partial.wgsl"), FINALIZE],
            ]
            .concat(),
            Kernel::FinalizeStatistics => [
                finalized_merges(Reduction::Statistics),
                vec![
                    wgsl!("common/count_of_valid.wgsl"),
                    wgsl!("common/inverse_deviation.wgsl"),
                    wgsl!("conclusion/record.wgsl"),
                    FINALIZE,
                ],
            ]
            .concat(),
            Kernel::AccumulateMoments => [
                finalized_merges(Reduction::Statistics),
                vec![wgsl!("common/count_of_valid.wgsl"), wgsl!("conclusion/accumulate_moments.wgsl"), FINALIZE],
            ]
            .concat(),
            Kernel::FinalizeGradients => {
                [finalized_merges(GRADIENT_SUMS), vec![wgsl!("conclusion/gradients.wgsl"), FINALIZE]].concat()
            }
            Kernel::ConcludeStatistics => [
                finalized_merges(Reduction::Statistics),
                vec![
                    wgsl!("common/count_of_valid.wgsl"),
                    wgsl!("counter/recorded.wgsl"),
                    wgsl!("coefficients/written.wgsl"),
                    wgsl!("coefficients/recorded.wgsl"),
                    wgsl!("renormalization/corrected.wgsl"),
                    wgsl!("conclusion/prepare_statistics.wgsl"),
                ],
                commits(Operation::Training),
                vec![wgsl!("entry/conclude.wgsl")],
            ]
            .concat(),
            Kernel::ConcludeGradients => [
                finalized_merges(GRADIENT_SUMS),
                vec![
                    wgsl!("common/count_of_valid.wgsl"),
                    wgsl!("coefficients/written.wgsl"),
                    wgsl!("renormalization/read.wgsl"),
                    wgsl!("conclusion/prepare_gradients.wgsl"),
                    wgsl!("conclusion/gradients.wgsl"),
                    wgsl!("entry/conclude.wgsl"),
                ],
            ]
            .concat(),
            Kernel::ShareGradients => [
                finalize_walk(),
                accumulator(GRADIENT_SUMS),
                vec![
                    wgsl!("partials/instance_gradients.wgsl"),
                    wgsl!("partials/share_slots.wgsl"),
                    wgsl!("conclusion/gradients.wgsl"),
                    FINALIZE,
                ],
            ]
            .concat(),
            Kernel::UpdateRunning => vec![
                wgsl!("common/count_of_valid.wgsl"),
                wgsl!("common/finite.wgsl"),
                wgsl!("common/moving_average.wgsl"),
                wgsl!("entry/update_running.wgsl"),
            ],
            Kernel::UpdateRunningFromParts => vec![
                wgsl!("partials/moments.wgsl"),
                wgsl!("common/count_of_parts.wgsl"),
                wgsl!("common/finite.wgsl"),
                wgsl!("common/moving_average.wgsl"),
                wgsl!("entry/update_running.wgsl"),
            ],
            Kernel::PartMoments => [
                finalized_merges(Reduction::Statistics),
                vec![wgsl!("common/count_of_valid.wgsl"), wgsl!("conclusion/part_moments.wgsl"), FINALIZE],
            ]
            .concat(),
            Kernel::MergeMoments => {
                [moments_of_parts(), vec![wgsl!("conclusion/part_moments.wgsl"), FINALIZE]].concat()
            }
            Kernel::ConcludeMoments => [
                moments_of_parts(),
                vec![
                    wgsl!("counter/read.wgsl"),
                    wgsl!("renormalization/corrected.wgsl"),
                    wgsl!("conclusion/correct_statistics.wgsl"),
                ],
                commits(Operation::Training),
                vec![wgsl!("entry/conclude.wgsl")],
            ]
            .concat(),
            Kernel::PartGradientSums => [
                finalized_merges(GRADIENT_SUMS),
                vec![
                    wgsl!("renormalization/read.wgsl"),
                    wgsl!("conclusion/part_gradient_sums.wgsl"),
                    wgsl!("conclusion/gradients.wgsl"),
                    wgsl!("entry/conclude.wgsl"),
                ],
            ]
            .concat(),
            Kernel::MergeGradientSums => {
                [sums_of_parts(), vec![wgsl!("conclusion/merged_gradient_sums.wgsl"), FINALIZE]].concat()
            }
            Kernel::ConcludeGradientSums => [
                sums_of_parts(),
                COUNTS_OF_PARTS.to_vec(),
                vec![wgsl!("coefficients/written.wgsl"), wgsl!("conclusion/gradient_means.wgsl"), FINALIZE],
            ]
            .concat(),
            Kernel::Prepare(source) => [
                finalize_walk(),
                direct(source),
                vec![
                    wgsl!("parameter/gamma.wgsl"),
                    wgsl!("parameter/beta.wgsl"),
                    wgsl!("renormalization/read.wgsl"),
                    wgsl!("coefficients/written.wgsl"),
                    wgsl!("conclusion/prepare.wgsl"),
                    EACH_CHANNEL,
                ],
            ]
            .concat(),
            Kernel::ReportHealth => [
                finalize_walk(),
                vec![
                    wgsl!("normalizer/saved.wgsl"),
                    wgsl!("common/finite.wgsl"),
                    wgsl!("conclusion/health.wgsl"),
                    EACH_CHANNEL,
                ],
            ]
            .concat(),
            Kernel::FoldBias => [
                finalize_walk(),
                direct(Normalizer::Running),
                vec![
                    wgsl!("parameter/gamma.wgsl"),
                    wgsl!("parameter/beta.wgsl"),
                    wgsl!("conclusion/fold_bias.wgsl"),
                    EACH_CHANNEL,
                ],
            ]
            .concat(),
            Kernel::Population => [finalize_walk(), vec![wgsl!("conclusion/population.wgsl"), EACH_CHANNEL]].concat(),
            Kernel::PackValid => vec![wgsl!("entry/pack_valid.wgsl")],
            Kernel::MarkValid => vec![wgsl!("entry/mark_valid.wgsl")],
            Kernel::CountValid => vec![wgsl!("entry/count_valid.wgsl")],
            Kernel::CountBatch => vec![wgsl!("entry/count_batch.wgsl")],
        };
        [vec![wgsl!("common/params.wgsl"), wgsl!("common/instance.wgsl")], codec, files].concat()
    }

    fn reduce(self, reduction: Reduction, walk: Walk) -> Vec<&'static str> {
        // A reduction writes no tensor, so nothing takes the place of what it reads.
        let files = Self { in_place: false, ..self };
        [
            walk_over(walk),
            files.reads(reduction, walk.access),
            accumulator(reduction),
            vec![wgsl!("partials/buffer.wgsl")],
            match reduction {
                Reduction::Statistics => vec![
                    wgsl!("counter/record.wgsl"),
                    wgsl!("parameter/gamma.wgsl"),
                    wgsl!("parameter/beta.wgsl"),
                    wgsl!("parameter/record_statistics.wgsl"),
                ],
                Reduction::GradientSums(source, fusion) => [
                    vec![wgsl!("counter/none.wgsl")],
                    known(source, fusion),
                    vec![match source {
                        Normalizer::Prepared => wgsl!("parameter/prepared.wgsl"),
                        Normalizer::Saved | Normalizer::Running => wgsl!("parameter/record_gradients.wgsl"),
                    }],
                    derivative(fusion, true),
                ]
                .concat(),
            },
            reduces(reduction, walk, false),
            reduction_loop(walk),
            match walk.family {
                Family::Rows => vec![wgsl!("entry/reduce_rows.wgsl")],
                Family::Quads => vec![wgsl!("entry/reduce_quads.wgsl")],
                Family::Columns if walk.has_spans() => vec![wgsl!("entry/reduce_spans.wgsl")],
                Family::Columns => vec![wgsl!("accumulator/run.wgsl"), wgsl!("entry/reduce_columns.wgsl")],
            },
        ]
        .concat()
    }

    fn apply(self, map: Elementwise, walk: Walk) -> Vec<&'static str> {
        [
            walk_over(walk),
            match map {
                Elementwise::Normalize(source, fusion) => [
                    self.forward_reads(fusion, walk.access),
                    // Forward needs beta, whatever is fused.
                    known(source, Fusion::Activation),
                    self.maps(Operation::Training, fusion, walk),
                    vec![match source {
                        Normalizer::Running => wgsl!("conclusion/running_normalize.wgsl"),
                        Normalizer::Saved | Normalizer::Prepared => wgsl!("conclusion/known_normalize.wgsl"),
                    }],
                ]
                .concat(),
                Elementwise::InputGradient(fusion) => [
                    self.backward_reads(fusion, walk.access, true),
                    known(Normalizer::Prepared, fusion),
                    vec![wgsl!("coefficients/means.wgsl")],
                    derivative(fusion, true),
                    self.maps(Operation::Backward, fusion, walk),
                    vec![wgsl!("conclusion/prepared_input_gradient.wgsl")],
                ]
                .concat(),
                Elementwise::FrozenInputGradient(source, fusion) => [
                    self.backward_reads(fusion, walk.access, fusion != Fusion::None),
                    known(source, fusion),
                    derivative(fusion, fusion != Fusion::None),
                    self.maps(Operation::FrozenBackward, fusion, walk),
                    vec![wgsl!("conclusion/known_input_gradient.wgsl")],
                ]
                .concat(),
            },
            vec![loop_of(walk), entry_of_apply(walk)],
        ]
        .concat()
    }

    fn merge_and_apply(self, operation: Operation, fusion: Fusion, walk: Walk) -> Vec<&'static str> {
        let reduction = operation.reduction(fusion);
        [
            walk_over(walk),
            match operation {
                Operation::Training => self.forward_reads(fusion, walk.access),
                Operation::Backward => self.backward_reads(fusion, walk.access, true),
                // The input gradient through frozen statistics does not depend on the input, but for an activation.
                Operation::FrozenBackward => self.backward_reads(fusion, walk.access, fusion != Fusion::None),
            },
            vec![wgsl!("common/count_of_shape.wgsl")],
            accumulator(reduction),
            merges(reduction, walk.family),
            match operation {
                Operation::Training => {
                    vec![wgsl!("counter/recorded.wgsl"), wgsl!("parameter/recorded_statistics.wgsl")]
                }
                Operation::Backward | Operation::FrozenBackward => {
                    vec![wgsl!("parameter/recorded_gradients.wgsl"), wgsl!("normalizer/channels.wgsl")]
                }
            },
            vec![wgsl!("normalizer/normalizer.wgsl")],
            commits(operation),
            match operation {
                Operation::Training => Vec::new(),
                Operation::Backward | Operation::FrozenBackward => {
                    derivative(fusion, operation == Operation::Backward || fusion != Fusion::None)
                }
            },
            self.maps(operation, fusion, walk),
            vec![conclusion(operation), loop_of(walk), entry_of_merge_and_apply(walk)],
        ]
        .concat()
    }

    /// What the kernels of one dispatch share; `derivative` is of those that go backward.
    fn whole_channels(
        self,
        operation: Operation,
        fusion: Fusion,
        walk: Walk,
        derivative: Vec<&'static str>,
    ) -> Vec<&'static str> {
        let reduction = operation.reduction(fusion);
        [
            walk_over(walk),
            match operation {
                Operation::Training => self.forward_reads(fusion, walk.access),
                Operation::Backward | Operation::FrozenBackward => self.backward_reads(fusion, walk.access, true),
            },
            vec![wgsl!("common/count_of_shape.wgsl")],
            accumulator(reduction),
            match reduction {
                Reduction::Statistics => vec![
                    wgsl!("counter/direct.wgsl"),
                    wgsl!("parameter/gamma.wgsl"),
                    wgsl!("parameter/beta.wgsl"),
                    wgsl!("normalizer/normalizer.wgsl"),
                ],
                Reduction::GradientSums(source, _) => {
                    [vec![wgsl!("counter/none.wgsl")], known(source, fusion), derivative].concat()
                }
            },
            reduces(reduction, walk, true),
            match walk.family {
                Family::Rows => vec![wgsl!("channel/rows.wgsl")],
                Family::Quads => vec![wgsl!("channel/quads.wgsl")],
                // A component is a channel.
                Family::Columns if walk.has_spans() => Vec::new(),
                Family::Columns => vec![wgsl!("accumulator/run.wgsl"), wgsl!("channel/columns.wgsl")],
            },
            commits(operation),
            self.maps(operation, fusion, walk),
            vec![conclusion(operation)],
        ]
        .concat()
    }

    /// The tensors that a reduction reads.
    fn reads(self, reduction: Reduction, access: Access) -> Vec<&'static str> {
        match reduction {
            Reduction::Statistics => self.forward_reads(Fusion::None, access),
            Reduction::GradientSums(_, fusion) => self.backward_reads(fusion, access, true),
        }
    }

    fn forward_reads(self, fusion: Fusion, access: Access) -> Vec<&'static str> {
        let mut files = vec![self.input(access)];
        if fusion.binds_more() {
            files.extend([
                self.load(access, tensor!("companion.wgsl"), double_words!("companion.wgsl")),
                wgsl!("common/companion.wgsl"),
                wgsl!("block/input_companion.wgsl"),
            ]);
        } else {
            files.push(wgsl!("block/input.wgsl"));
        }
        files.push(wgsl!("block/block.wgsl"));
        files
    }

    fn backward_reads(self, fusion: Fusion, access: Access, input: bool) -> Vec<&'static str> {
        let mut files = vec![if self.in_place {
            self.store(access, tensor!("output_gradient_in_place.wgsl"))
        } else {
            self.load(access, tensor!("output_gradient.wgsl"), double_words!("output_gradient.wgsl"))
        }];
        if input {
            files.push(self.load(access, tensor!("input.wgsl"), double_words!("input.wgsl")));
        }
        files.extend(match fusion {
            Fusion::None | Fusion::Activation | Fusion::Inverted if input => vec![wgsl!("block/both.wgsl")],
            Fusion::None | Fusion::Activation | Fusion::Inverted => vec![wgsl!("block/output_gradient.wgsl")],
            Fusion::Companion => vec![
                self.load(access, tensor!("companion.wgsl"), double_words!("companion.wgsl")),
                wgsl!("common/companion.wgsl"),
                wgsl!("block/both_companion.wgsl"),
            ],
            Fusion::Mask => vec![wgsl!("activation_mask/load.wgsl"), wgsl!("block/both_mask.wgsl")],
        });
        files.push(wgsl!("block/block.wgsl"));
        files
    }

    /// The map of an operation and the stores of its results.
    fn maps(self, operation: Operation, fusion: Fusion, walk: Walk) -> Vec<&'static str> {
        let access = walk.access;
        let whole = matches!(access, Access::Whole | Access::Runs | Access::Spans);
        let mut files = match (operation, fusion.binds_more()) {
            (Operation::Training, more) => {
                let output = self.store(access, tensor!("output.wgsl"));
                let residual = if more { wgsl!("residual/companion.wgsl") } else { wgsl!("residual/none.wgsl") };
                let results = match (fusion, whole) {
                    (Fusion::Mask, true) => [
                        wgsl!("activation_mask/store.wgsl"),
                        wgsl!("result/output_and_mask.wgsl"),
                        wgsl!("result/store_output_and_mask_whole.wgsl"),
                    ]
                    .to_vec(),
                    (Fusion::Mask, false) => [
                        wgsl!("activation_mask/store.wgsl"),
                        wgsl!("result/output_and_mask.wgsl"),
                        wgsl!("result/store_output_and_mask_shared.wgsl"),
                    ]
                    .to_vec(),
                    (_, true) => vec![wgsl!("result/output.wgsl"), wgsl!("result/store_output_whole.wgsl")],
                    (_, false) => vec![wgsl!("result/output.wgsl"), wgsl!("result/store_output_shared.wgsl")],
                };
                [vec![output], ACTIVATION.to_vec(), vec![residual], results].concat()
            }
            (Operation::Backward | Operation::FrozenBackward, true) => {
                let store = if whole {
                    wgsl!("result/store_gradients_whole.wgsl")
                } else {
                    wgsl!("result/store_gradients_shared.wgsl")
                };
                vec![
                    GRADIENT_MODES,
                    self.store(access, tensor!("input_gradient.wgsl")),
                    self.store(access, tensor!("residual_gradient.wgsl")),
                    wgsl!("result/gradients.wgsl"),
                    store,
                ]
            }
            (Operation::Backward | Operation::FrozenBackward, false) => {
                let store = if whole {
                    wgsl!("result/store_input_gradient_whole.wgsl")
                } else {
                    wgsl!("result/store_input_gradient_shared.wgsl")
                };
                let input_gradient = self.store(access, tensor!("input_gradient.wgsl"));
                vec![GRADIENT_MODES, input_gradient, wgsl!("result/input_gradient.wgsl"), store]
            }
        };
        files.extend(match operation {
            Operation::Training => [wgsl!("normalizer/affine.wgsl"), wgsl!("elementwise/normalize.wgsl")].as_slice(),
            Operation::Backward => &[wgsl!("elementwise/input_gradient.wgsl")],
            Operation::FrozenBackward => &[wgsl!("elementwise/frozen_input_gradient.wgsl")],
        });
        if walk.skips_padding {
            files.push(match (operation, fusion) {
                (Operation::Training, Fusion::Mask) => wgsl!("result/padded_output_and_mask.wgsl"),
                (Operation::Training, _) => wgsl!("result/padded_output.wgsl"),
                (_, Fusion::Companion | Fusion::Mask) => wgsl!("result/padded_gradients.wgsl"),
                (_, Fusion::None | Fusion::Activation | Fusion::Inverted) => {
                    wgsl!("result/padded_input_gradient.wgsl")
                }
            });
        }
        if walk.family == Family::Quads {
            files.extend(picked_coefficients(operation));
        }
        match (access, walk.skips_padding) {
            (Access::Runs | Access::Spans, _) => {}
            (Access::Whole, padded) => {
                files.push(match walk.family {
                    Family::Rows | Family::Columns => wgsl!("elementwise/unit_of_lanes.wgsl"),
                    Family::Quads => wgsl!("elementwise/unit_of_quads.wgsl"),
                });
                files.push(if padded {
                    wgsl!("elementwise/trip_padded_whole.wgsl")
                } else {
                    wgsl!("elementwise/trip_whole.wgsl")
                });
            }
            (Access::Shared | Access::Scalar, false) => files.push(wgsl!("elementwise/trip_shared.wgsl")),
            (Access::Shared | Access::Scalar, true) => files.push(wgsl!("elementwise/trip_padded_shared.wgsl")),
        }
        files
    }

    fn input(self, access: Access) -> &'static str {
        if self.in_place {
            self.store(access, tensor!("input_in_place.wgsl"))
        } else {
            self.load(access, tensor!("input.wgsl"), double_words!("input.wgsl"))
        }
    }

    /// The file of a tensor that is read: units shared with neighbours can be loaded whole.
    fn load(self, access: Access, files: [&'static str; 4], double_words: [&'static str; 2]) -> &'static str {
        let [vector, scalar, packed, packed_scalar] = files;
        let [two, four] = double_words;
        match (self.storage, access) {
            (Storage::Single, _) if self.double_words => two,
            (Storage::Packed, _) if self.double_words => four,
            (Storage::Single, Access::Whole | Access::Runs | Access::Spans | Access::Shared) => vector,
            (Storage::Single, Access::Scalar) => scalar,
            (Storage::Packed, Access::Whole | Access::Runs | Access::Spans | Access::Shared) => packed,
            (Storage::Packed, Access::Scalar) => packed_scalar,
        }
    }

    /// The file of a tensor that is written, and of one that is read from its place.
    fn store(self, access: Access, files: [&'static str; 4]) -> &'static str {
        let [vector, scalar, packed, packed_scalar] = files;
        match (self.storage, access) {
            (Storage::Single, Access::Whole | Access::Runs | Access::Spans) => vector,
            (Storage::Single, Access::Shared | Access::Scalar) => scalar,
            (Storage::Packed, Access::Whole | Access::Runs | Access::Spans) => packed,
            (Storage::Packed, Access::Shared | Access::Scalar) => packed_scalar,
        }
    }
}

const ACTIVATION: [&str; 2] = [wgsl!("common/exponential.wgsl"), wgsl!("common/activation.wgsl")];
const EACH_CHANNEL: &str = wgsl!("entry/each_channel.wgsl");
const FINALIZE: &str = wgsl!("entry/finalize.wgsl");
const GRADIENT_MODES: &str = wgsl!("gradient/modes.wgsl");

/// Sums are sums, whatever was added up.
const GRADIENT_SUMS: Reduction = Operation::Backward.reduction(Fusion::None);

fn finalize_walk() -> Vec<&'static str> {
    vec![wgsl!("walk/finalize.wgsl")]
}

/// The merge of all slots of four channels.
fn finalized_merges(reduction: Reduction) -> Vec<&'static str> {
    [finalize_walk(), accumulator(reduction), merges(reduction, Family::Quads)].concat()
}

/// How many elements all parts of a batch have.
const COUNTS_OF_PARTS: [&str; 2] = [wgsl!("partials/moments.wgsl"), wgsl!("common/count_of_parts.wgsl")];

/// The merge of the moments of all parts of a batch, of four channels.
fn moments_of_parts() -> Vec<&'static str> {
    let merge = [
        wgsl!("partials/share_slots.wgsl"),
        wgsl!("partials/slots_moments.wgsl"),
        wgsl!("partials/pivot_channels.wgsl"),
        wgsl!("partials/merge_statistics.wgsl"),
    ];
    [finalize_walk(), accumulator(Reduction::Statistics), COUNTS_OF_PARTS.to_vec(), merge.to_vec()].concat()
}

/// The same of their gradient sums.
fn sums_of_parts() -> Vec<&'static str> {
    let merge =
        [wgsl!("partials/share_slots.wgsl"), wgsl!("partials/slots_sums.wgsl"), wgsl!("partials/merge_gradients.wgsl")];
    [finalize_walk(), accumulator(GRADIENT_SUMS), merge.to_vec()].concat()
}

fn walk_over(walk: Walk) -> Vec<&'static str> {
    let mut files = vec![wgsl!("walk/extent.wgsl")];
    files.extend(match (walk.skips_padding, walk.access) {
        (_, Access::Runs | Access::Spans) => Vec::new(),
        (true, _) => {
            vec![wgsl!("common/padding.wgsl"), trip_of(walk), wgsl!("walk/counts_valid.wgsl")]
        }
        (false, _) if has_whole_trips(walk) => vec![wgsl!("walk/trip_whole.wgsl")],
        (false, _) => vec![trip_of(walk), wgsl!("walk/counts_all.wgsl")],
    });
    files.extend(match (walk.family, walk.access) {
        (Family::Rows, _) => [wgsl!("walk/rows.wgsl"), wgsl!("walk/along_rows.wgsl")].as_slice(),
        (Family::Columns, Access::Spans) => &[wgsl!("walk/columns.wgsl"), wgsl!("walk/spans.wgsl")],
        (Family::Columns, _) => &[wgsl!("walk/columns.wgsl"), wgsl!("walk/super_rows.wgsl")],
        (Family::Quads, Access::Runs) => {
            &[wgsl!("walk/row_quads.wgsl"), wgsl!("walk/runs.wgsl"), wgsl!("walk/owners.wgsl")]
        }
        (Family::Quads, _) => &[wgsl!("walk/row_quads.wgsl"), wgsl!("walk/along_rows.wgsl"), wgsl!("walk/owners.wgsl")],
    });
    files
}

/// Whether units may be taken without a mask, and without asking whose they are.
fn has_whole_trips(walk: Walk) -> bool {
    walk.access == Access::Whole && walk.family != Family::Quads && !walk.skips_padding
}

/// A trip whose units take masks.
fn trip_of(walk: Walk) -> &'static str {
    if walk.family == Family::Quads { wgsl!("walk/trip_of_quads.wgsl") } else { wgsl!("walk/trip_shared.wgsl") }
}

fn reduction_loop(walk: Walk) -> Vec<&'static str> {
    match walk.access {
        Access::Runs => return vec![wgsl!("reduction/loop_runs.wgsl")],
        Access::Spans => return vec![wgsl!("reduction/loop_spans.wgsl")],
        Access::Whole | Access::Shared | Access::Scalar => {}
    }
    let whole = if has_whole_trips(walk) {
        wgsl!("reduction/whole_trips.wgsl")
    } else {
        wgsl!("reduction/no_whole_trips.wgsl")
    };
    vec![whole, wgsl!("reduction/loop.wgsl")]
}

fn accumulator(reduction: Reduction) -> Vec<&'static str> {
    let (record, accumulator) = match reduction {
        Reduction::Statistics => (wgsl!("partials/record_of_moments.wgsl"), wgsl!("accumulator/moments.wgsl")),
        Reduction::GradientSums(..) => (wgsl!("partials/record_of_sums.wgsl"), wgsl!("accumulator/sums.wgsl")),
    };
    vec![record, accumulator, wgsl!("accumulator/positions.wgsl")]
}

/// `maps` says whether a map follows in the same kernel.
fn reduces(reduction: Reduction, walk: Walk, maps: bool) -> Vec<&'static str> {
    let samples = match (walk.skips_padding, walk.family) {
        (true, _) => wgsl!("reduction/samples_valid.wgsl"),
        (false, Family::Rows) => wgsl!("reduction/samples_rows.wgsl"),
        (false, Family::Columns) => wgsl!("reduction/samples_columns.wgsl"),
        (false, Family::Quads) => wgsl!("reduction/samples_quads.wgsl"),
    };
    let runs = walk.access == Access::Runs;
    let blocks: &[_] = match (reduction, walk.family) {
        (Reduction::Statistics, _) if walk.has_spans() => &[wgsl!("reduction/statistics_of_units.wgsl")],
        (Reduction::GradientSums(..), _) if walk.has_spans() => &[wgsl!("reduction/gradient_sums_of_units.wgsl")],
        (Reduction::Statistics, Family::Rows | Family::Columns) => &[wgsl!("reduction/statistics_of_lanes.wgsl")],
        (Reduction::Statistics, Family::Quads) if runs => &[
            wgsl!("accumulator/one_of_moments.wgsl"),
            wgsl!("reduction/statistics_of_quads.wgsl"),
            wgsl!("reduction/statistics_of_units.wgsl"),
            wgsl!("reduction/statistics_of_runs.wgsl"),
        ],
        (Reduction::Statistics, Family::Quads) => {
            &[wgsl!("reduction/statistics_of_quads.wgsl"), wgsl!("reduction/statistics_of_quad_trips.wgsl")]
        }
        (Reduction::GradientSums(..), Family::Rows | Family::Columns) => {
            &[wgsl!("reduction/gradient_sums_of_lanes.wgsl")]
        }
        (Reduction::GradientSums(..), Family::Quads) if runs => &[
            wgsl!("accumulator/one_of_sums.wgsl"),
            wgsl!("reduction/gradient_sums_of_units.wgsl"),
            wgsl!("reduction/gradient_sums_of_runs.wgsl"),
        ],
        (Reduction::GradientSums(..), Family::Quads) => &[wgsl!("reduction/gradient_sums_of_quad_trips.wgsl")],
    };
    match reduction {
        Reduction::Statistics => [&[samples, wgsl!("reduction/statistics.wgsl")], blocks].concat(),
        Reduction::GradientSums(..) => {
            let basis: &[_] = if walk.family == Family::Quads && !maps { &PICKED_BASIS } else { &[] };
            [basis, &[wgsl!("reduction/gradient_sums.wgsl")], blocks].concat()
        }
    }
}

/// The merge of a place's slots.
fn merges(reduction: Reduction, family: Family) -> Vec<&'static str> {
    let (slots, pivot) = match family {
        Family::Rows => (wgsl!("partials/slots_rows.wgsl"), wgsl!("partials/pivot_rows.wgsl")),
        Family::Columns | Family::Quads => {
            (wgsl!("partials/slots_channels.wgsl"), wgsl!("partials/pivot_channels.wgsl"))
        }
    };
    let merge = match reduction {
        Reduction::Statistics => vec![pivot, wgsl!("partials/merge_statistics.wgsl")],
        Reduction::GradientSums(..) => vec![wgsl!("partials/merge_gradients.wgsl")],
    };
    [vec![wgsl!("partials/buffer.wgsl"), slots, wgsl!("partials/share_slots.wgsl")], merge].concat()
}

/// What the results of a channel are written to.
fn commits(operation: Operation) -> Vec<&'static str> {
    match operation {
        Operation::Training => vec![
            wgsl!("common/inverse_deviation.wgsl"),
            wgsl!("common/finite.wgsl"),
            wgsl!("common/moving_average.wgsl"),
            wgsl!("conclusion/statistics.wgsl"),
        ],
        Operation::Backward | Operation::FrozenBackward => vec![wgsl!("conclusion/gradients.wgsl")],
    }
}

/// The way from what was reduced to what the map needs.
fn conclusion(operation: Operation) -> &'static str {
    match operation {
        Operation::Training => wgsl!("conclusion/normalize.wgsl"),
        Operation::Backward => wgsl!("conclusion/input_gradient.wgsl"),
        Operation::FrozenBackward => wgsl!("conclusion/frozen_input_gradient.wgsl"),
    }
}

fn loop_of(walk: Walk) -> &'static str {
    match walk.access {
        Access::Runs => wgsl!("elementwise/loop_runs.wgsl"),
        Access::Spans => wgsl!("elementwise/loop_spans.wgsl"),
        _ if has_whole_trips(walk) => wgsl!("elementwise/loop_whole.wgsl"),
        _ => wgsl!("elementwise/loop_shared.wgsl"),
    }
}

fn entry_of_apply(walk: Walk) -> &'static str {
    if walk.has_spans() { wgsl!("entry/apply_spans.wgsl") } else { wgsl!("entry/apply.wgsl") }
}

fn entry_of_merge_and_apply(walk: Walk) -> &'static str {
    if walk.has_spans() { wgsl!("entry/merge_and_apply_spans.wgsl") } else { wgsl!("entry/merge_and_apply.wgsl") }
}

fn entry_of_channel_loop(walk: Walk) -> &'static str {
    if walk.has_spans() { wgsl!("entry/channel_loop_spans.wgsl") } else { wgsl!("entry/channel_loop.wgsl") }
}

/// The statistics to normalise with.
fn direct(source: Normalizer) -> Vec<&'static str> {
    let mut files = match source {
        Normalizer::Saved => vec![wgsl!("normalizer/saved.wgsl")],
        Normalizer::Running => vec![wgsl!("common/inverse_deviation.wgsl"), wgsl!("normalizer/running.wgsl")],
        Normalizer::Prepared => vec![wgsl!("coefficients/read.wgsl")],
    };
    files.extend([wgsl!("normalizer/normalizer.wgsl"), wgsl!("normalizer/channels.wgsl")]);
    files
}

/// The statistics to normalise with, and the parameters that what is fused depends on.
fn known(source: Normalizer, fusion: Fusion) -> Vec<&'static str> {
    let parameters = match (source, fusion) {
        (Normalizer::Prepared, _) => Vec::new(),
        (_, Fusion::None | Fusion::Mask) => vec![wgsl!("parameter/gamma.wgsl"), wgsl!("parameter/no_beta.wgsl")],
        (_, Fusion::Activation | Fusion::Companion | Fusion::Inverted) => {
            vec![wgsl!("parameter/gamma.wgsl"), wgsl!("parameter/beta.wgsl")]
        }
    };
    [direct(source), parameters].concat()
}

/// The gradient before the activation, and x̂ where `input` is read.
fn derivative(fusion: Fusion, input: bool) -> Vec<&'static str> {
    let mut files = activation_of(fusion);
    files.push(match fusion {
        Fusion::None => wgsl!("gradient/plain.wgsl"),
        Fusion::Activation => wgsl!("gradient/recomputed.wgsl"),
        Fusion::Companion => wgsl!("gradient/companion.wgsl"),
        Fusion::Mask => wgsl!("gradient/masked.wgsl"),
        Fusion::Inverted => wgsl!("gradient/inverted.wgsl"),
    });
    if input && fusion != Fusion::Inverted {
        files.push(wgsl!("gradient/from_input.wgsl"));
    }
    files
}

/// As [`derivative`], where a block is held from the reduction to the map: what both need of it and takes long is found once.
fn kept_derivative(fusion: Fusion, walk: Walk) -> Vec<&'static str> {
    let keep = match fusion {
        Fusion::Activation => wgsl!("gradient/keep_recomputed.wgsl"),
        Fusion::Inverted => wgsl!("gradient/keep_inverted.wgsl"),
        // x̂ by itself is cheaper found twice than held.
        Fusion::None | Fusion::Companion | Fusion::Mask => {
            return [derivative(fusion, true), vec![wgsl!("block/unchanged.wgsl")]].concat();
        }
    };
    let block = match walk.family {
        Family::Rows | Family::Columns => wgsl!("gradient/keep_block.wgsl"),
        Family::Quads => wgsl!("gradient/keep_block_of_quads.wgsl"),
    };
    [activation_of(fusion), vec![keep, block, wgsl!("gradient/kept.wgsl")]].concat()
}

fn activation_of(fusion: Fusion) -> Vec<&'static str> {
    let mut files = vec![wgsl!("gradient/basis.wgsl")];
    if fusion != Fusion::None {
        files.extend(ACTIVATION);
    }
    if fusion == Fusion::Inverted {
        files.push(wgsl!("gradient/from_output.wgsl"));
    }
    files
}

/// What a map needs of each element in quads.
fn picked_coefficients(operation: Operation) -> Vec<&'static str> {
    match operation {
        Operation::Training => vec![wgsl!("normalizer/picked.wgsl"), wgsl!("elementwise/picked_normalize.wgsl")],
        Operation::Backward => [PICKED_BASIS.to_vec(), vec![wgsl!("elementwise/picked_input_gradient.wgsl")]].concat(),
        Operation::FrozenBackward => {
            [PICKED_BASIS.to_vec(), vec![wgsl!("elementwise/picked_frozen_input_gradient.wgsl")]].concat()
        }
    }
}

const PICKED_BASIS: [&str; 2] = [wgsl!("normalizer/picked.wgsl"), wgsl!("gradient/picked.wgsl")];
