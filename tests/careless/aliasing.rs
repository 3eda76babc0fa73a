//! Slices that share bytes: for every pair of bindings of every operation, served or refused before anything is recorded.

use super::*;
use wgpu::BufferSlice;

pub(super) type Recorded = Box<dyn Fn(&mut wgpu::ComputePass<'_>)>;

type Bound = Result<Recorded, Error>;

/// One slice that an operation is given.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub name: &'static str,
    pub written: bool,
    pub size: u64,
    /// The place that this one may lie over exactly.
    pub over: Option<&'static str>,
}

/// An operation with all of its slices that go together, in the order in which `bind` takes them.
pub(super) struct Operation {
    pub name: &'static str,
    pub places: Vec<Place>,
    pub bind: fn(&BatchNorm, &Plan, &Given<'_>) -> Bound,
}

/// What an operation is given: a slice for each of its places, of which optional ones may be left out; one bit a place.
pub(super) struct Given<'a> {
    pub slices: &'a [BufferSlice<'a>],
    pub left_out: u32,
    /// Gradients that are accumulated where they usually are overwritten, and the other way round.
    pub turned: u32,
}

impl<'a> Given<'a> {
    pub(super) const fn all(slices: &'a [BufferSlice<'a>]) -> Self {
        Self { slices, left_out: 0, turned: 0 }
    }

    fn optional(&self, index: usize) -> Option<BufferSlice<'a>> {
        (self.left_out >> index & 1 == 0).then_some(self.slices[index])
    }

    fn gradient(&self, index: usize, usual: fn(BufferSlice<'a>) -> Gradient<'a>) -> Option<Gradient<'a>> {
        let turned = self.turned >> index & 1 == 1;
        self.optional(index).map(|slice| match usual(slice) {
            Gradient::Overwrite(slice) if turned => Gradient::Accumulate(slice),
            Gradient::Accumulate(slice) if turned => Gradient::Overwrite(slice),
            gradient => gradient,
        })
    }

    /// Mean, variance and counter, from a place on.
    fn running(&self, first: usize) -> Option<RunningStatistics<'a>> {
        let batches_tracked = self.optional(first + 2);
        let of = |mean| RunningStatistics { mean, variance: self.slices[first + 1], batches_tracked };
        self.optional(first).map(of)
    }

    fn renormalization(&self, first: usize) -> Option<Renormalization<'a>> {
        self.optional(first).map(|saved| Renormalization { saved, limits: self.slices[first + 1] })
    }

    /// Recomputed where what tells it is left out.
    fn state(&self, index: usize, told: fn(BufferSlice<'a>) -> ActivationState<'a>) -> ActivationState<'a> {
        self.optional(index).map_or_else(ActivationState::default, told)
    }
}

impl<'a> std::ops::Index<usize> for Given<'a> {
    type Output = BufferSlice<'a>;

    fn index(&self, index: usize) -> &BufferSlice<'a> {
        &self.slices[index]
    }
}

const fn read(name: &'static str, size: u64) -> Place {
    Place { name, written: false, size, over: None }
}

const fn written(name: &'static str, size: u64) -> Place {
    Place { name, written: true, size, over: None }
}

fn step(step: wgpu_batch_norm::Step) -> Recorded {
    Box::new(move |pass| step.record(pass))
}

/// Every operation; several where not all of its slices go together.
pub(super) fn operations(plan: &Plan) -> Vec<Operation> {
    let (tensor, vector, running) = (plan.tensor_size(), plan.vector_size(), plan.running_size());
    let (saved, mask, valid) = (plan.saved_size(), plan.mask_size(), plan.valid_size());
    let workspace = || written("workspace", plan.workspace_size());
    let over = |name, over| Place { over: Some(over), ..written(name, tensor) };
    let parameters = || [read("gamma", vector), read("beta", vector)];
    let recorded = || [read("running_mean", running), read("running_variance", running)];
    let gradients = || {
        let vectors = [written("gamma_gradient", vector), written("beta_gradient", vector)];
        [over("input_gradient", "output_gradient"), vectors[0], vectors[1], workspace()]
    };
    let with = |parts: &[&[Place]]| parts.concat();
    let backward = |state: &[Place]| {
        with(&[
            &[read("input", tensor), read("output_gradient", tensor)],
            &parameters(),
            &[read("saved", saved), read("valid", valid)],
            &[read("renormalization", plan.renormalization_size())],
            &gradients(),
            &[written("residual_gradient", tensor)],
            state,
        ])
    };
    let frozen = |state: &[Place]| {
        with(&[
            &[read("input", tensor), read("output_gradient", tensor)],
            &parameters(),
            &recorded(),
            &[read("valid", valid)],
            &gradients(),
            &[written("residual_gradient", tensor)],
            state,
        ])
    };
    let forward = || [read("input", tensor), over("output", "input"), read("residual", tensor)];
    let training = |last: &[Place]| {
        with(&[
            &forward(),
            &[written("activation_mask", mask), written("health", plan.health_size())],
            &parameters(),
            &[written("running.mean", running), written("running.variance", running)],
            &[written("running.batches_tracked", 4), written("saved", saved), read("valid", valid)],
            &[written("renormalization.saved", plan.renormalization_size()), read("renormalization.limits", 8)],
            last,
        ])
    };
    let sums_of_a_part = || [written("sums", plan.gradient_sums_size())];
    let records_of_parts = || [read("sums", 2 * plan.gradient_sums_size()), read("moments", plan.part_moments_size())];
    vec![
        Operation {
            name: "training",
            places: training(&[workspace()]),
            bind: |bn, plan, s| {
                let step = bn.bind_training(plan, &training_buffers(s, 14))?;
                Ok(Box::new(move |pass| {
                    step.record(pass);
                    step.record_without_running_update(pass);
                }))
            },
        },
        Operation {
            // Without what takes a split, so that strategies of one dispatch are met too.
            name: "plain training",
            places: with(&[
                &forward()[..2],
                &parameters(),
                &[written("running.mean", running), written("running.variance", running)],
                &[written("running.batches_tracked", 4), written("saved", saved), workspace()],
            ]),
            bind: |bn, plan, s| {
                let buffers = TrainingBuffers {
                    gamma: s.optional(2),
                    beta: s.optional(3),
                    running: s.running(4),
                    saved: s.optional(7),
                    ..TrainingBuffers::new(s[0], s[1], s[8])
                };
                let step = bn.bind_training(plan, &buffers)?;
                Ok(Box::new(move |pass| step.record(pass)))
            },
        },
        Operation {
            name: "inference with a mask",
            places: with(&[&forward(), &parameters(), &recorded(), &[written("activation_mask", mask)]]),
            bind: |bn, plan, s| {
                let (residual, gamma, beta) = (s.optional(2), s.optional(3), s.optional(4));
                let activation_mask = s.optional(7);
                let buffers = InferenceBuffers::new(s[0], s[1], s[5], s[6]);
                let buffers = InferenceBuffers { residual, activation_mask, gamma, beta, ..buffers };
                bn.bind_inference(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "padded inference",
            places: with(&[&forward(), &parameters(), &recorded(), &[read("valid", valid)]]),
            bind: |bn, plan, s| {
                let (residual, gamma, beta, valid) = (s.optional(2), s.optional(3), s.optional(4), s.optional(7));
                let buffers = InferenceBuffers::new(s[0], s[1], s[5], s[6]);
                let buffers = InferenceBuffers { residual, valid, gamma, beta, ..buffers };
                bn.bind_inference(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "backward from a mask",
            places: backward(&[read("activation.mask", mask)]),
            bind: |bn, plan, s| bind_backward(bn, plan, s, s.state(12, ActivationState::Mask)),
        },
        Operation {
            name: "backward from the output's sign",
            places: backward(&[read("activation.output", tensor)]),
            bind: |bn, plan, s| bind_backward(bn, plan, s, s.state(12, ActivationState::Output)),
        },
        Operation {
            name: "recomputing backward",
            places: backward(&[read("activation.residual", tensor)]),
            bind: |bn, plan, s| bind_backward(bn, plan, s, ActivationState::Recompute { residual: s.optional(12) }),
        },
        Operation {
            name: "plain backward",
            places: with(&[
                &[read("input", tensor), read("output_gradient", tensor)],
                &parameters(),
                &[read("saved", saved)],
                &gradients(),
            ]),
            bind: |bn, plan, s| bn.bind_backward(plan, &plain_backward(s)).map(step),
        },
        Operation {
            name: "backward from the output",
            places: with(&[
                &[read("output", tensor), read("output_gradient", tensor)],
                &parameters(),
                &[read("saved", saved), read("valid", valid)],
                &gradients(),
            ]),
            bind: |bn, plan, s| {
                let buffers = OutputBackwardBuffers {
                    gamma: s.optional(2),
                    beta: s.optional(3),
                    valid: s.optional(5),
                    input_gradient: s.gradient(6, Gradient::Overwrite),
                    gamma_gradient: s.gradient(7, Gradient::Accumulate),
                    beta_gradient: s.gradient(8, Gradient::Overwrite),
                    ..OutputBackwardBuffers::new(s[0], s[1], s[4], s[9])
                };
                bn.bind_backward_from_output(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "frozen backward from a mask",
            places: frozen(&[read("activation.mask", mask)]),
            bind: |bn, plan, s| bind_frozen(bn, plan, s, s.state(12, ActivationState::Mask)),
        },
        Operation {
            name: "frozen backward from the output's sign",
            places: frozen(&[read("activation.output", tensor)]),
            bind: |bn, plan, s| bind_frozen(bn, plan, s, s.state(12, ActivationState::Output)),
        },
        Operation {
            name: "recomputing frozen backward",
            places: frozen(&[read("activation.residual", tensor)]),
            bind: |bn, plan, s| bind_frozen(bn, plan, s, ActivationState::Recompute { residual: s.optional(12) }),
        },
        Operation {
            name: "folding",
            places: with(&[
                &[read("weight", tensor), over("folded_weight", "weight")],
                &[read("bias", vector), written("folded_bias", vector)],
                &parameters(),
                &recorded(),
            ]),
            bind: |bn, plan, s| {
                let buffers = FoldBuffers {
                    weight: s[0],
                    folded_weight: s[1],
                    bias: s.optional(2),
                    folded_bias: s[3],
                    gamma: s.optional(4),
                    beta: s.optional(5),
                    running_mean: s[6],
                    running_variance: s[7],
                };
                bn.bind_fold(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "marking by flags",
            places: vec![read("source.flags", plan.positions_size()), written("valid", valid)],
            bind: |bn, plan, s| {
                bn.bind_valid(plan, &ValidBuffers { source: ValidSource::Flags(s[0]), valid: s[1] }).map(step)
            },
        },
        Operation {
            name: "marking by lengths",
            places: vec![read("source.lengths", plan.problem().outer.saturating_mul(4)), written("valid", valid)],
            bind: |bn, plan, s| {
                let axes = SequenceAxes { sequence: 0, step: 2 };
                let source = ValidSource::Lengths { lengths: s[0], axes };
                bn.bind_valid(plan, &ValidBuffers { source, valid: s[1] }).map(step)
            },
        },
        Operation {
            name: "marking by lengths from a later step",
            places: vec![read("source.lengths", plan.problem().outer.saturating_mul(4)), written("valid", valid)],
            bind: |bn, plan, s| {
                let axes = SequenceAxes { sequence: 0, step: 2 };
                let source = ValidSource::LengthsFrom { lengths: s[0], axes, first_step: 1 };
                bn.bind_valid(plan, &ValidBuffers { source, valid: s[1] }).map(step)
            },
        },
        Operation {
            name: "accumulating moments",
            places: vec![
                read("input", tensor),
                written("moments", plan.moments_size()),
                read("valid", valid),
                workspace(),
            ],
            bind: |bn, plan, s| {
                let buffers = AccumulateBuffers { input: s[0], moments: s[1], valid: s.optional(2), workspace: s[3] };
                bn.bind_accumulate(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "moments of a part",
            places: vec![
                read("input", tensor),
                written("moments", plan.part_moments_size()),
                read("valid", valid),
                workspace(),
            ],
            bind: |bn, plan, s| {
                let buffers = PartBuffers { valid: s.optional(2), ..PartBuffers::new(s[0], s[1], s[3]) };
                bn.bind_part_moments(plan, &buffers).map(step)
            },
        },
        Operation {
            name: "merging moments",
            places: vec![read("parts", 3 * plan.part_moments_size()), written("merged", plan.part_moments_size())],
            bind: |bn, plan, s| bn.bind_merge_moments(plan, s[0], s[1]).map(step),
        },
        Operation {
            name: "merging gradient sums",
            places: vec![read("parts", 3 * plan.gradient_sums_size()), written("merged", plan.gradient_sums_size())],
            bind: |bn, plan, s| bn.bind_merge_gradient_sums(plan, s[0], s[1]).map(step),
        },
        Operation {
            name: "concluding from parts",
            places: vec![
                read("moments", 2 * plan.part_moments_size()),
                written("saved", saved),
                written("running.mean", running),
                written("running.variance", running),
                written("running.batches_tracked", 4),
                written("health", plan.health_size()),
                written("renormalization.saved", plan.renormalization_size()),
                read("renormalization.limits", 8),
            ],
            bind: |bn, plan, s| {
                let buffers = ConcludeBuffers {
                    running: s.running(2),
                    health: s.optional(5),
                    renormalization: s.renormalization(6),
                    ..ConcludeBuffers::new(s[0], s[1])
                };
                let step = bn.bind_conclude(plan, &buffers)?;
                Ok(Box::new(move |pass| {
                    step.record(pass);
                    step.record_without_running_update(pass);
                }))
            },
        },
        Operation {
            name: "training from parts",
            places: training(&[read("moments", 2 * plan.part_moments_size()), workspace()]),
            bind: |bn, plan, s| {
                let step = bn.bind_training_from_parts(plan, s[14], &training_buffers(s, 15))?;
                Ok(Box::new(move |pass| {
                    step.record(pass);
                    step.record_without_running_update(pass);
                }))
            },
        },
        Operation {
            name: "gradient sums of a part from a mask",
            places: with(&[&backward(&[read("activation.mask", mask)]), &sums_of_a_part()]),
            bind: |bn, plan, s| bind_part_gradients(bn, plan, s, s.state(12, ActivationState::Mask)),
        },
        Operation {
            name: "gradient sums of a part from the output's sign",
            places: with(&[&backward(&[read("activation.output", tensor)]), &sums_of_a_part()]),
            bind: |bn, plan, s| bind_part_gradients(bn, plan, s, s.state(12, ActivationState::Output)),
        },
        Operation {
            name: "recomputing gradient sums of a part",
            places: with(&[&backward(&[read("activation.residual", tensor)]), &sums_of_a_part()]),
            bind: |bn, plan, s| {
                bind_part_gradients(bn, plan, s, ActivationState::Recompute { residual: s.optional(12) })
            },
        },
        Operation {
            name: "backward from parts and a mask",
            places: with(&[&backward(&[read("activation.mask", mask)]), &records_of_parts()]),
            bind: |bn, plan, s| bind_from_parts(bn, plan, s, s.state(12, ActivationState::Mask)),
        },
        Operation {
            name: "backward from parts and the output's sign",
            places: with(&[&backward(&[read("activation.output", tensor)]), &records_of_parts()]),
            bind: |bn, plan, s| bind_from_parts(bn, plan, s, s.state(12, ActivationState::Output)),
        },
        Operation {
            name: "recomputing backward from parts",
            places: with(&[&backward(&[read("activation.residual", tensor)]), &records_of_parts()]),
            bind: |bn, plan, s| bind_from_parts(bn, plan, s, ActivationState::Recompute { residual: s.optional(12) }),
        },
        Operation {
            name: "population",
            places: vec![
                read("moments", plan.moments_size()),
                written("running_mean", running),
                written("running_variance", running),
            ],
            bind: |bn, plan, s| {
                let buffers = PopulationBuffers { moments: s[0], running_mean: s[1], running_variance: s[2] };
                bn.bind_population(plan, &buffers).map(step)
            },
        },
    ]
}

fn plain_backward<'a>(s: &Given<'a>) -> BackwardBuffers<'a> {
    BackwardBuffers {
        gamma: s.optional(2),
        beta: s.optional(3),
        saved: s.optional(4),
        input_gradient: s.gradient(5, Gradient::Overwrite),
        gamma_gradient: s.gradient(6, Gradient::Accumulate),
        beta_gradient: s.gradient(7, Gradient::Overwrite),
        ..BackwardBuffers::new(s[0], s[1], s[8])
    }
}

fn backward_buffers<'a>(s: &Given<'a>, activation: ActivationState<'a>) -> BackwardBuffers<'a> {
    BackwardBuffers {
        gamma: s.optional(2),
        beta: s.optional(3),
        saved: s.optional(4),
        valid: s.optional(5),
        renormalization: s.optional(6),
        activation,
        input_gradient: s.gradient(7, Gradient::Overwrite),
        gamma_gradient: s.gradient(8, Gradient::Overwrite),
        beta_gradient: s.gradient(9, Gradient::Accumulate),
        residual_gradient: s.gradient(11, Gradient::Accumulate),
        ..BackwardBuffers::new(s[0], s[1], s[10])
    }
}

fn bind_backward(bn: &BatchNorm, plan: &Plan, s: &Given<'_>, activation: ActivationState<'_>) -> Bound {
    bn.bind_backward(plan, &backward_buffers(s, activation)).map(step)
}

/// As the places of training stand, with the workspace at this one.
fn training_buffers<'a>(s: &Given<'a>, workspace: usize) -> TrainingBuffers<'a> {
    TrainingBuffers {
        residual: s.optional(2),
        activation_mask: s.optional(3),
        health: s.optional(4),
        gamma: s.optional(5),
        beta: s.optional(6),
        running: s.running(7),
        saved: s.optional(10),
        valid: s.optional(11),
        renormalization: s.renormalization(12),
        ..TrainingBuffers::new(s[0], s[1], s[workspace])
    }
}

fn bind_part_gradients(bn: &BatchNorm, plan: &Plan, s: &Given<'_>, activation: ActivationState<'_>) -> Bound {
    bn.bind_part_gradients(plan, s[13], &backward_buffers(s, activation)).map(step)
}

fn bind_from_parts(bn: &BatchNorm, plan: &Plan, s: &Given<'_>, activation: ActivationState<'_>) -> Bound {
    bn.bind_backward_from_parts(plan, s[13], s[14], &backward_buffers(s, activation)).map(step)
}

fn bind_frozen(bn: &BatchNorm, plan: &Plan, s: &Given<'_>, activation: ActivationState<'_>) -> Bound {
    let buffers = FrozenBackwardBuffers {
        input: s.optional(0),
        gamma: s.optional(2),
        beta: s.optional(3),
        valid: s.optional(6),
        activation,
        input_gradient: s.gradient(7, Gradient::Overwrite),
        gamma_gradient: s.gradient(8, Gradient::Overwrite),
        beta_gradient: s.gradient(9, Gradient::Accumulate),
        residual_gradient: s.gradient(11, Gradient::Accumulate),
        ..FrozenBackwardBuffers::new(s[1], s[4], s[5], s[10])
    };
    bn.bind_backward_frozen(plan, &buffers).map(step)
}

pub(super) const ALIGNMENT: u64 = 256;

/// Calls `check` with every element type, and shapes that are walked by columns and by rows; by spans; in windows; and with segments that
/// share running statistics.
fn each_plan(check: impl Fn(&Noop, &BatchNorm, &Plan)) {
    let noop = Noop::new();
    let kernels = Kernels::new(&noop.device);
    let check = |kernels: &Kernels, element, shape: Shape| {
        // Has a derivative from every source, and an inverse.
        let activation = Activation::LeakyRelu { slope: 0.1 };
        let channels = shape.dimensions()[1] as u32;
        let descriptor = BatchNormDescriptor { channels, element, activation, ..Default::default() };
        let bn = BatchNorm::with_kernels(kernels, &descriptor).unwrap();
        let plan = bn.plan(&shape).unwrap();
        check(&noop, &bn, &plan);
        plan.window_count()
    };
    for element in ElementType::ALL {
        for shape in [[8, 64, 6], [3, 70, 64]] {
            assert_eq!(check(&kernels, element, Shape::new(&shape).unwrap()), 1);
        }
    }
    let vectors = KernelsDescriptor { class: Some(AdapterClass::Cpu), vector_width: Some(8), ..Default::default() };
    let by_spans = Kernels::with_descriptor(&noop.device, &vectors);
    check(&by_spans, ElementType::F32, Shape::new(&[40, 64, 1]).unwrap());
    let in_windows = kernels.with_max_window_size(1 << 14);
    assert!(check(&in_windows, ElementType::F32, Shape::new(&[3, 70, 65]).unwrap()) > 1);
    let segmented = Shape::new(&[8, 12, 16]).unwrap().with_sub_batches(2).unwrap();
    check(&kernels, ElementType::F16, segmented);
    noop.assert_quiet();
}

#[test]
fn every_pair_of_bindings_of_every_operation_is_served_or_refused() {
    let [mut served, mut refused, mut in_place] = [const { std::cell::Cell::new(0_u32) }; 3];
    each_plan(|noop, bn, plan| {
        let count = |counter: &std::cell::Cell<u32>| counter.set(counter.get() + 1);
        let about = format!("{} {:?}", bn.descriptor().element, plan.problem());
        for operation in operations(plan) {
            let places = &operation.places;
            let own: Vec<wgpu::Buffer> = places.iter().map(|place| noop.storage(place.size)).collect();
            let most = places.iter().map(|place| place.size).max().unwrap();
            let pool = noop.storage(3 * most.next_multiple_of(ALIGNMENT) + ALIGNMENT);
            for (first, second) in (0..places.len()).flat_map(|i| (0..places.len()).map(move |j| (i, j))) {
                if first == second {
                    continue;
                }
                let (a, b) = (places[first], places[second]);
                // Both from the same byte; from the last byte that both have; from the first byte that they have not.
                let last = (a.size - 1) / ALIGNMENT * ALIGNMENT;
                for start in [0, last, a.size.next_multiple_of(ALIGNMENT)] {
                    let mut slices: Vec<_> = own.iter().map(|buffer| buffer.slice(..)).collect();
                    slices[first] = pool.slice(..a.size);
                    slices[second] = pool.slice(start..start + b.size);
                    let overlap = start < a.size;
                    let exact = start == 0 && a.size == b.size;
                    let replaces = exact && (a.over == Some(b.name) || b.over == Some(a.name));
                    let name = format!("{about}: {}: {} and {} from byte {start}", operation.name, a.name, b.name);
                    match (operation.bind)(bn, plan, &Given::all(&slices)) {
                        Ok(record) => {
                            assert!(!overlap || replaces || !a.written && !b.written, "served: {name}");
                            noop.run(|pass| record(pass));
                            count(if overlap && replaces { &in_place } else { &served });
                        }
                        Err(Error::OverlappingBuffers { first, second }) => {
                            assert!(overlap && !replaces && (a.written || b.written), "refused: {name}");
                            assert!(
                                [first, second] == [a.name, b.name] || [second, first] == [a.name, b.name],
                                "{name}"
                            );
                            count(&refused);
                        }
                        Err(error) => panic!("{name}: {error}"),
                    }
                    let uncaptured = noop.uncaptured.lock().unwrap();
                    assert!(uncaptured.is_empty(), "{name}: {uncaptured:?}");
                }
            }
        }
    });
    let counts = [&mut served, &mut refused, &mut in_place].map(|counter| *counter.get_mut());
    println!("served {}, refused {}, in place {}", counts[0], counts[1], counts[2]);
    assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
}

#[test]
fn one_pooled_buffer_serves_all_slices_of_every_operation_in_any_order() {
    each_plan(|noop, bn, plan| {
        let about = format!("{} {:?}", bn.descriptor().element, plan.problem());
        for operation in operations(plan) {
            let places = &operation.places;
            let sizes = places.iter().map(|place| place.size.next_multiple_of(ALIGNMENT));
            let pool = noop.storage(sizes.sum());
            for rotation in 0..places.len() {
                for reversed in [false, true] {
                    let order = (0..places.len()).map(|index| (index + rotation) % places.len());
                    let order: Vec<_> = if reversed { order.rev().collect() } else { order.collect() };
                    let mut slices = vec![pool.slice(..); places.len()];
                    let mut end = 0;
                    for &index in &order {
                        slices[index] = pool.slice(end..end + places[index].size);
                        end = (end + places[index].size).next_multiple_of(ALIGNMENT);
                    }
                    let name = || format!("{about}: {}: {order:?}", operation.name);
                    let record = (operation.bind)(bn, plan, &Given::all(&slices))
                        .unwrap_or_else(|error| panic!("{}: {error}", name()));
                    noop.run(|pass| record(pass));
                    // And a result in the place of what it replaces, among all the others.
                    for (index, place) in places.iter().enumerate() {
                        let Some(over) = place.over else { continue };
                        let replaced = places.iter().position(|other| other.name == over).unwrap();
                        let mut slices = slices.clone();
                        slices[index] = slices[replaced];
                        let record = (operation.bind)(bn, plan, &Given::all(&slices))
                            .unwrap_or_else(|error| panic!("{}: {error}", name()));
                        noop.run(|pass| record(pass));
                    }
                    // And two that are read from one place, beside what is written to the same buffer.
                    let reads = || places.iter().enumerate().filter(|(_, place)| !place.written);
                    for ((first, a), (second, b)) in reads().flat_map(|a| reads().map(move |b| (a, b))) {
                        if first < second && a.size == b.size && rotation == 0 {
                            let mut slices = slices.clone();
                            slices[second] = slices[first];
                            let record = (operation.bind)(bn, plan, &Given::all(&slices))
                                .unwrap_or_else(|error| panic!("{}: {error}", name()));
                            noop.run(|pass| record(pass));
                        }
                    }
                    let uncaptured = noop.uncaptured.lock().unwrap();
                    assert!(uncaptured.is_empty(), "{}: {uncaptured:?}", name());
                }
            }
        }
    });
}

/// What each call that binds is given, and the operations of the table that are it.
const BOUND: [(&str, &[&str]); 14] = [
    ("TrainingBuffers", &["training"]),
    ("TrainingBuffers", &["training from parts"]),
    ("InferenceBuffers", &["inference with a mask", "padded inference"]),
    ("BackwardBuffers", &["backward from a mask", "backward from the output's sign", "recomputing backward"]),
    (
        "BackwardBuffers",
        &[
            "gradient sums of a part from a mask",
            "gradient sums of a part from the output's sign",
            "recomputing gradient sums of a part",
        ],
    ),
    (
        "BackwardBuffers",
        &[
            "backward from parts and a mask",
            "backward from parts and the output's sign",
            "recomputing backward from parts",
        ],
    ),
    (
        "FrozenBackwardBuffers",
        &["frozen backward from a mask", "frozen backward from the output's sign", "recomputing frozen backward"],
    ),
    ("OutputBackwardBuffers", &["backward from the output"]),
    ("FoldBuffers", &["folding"]),
    ("ValidBuffers", &["marking by flags", "marking by lengths", "marking by lengths from a later step"]),
    ("AccumulateBuffers", &["accumulating moments"]),
    ("PartBuffers", &["moments of a part"]),
    ("ConcludeBuffers", &["concluding from parts"]),
    ("PopulationBuffers", &["population"]),
];

#[test]
fn the_table_of_operations_knows_every_slice() {
    // A slice that an operation has and the table has not would be left out of every pair. Fields are counted by their
    // declarations, since Rust cannot list them.
    let source = include_str!("../../src/gpu/buffers.rs");
    let fields = |name: &str| -> Vec<(&str, &str)> {
        let start = source.find(&format!("pub struct {name}<'a> {{")).unwrap_or_else(|| panic!("no struct {name}"));
        let body = source[start..].split("\n}").next().unwrap();
        body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": ")).collect()
    };
    // The names of all slices of a struct, those of what stands in it behind a dot.
    let slices = |name: &str| -> Vec<String> {
        let within = |(field, kind): (&str, &str)| {
            let parts = ["RunningStatistics", "Renormalization"].into_iter().find(|part| kind.contains(part));
            let parts = match parts {
                Some(part) => fields(part).into_iter().map(|(name, _)| name).collect(),
                None if kind.contains("ActivationState") => vec!["residual", "output", "mask"],
                None if kind.contains("ValidSource") => vec!["lengths", "flags"],
                None => {
                    assert!(kind.contains("BufferSlice") || kind.contains("Gradient<"), "{name}: {field}: {kind}");
                    return vec![field.to_owned()];
                }
            };
            parts.into_iter().map(|part| format!("{field}.{part}")).collect()
        };
        fields(name).into_iter().flat_map(within).collect()
    };
    let structs = source.lines().filter_map(|line| line.strip_prefix("pub struct ")?.split_once('<'));
    for (name, _) in structs.filter(|(name, _)| name.ends_with("Buffers")) {
        assert!(BOUND.iter().any(|(bound, _)| *bound == name), "{name} is in no operation");
    }
    let noop = Noop::new();
    let (_, plan, _) = set_up(&noop);
    let table = operations(&plan);
    for (name, operations) in BOUND {
        let places = |operation: &&str| {
            let found = table.iter().find(|entry| entry.name == *operation);
            found.unwrap_or_else(|| panic!("{operation} is not in the table")).places.iter().map(|place| place.name)
        };
        let known: Vec<_> = operations.iter().flat_map(places).collect();
        let slices = slices(name);
        assert!(slices.len() > 1, "{name}: {slices:?}");
        for slice in slices {
            assert!(known.contains(&&*slice), "{slice} of {name} is in no pair of {operations:?}");
        }
    }
}
