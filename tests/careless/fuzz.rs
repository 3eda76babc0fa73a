//! Anything at all: descriptors, shapes, strategies, slices and offsets, for every operation. Refused with a typed error, or
//! served and recorded without a word from wgpu; never a panic.
//!
//! `WGPU_BATCH_NORM_FUZZ_CASES` sets the number of cases.

use std::cell::Cell;

use proptest::strategy::Strategy as Generated;
use proptest::test_runner::{Config, TestRunner};
use wgpu_batch_norm::{
    EmptyBatchPolicy, NonFinitePolicy, OneSamplePolicy, Operation as Operations, RunningVariance, ShaderChecks,
};

use super::aliasing::{ALIGNMENT, operations};
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

fn descriptors() -> impl Generated<Value = BatchNormDescriptor> {
    let layout = any::<bool>().prop_map(|last| if last { Layout::ChannelsLast } else { Layout::ChannelsFirst });
    (0..9_u32, layout, prop::sample::select(&ElementType::ALL[..]), activations(), conventions()).prop_map(
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
struct Cut {
    dims: Vec<usize>,
    flat: bool,
    fits: bool,
    segments: Option<(bool, usize)>,
}

fn cuts() -> impl Generated<Value = Cut> {
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
enum Slice {
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

fn slices() -> impl Generated<Value = Slice> {
    prop_oneof![
        60 => Just(Slice::Own),
        60 => Just(Slice::Pooled),
        4 => (0..8_u64).prop_map(Slice::Anywhere),
        1 => (-3..4_i64).prop_map(Slice::Resized),
        1 => Just(Slice::Unusable),
        1 => Just(Slice::Foreign),
        1 => Just(Slice::Destroyed),
    ]
}

/// More slices than any operation has.
const MOST_SLICES: usize = 16;
/// Operations with a slice above this are planned only.
const MOST_BYTES: u64 = 1 << 18;

#[test]
fn anything_is_served_without_a_word_or_refused_with_a_typed_error() {
    let noop = Noop::new();
    let twin = noop.twin();
    let classes = [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu];
    let checks = [ShaderChecks::Trusted, ShaderChecks::Checked];
    let kernels: Vec<_> = classes
        .into_iter()
        .flat_map(|class| checks.map(|checks| KernelsDescriptor { class: Some(class), checks, ..Default::default() }))
        .map(|descriptor| Kernels::with_descriptor(&noop.device, &descriptor))
        .collect();
    let pin = || prop::option::weighted(0.3, prop::sample::select(&Strategy::ALL[..]));
    let family = prop::option::weighted(0.2, prop::sample::select(&[Family::Rows, Family::Columns][..]));
    let pins = (pin(), pin(), family);
    let input = (
        (0..kernels.len(), descriptors(), cuts()),
        (prop::bool::weighted(0.5), pins),
        prop::collection::vec(slices(), MOST_SLICES),
    );
    // Refused as a plan, planned only, refused as a step, recorded.
    let outcomes = Cell::new([0_u64; 4]);
    let count = |index: usize| {
        let mut counts = outcomes.get();
        counts[index] += 1;
        outcomes.set(counts);
    };
    runner()
        .run(&input, |((kernels_of, descriptor, cut), (pinned, (training, backward, inference)), flaws)| {
            let Ok(bn) = BatchNorm::with_kernels(&kernels[kernels_of], &descriptor) else {
                count(0);
                return Ok(());
            };
            let strategies = if pinned { Strategies { training, backward, inference } } else { Strategies::default() };
            let plan = match cut.shape(&descriptor).and_then(|shape| bn.plan_with(&shape, strategies)) {
                Ok(plan) => plan,
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    count(0);
                    return Ok(());
                }
            };
            // Queries answer for any plan.
            for operation in [Operations::Training, Operations::Backward] {
                let _ = (plan.strategy(operation), plan.activation_cost(ActivationSource::Recompute, true));
            }
            for operation in operations(&plan) {
                let places = &operation.places;
                prop_assert!(places.len() <= MOST_SLICES);
                if places.iter().any(|place| place.size > MOST_BYTES) {
                    count(1);
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
                            Slice::Foreign => (own(&twin), 0),
                            Slice::Own | Slice::Resized(_) | Slice::Destroyed => (own(&noop), 0),
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
                match (operation.bind)(&bn, &plan, &slices) {
                    Ok(record) => {
                        noop.run(|pass| record(pass));
                        count(3);
                    }
                    Err(error) => {
                        prop_assert!(!error.to_string().is_empty());
                        count(2);
                    }
                }
                let uncaptured = [&noop, &twin].map(|device| std::mem::take(&mut *device.uncaptured.lock().unwrap()));
                prop_assert!(uncaptured.iter().all(Vec::is_empty), "{}: {uncaptured:?}", operation.name);
            }
            Ok(())
        })
        .unwrap();
    let counts = outcomes.get();
    println!("refused as a plan, planned only, refused as a step, recorded: {counts:?}");
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}
