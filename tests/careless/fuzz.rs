//! Anything at all: descriptors, shapes, strategies, slices and offsets, for every operation. Refused with a typed error, or
//! served and recorded without a word from wgpu; never a panic.
//!
//! `WGPU_BATCH_NORM_FUZZ_CASES` sets the number of cases. `fuzz/` gives the same generators and checks to libFuzzer.

use std::cell::Cell;

use proptest::strategy::Strategy as Generated;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use wgpu_batch_norm::{
    DeviceProfile, EmptyBatchPolicy, NonFinitePolicy, OneSamplePolicy, Operation as Operations, RunningVariance,
    ShaderChecks,
};

use super::aliasing::{ALIGNMENT, Given, operations};
use super::*;

fn runner() -> TestRunner {
    let cases = std::env::var("WGPU_BATCH_NORM_FUZZ_CASES");
    let cases = cases.map_or(500, |cases| cases.parse().expect("WGPU_BATCH_NORM_FUZZ_CASES is a number of cases"));
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn numbers() -> impl Generated<Value = f64> {
    prop_oneof![
        30 => Just(0.1),
        1 => any::<f64>(),
        1 => prop::sample::select(&[0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, f64::NAN, f64::INFINITY][..]),
    ]
}

fn conventions() -> impl Generated<Value = Convention> {
    let momentum = prop_oneof![
        numbers().prop_map(Momentum::WeightOfNew),
        numbers().prop_map(Momentum::WeightOfOld),
        Just(Momentum::CumulativeAverage),
    ];
    let one_sample = [OneSamplePolicy::Error, OneSamplePolicy::PopulationVariance, OneSamplePolicy::SkipRunningUpdate];
    let running = [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate];
    let policies =
        (prop::sample::select(one_sample.to_vec()), prop::sample::select(running.to_vec()), any::<[bool; 3]>());
    (numbers(), momentum, policies).prop_map(|(epsilon, momentum, (one_sample, segment_running, flags))| Convention {
        epsilon,
        momentum,
        one_sample,
        segment_running,
        empty_batch: if flags[0] { EmptyBatchPolicy::Error } else { Convention::pytorch().empty_batch },
        non_finite: if flags[1] { NonFinitePolicy::SkipRunningUpdate } else { NonFinitePolicy::Update },
        running_variance: if flags[2] { RunningVariance::Population } else { RunningVariance::Unbiased },
    })
}

fn activations() -> impl Generated<Value = Activation> {
    prop_oneof![
        5 => prop::sample::select(&ACTIVATIONS[..]),
        1 => numbers().prop_map(|slope| Activation::LeakyRelu { slope }),
    ]
}

pub(crate) fn descriptors() -> impl Generated<Value = BatchNormDescriptor> {
    let layout = any::<bool>().prop_map(|last| if last { Layout::ChannelsLast } else { Layout::ChannelsFirst });
    // From 36 channels on an invocation may take several lanes.
    let channels = prop_oneof![3 => 0..9_u32, 1 => (9..20_u32).prop_map(|fours| 4 * fours)];
    (channels, layout, prop::sample::select(&ElementType::ALL[..]), activations(), conventions()).prop_map(
        |(channels, layout, element, activation, convention)| BatchNormDescriptor {
            channels,
            layout,
            element,
            activation,
            convention,
            ..Default::default()
        },
    )
}

/// A shape, most of the time one that has the descriptor's channels, and what is done with it.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    dims: Vec<usize>,
    flat: bool,
    fits: bool,
    segments: Option<(bool, usize)>,
}

pub(crate) fn cuts() -> impl Generated<Value = Cut> {
    let small = prop_oneof![8 => 0..20_usize, 1 => 20..70_usize];
    let huge = prop_oneof![any::<usize>(), (0..64_u32, 0..3_usize).prop_map(|(bits, less)| (1 << bits) - less.min(1))];
    let dims = prop_oneof![
        30 => prop::collection::vec(small.clone(), 2..6),
        3 => prop::collection::vec(small, 0..7),
        1 => prop::collection::vec(huge, 1..6),
    ];
    let segments = prop::option::weighted(0.3, (any::<bool>(), 0..6_usize));
    let parts = (dims, prop::bool::weighted(0.2), prop::bool::weighted(0.9), segments);
    parts.prop_map(|(dims, flat, fits, segments)| Cut { dims, flat, fits, segments })
}

impl Cut {
    fn shape(mut self, descriptor: &BatchNormDescriptor) -> Result<Shape, Error> {
        let axis = if self.flat { 1 } else { descriptor.layout.channel_axis(self.dims.len()) };
        if let Some(channels) = self.dims.get_mut(axis).filter(|_| self.fits) {
            *channels = descriptor.channels as usize;
        }
        let shape = match self.dims[..] {
            [outer, channels, inner] if self.flat => Shape::flat(outer, channels, inner),
            _ => Shape::new(&self.dims)?,
        };
        match self.segments {
            None => Ok(shape),
            Some((true, count)) => shape.with_sub_batches(count),
            Some((false, axis)) => shape.with_segments_along(axis),
        }
    }
}

/// What is wrong with a slice, if anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slice {
    Own,
    /// At its own part of the pool.
    Pooled,
    /// Anywhere in the pool, in steps of half an alignment.
    Anywhere(u64),
    Resized(i64),
    Unusable,
    Foreign,
    Destroyed,
}

pub(crate) fn slices() -> impl Generated<Value = Vec<Slice>> {
    let slice = prop_oneof![
        60 => Just(Slice::Own),
        60 => Just(Slice::Pooled),
        4 => (0..8_u64).prop_map(Slice::Anywhere),
        1 => (-3..4_i64).prop_map(Slice::Resized),
        1 => Just(Slice::Unusable),
        1 => Just(Slice::Foreign),
        1 => Just(Slice::Destroyed),
    ];
    prop::collection::vec(slice, MOST_SLICES)
}

/// More slices than any operation has.
const MOST_SLICES: usize = 16;

/// Which optional slices are left out, and whose gradients are accumulated where they usually are overwritten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    left_out: u32,
    turned: u32,
}

pub(crate) fn choices() -> impl Generated<Value = Choices> {
    let few = || (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(a, b, c)| a & b & c);
    let left_out = prop_oneof![2 => Just(0), 2 => few(), 2 => any::<u32>(), 1 => Just(!0)];
    (left_out, any::<u32>()).prop_map(|(left_out, turned)| Choices { left_out, turned })
}

/// How much of a tensor one dispatch goes over.
pub(crate) fn windows() -> impl Generated<Value = u64> {
    prop_oneof![
        3 => Just(DeviceProfile::DEFAULT_MAX_WINDOW_SIZE),
        2 => (9..16_u32, 0..1000_u64).prop_map(|(bits, odd)| (1 << bits) + odd),
    ]
}

/// Operations with a slice above this are planned only.
const MOST_BYTES: u64 = 1 << 18;

pub(crate) fn pins() -> impl Generated<Value = Strategies> {
    let pin = || prop::option::weighted(0.3, prop::sample::select(&Strategy::ALL[..]));
    let family = prop::option::weighted(0.2, prop::sample::select(&[Family::Rows, Family::Columns, Family::Quads][..]));
    let pins = (pin(), pin(), family);
    let pins = pins.prop_map(|(training, backward, inference)| Strategies { training, backward, inference });
    prop_oneof![Just(Strategies::default()), pins]
}

/// What a caller does with a batch norm.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    /// Which of the kernels.
    pub kernels: usize,
    pub descriptor: BatchNormDescriptor,
    pub cut: Cut,
    pub strategies: Strategies,
    pub max_window_size: u64,
    pub slices: Vec<Slice>,
    pub choices: Choices,
}

const CLASSES: [AdapterClass; 3] = [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu];
const CHECKS: [ShaderChecks; 2] = [ShaderChecks::Trusted, ShaderChecks::Checked];

/// Machines of every class, and how many invocations they run as one vector.
const MACHINES: [(AdapterClass, u32); 4] =
    [(AdapterClass::Discrete, 0), (AdapterClass::Integrated, 0), (AdapterClass::Cpu, 0), (AdapterClass::Cpu, 8)];

pub(crate) fn kernels() -> impl Generated<Value = usize> {
    let all = MACHINES.len() * CHECKS.len();
    // What the last machine has of its own takes few of the shapes.
    prop_oneof![3 => 0..all, 2 => all - CHECKS.len()..all]
}

#[cfg(test)]
fn uses() -> impl Generated<Value = Use> {
    let uses = (kernels(), descriptors(), cuts(), pins(), windows(), slices(), choices());
    uses.prop_map(|(kernels, descriptor, cut, strategies, max_window_size, slices, choices)| Use {
        kernels,
        descriptor,
        cut,
        strategies,
        max_window_size,
        slices,
        choices,
    })
}

/// How often what came of a case: refused as a plan, planned only, refused as a step, recorded; of the last, how many had optional
/// slices left out, several windows, and kernels whose invocations take several lanes.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(Cell<[u64; 7]>);

impl Outcomes {
    fn count(&self, index: usize) {
        let mut counts = self.0.get();
        counts[index] += 1;
        self.0.set(counts);
    }
}

/// Devices, and kernels for every class of machine.
pub(crate) struct World {
    noop: Noop,
    twin: Noop,
    kernels: Vec<Kernels>,
    pub outcomes: Outcomes,
}

impl World {
    pub fn new() -> Self {
        let noop = Noop::new();
        let twin = noop.twin();
        let of = |(class, vector_width), checks| KernelsDescriptor {
            class: Some(class),
            vector_width: Some(vector_width),
            checks,
            ..Default::default()
        };
        let kernels = MACHINES
            .into_iter()
            .flat_map(|machine| CHECKS.map(|checks| of(machine, checks)))
            .map(|descriptor| Kernels::with_descriptor(&noop.device, &descriptor))
            .collect();
        Self { noop, twin, kernels, outcomes: Outcomes::default() }
    }

    /// Refused with a typed error, or served and recorded without a word from wgpu.
    pub fn check(&self, case: Use) -> Result<(), TestCaseError> {
        let Use { kernels, descriptor, cut, strategies, max_window_size, slices: flaws, choices } = case;
        let Self { noop, twin, kernels: all_kernels, outcomes } = self;
        let kernels = all_kernels[kernels].with_max_window_size(max_window_size);
        let Ok(bn) = BatchNorm::with_kernels(&kernels, &descriptor) else {
            outcomes.count(0);
            return Ok(());
        };
        let plan = match cut.shape(&descriptor).and_then(|shape| bn.plan_with(&shape, strategies)) {
            Ok(plan) => plan,
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                outcomes.count(0);
                return Ok(());
            }
        };
        query(&plan);
        let spans = kernels.profile().vector_width > 0
            && plan.problem().inner == 1
            && plan.problem().channels >= 36
            && plan.inference_family() == Some(Family::Columns);
        for operation in operations(&plan) {
            let places = &operation.places;
            prop_assert!(places.len() <= MOST_SLICES);
            if places.iter().any(|place| place.size > MOST_BYTES) {
                outcomes.count(1);
                continue;
            }
            let padded = |size: u64| size.max(4).next_multiple_of(ALIGNMENT);
            let pool = noop.storage(places.iter().map(|place| padded(place.size)).sum::<u64>() + 2048);
            let mut at = 0;
            let buffers: Vec<_> = places
                .iter()
                .zip(&flaws)
                .map(|(place, flaw)| {
                    let start = at;
                    at += padded(place.size);
                    let size = match flaw {
                        Slice::Resized(words) => place.size.saturating_add_signed(4 * words),
                        _ => place.size,
                    };
                    let own = |of: &Noop| of.storage(size.max(4));
                    let (buffer, start) = match flaw {
                        Slice::Pooled => (pool.clone(), start),
                        Slice::Anywhere(steps) => (pool.clone(), steps * ALIGNMENT / 2),
                        Slice::Unusable => (noop.buffer(size.max(4), wgpu::BufferUsages::UNIFORM), 0),
                        Slice::Foreign => (own(twin), 0),
                        Slice::Own | Slice::Resized(_) | Slice::Destroyed => (own(noop), 0),
                    };
                    if matches!(flaw, Slice::Destroyed) {
                        buffer.destroy();
                    }
                    (buffer, start, size)
                })
                .collect();
            // wgpu has no slices of nothing.
            let slices: Vec<_> =
                buffers.iter().map(|(buffer, start, size)| buffer.slice(*start..start + size.max(&4))).collect();
            let Choices { left_out, turned } = choices;
            match (operation.bind)(&bn, &plan, &Given { slices: &slices, left_out, turned }) {
                Ok(record) => {
                    noop.run(|pass| record(pass));
                    outcomes.count(3);
                    let counted = [left_out & ((1 << places.len()) - 1) != 0, plan.window_count() > 1, spans];
                    (4..).zip(counted).filter(|(_, counted)| *counted).for_each(|(index, _)| outcomes.count(index));
                }
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    outcomes.count(2);
                }
            }
            let uncaptured = [noop, twin].map(|device| std::mem::take(&mut *device.uncaptured.lock().unwrap()));
            prop_assert!(uncaptured.iter().all(Vec::is_empty), "{}: {uncaptured:?}", operation.name);
        }
        Ok(())
    }
}

/// Queries answer for any plan.
fn query(plan: &Plan) {
    for operation in [Operations::Training, Operations::Backward] {
        let _ = (plan.strategy(operation), plan.activation_cost(ActivationSource::Recompute, true));
    }
    let _ = (plan.inference_family(), plan.window_count(), plan.workspace_size(), plan.in_place_saving());
}

#[test]
fn anything_is_served_without_a_word_or_refused_with_a_typed_error() {
    let world = World::new();
    runner().run(&uses(), |case| world.check(case)).unwrap();
    let counts = world.outcomes.0.get();
    println!(
        "refused as a plan, planned only, refused as a step, recorded; with less, in windows, by spans: {counts:?}"
    );
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

/// A machine: limits as WebGPU guarantees them, or as nobody would have them.
pub(crate) fn profiles() -> impl Generated<Value = DeviceProfile> {
    let limit = || {
        prop_oneof![
            6 => Just(None),
            2 => (0..33_u32).prop_map(|bits| Some((1_u64 << bits.min(31)) as u32)),
            1 => any::<u32>().prop_map(Some),
        ]
    };
    let bytes = || {
        prop_oneof![
            6 => Just(None),
            3 => (0..64_u32).prop_map(|bits| Some(1_u64 << bits)),
            1 => any::<u64>().prop_map(Some),
        ]
    };
    let limits = (limit(), limit(), limit(), limit(), limit(), limit(), limit());
    (prop::sample::select(&CLASSES[..]), bytes(), bytes(), limits, bytes()).prop_map(
        |(
            class,
            binding,
            window,
            (buffers, invocations, width, storage, workgroups, offset, uniform_offset),
            uniform,
        )| {
            let usual = DeviceProfile::webgpu(class);
            DeviceProfile {
                max_storage_buffer_binding_size: binding.unwrap_or(usual.max_storage_buffer_binding_size),
                max_window_size: window.unwrap_or(usual.max_window_size),
                max_storage_buffers_per_shader_stage: buffers.unwrap_or(usual.max_storage_buffers_per_shader_stage),
                max_compute_invocations_per_workgroup: invocations
                    .unwrap_or(usual.max_compute_invocations_per_workgroup),
                max_compute_workgroup_size_x: width.unwrap_or(usual.max_compute_workgroup_size_x),
                max_compute_workgroup_storage_size: storage.unwrap_or(usual.max_compute_workgroup_storage_size),
                max_compute_workgroups_per_dimension: workgroups.unwrap_or(usual.max_compute_workgroups_per_dimension),
                min_storage_buffer_offset_alignment: offset.unwrap_or(usual.min_storage_buffer_offset_alignment),
                min_uniform_buffer_offset_alignment: uniform_offset
                    .unwrap_or(usual.min_uniform_buffer_offset_alignment),
                max_uniform_buffer_binding_size: uniform.unwrap_or(usual.max_uniform_buffer_binding_size),
                ..usual
            }
        },
    )
}

/// A plan that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub profile: DeviceProfile,
    pub descriptor: BatchNormDescriptor,
    pub cut: Cut,
    pub strategies: Strategies,
}

#[cfg(test)]
fn wishes() -> impl Generated<Value = Wish> {
    (profiles(), descriptors(), cuts(), pins()).prop_map(|(profile, descriptor, cut, strategies)| Wish {
        profile,
        descriptor,
        cut,
        strategies,
    })
}

impl Wish {
    /// A plan, or a typed error; whether there was one.
    pub fn check(self) -> Result<bool, TestCaseError> {
        let Self { profile, descriptor, cut, strategies } = self;
        let planned = cut.shape(&descriptor).and_then(|shape| {
            for operation in [Operations::Training, Operations::Backward] {
                let _ = Plan::strategies(&descriptor, &shape, &profile, operation)?;
            }
            Plan::with_strategies(&descriptor, &shape, &profile, strategies)
        });
        match &planned {
            Ok(plan) => query(plan),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        Ok(planned.is_ok())
    }
}

#[test]
fn any_limits_give_a_plan_or_a_typed_error() {
    let outcomes = Cell::new([0_u64; 2]);
    runner()
        .run(&wishes(), |wish| {
            let mut counts = outcomes.get();
            counts[usize::from(wish.check()?)] += 1;
            outcomes.set(counts);
            Ok(())
        })
        .unwrap();
    println!("refused and planned: {:?}", outcomes.get());
    assert!(outcomes.get().iter().all(|&count| count > 0));
}
