//! The kernels that a plan dispatches, and the buffers that each of them binds.

/// How threads are laid over the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Threads run along the inner dimension of one channel.
    Rows,
    /// Threads run along `channels · inner` of the `outer × (channels · inner)` matrix.
    Columns,
    /// Threads run along the inner dimensions of four channels, one after the other: `4 · inner` elements, which are whole groups
    /// of 16 bytes where `inner` is no multiple of four. Serves such an `inner` between 5 and 8,191 where channels come in fours;
    /// software drivers are planned to use it, GPUs not, until one is measured.
    Quads,
}

/// How a tensor's elements are loaded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Sixteen bytes at once, all of one lane: rows that are a multiple of four elements, columns of a tensor that is, quads.
    Whole,
    /// Sixteen bytes at once, of a quad whose rows are each left to one invocation, channel by channel.
    Runs,
    /// Sixteen bytes at once, of several lanes that an invocation takes side by side: columns of many channels whose elements lie next
    /// to each other, on drivers with a [`vector_width`](crate::DeviceProfile::vector_width).
    Spans,
    /// Sixteen bytes at once, of which the ends of unaligned rows belong to neighbours.
    Shared,
    /// Element by element; the element count is no multiple of four.
    Scalar,
}

/// How a kernel goes over a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Walk {
    /// How threads are laid over it.
    pub family: Family,
    /// How its elements are loaded and stored.
    pub access: Access,
    /// Whether elements may be padding, which counts for nothing and gets zeros.
    pub skips_padding: bool,
}

impl Walk {
    /// Every walk over elements that all count.
    const WHOLE: [Self; 8] = [
        Self::new(Family::Rows, Access::Whole),
        Self::new(Family::Rows, Access::Shared),
        Self::new(Family::Rows, Access::Scalar),
        Self::new(Family::Columns, Access::Whole),
        Self::new(Family::Columns, Access::Spans),
        Self::new(Family::Columns, Access::Scalar),
        Self::new(Family::Quads, Access::Whole),
        Self::new(Family::Quads, Access::Runs),
    ];

    const fn new(family: Family, access: Access) -> Self {
        Self { family, access, skips_padding: false }
    }

    pub(crate) const fn has_spans(self) -> bool {
        matches!(self.access, Access::Spans)
    }
}

/// Where gamma, beta and the statistics to normalise with come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Normalizer {
    /// The caller's parameters, and the records that training forward made.
    Saved,
    /// The caller's parameters, and the running statistics.
    Running,
    /// Coefficients that a dispatch before has made of them.
    Prepared,
}

/// What an operation binds and computes for a residual and an activation. Which activation it is makes no kernel: it is a
/// constant of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fusion {
    /// No tensor more. Forward: any activation. Backward: none, h = g.
    None,
    /// Backward only: the derivative of the activation at a pre-activation that is computed again from x.
    Activation,
    /// With a companion tensor. Forward: the residual. Backward: the residual, for the pre-activation, or the output, for
    /// its sign; and the residual's gradient.
    Companion,
    /// With a mask of one bit an element. Forward: written, and maybe a residual. Backward: read, and the residual's
    /// gradient.
    Mask,
    /// Backward through training statistics only: x̂ comes from the output, which takes the place of the input.
    Inverted,
}

impl Fusion {
    /// What forward may be.
    pub const FORWARD: [Self; 3] = [Self::None, Self::Companion, Self::Mask];
    /// What backward may be.
    pub const BACKWARD: [Self; 5] = [Self::None, Self::Activation, Self::Companion, Self::Mask, Self::Inverted];
    /// What backward through frozen statistics may be.
    pub const FROZEN: [Self; 4] = [Self::None, Self::Activation, Self::Companion, Self::Mask];

    /// Whether a tensor is bound more than without fusion. Those operations are carried out by [`Strategy::Split`] only,
    /// whose kernels have bindings to spare.
    ///
    /// [`Strategy::Split`]: super::Strategy::Split
    pub(crate) const fn binds_more(self) -> bool {
        matches!(self, Self::Companion | Self::Mask)
    }
}

/// What a reduction computes per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduction {
    /// Count, mean and M2 of the input.
    Statistics,
    /// Σh and Σh·x̂, with h the gradient before the activation.
    GradientSums(Normalizer, Fusion),
}

/// What an elementwise kernel computes from known statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Elementwise {
    /// y from x.
    Normalize(Normalizer, Fusion),
    /// dx from g through training statistics, with coefficients that hold the gradient sums.
    InputGradient(Fusion),
    /// dx from g through frozen statistics.
    FrozenInputGradient(Normalizer, Fusion),
}

/// What reduces a tensor and then maps it with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Statistics of x, then y.
    Training,
    /// Gradient sums, then dx through training statistics.
    Backward,
    /// Gradient sums, then dx through frozen statistics.
    FrozenBackward,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 3] = [Self::Training, Self::Backward, Self::FrozenBackward];

    /// The reduction that the operation begins with.
    #[must_use]
    pub const fn reduction(self, fusion: Fusion) -> Reduction {
        match self {
            Self::Training => Reduction::Statistics,
            Self::Backward => Reduction::GradientSums(Normalizer::Saved, fusion),
            Self::FrozenBackward => Reduction::GradientSums(Normalizer::Running, fusion),
        }
    }

    /// What may be fused into the operation.
    #[must_use]
    pub const fn fusions(self) -> &'static [Fusion] {
        match self {
            Self::Training => &Fusion::FORWARD,
            Self::Backward => &Fusion::BACKWARD,
            Self::FrozenBackward => &Fusion::FROZEN,
        }
    }
}

/// How many trips of four units an invocation of a resident kernel holds in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Trips {
    /// 16 elements of each tensor that is read.
    One,
    /// 32 elements.
    Two,
    /// 64 elements.
    Four,
}

impl Trips {
    /// Every count, ascending.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Four];

    /// What kernels of a family hold at most: what a unit of a quad takes besides its loads makes kernels of four trips slow to compile.
    pub(crate) const fn most(family: Family) -> Self {
        match family {
            Family::Rows | Family::Columns => Self::Four,
            Family::Quads => Self::Two,
        }
    }

    pub(crate) const fn count(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// How many bytes an element takes where tensors are stored. Which 16-bit type it is makes no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Storage {
    /// 32 bits an element.
    Single,
    /// 16 bits an element, two a word.
    Packed,
}

/// One structural specialisation; sizes, epsilon and momentum are data and make no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Tensor to partials.
    Reduce(Reduction, Walk),
    /// Partials of many slots to partials of one.
    MergePartials(Reduction),
    /// Partial statistics to records.
    FinalizeStatistics,
    /// Partial gradient sums to dgamma and dbeta.
    FinalizeGradients,
    /// Tensor to tensor, with statistics that are known.
    Apply(Elementwise, Walk),
    /// Partials and tensor to tensor, and what follows from the partials.
    MergeAndApply(Operation, Fusion, Walk),
    /// The whole operation in one dispatch that reads the tensor twice.
    ChannelLoop(Operation, Fusion, Walk),
    /// The whole operation in one dispatch that holds the tensor in registers.
    Resident(Operation, Fusion, Walk, Trips),
    /// Statistics and parameters to coefficients, for kernels that have no bindings left for them or that renormalise.
    Prepare(Normalizer),
    /// Partial statistics to everything that training forward makes of them, coefficients included.
    ConcludeStatistics,
    /// Partial gradient sums to dgamma, dbeta and coefficients.
    ConcludeGradients,
    /// Records of instances to running statistics that segments share.
    UpdateRunning,
    /// dgamma and dbeta of instances to those of channels.
    ShareGradients,
    /// Lengths of sequences, or flags of positions, to one bit a position.
    PackValid,
    /// Bits of positions to bits of elements.
    MarkValid,
    /// The valid elements of an instance, counted.
    CountValid,
    /// Records to health.
    ReportHealth,
    /// Frozen statistics to the bias of the layer before.
    FoldBias,
    /// Partial statistics into moments of many batches.
    AccumulateMoments,
    /// Moments of many batches to running statistics.
    Population,
    /// Partial statistics to the moments of a part of a batch.
    PartMoments,
    /// Moments of several parts to those of one.
    MergeMoments,
    /// Moments of all parts to records, running statistics and renormalization.
    ConcludeMoments,
    /// As `UpdateRunning`, of a batch in parts.
    UpdateRunningFromParts,
    /// Partial gradient sums to those of a part of a batch, and to its dγ and dβ.
    PartGradientSums,
    /// Gradient sums of several parts to those of one.
    MergeGradientSums,
    /// Gradient sums of all parts to gradient means.
    ConcludeGradientSums,
    /// Increments the batch counter.
    CountBatch,
}

/// The part that a buffer plays; its number is the binding number in every shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[non_exhaustive]
pub enum Role {
    /// x.
    Input = 1,
    /// y.
    Output = 2,
    /// g.
    OutputGradient = 3,
    /// dx.
    InputGradient = 4,
    /// Records of [`ChannelStatistics`](crate::ChannelStatistics).
    Statistics = 5,
    /// Running mean.
    RunningMean = 6,
    /// Running variance.
    RunningVariance = 7,
    /// γ.
    Gamma = 8,
    /// β.
    Beta = 9,
    /// Partial results of the splits.
    Partials = 10,
    /// dγ.
    GammaGradient = 11,
    /// dβ.
    BetaGradient = 12,
    /// The batch counter.
    BatchesTracked = 13,
    /// z, the residual; in backward also y.
    Companion = 14,
    /// One bit an element.
    ActivationMask = 15,
    /// dz.
    ResidualGradient = 16,
    /// Flags of [`ChannelHealth`](crate::ChannelHealth).
    Health = 17,
    /// The bias of the layer that batch norm is folded into.
    LayerBias = 18,
    /// The bias that comes of it.
    FoldedBias = 19,
    /// Records of [`ChannelMoments`](crate::ChannelMoments).
    Moments = 20,
    /// What maps need of a channel: parameters, statistics and sums as eight values.
    Prepared = 21,
    /// Counts of valid elements, one bit an element, and one a position.
    Valid = 22,
    /// Lengths of sequences, or flags of positions.
    ValidSource = 23,
    /// Records of [`ChannelRenormalization`](crate::ChannelRenormalization).
    Renormalization = 24,
    /// The bounds of batch renormalization.
    RenormalizationLimits = 25,
    /// dγ of instances, where several share a γ.
    InstanceGammaGradient = 26,
    /// dβ of instances, where several share a β.
    InstanceBetaGradient = 27,
    /// Records of [`ChannelGradientSums`](crate::ChannelGradientSums).
    GradientSums = 28,
    /// Moments that are taken of a part of a batch, or that those of several merge to.
    PartMoments = 29,
    /// What the gradient sums of several parts add up to.
    MergedGradientSums = 30,
}

impl Role {
    /// The role with the highest number.
    pub(crate) const LAST: Self = Self::MergedGradientSums;

    /// Whether it has a value for every element, as x has.
    pub(crate) const fn is_tensor(self) -> bool {
        matches!(
            self,
            Self::Input
                | Self::Output
                | Self::OutputGradient
                | Self::InputGradient
                | Self::Companion
                | Self::ResidualGradient
        )
    }

    /// The binding number.
    #[must_use]
    pub const fn binding(self) -> u32 {
        self as u32
    }
}

/// A role in a kernel, and whether the kernel writes it.
pub(crate) type Binding = (Role, bool);

const READ: bool = false;
const WRITE: bool = true;

impl Kernel {
    /// Every kernel there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let over_tensors = Walk::WHOLE.into_iter().flat_map(|walk| {
            let skipping = Walk { skips_padding: true, ..walk };
            // What is padding is asked of every unit.
            let padded = if matches!(walk.access, Access::Runs | Access::Spans) {
                Vec::new()
            } else {
                over_padded_tensor(skipping)
            };
            [over_tensor(walk), padded].concat()
        });
        over_tensors
            .chain(
                [Reduction::Statistics, Reduction::GradientSums(Normalizer::Saved, Fusion::None)]
                    .map(Self::MergePartials),
            )
            .chain([Self::FinalizeStatistics, Self::FinalizeGradients, Self::AccumulateMoments, Self::Population])
            .chain([Normalizer::Saved, Normalizer::Running].map(Self::Prepare))
            .chain([Self::ConcludeStatistics, Self::ConcludeGradients, Self::UpdateRunning, Self::ShareGradients])
            .chain([Self::PartMoments, Self::MergeMoments, Self::ConcludeMoments, Self::UpdateRunningFromParts])
            .chain([Self::PartGradientSums, Self::MergeGradientSums, Self::ConcludeGradientSums])
            .chain([
                Self::PackValid,
                Self::MarkValid,
                Self::CountValid,
                Self::ReportHealth,
                Self::FoldBias,
                Self::CountBatch,
            ])
    }

    /// The bindings, in the order of their numbers.
    pub(crate) fn bindings(self) -> Vec<Binding> {
        let mut bindings = match self {
            Self::Reduce(Reduction::Statistics, _) => vec![
                (Role::Input, READ),
                (Role::Gamma, READ),
                (Role::Beta, READ),
                (Role::Partials, WRITE),
                (Role::BatchesTracked, WRITE),
            ],
            Self::Reduce(Reduction::GradientSums(source, fusion), _) => [
                vec![(Role::Input, READ), (Role::OutputGradient, READ), (Role::Partials, WRITE)],
                parameters(source, fusion),
                normalizer(source),
                derivative(fusion),
            ]
            .concat(),
            Self::MergePartials(_) => vec![(Role::Partials, WRITE)],
            Self::FinalizeStatistics => vec![(Role::Partials, WRITE), (Role::Statistics, WRITE), (Role::Valid, READ)],
            Self::FinalizeGradients => [vec![(Role::Partials, WRITE)], commits(Operation::Backward)].concat(),
            Self::Apply(Elementwise::Normalize(source, fusion), _) => [
                tensors(Operation::Training, fusion),
                match source {
                    Normalizer::Prepared => Vec::new(),
                    Normalizer::Saved | Normalizer::Running => vec![(Role::Gamma, READ), (Role::Beta, READ)],
                },
                normalizer(source),
            ]
            .concat(),
            Self::Apply(Elementwise::InputGradient(fusion), _) => {
                [tensors(Operation::Backward, fusion), normalizer(Normalizer::Prepared)].concat()
            }
            Self::Apply(Elementwise::FrozenInputGradient(source, fusion), _) => {
                [tensors(Operation::FrozenBackward, fusion), parameters(source, fusion), normalizer(source)].concat()
            }
            Self::MergeAndApply(operation, fusion, _) => {
                [vec![(Role::Partials, WRITE)], tensors(operation, fusion), commits(operation)].concat()
            }
            Self::ChannelLoop(operation, fusion, _) | Self::Resident(operation, fusion, ..) => {
                let mut bindings = [tensors(operation, fusion), commits(operation)].concat();
                let direct = |source| [parameters(source, fusion), normalizer(source)].concat();
                match operation {
                    Operation::Training => {
                        bindings.extend([(Role::Gamma, READ), (Role::Beta, READ), (Role::BatchesTracked, WRITE)]);
                    }
                    Operation::Backward => bindings.extend(direct(Normalizer::Saved)),
                    Operation::FrozenBackward => {
                        bindings.extend(direct(Normalizer::Running));
                        // The reduction reads it, whether or not the map does.
                        bindings.push((Role::Input, READ));
                    }
                }
                bindings
            }
            Self::Prepare(source) => [
                vec![(Role::Prepared, WRITE), (Role::Gamma, READ), (Role::Beta, READ), (Role::Renormalization, READ)],
                normalizer(source),
            ]
            .concat(),
            Self::ConcludeStatistics => [
                vec![
                    (Role::Partials, WRITE),
                    (Role::Prepared, WRITE),
                    (Role::Valid, READ),
                    (Role::Renormalization, WRITE),
                    (Role::RenormalizationLimits, READ),
                ],
                commits(Operation::Training),
            ]
            .concat(),
            Self::ConcludeGradients => [
                vec![
                    (Role::Partials, WRITE),
                    (Role::Prepared, WRITE),
                    (Role::Valid, READ),
                    (Role::Renormalization, READ),
                ],
                commits(Operation::Backward),
            ]
            .concat(),
            Self::UpdateRunning => [vec![(Role::Valid, READ)], updates_running()].concat(),
            Self::UpdateRunningFromParts => [vec![(Role::Moments, READ)], updates_running()].concat(),
            Self::PartMoments => vec![(Role::Partials, WRITE), (Role::PartMoments, WRITE), (Role::Valid, READ)],
            Self::MergeMoments => vec![(Role::Moments, READ), (Role::PartMoments, WRITE)],
            Self::ConcludeMoments => [
                vec![
                    (Role::Moments, READ),
                    (Role::BatchesTracked, READ),
                    (Role::Renormalization, WRITE),
                    (Role::RenormalizationLimits, READ),
                ],
                commits(Operation::Training),
            ]
            .concat(),
            Self::PartGradientSums => [
                vec![(Role::Partials, WRITE), (Role::GradientSums, WRITE), (Role::Renormalization, READ)],
                commits(Operation::Backward),
            ]
            .concat(),
            Self::MergeGradientSums => vec![(Role::GradientSums, READ), (Role::MergedGradientSums, WRITE)],
            Self::ConcludeGradientSums => {
                vec![(Role::GradientSums, READ), (Role::Moments, READ), (Role::Prepared, WRITE)]
            }
            Self::ShareGradients => {
                let parts = [(Role::InstanceGammaGradient, READ), (Role::InstanceBetaGradient, READ)];
                [parts.to_vec(), commits(Operation::Backward)].concat()
            }
            Self::PackValid => vec![(Role::ValidSource, READ), (Role::Valid, WRITE)],
            Self::MarkValid | Self::CountValid => vec![(Role::Valid, WRITE)],
            Self::AccumulateMoments => vec![(Role::Partials, WRITE), (Role::Moments, WRITE), (Role::Valid, READ)],
            Self::Population => {
                vec![(Role::Moments, READ), (Role::RunningMean, WRITE), (Role::RunningVariance, WRITE)]
            }
            Self::FoldBias => [
                vec![(Role::Gamma, READ), (Role::Beta, READ), (Role::LayerBias, READ), (Role::FoldedBias, WRITE)],
                normalizer(Normalizer::Running),
            ]
            .concat(),
            Self::ReportHealth => vec![(Role::Statistics, READ), (Role::Health, WRITE)],
            Self::CountBatch => vec![(Role::BatchesTracked, WRITE)],
        };
        if self.walk().is_some_and(|walk| walk.skips_padding) {
            bindings.push((Role::Valid, READ));
        }
        bindings.sort_unstable();
        bindings.dedup();
        bindings
    }

    /// The tensor that the kernel reads and the one that it writes in its place, if they are one; `None` where no tensor is
    /// mapped.
    pub(crate) const fn in_place(self) -> Option<(Role, Role)> {
        match self {
            Self::Apply(Elementwise::Normalize(..), _)
            | Self::MergeAndApply(Operation::Training, ..)
            | Self::ChannelLoop(Operation::Training, ..)
            | Self::Resident(Operation::Training, ..) => Some((Role::Input, Role::Output)),
            Self::Apply(..) | Self::MergeAndApply(..) | Self::ChannelLoop(..) | Self::Resident(..) => {
                Some((Role::OutputGradient, Role::InputGradient))
            }
            _ => None,
        }
    }

    /// Whether the kernel maps a tensor in a loop.
    pub(crate) const fn maps_by_trips(self) -> bool {
        matches!(self, Self::Apply(..) | Self::MergeAndApply(..) | Self::ChannelLoop(..))
    }

    /// Whether the kernel writes what has this role.
    pub(crate) fn writes(self, role: Role) -> bool {
        self.bindings().contains(&(role, WRITE))
    }

    /// How the kernel goes over tensors; `None` where it does not.
    pub(crate) const fn walk(self) -> Option<Walk> {
        match self {
            Self::Reduce(_, walk)
            | Self::Apply(_, walk)
            | Self::MergeAndApply(.., walk)
            | Self::ChannelLoop(.., walk)
            | Self::Resident(.., walk, _) => Some(walk),
            _ => None,
        }
    }

    /// Whether the kernel is there for tensors of this storage. Neighbours that share a unit may share a word of 16-bit
    /// elements, and none of them can write its half alone: unaligned rows are not mapped then.
    pub(crate) fn serves(self, storage: Storage) -> bool {
        match (storage, self.walk()) {
            (Storage::Single, _) => true,
            (Storage::Packed, Some(Walk { family: Family::Rows, access, .. })) if self.in_place().is_some() => {
                access == Access::Whole
            }
            (Storage::Packed, walk) => walk.is_some(),
        }
    }

    /// What is fused into the kernel, and whether it is a forward one; `None` where nothing can be.
    const fn fused(self) -> Option<(Fusion, bool)> {
        match self {
            Self::Reduce(Reduction::GradientSums(_, fusion), _)
            | Self::Apply(Elementwise::FrozenInputGradient(_, fusion) | Elementwise::InputGradient(fusion), _) => {
                Some((fusion, false))
            }
            Self::Apply(Elementwise::Normalize(_, fusion), _) => Some((fusion, true)),
            Self::MergeAndApply(operation, fusion, _)
            | Self::ChannelLoop(operation, fusion, _)
            | Self::Resident(operation, fusion, ..) => Some((fusion, matches!(operation, Operation::Training))),
            _ => None,
        }
    }

    /// Whether the activation is a constant of the kernel.
    pub(crate) const fn activates(self) -> bool {
        match self.fused() {
            Some((fusion, forward)) => forward || !matches!(fusion, Fusion::None),
            None => false,
        }
    }

    /// Whether what the companion tensor is, is a constant of the kernel.
    pub(crate) const fn has_companion(self) -> bool {
        match self.fused() {
            Some((fusion, forward)) => match fusion {
                Fusion::Companion => true,
                Fusion::Mask => forward,
                Fusion::None | Fusion::Activation | Fusion::Inverted => false,
            },
            None => false,
        }
    }
}

/// The kernels of one walk over a tensor whose elements all count.
fn over_tensor(walk: Walk) -> Vec<Kernel> {
    let mut kernels = vec![Kernel::Reduce(Reduction::Statistics, walk)];
    for fusion in Fusion::FORWARD {
        for source in [Normalizer::Running, Normalizer::Prepared] {
            kernels.push(Kernel::Apply(Elementwise::Normalize(source, fusion), walk));
        }
    }
    for fusion in Fusion::FROZEN {
        let source = Normalizer::of_frozen(fusion);
        kernels.push(Kernel::Apply(Elementwise::FrozenInputGradient(source, fusion), walk));
        kernels.push(Kernel::Reduce(Reduction::GradientSums(Normalizer::Running, fusion), walk));
    }
    for fusion in Fusion::BACKWARD {
        kernels.push(Kernel::Reduce(Reduction::GradientSums(Normalizer::Saved, fusion), walk));
        // Renormalised, or in windows.
        kernels.push(Kernel::Reduce(Reduction::GradientSums(Normalizer::Prepared, fusion), walk));
        kernels.push(Kernel::Apply(Elementwise::InputGradient(fusion), walk));
    }
    for operation in Operation::ALL {
        for &fusion in operation.fusions() {
            kernels.push(Kernel::MergeAndApply(operation, fusion, walk));
            if !fusion.binds_more() {
                kernels.push(Kernel::ChannelLoop(operation, fusion, walk));
                let most = Trips::most(walk.family);
                let trips = Trips::ALL
                    .into_iter()
                    .filter(|trips| *trips <= most && !matches!(walk.access, Access::Runs | Access::Spans));
                kernels.extend(trips.map(|trips| Kernel::Resident(operation, fusion, walk, trips)));
            }
        }
    }
    kernels
}

/// The kernels of one walk over a tensor with padding: everything but inference comes from coefficients.
fn over_padded_tensor(walk: Walk) -> Vec<Kernel> {
    let mut kernels = vec![Kernel::Reduce(Reduction::Statistics, walk)];
    for fusion in Fusion::FORWARD {
        kernels.push(Kernel::Apply(Elementwise::Normalize(Normalizer::Prepared, fusion), walk));
        if fusion != Fusion::Mask {
            kernels.push(Kernel::Apply(Elementwise::Normalize(Normalizer::Running, fusion), walk));
        }
    }
    for fusion in Fusion::BACKWARD {
        kernels.push(Kernel::Reduce(Reduction::GradientSums(Normalizer::Prepared, fusion), walk));
        kernels.push(Kernel::Apply(Elementwise::InputGradient(fusion), walk));
    }
    for fusion in Fusion::FROZEN {
        kernels.push(Kernel::Apply(Elementwise::FrozenInputGradient(Normalizer::Prepared, fusion), walk));
    }
    kernels
}

impl Normalizer {
    /// Where a map through frozen statistics, of elements that all count, finds them: with a tensor more to bind, in one place.
    pub(crate) const fn of_frozen(fusion: Fusion) -> Self {
        if fusion.binds_more() { Self::Prepared } else { Self::Running }
    }
}

fn normalizer(source: Normalizer) -> Vec<Binding> {
    match source {
        Normalizer::Saved => vec![(Role::Statistics, READ)],
        Normalizer::Running => vec![(Role::RunningMean, READ), (Role::RunningVariance, READ)],
        Normalizer::Prepared => vec![(Role::Prepared, READ)],
    }
}

/// The parameters that backward depends on, where they have bindings of their own.
fn parameters(source: Normalizer, fusion: Fusion) -> Vec<Binding> {
    match (source, fusion) {
        (Normalizer::Prepared, _) => Vec::new(),
        (_, Fusion::None | Fusion::Mask) => vec![(Role::Gamma, READ)],
        (_, Fusion::Activation | Fusion::Companion | Fusion::Inverted) => {
            vec![(Role::Gamma, READ), (Role::Beta, READ)]
        }
    }
}

/// The tensor that backward reads for the activation's derivative.
fn derivative(fusion: Fusion) -> Vec<Binding> {
    match fusion {
        Fusion::None | Fusion::Activation | Fusion::Inverted => Vec::new(),
        Fusion::Companion => vec![(Role::Companion, READ)],
        Fusion::Mask => vec![(Role::ActivationMask, READ)],
    }
}

/// The tensors that are mapped.
fn tensors(operation: Operation, fusion: Fusion) -> Vec<Binding> {
    match operation {
        Operation::Training => {
            let mut bindings = vec![(Role::Input, READ), (Role::Output, WRITE)];
            if fusion.binds_more() {
                bindings.push((Role::Companion, READ));
            }
            if fusion == Fusion::Mask {
                bindings.push((Role::ActivationMask, WRITE));
            }
            bindings
        }
        Operation::Backward | Operation::FrozenBackward => {
            let mut bindings = vec![(Role::OutputGradient, READ), (Role::InputGradient, WRITE)];
            // The input gradient through frozen statistics does not depend on the input.
            if operation == Operation::Backward || fusion != Fusion::None {
                bindings.push((Role::Input, READ));
            }
            if fusion.binds_more() {
                bindings.push((Role::ResidualGradient, WRITE));
            }
            [bindings, derivative(fusion)].concat()
        }
    }
}

/// What running statistics that segments share are updated from.
fn updates_running() -> Vec<Binding> {
    vec![
        (Role::Statistics, READ),
        (Role::RunningMean, WRITE),
        (Role::RunningVariance, WRITE),
        (Role::BatchesTracked, READ),
    ]
}

/// What writing the per-channel results binds.
fn commits(operation: Operation) -> Vec<Binding> {
    match operation {
        Operation::Training => {
            vec![(Role::Statistics, WRITE), (Role::RunningMean, WRITE), (Role::RunningVariance, WRITE)]
        }
        Operation::Backward | Operation::FrozenBackward => {
            vec![(Role::GammaGradient, WRITE), (Role::BetaGradient, WRITE)]
        }
    }
}
