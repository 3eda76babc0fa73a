//! The kernels that a plan dispatches, and the buffers that each of them binds.

/// How threads are laid over the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Threads run along the inner dimension of one channel.
    Rows,
    /// Threads run along `channels · inner` of the `outer × (channels · inner)` matrix.
    Columns,
}

/// How a tensor's elements are loaded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Sixteen bytes at once, all of one lane: rows that are a multiple of four elements, columns of a tensor that is.
    Whole,
    /// Sixteen bytes at once, of which the ends of unaligned rows belong to neighbours.
    Shared,
    /// Element by element; the element count is no multiple of four.
    Scalar,
}

/// Where the statistics to normalise with come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Normalizer {
    /// The records that training forward made.
    Saved,
    /// The running statistics.
    Running,
}

/// What a reduction computes per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduction {
    /// Count, mean and M2 of the input.
    Statistics,
    /// Σg and Σg·x̂.
    GradientSums(Normalizer),
}

/// What an elementwise kernel computes from known statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Elementwise {
    /// y from x.
    Normalize,
    /// dx from g.
    FrozenInputGradient,
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
    pub const fn reduction(self) -> Reduction {
        match self {
            Self::Training => Reduction::Statistics,
            Self::Backward => Reduction::GradientSums(Normalizer::Saved),
            Self::FrozenBackward => Reduction::GradientSums(Normalizer::Running),
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

    pub(crate) const fn count(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// One structural specialisation; sizes, epsilon and momentum are data and make no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Tensor to partials.
    Reduce(Reduction, Family, Access),
    /// Partials of many slots to partials of one.
    MergePartials(Reduction),
    /// Partial statistics to records.
    FinalizeStatistics,
    /// Partial gradient sums to dgamma and dbeta.
    FinalizeGradients,
    /// Tensor to tensor, with statistics that are known.
    Apply(Elementwise, Family, Access),
    /// Partials and tensor to tensor, and what follows from the partials.
    MergeAndApply(Operation, Family, Access),
    /// The whole operation in one dispatch that reads the tensor twice.
    ChannelLoop(Operation, Family, Access),
    /// The whole operation in one dispatch that holds the tensor in registers.
    Resident(Operation, Family, Access, Trips),
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
}

impl Role {
    /// The role with the highest number.
    pub(crate) const LAST: Self = Self::BatchesTracked;

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
        let walks = [
            (Family::Rows, Access::Whole),
            (Family::Rows, Access::Shared),
            (Family::Rows, Access::Scalar),
            (Family::Columns, Access::Whole),
            (Family::Columns, Access::Scalar),
        ];
        walks
            .into_iter()
            .flat_map(|(family, access)| {
                let elementwise = [Elementwise::Normalize, Elementwise::FrozenInputGradient];
                let maps = elementwise.map(|map| Self::Apply(map, family, access));
                let operations = Operation::ALL.into_iter().flat_map(move |operation| {
                    let split = [
                        Self::Reduce(operation.reduction(), family, access),
                        Self::MergeAndApply(operation, family, access),
                        Self::ChannelLoop(operation, family, access),
                    ];
                    let resident = Trips::ALL.map(|trips| Self::Resident(operation, family, access, trips));
                    split.into_iter().chain(resident)
                });
                maps.into_iter().chain(operations)
            })
            .chain([Reduction::Statistics, Reduction::GradientSums(Normalizer::Saved)].map(Self::MergePartials))
            .chain([Self::FinalizeStatistics, Self::FinalizeGradients, Self::CountBatch])
    }

    /// The bindings, in the order of their numbers.
    pub(crate) fn bindings(self) -> Vec<Binding> {
        let mut bindings = match self {
            Self::Reduce(Reduction::Statistics, ..) => {
                vec![(Role::Input, READ), (Role::Partials, WRITE), (Role::BatchesTracked, WRITE)]
            }
            Self::Reduce(Reduction::GradientSums(source), ..) => {
                [vec![(Role::Input, READ), (Role::OutputGradient, READ), (Role::Partials, WRITE)], normalizer(source)]
                    .concat()
            }
            Self::MergePartials(_) => vec![(Role::Partials, WRITE)],
            Self::FinalizeStatistics => vec![(Role::Partials, WRITE), (Role::Statistics, WRITE)],
            Self::FinalizeGradients => [vec![(Role::Partials, WRITE)], commits(Operation::Backward)].concat(),
            Self::Apply(Elementwise::Normalize, ..) => [
                vec![(Role::Input, READ), (Role::Output, WRITE), (Role::Gamma, READ), (Role::Beta, READ)],
                normalizer(Normalizer::Running),
            ]
            .concat(),
            Self::Apply(Elementwise::FrozenInputGradient, ..) => [
                vec![(Role::OutputGradient, READ), (Role::InputGradient, WRITE), (Role::Gamma, READ)],
                normalizer(Normalizer::Running),
            ]
            .concat(),
            Self::MergeAndApply(operation, ..) => {
                let mut bindings = [vec![(Role::Partials, WRITE)], maps(operation), commits(operation)].concat();
                if operation == Operation::FrozenBackward {
                    bindings.retain(|(role, _)| *role != Role::Input);
                }
                bindings
            }
            Self::ChannelLoop(operation, ..) | Self::Resident(operation, ..) => {
                let mut bindings = [maps(operation), commits(operation)].concat();
                if operation == Operation::Training {
                    bindings.push((Role::BatchesTracked, WRITE));
                }
                bindings
            }
            Self::CountBatch => vec![(Role::BatchesTracked, WRITE)],
        };
        bindings.sort_unstable();
        bindings
    }

    /// Whether the kernel reads the uniform block and sizes its workgroup by the device.
    pub(crate) const fn has_params(self) -> bool {
        !matches!(self, Self::CountBatch)
    }
}

fn normalizer(source: Normalizer) -> Vec<Binding> {
    match source {
        Normalizer::Saved => vec![(Role::Statistics, READ)],
        Normalizer::Running => vec![(Role::RunningMean, READ), (Role::RunningVariance, READ)],
    }
}

/// What mapping the tensor binds.
fn maps(operation: Operation) -> Vec<Binding> {
    let gradients =
        [(Role::Input, READ), (Role::OutputGradient, READ), (Role::InputGradient, WRITE), (Role::Gamma, READ)];
    match operation {
        Operation::Training => {
            vec![(Role::Input, READ), (Role::Output, WRITE), (Role::Gamma, READ), (Role::Beta, READ)]
        }
        Operation::Backward => [gradients.to_vec(), normalizer(Normalizer::Saved)].concat(),
        Operation::FrozenBackward => [gradients.to_vec(), normalizer(Normalizer::Running)].concat(),
    }
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
