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
    /// Sixteen bytes at once; the element count is a multiple of four.
    Vector,
    /// Element by element.
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

/// What an elementwise kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Elementwise {
    /// y from x.
    Normalize(Normalizer),
    /// dx from g and x, through training statistics.
    InputGradient,
    /// dx from g, through frozen statistics.
    FrozenInputGradient,
}

/// One structural specialisation; sizes, epsilon and momentum are data and make no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Tensor to partials.
    Reduce(Reduction, Family, Access),
    /// Partial statistics to records and running statistics.
    FinalizeStatistics,
    /// Partial gradient sums to dgamma, dbeta and the means for the input gradient.
    FinalizeGradients,
    /// Tensor to tensor.
    Apply(Elementwise, Family, Access),
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
    /// mean(g) and mean(g·x̂).
    GradientMeans = 11,
    /// dγ.
    GammaGradient = 12,
    /// dβ.
    BetaGradient = 13,
    /// The batch counter.
    BatchesTracked = 14,
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
        use Elementwise::{FrozenInputGradient, InputGradient, Normalize};
        use Reduction::{GradientSums, Statistics};
        let reductions = [Statistics, GradientSums(Normalizer::Saved), GradientSums(Normalizer::Running)].into_iter();
        let elementwise =
            [Normalize(Normalizer::Saved), Normalize(Normalizer::Running), InputGradient, FrozenInputGradient];
        let walks = [
            (Family::Rows, Access::Vector),
            (Family::Rows, Access::Scalar),
            (Family::Columns, Access::Vector),
            (Family::Columns, Access::Scalar),
        ];
        reductions
            .flat_map(move |reduction| walks.map(|(family, access)| Self::Reduce(reduction, family, access)))
            .chain(
                elementwise
                    .into_iter()
                    .flat_map(move |map| walks.map(|(family, access)| Self::Apply(map, family, access))),
            )
            .chain([Self::FinalizeStatistics, Self::FinalizeGradients, Self::CountBatch])
    }

    /// The bindings, in the order of their numbers.
    pub(crate) fn bindings(self) -> Vec<Binding> {
        let normalizer = |normalizer| match normalizer {
            Normalizer::Saved => vec![(Role::Statistics, READ)],
            Normalizer::Running => vec![(Role::RunningMean, READ), (Role::RunningVariance, READ)],
        };
        let mut bindings = match self {
            Self::Reduce(Reduction::Statistics, ..) => vec![(Role::Input, READ), (Role::Partials, WRITE)],
            Self::Reduce(Reduction::GradientSums(source), ..) => {
                [vec![(Role::Input, READ), (Role::OutputGradient, READ), (Role::Partials, WRITE)], normalizer(source)]
                    .concat()
            }
            Self::FinalizeStatistics => vec![
                (Role::Statistics, WRITE),
                (Role::RunningMean, WRITE),
                (Role::RunningVariance, WRITE),
                (Role::Partials, WRITE),
                (Role::BatchesTracked, WRITE),
            ],
            Self::FinalizeGradients => vec![
                (Role::Partials, WRITE),
                (Role::GradientMeans, WRITE),
                (Role::GammaGradient, WRITE),
                (Role::BetaGradient, WRITE),
            ],
            Self::Apply(Elementwise::Normalize(source), ..) => [
                vec![(Role::Input, READ), (Role::Output, WRITE), (Role::Gamma, READ), (Role::Beta, READ)],
                normalizer(source),
            ]
            .concat(),
            Self::Apply(Elementwise::InputGradient, ..) => vec![
                (Role::Input, READ),
                (Role::OutputGradient, READ),
                (Role::InputGradient, WRITE),
                (Role::Statistics, READ),
                (Role::Gamma, READ),
                (Role::GradientMeans, READ),
            ],
            Self::Apply(Elementwise::FrozenInputGradient, ..) => vec![
                (Role::OutputGradient, READ),
                (Role::InputGradient, WRITE),
                (Role::RunningMean, READ),
                (Role::RunningVariance, READ),
                (Role::Gamma, READ),
            ],
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
