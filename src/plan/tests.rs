//! The planner against an emulation of the kernels' index arithmetic, and against every limit.

use std::collections::{HashMap, HashSet};

use proptest::prelude::{
    Just, ProptestConfig, Strategy as _, TestCaseError, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof,
    proptest,
};

use super::{
    AdapterClass, BackwardOptions, Derivative, DeviceProfile, Dispatch, Elementwise, Family, FoldOptions, GradientMode,
    InferenceOptions, Kernel, Operation, Params, Plan, Reduction, Strategies, Strategy, TrainingOptions, Walk,
};
use crate::{
    Activation, BatchNormDescriptor, Convention, ElementType, Error, Momentum, OneSamplePolicy, SegmentRunning, Shape,
};

const EVERYTHING: BackwardOptions = BackwardOptions {
    gamma: true,
    beta: true,
    saved: false,
    input: true,
    valid: false,
    renormalization: false,
    derivative: Derivative::Recompute,
    residual_gradient: GradientMode::Omit,
    input_gradient: GradientMode::Overwrite,
    gamma_gradient: GradientMode::Overwrite,
    beta_gradient: GradientMode::Accumulate,
};

fn plan(outer: usize, channels: u32, inner: usize, profile: &DeviceProfile) -> Result<Plan, Error> {
    let descriptor = BatchNormDescriptor { channels, ..Default::default() };
    Plan::new(&descriptor, &Shape::flat(outer, channels as usize, inner), profile)
}

/// A plan for every strategy that serves the shape, the planner's choice first.
fn plans(outer: usize, channels: u32, inner: usize, profile: &DeviceProfile) -> Result<Vec<Plan>, Error> {
    let of = |element| plans_of(element, outer, channels, inner, profile);
    Ok([of(ElementType::F32)?, of(ElementType::F16)?].concat())
}

fn plans_of(
    element: ElementType,
    outer: usize,
    channels: u32,
    inner: usize,
    profile: &DeviceProfile,
) -> Result<Vec<Plan>, Error> {
    plans_of_shape(element, channels, &Shape::flat(outer, channels as usize, inner), profile)
}

fn plans_of_shape(
    element: ElementType,
    channels: u32,
    shape: &Shape,
    profile: &DeviceProfile,
) -> Result<Vec<Plan>, Error> {
    let convention = Convention { segment_running: SegmentRunning::Averaged, ..Convention::onnx() };
    let activation = Activation::Relu;
    let descriptor = BatchNormDescriptor { channels, element, convention, activation, ..Default::default() };
    let mut plans = vec![Plan::new(&descriptor, shape, profile)?];
    for operation in [Operation::Training, Operation::Backward] {
        for strategy in Plan::strategies(&descriptor, shape, profile, operation)? {
            let family = match strategy {
                Strategy::Split { elementwise, .. } => elementwise,
                Strategy::ChannelLoop(family) | Strategy::Resident(family) => family,
            };
            let pinned = match operation {
                Operation::Training => Strategies { training: Some(strategy), ..Default::default() },
                _ => Strategies { backward: Some(strategy), ..Default::default() },
            };
            let inference = (element == ElementType::F32 && plans[0].batch == plans[0].recorded).then_some(family);
            let pinned = Strategies { inference, ..pinned };
            let plan = Plan::with_strategies(&descriptor, shape, profile, pinned)?;
            assert_eq!(plan.strategy(operation), Some(strategy));
            plans.push(plan);
        }
    }
    Ok(plans)
}

/// The dispatches of every operation, with everything that can be fused; a pin may rule some of it out.
fn all_dispatches(plan: &Plan) -> Vec<Dispatch> {
    let options = TrainingOptions { gamma: true, beta: true, saved: true, running: true, ..TrainingOptions::default() };
    let options = TrainingOptions { batches_tracked: true, health: true, ..options };
    let mut all = plan.training(options).unwrap();
    all.extend(plan.inference(InferenceOptions::default()).unwrap());
    for (residual, mask) in [(true, false), (false, true), (true, true)] {
        all.extend(served(plan.training(TrainingOptions { residual, mask, ..options }), false));
        all.extend(plan.inference(InferenceOptions { residual, mask, ..InferenceOptions::default() }).unwrap());
    }
    for valid in [false, true] {
        for renormalization in [false, true] {
            let renormalizes_to_running = true;
            let options = TrainingOptions { valid, renormalization, renormalizes_to_running, mask: true, ..options };
            all.extend(served(plan.training(options), valid));
        }
    }
    all.extend(served(plan.inference(InferenceOptions { valid: true, residual: true, ..Default::default() }), true));
    all.extend(served(plan.valid(None), true));
    let moments_of = |dispatches| match dispatches {
        Err(Error::TooManyForMoments { count }) if count > u64::from(u32::MAX) => Vec::new(),
        dispatches => served(dispatches, true),
    };
    all.extend(moments_of(plan.accumulate_moments(true)));
    all.extend(plan.fold(FoldOptions { gamma: true, beta: true, bias: true }).unwrap());
    all.extend(moments_of(plan.accumulate_moments(false)));
    all.extend(plan.population().unwrap());
    let part = |dispatches| match dispatches {
        Err(Error::TooManySegments { segments, most }) if segments > most => Vec::new(),
        dispatches => served(dispatches, false),
    };
    let whole = BackwardOptions { saved: true, ..EVERYTHING };
    all.extend(moments_of(plan.part_moments(false)));
    all.extend(plan.merge_moments(2048).unwrap());
    all.extend(plan.merge_gradient_sums(2048).unwrap());
    for parts in [1, 7, 2048] {
        all.extend(part(plan.training_from_parts(parts, options)));
        all.extend(part(plan.backward_from_parts(parts, parts, whole)));
    }
    all.extend(part(plan.part_gradients(whole)));
    let omit = GradientMode::Omit;
    let partly = [
        EVERYTHING,
        BackwardOptions { input_gradient: omit, ..EVERYTHING },
        BackwardOptions { gamma_gradient: omit, beta_gradient: omit, ..EVERYTHING },
    ];
    let derivatives = [
        (Derivative::Recompute, omit),
        (Derivative::RecomputeWithResidual, GradientMode::Overwrite),
        (Derivative::Output, omit),
        (Derivative::Mask, GradientMode::Accumulate),
    ];
    for options in partly {
        for (derivative, residual_gradient) in derivatives {
            let options = BackwardOptions { derivative, residual_gradient, ..options };
            let padded = BackwardOptions { valid: true, ..options };
            let renormalized = BackwardOptions { renormalization: true, ..options };
            for (dispatches, valid) in [
                (plan.backward(options), false),
                (plan.backward_frozen(options), false),
                (plan.backward(padded), true),
                (plan.backward_frozen(padded), true),
                (plan.backward(renormalized), false),
            ] {
                all.extend(served(dispatches, valid));
            }
        }
    }
    all.dedup();
    all
}

/// A pin may rule an operation out, and so may bits of valid elements that outgrow a binding.
fn served(dispatches: Result<Vec<Dispatch>, Error>, valid: bool) -> Vec<Dispatch> {
    match dispatches {
        Err(Error::StrategyNotServed { .. }) => Vec::new(),
        Err(Error::LimitExceeded { required, available, .. }) if valid && required > available => Vec::new(),
        dispatches => dispatches.unwrap(),
    }
}

/// How a kernel walks over the tensor, and whether it reduces to partials; `None` where it does not walk.
fn walk_of(kernel: Kernel) -> Option<(Family, bool)> {
    kernel.walk().map(|walk| (walk.family, matches!(kernel, Kernel::Reduce(..))))
}

fn goes_by_spans(kernel: Kernel) -> bool {
    kernel.walk().is_some_and(Walk::has_spans)
}

fn goes_by_runs(kernel: Kernel) -> bool {
    kernel.walk().is_some_and(|walk| walk.access == super::Access::Runs)
}

/// The elements of those bound that one dispatch over the tensor takes, with the workgroup that takes each and the slot that a
/// reduction would count it in.
///
/// The same arithmetic as `shaders/walk/{rows,columns,super_rows,spans,row_quads,along_rows,runs}.wgsl`.
fn walk(dispatch: &Dispatch, mut visit: impl FnMut(u32, u32, Option<(u32, u32)>)) {
    let Some((family, reduces)) = walk_of(dispatch.kernel) else { return };
    let p = &dispatch.params;
    let groups = dispatch.workgroups[0] * dispatch.workgroups[1];
    assert!(groups >= p.groups && dispatch.workgroups[2] == 1);
    let by_runs = goes_by_runs(dispatch.kernel);
    let lanes_of_span = if goes_by_spans(dispatch.kernel) { p.lanes.div_ceil(dispatch.workgroup_size) } else { 1 };
    for group in 0..p.groups {
        // By spans an invocation has several lanes, each as far from the next as there are invocations.
        for invocation in 0..dispatch.workgroup_size * lanes_of_span {
            let split = group / p.tiles;
            let start = split * p.split_extent;
            let end = (start + p.split_extent).min(p.extent);
            // Run by run, which covers whole rows, an index is a unit of them.
            let whole_rows = start.is_multiple_of(p.row_units) && end.is_multiple_of(p.row_units);
            assert!(!by_runs || whole_rows, "a run that is cut: {dispatch:?}");
            let trips = if by_runs { end - start } else { p.blocks * 4 };
            for trip in 0..trips {
                match family {
                    Family::Rows => {
                        let (lane, position) = (invocation / p.positions, invocation % p.positions);
                        let channel = p.first_channel + (group % p.tiles) * p.lanes + lane;
                        let index = start + position + trip * p.positions;
                        if lane >= p.lanes || channel >= p.end_channel || index >= end {
                            continue;
                        }
                        let (outer, unit) = (index / p.row_units, index % p.row_units);
                        let row = first_element(p, channel) + outer * p.outer_elements;
                        let first = 4 * (row / 4 + unit);
                        for element in (first..first + 4).filter(|e| (row..row + p.inner).contains(e)) {
                            visit(element, group, reduces.then_some((p.slot_base + split, channel)));
                        }
                    }
                    Family::Quads => {
                        let (lane, position) = (invocation / p.positions, invocation % p.positions);
                        let first_of_four = p.first_channel + 4 * ((group % p.tiles) * p.lanes + lane);
                        let index = if by_runs {
                            // The positions take rows in turn.
                            let (row, unit) = (trip / p.row_units, trip % p.row_units);
                            start + (position + row * p.positions) * p.row_units + unit
                        } else {
                            start + position + trip * p.positions
                        };
                        if lane >= p.lanes || first_of_four >= p.end_channel || index >= end {
                            continue;
                        }
                        let (outer, unit) = (index / p.row_units, index % p.row_units);
                        let row = first_element(p, first_of_four) + outer * p.outer_elements;
                        assert_eq!(row % 4, 0, "a row that does not begin with a unit: {dispatch:?}");
                        let (first_owner, left) = owners_at(p, 4 * unit);
                        if by_runs {
                            // The run that the unit is in; only its first unit is asked whose it is.
                            let run = (0..4).rfind(|channel| channel * p.inner / 4 <= unit).unwrap();
                            let first = run * p.inner / 4 == unit;
                            assert!(first || (first_owner == run && left >= 4), "a unit of two channels in a run");
                        }
                        for component in 0..4 {
                            let channel = first_of_four + first_owner + u32::from(component >= left);
                            visit(row + 4 * unit + component, group, reduces.then_some((p.slot_base + split, channel)));
                        }
                    }
                    Family::Columns => {
                        let (lane, position) = (invocation % p.lanes, invocation / p.lanes);
                        let (tile, part) = (group % p.tiles % p.part_tiles, group % p.tiles / p.part_tiles);
                        let unit = tile * p.lanes + lane;
                        let row = start + position + trip * p.positions;
                        // What a reduction makes of a tile without columns would stand in the place of something else.
                        let columns = p.repeats * p.outer_elements;
                        assert!(!reduces || 4 * tile * p.lanes < columns, "a tile past the columns: {dispatch:?}");
                        if position >= p.positions || unit >= p.row_units || row >= end {
                            continue;
                        }
                        let first = p.window_base + part * p.part_elements + 4 * (row * p.row_units + unit);
                        for element in (first..first + 4).filter(|&e| e < p.elements) {
                            let run = (4 * unit + element - first) / p.inner;
                            let slot = p.slot_base + split * p.repeats + run / p.part_channels;
                            let channel = p.first_channel + part * p.part_channels + run % p.part_channels;
                            visit(element, group, reduces.then_some((slot, channel)));
                        }
                    }
                }
            }
        }
    }
}

/// As `shaders/walk/owners.wgsl` has it: the channel of a quad that a unit's first element is of, and how many elements from there on.
fn owners_at(p: &Params, offset: u32) -> (u32, u32) {
    let channel = u32::from(offset >= p.inner) + u32::from(offset >= 2 * p.inner) + u32::from(offset >= 3 * p.inner);
    (channel, (channel + 1) * p.inner - offset)
}

/// As `shaders/common/instance.wgsl` has it.
fn first_element(p: &Params, channel: u32) -> u32 {
    let within = channel - p.first_channel;
    p.window_base + within / p.part_channels * p.part_elements + within % p.part_channels * p.inner
}

/// Bytes of the smallest window that can be cut, with what is bound beside it: four outer steps where 16-bit rows share words, else an
/// alignment.
fn least_window(plan: &Plan) -> u64 {
    let size = plan.descriptor.element.size();
    let shares = |laid: &super::Laid| size < 4 && !laid.tensor.part().inner.is_multiple_of(4);
    let step = |laid: &super::Laid| u64::from(laid.tensor.part().channels) * laid.tensor.part().inner;
    let steps = [&plan.batch, &plan.recorded].map(|laid| if shares(laid) { 4 * step(laid) * size } else { 0 });
    steps[0].max(steps[1]).max(plan.profile.slice_alignment()) + plan.profile.slice_alignment() + 4 * size
}

/// As [`check_coverage`], for dispatches over windows: those of a stage together take every element once, each is bound within the
/// tensor and from an offset that bindings may have, and a mask's bits are those of the elements.
fn check_window_coverage(plan: &Plan) -> Result<(), TestCaseError> {
    let (elements, alignment) = (plan.problem().elements(), plan.profile.slice_alignment());
    let size = plan.descriptor.element.size();
    let mut dispatches = all_dispatches(plan).into_iter().filter(|dispatch| walk_of(dispatch.kernel).is_some());
    // Many operations go over windows alike; how many there are is known from the first.
    let mut checked: HashMap<_, usize> = HashMap::new();
    while let Some(first) = dispatches.next() {
        if first.region.is_none() {
            continue;
        }
        let p = first.params;
        let laid = [p.channels, p.groups, p.tiles, p.lanes, p.positions, p.extent, p.split_extent, p.slots];
        let key = (first.kernel.walk(), walk_of(first.kernel), laid);
        if let Some(windows) = checked.get(&key) {
            dispatches.by_ref().take(windows - 1).for_each(drop);
            continue;
        }
        let mut windows = 0;
        let stage = std::mem::discriminant(&first.kernel);
        let mut seen = vec![0_u8; elements as usize];
        let mut slots: HashMap<(u32, u32), u64> = HashMap::new();
        let mut next = Some(first);
        let mut taken = 0;
        while taken < elements {
            let dispatch = next.take().or_else(|| dispatches.next());
            let dispatch = dispatch.expect("more windows, until all elements are taken");
            windows += 1;
            prop_assert!(std::mem::discriminant(&dispatch.kernel) == stage, "{dispatch:?}");
            let (region, p) = (dispatch.region.unwrap(), dispatch.params);
            prop_assert_eq!(u64::from(p.elements), region.elements);
            prop_assert!((region.first_element * size).is_multiple_of(alignment));
            let bytes = plan.descriptor.element.tensor_size(region.elements);
            prop_assert!(bytes <= plan.profile.max_storage_buffer_binding_size);
            prop_assert!(bytes <= plan.profile.max_window_size.max(least_window(plan)));
            prop_assert!(region.first_element + region.elements <= elements);
            let (mask, before) = region.of_mask(&plan.profile);
            prop_assert!(mask.start.is_multiple_of(alignment) && mask.end <= plan.mask_size());
            prop_assert_eq!(8 * mask.start + before, region.first_element);
            prop_assert_eq!((u64::from(p.mask_unit), u64::from(p.valid_unit)), (before / 4, region.first_element / 4));
            let segmentation = match dispatch.kernel {
                _ if plan.batch == plan.recorded => plan.batch.tensor.segmentation,
                _ if u64::from(p.channels) == plan.recorded.instances() => plan.recorded.tensor.segmentation,
                _ => plan.batch.tensor.segmentation,
            };
            let mut misplaced = None;
            walk(&dispatch, |element, _, slot| {
                let element = region.first_element + u64::from(element);
                seen[element as usize] += 1;
                taken += 1;
                if let Some((slot, counted)) = slot {
                    *slots.entry((slot, counted)).or_default() += 1;
                    if u64::from(counted) != segmentation.instance_of(element) || slot >= p.slots {
                        misplaced = Some((element, slot, counted));
                    }
                }
            });
            prop_assert_eq!(misplaced, None, "{:?}", dispatch);
            if let Some(walk) = dispatch.kernel.walk() {
                let shares = walk.family == Family::Rows && walk.access != super::Access::Whole;
                prop_assert!(p.window_base.is_multiple_of(4) || shares, "{dispatch:?}");
            }
        }
        checked.insert(key, windows);
        prop_assert!(seen.iter().all(|&count| count == 1), "{:?}: not every element once", first);
        if let Kernel::Reduce(..) = first.kernel {
            let written = slots.len() as u64;
            let expected = u64::from(first.params.slots) * u64::from(first.params.channels);
            prop_assert!(written <= expected);
            prop_assert!(
                (0..first.params.channels).all(|channel| slots.contains_key(&(0, channel))),
                "slot 0 is empty"
            );
        }
    }
    Ok(())
}

/// Every element is taken once, by its own channel; every slot that finalize reads has data.
fn check_coverage(plan: &Plan) -> Result<(), TestCaseError> {
    let problem = plan.problem();
    let mut checked: Vec<Dispatch> = Vec::new();
    for dispatch in all_dispatches(plan) {
        // What is fused, and which optional parts there are, does not change the walk.
        let same_walk = |other: &Dispatch| {
            let walked =
                |dispatch: &Dispatch| Params { flags: 0, records_base: 0, partials_base: 0, ..dispatch.params };
            let alone = |kernel| matches!(kernel, Kernel::ChannelLoop(..) | Kernel::Resident(..));
            walk_of(other.kernel) == walk_of(dispatch.kernel)
                && goes_by_runs(other.kernel) == goes_by_runs(dispatch.kernel)
                && goes_by_spans(other.kernel) == goes_by_spans(dispatch.kernel)
                && alone(other.kernel) == alone(dispatch.kernel)
                && walked(other) == walked(&dispatch)
        };
        if walk_of(dispatch.kernel).is_none() || dispatch.region.is_some() || checked.iter().any(same_walk) {
            continue;
        }
        checked.push(dispatch);
        let alone = matches!(dispatch.kernel, Kernel::ChannelLoop(..) | Kernel::Resident(..));
        let mut owners: HashMap<u32, u32> = HashMap::new();
        let mut seen = vec![0_u8; problem.elements() as usize];
        let mut slots: HashMap<(u32, u32), u64> = HashMap::new();
        let mut misplaced = None;
        walk(&dispatch, |element, group, slot| {
            seen[element as usize] += 1;
            let p = &dispatch.params;
            let channel =
                element / p.part_elements * p.part_channels + element % p.part_elements / p.inner % p.part_channels;
            if alone && *owners.entry(channel).or_insert(group) != group {
                misplaced = Some((element, group, channel));
            }
            if let Some((slot, counted)) = slot {
                *slots.entry((slot, counted)).or_default() += 1;
                if counted != channel || slot >= p.slots {
                    misplaced = Some((element, slot, counted));
                }
            }
        });
        prop_assert_eq!(misplaced, None, "{:?}", dispatch);
        prop_assert!(seen.iter().all(|&count| count == 1), "{dispatch:?}: not every element once");
        if let Kernel::Reduce(..) = dispatch.kernel {
            let channels = dispatch.params.channels;
            let expected = u64::from(dispatch.params.slots) * u64::from(channels);
            let written = slots.len() as u64;
            // A last split may hold no more than masked units: of a cut-off super-row, or of an unaligned row that needs
            // fewer units than its place offers. Its slots are written with a count of 0.
            let cut_off = dispatch.params.repeats > 1 && dispatch.params.extent > 1;
            let rows = dispatch.kernel.walk().is_some_and(|walk| walk.family == Family::Rows);
            let spare_units = rows && !dispatch.params.inner.is_multiple_of(4);
            let may_be_empty = cut_off || spare_units;
            prop_assert!(written == expected || (may_be_empty && written < expected), "{written} slots of {expected}");
            prop_assert!((0..channels).all(|channel| slots.contains_key(&(0, channel))), "slot 0 is empty");
        }
    }
    Ok(())
}

fn check_limits(plan: &Plan, profile: &DeviceProfile) -> Result<(), TestCaseError> {
    for dispatch in all_dispatches(plan) {
        let Dispatch { kernel, workgroup_size, workgroups, params, .. } = dispatch;
        let grid = profile.max_compute_workgroups_per_dimension;
        prop_assert!(workgroups.iter().all(|&count| (1..=grid).contains(&count)), "{workgroups:?}");
        prop_assert!(workgroup_size <= profile.max_compute_invocations_per_workgroup);
        prop_assert!(workgroup_size <= profile.max_compute_workgroup_size_x);
        prop_assert!(64 * workgroup_size <= profile.max_compute_workgroup_storage_size);
        prop_assert!(kernel.bindings().len() as u32 <= profile.max_storage_buffers_per_shader_stage);
        if matches!(kernel, Kernel::CountBatch | Kernel::PackValid | Kernel::MarkValid | Kernel::CountValid) {
            continue;
        }
        if let Kernel::UpdateRunning | Kernel::UpdateRunningFromParts = kernel {
            // An invocation a channel, which goes over all segments, and twice over the parts of each.
            let segments = u64::from(params.segments) * u64::from(1 + 2 * params.parts);
            prop_assert!(segments + segments.div_ceil(32) + 16 < 65_535);
            prop_assert!(workgroups[0] * workgroups[1] * workgroup_size >= params.parameter_channels);
            continue;
        }
        let Params { positions, lanes, merge_groups, slot_positions, slot_merge_groups, blocks, slots, .. } = params;
        let by_spans = goes_by_spans(kernel);
        let span = if by_spans { lanes.div_ceil(workgroup_size) } else { 1 };
        // An array of the shader holds so many.
        prop_assert!(span <= 8, "{params:?}");
        prop_assert!(positions * lanes <= span * workgroup_size, "{params:?}");
        prop_assert!(!by_spans || (positions == 1 && lanes >= workgroup_size), "{params:?}");
        let walks_only =
            matches!(kernel, Kernel::Reduce(..) | Kernel::Apply(..) | Kernel::ChannelLoop(..) | Kernel::Resident(..));
        if !walks_only {
            prop_assert!((1..=positions).contains(&slot_positions), "{params:?}");
            prop_assert!((1..=slot_positions).contains(&slot_merge_groups), "{params:?}");
        } else {
            prop_assert!((1..=positions).contains(&merge_groups), "{params:?}");
        }
        // What shaders compiled without division checks divide by.
        let divisors = [params.tiles, lanes, positions];
        let walked = [params.row_units, params.inner, params.part_channels, params.part_tiles, params.outer_elements];
        prop_assert!(params.steps > 0 && params.parameter_channels > 0, "{params:?}");
        let over_tensor = walk_of(kernel).is_some();
        prop_assert!(!divisors.contains(&0), "{params:?}");
        prop_assert!(!over_tensor || !walked.contains(&0), "{params:?}");
        // lavapipe's 65,535 iterations for all loops of an invocation.
        // Accumulators, and chains of four of them.
        let chained = |count: u32| u64::from(count + count.div_ceil(4));
        let two_steps = |positions: u32, groups: u32| chained(positions.div_ceil(groups.max(1))) + chained(groups);
        // Columns of a run, chains of them, chains of these, and the side of the cube.
        let columns_of_run = |inner: u32| 2 * inner + 2 * (1..).find(|side: &u32| side.pow(3) >= inner).unwrap_or(0);
        // Trips and levels of them.
        let blocks = u64::from(blocks);
        let blocks = if goes_by_runs(kernel) {
            // Levels of rows, rows, the runs of each, levels of their units, and these one at a time.
            let rows = params.split_extent.div_ceil(params.row_units).div_ceil(positions);
            let units = rows * params.row_units;
            u64::from(rows.div_ceil(16) + rows + 4 * rows + 4 * rows + units / 64 + units)
        } else if by_spans {
            // Levels of rows, rows, and for each of either the lanes, of levels twice.
            let (rows, span) = (u64::from(params.split_extent), u64::from(span));
            rows * (1 + span) + (rows.div_ceil(16) + 3) * (1 + 2 * span)
        } else {
            blocks + blocks.div_ceil(16) + 2
        };
        let runs = u64::from((4 * lanes / params.inner.max(1)).div_ceil(workgroup_size) * columns_of_run(params.inner));
        let slots_of_one = slots.div_ceil(slot_positions.max(1));
        let levels = u64::from(slots_of_one + slots_of_one.div_ceil(8));
        let over_slots = 2 * (levels + two_steps(slot_positions, slot_merge_groups));
        let iterations = match kernel {
            Kernel::Reduce(_, Walk { family: Family::Columns, .. }) => {
                blocks + two_steps(positions, merge_groups) + runs
            }
            Kernel::Reduce(..) => blocks + two_steps(positions, merge_groups),
            Kernel::Apply(..) => blocks,
            Kernel::MergeAndApply(..) => u64::from(span) * (1 + over_slots) + blocks,
            Kernel::ChannelLoop(_, _, Walk { family, .. }) | Kernel::Resident(_, _, Walk { family, .. }, _) => {
                // `gather_channels` gives an invocation two channels at most.
                let direct = family != Family::Columns || (params.inner == 1 && params.repeats == 1);
                let gathered = params.part_channels.min(4 * lanes / params.inner);
                prop_assert!(direct || gathered <= 2 * workgroup_size, "{params:?}");
                let gathers =
                    if family == Family::Columns { 2 * params.repeats * (columns_of_run(params.inner) + 1) } else { 0 };
                2 * blocks + two_steps(positions, merge_groups) + u64::from(gathers)
            }
            Kernel::MergePartials(_)
            | Kernel::FinalizeStatistics
            | Kernel::FinalizeGradients
            | Kernel::ConcludeStatistics
            | Kernel::ConcludeGradients
            | Kernel::PartMoments
            | Kernel::PartGradientSums
            | Kernel::MergeGradientSums
            | Kernel::AccumulateMoments => over_slots,
            // The pivot of the first slot with data, means and factors.
            Kernel::MergeMoments | Kernel::ConcludeMoments | Kernel::ConcludeGradientSums => {
                over_slots + u64::from(slots) + 28 * u64::from(params.parts)
            }
            // Three levels of 32.
            Kernel::ShareGradients => over_slots + over_slots / 16,
            _ => 0,
        };
        prop_assert!(iterations + 16 < 65_535, "{kernel:?} {params:?}");
        if let Kernel::Resident(.., trips) = kernel {
            prop_assert!(u64::from(params.blocks) <= trips.count(), "{params:?}");
        }
    }
    let workspace = plan.workspace();
    for (region, name) in [
        (&workspace.partials, "partials"),
        (&workspace.statistics, "statistics"),
        (&workspace.prepared, "prepared"),
        (&workspace.gamma_gradients, "gamma_gradients"),
        (&workspace.beta_gradients, "beta_gradients"),
    ] {
        prop_assert!(region.start % profile.slice_alignment() == 0, "{name}");
        prop_assert!(
            region.end <= workspace.size && region.end - region.start <= profile.max_storage_buffer_binding_size
        );
    }
    for Dispatch { kernel, params, .. } in all_dispatches(plan) {
        if let Kernel::Reduce(..) | Kernel::MergeAndApply(..) | Kernel::ConcludeStatistics = kernel {
            let records = u64::from(params.partials_base) + u64::from(params.slots) * u64::from(params.channels) + 1;
            prop_assert!(records * 16 <= workspace.partials.end - workspace.partials.start);
            // The channels' parameters lie past them, one whole record each or three of half the size.
            let (size, each) = match kernel {
                Kernel::Reduce(Reduction::Statistics, ..) | Kernel::MergeAndApply(Operation::Training, ..) => (16, 1),
                _ => (8, 3),
            };
            let base = u64::from(params.records_base);
            let records_parameters = params.flags & Params::RECORDS_PARAMETERS != 0;
            if records_parameters || matches!(kernel, Kernel::MergeAndApply(..)) {
                prop_assert!(base >= records, "{params:?}");
                let end = (base + each * u64::from(params.channels)) * size;
                let bound = workspace.partials_with_parameters();
                prop_assert!(end <= bound.end - bound.start, "{params:?}");
                prop_assert!(bound.end - bound.start <= profile.max_storage_buffer_binding_size);
            }
            if size == 16 && records_parameters {
                prop_assert_eq!(workspace.partials.start + base * size, workspace.prepared.start);
            }
        }
    }
    Ok(())
}

fn classes() -> impl proptest::strategy::Strategy<Value = AdapterClass> {
    prop_oneof![Just(AdapterClass::Discrete), Just(AdapterClass::Integrated), Just(AdapterClass::Cpu)]
}

fn profiles() -> impl proptest::strategy::Strategy<Value = DeviceProfile> {
    (classes(), 0..8_u32, 4..15_u32, 4..11_u32).prop_map(|(class, invocations, storage, alignment)| DeviceProfile {
        max_compute_invocations_per_workgroup: 8 << invocations,
        max_compute_workgroup_size_x: 8 << invocations,
        max_compute_workgroup_storage_size: (1 << storage) * 64,
        min_storage_buffer_offset_alignment: 1 << alignment,
        max_storage_buffer_binding_size: 1 << 31,
        max_window_size: 1 << 33,
        ..DeviceProfile::webgpu(class)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_element_is_taken_once_by_its_channel(
        outer in 1..70_usize, channels in 1..40_u32, inner in prop_oneof![1..90_usize, Just(1)], profile in profiles(),
    ) {
        for plan in plans(outer, channels, inner, &profile).unwrap() {
            check_coverage(&plan)?;
            check_limits(&plan, &profile)?;
        }
    }

    #[test]
    fn every_element_of_a_segment_is_taken_once_by_its_instance(
        segments in 1..7_usize, samples in 1..20_usize, channels in 1..20_u32, inner in prop_oneof![1..40_usize, Just(1)],
        kind in 0..3, profile in profiles(),
    ) {
        let shape = Shape::flat(segments * samples, channels as usize, inner);
        let shape = match kind {
            0 => shape.with_sub_batches(segments),
            1 => shape.with_segments_along(0),
            _ => shape.with_segments_along(2),
        };
        for element in [ElementType::F32, ElementType::Bf16] {
            match plans_of_shape(element, channels, shape.as_ref().unwrap(), &profile) {
                Ok(plans) => for plan in plans {
                    check_coverage(&plan)?;
                    check_limits(&plan, &profile)?;
                },
                Err(Error::SharedWords { elements, inner }) => {
                    prop_assert!(element == ElementType::Bf16 && elements % 4 != 0 && inner % 4 != 0);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }

    #[test]
    fn no_shape_that_fits_a_binding_has_a_large_workspace(
        outer in 1_u32..12, channels in 1_u32..18, inner in 0_u32..10, odd in proptest::array::uniform3(0_u64..1 << 18),
        element in prop_oneof![Just(ElementType::F32), Just(ElementType::F16)], sub_batches in prop_oneof![3 => Just(1), 1 => 2..9_u64],
        profile in profiles(),
    ) {
        let [outer, channels, inner] = std::array::from_fn(|axis| {
            let bits = [outer, channels, inner][axis];
            (1_u64 << bits) + odd[axis] % (1 << bits)
        });
        let descriptor = BatchNormDescriptor { channels: channels as u32, element, ..Default::default() };
        let shape = Shape::flat((outer * sub_batches) as usize, channels as usize, inner as usize);
        let shape = shape.with_sub_batches(sub_batches as usize).unwrap();
        match Plan::new(&descriptor, &shape, &profile) {
            Ok(plan) => {
                let (size, bound) = (plan.workspace_size(), workspace_bound(&plan));
                prop_assert!(size <= bound || plan.window_count() > 1, "{outer}×{channels}×{inner}: {size} of {bound}");
            }
            Err(Error::SharedWords { .. } | Error::LimitExceeded { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn every_element_is_in_one_window(
        outer in 1..70_usize, channels in 1..40_u32, inner in prop_oneof![1..90_usize, Just(1), 300..3000_usize],
        pieces in 1..12_usize, odd in 0..40_u64, parts in 1..4_usize, kind in 0..3, profile in profiles(),
    ) {
        let outer = outer.min((16_384 / (channels as usize * inner * parts)).max(1));
        let cap = ((outer * parts * channels as usize * inner * 4 / pieces) as u64 + odd).max(1 << 10);
        let profile = DeviceProfile { max_window_size: cap, ..profile };
        let shape = Shape::flat(outer * parts, channels as usize, inner);
        let shape = match kind {
            0 => shape,
            1 => shape.with_sub_batches(parts).unwrap(),
            _ => shape.with_segments_along(2).unwrap(),
        };
        for element in [ElementType::F32, ElementType::F16] {
            let convention = Convention { segment_running: SegmentRunning::Averaged, ..Convention::onnx() };
            let activation = Activation::Relu;
            let descriptor = BatchNormDescriptor { channels, element, convention, activation, ..Default::default() };
            match Plan::new(&descriptor, &shape, &profile) {
                Ok(plan) => {
                    check_window_coverage(&plan)?;
                    check_limits(&plan, &profile)?;
                },
                Err(Error::SharedWords { .. }) => {}
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }

    #[test]
    fn large_problems_keep_every_limit_or_are_refused(
        outer in 0..24_u32, channels in 0..20_u32, inner in 0..24_u32, odd in 0..4_u32, profile in profiles(),
    ) {
        prop_assume!(outer + channels + inner <= 40);
        let (outer, inner) = ((1_usize << outer) + odd as usize, (1_usize << inner) + (odd / 2) as usize);
        let channels = (1_u32 << channels) + odd % 2;
        prop_assume!(outer * inner > 1);
        match plans(outer, channels, inner, &profile) {
            // Windows repeat what one of them shows: of plans with many of them, one for each element type is checked.
            Ok(plans) => {
                let many = plans[0].window_count() > 8;
                let step = if many { plans.len().div_ceil(2) } else { 1 };
                plans.iter().step_by(step).try_for_each(|plan| check_limits(plan, &profile))?;
            }
            Err(Error::LimitExceeded { required, available, .. }) => prop_assert!(required > available),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

/// As many elements as no test could go over: windows lie beside each other, each with its own elements bound and its own instances.
fn check_tiling(plan: &Plan, laid: &super::Laid) -> Result<usize, TestCaseError> {
    let size = plan.descriptor.element.size();
    let profile = &plan.profile;
    let tensor = laid.tensor;
    let windows = match &laid.work {
        super::Work::Windows(windows) => windows,
        super::Work::Nothing | super::Work::Whole(_) => return Ok(1),
    };
    let mut order: Vec<_> = windows.windows.iter().collect();
    order.sort_by_key(|window| window.first_element);
    let mut next = 0;
    for window in &order {
        prop_assert_eq!(window.first_element, next);
        next += window.tensor.elements();
        prop_assert!(next > window.first_element);
        let region = window.region(tensor, profile);
        prop_assert!((region.first_element * size).is_multiple_of(profile.slice_alignment()));
        prop_assert!(region.first_element <= window.first_element && region.first_element + region.elements >= next);
        prop_assert!(region.first_element + region.elements <= tensor.elements());
        let bytes = plan.descriptor.element.tensor_size(region.elements);
        prop_assert!(bytes <= profile.max_storage_buffer_binding_size.min(profile.max_window_size));
        prop_assert!(window.slot_base + window.reduction.slots <= windows.slots);
        let segmentation = window.tensor.segmentation;
        for element in [0, segmentation.part.elements() - 1, window.tensor.elements() - 1] {
            let whole = tensor.segmentation.instance_of(window.first_element + element);
            let within = segmentation.instance_of(element);
            prop_assert_eq!(whole, window.first_instance + within, "{:?}", window);
        }
    }
    prop_assert_eq!(next, tensor.elements());
    Ok(windows.windows.len())
}

/// The dispatches of every operation over a tensor that is laid out, and no more than one operation at a time: of many windows they
/// are large.
fn each_operation(
    plan: &Plan,
    laid: &super::Laid,
    mut check: impl FnMut(&[Dispatch]) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let refused = |dispatches| match dispatches {
        Err(Error::TooManyForMoments { .. } | Error::SegmentedFold | Error::TooManySegments { .. }) => Vec::new(),
        dispatches => served(dispatches, true),
    };
    let backwards = [
        BackwardOptions { saved: true, ..EVERYTHING },
        BackwardOptions { derivative: Derivative::Mask, residual_gradient: GradientMode::Overwrite, ..EVERYTHING },
        BackwardOptions { valid: true, renormalization: true, ..EVERYTHING },
    ];
    if *laid == plan.batch {
        let training = TrainingOptions { saved: true, mask: true, ..TrainingOptions::default() };
        for valid in [false, true] {
            check(&refused(plan.training(TrainingOptions { valid, ..training })))?;
            check(&refused(plan.part_moments(valid)))?;
        }
        check(&refused(plan.training_from_parts(2, training)))?;
        for options in backwards {
            check(&refused(plan.backward(options)))?;
        }
        check(&refused(plan.backward(BackwardOptions { derivative: Derivative::Inverted, ..EVERYTHING })))?;
        check(&refused(plan.part_gradients(backwards[0])))?;
        check(&refused(plan.backward_from_parts(2, 2, backwards[0])))?;
    }
    if *laid == plan.recorded {
        for valid in [false, true] {
            check(&refused(plan.inference(InferenceOptions { residual: true, valid, ..Default::default() })))?;
            check(&refused(plan.accumulate_moments(valid)))?;
        }
        check(&refused(plan.fold(FoldOptions::default())))?;
        for options in backwards {
            check(&refused(plan.backward_frozen(BackwardOptions { renormalization: false, ..options })))?;
        }
    }
    Ok(())
}

/// What kernels are told in 32 bits is what the plan has in 64: in every pass over the tensor, from what is bound and from what is told,
/// each element is in one window. Passes are told apart by what is dispatched between them.
fn check_told(plan: &Plan, laid: &super::Laid, dispatches: &[Dispatch]) -> Result<HashSet<Pass>, TestCaseError> {
    let super::Work::Windows(windows) = &laid.work else { return Ok(HashSet::new()) };
    let mut kinds = HashSet::new();
    for pass in dispatches.split(|dispatch| dispatch.region.is_none()).filter(|pass| !pass.is_empty()) {
        prop_assert_eq!(pass.len(), windows.windows.len());
        let kind = Pass::of(pass[0].kernel);
        kinds.insert(kind);
        let reduces = matches!(kind, Pass::Reduces(..));
        for (index, dispatch) in pass.iter().enumerate() {
            let window = &windows.windows[if reduces { index } else { pass.len() - 1 - index }];
            check_told_window(plan, laid, window, dispatch)?;
            prop_assert_eq!(Pass::of(dispatch.kernel), kind);
            prop_assert_eq!(u64::from(dispatch.params.slot_base), window.slot_base);
            prop_assert!(!reduces || u64::from(dispatch.params.slots) == windows.slots);
        }
        // By what kernels are told alone: a window's channels lie in equal parts, one behind the other.
        let mut ranges: Vec<_> = pass
            .iter()
            .map(|Dispatch { region, params: p, .. }| {
                let first = region.unwrap().first_element + u64::from(p.window_base);
                let parts = (p.end_channel - p.first_channel) / p.part_channels;
                first..first + u64::from(parts) * u64::from(p.part_elements)
            })
            .collect();
        ranges.sort_by_key(|range| range.start);
        prop_assert!(ranges[0].start == 0 && ranges[ranges.len() - 1].end == laid.tensor.elements());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "windows with a gap, or that overlap");
    }
    Ok(kinds)
}

/// What a pass does, and whether some of its elements may be padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pass {
    Reduces(Reduction, bool),
    Maps(Elementwise, bool),
}

impl Pass {
    fn of(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Reduce(reduction, walk) => Self::Reduces(reduction, walk.skips_padding),
            Kernel::Apply(map, walk) => Self::Maps(map, walk.skips_padding),
            _ => panic!("{kernel:?} is given a window"),
        }
    }
}

fn check_told_window(
    plan: &Plan,
    laid: &super::Laid,
    window: &super::window::Window,
    dispatch: &Dispatch,
) -> Result<(), TestCaseError> {
    let (region, p) = (dispatch.region.unwrap(), dispatch.params);
    prop_assert_eq!(region, window.region(laid.tensor, &plan.profile));
    let geometry = match dispatch.kernel {
        Kernel::Reduce(..) => &window.reduction,
        _ => &window.map,
    };
    let part = window.tensor.part();
    let instances = window.tensor.segmentation.instances();
    for (told, planned) in [
        (p.elements, region.elements),
        (p.units, region.elements.div_ceil(4)),
        (p.window_base, window.first_element - region.first_element),
        (p.first_channel, window.first_instance),
        (p.end_channel, window.first_instance + instances),
        (p.part_channels, u64::from(part.channels)),
        (p.part_elements, part.elements()),
        (p.inner, part.inner),
        (p.outer_elements, u64::from(part.channels) * part.inner),
        (p.channels, laid.tensor.segmentation.instances()),
        (p.groups, geometry.tiles * geometry.splits),
        (p.extent, geometry.extent),
        (p.split_extent, geometry.split_extent),
    ] {
        prop_assert_eq!(u64::from(told), planned, "{:?}", dispatch);
    }
    let (mask, before) = region.of_mask(&plan.profile);
    prop_assert!(mask.start.is_multiple_of(plan.profile.slice_alignment()) && mask.end <= plan.mask_size());
    prop_assert_eq!(8 * mask.start + before, region.first_element);
    prop_assert_eq!(4 * u64::from(p.mask_unit), before);
    if p.flags & Params::HAS_VALID != 0 {
        prop_assert_eq!(4 * u64::from(p.valid_unit), region.first_element);
        // A segment's records of its cells stand behind those of the whole, and all of them before the first bit.
        let segments = laid.segments();
        let cell = if laid.cells() > 1 { segments * (1 + window.cell.index) } else { 0 };
        prop_assert_eq!(u64::from(p.valid_base), plan.valid_base(laid) + cell);
        prop_assert!(4 * (u64::from(p.valid_base) + segments) <= u64::from(p.valid_bits));
    }
    let groups = u64::from(dispatch.workgroups[0]) * u64::from(dispatch.workgroups[1]);
    prop_assert!(groups >= u64::from(p.groups));
    let walked = u64::from(p.split_extent) * geometry.splits;
    prop_assert!(walked >= u64::from(p.extent));
    let trips = u64::from(p.blocks) * 4 * u64::from(p.positions);
    prop_assert!(trips >= u64::from(p.split_extent), "a split is longer than its trips: {p:?}");
    // The last, overhanging trip is counted in 32 bits too.
    prop_assert!(4 * (walked + trips) < 1 << 32, "{p:?}");
    Ok(())
}

#[test]
fn kernels_are_told_each_element_of_tensors_up_to_two_to_the_forty_once_a_pass() {
    let counts = std::cell::Cell::new([0_usize; 2]);
    let most = std::cell::Cell::new(0);
    let passes = std::cell::RefCell::new(HashMap::<Pass, usize>::new());
    let shapes = (28..39_u32, 0.0..1.0_f64, 0.0..1.0_f64, 0..5_u32, 0..3_usize, classes(), any::<bool>());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    let run = |(bits, first, second, odd, parts, class, shared): (u32, f64, f64, u32, usize, AdapterClass, bool)| {
        // Exponents of channels and inner at random, the rest is outer; odd and even numbers near the powers.
        let channels_log2 = (first * 21.0) as u32;
        let inner_log2 = (second * f64::from(bits - channels_log2 + 1)) as u32;
        let outer_log2 = bits - channels_log2 - inner_log2;
        let near = |log2: u32, turn: u32| (1_usize << log2) - usize::from(log2 > 1 && odd >> turn & 1 == 1);
        let (outer, channels, inner) = (near(outer_log2, 0), near(channels_log2, 1), near(inner_log2, 2));
        let shape = Shape::flat(outer << parts, channels, inner).with_sub_batches(1 << parts).unwrap();
        for element in [ElementType::F32, ElementType::Bf16] {
            let segment_running = if shared { SegmentRunning::InTurn } else { SegmentRunning::Separate };
            let convention = Convention { segment_running, ..Convention::onnx() };
            let (channels, activation) = (channels as u32, Activation::LeakyRelu { slope: 0.1 });
            let descriptor = BatchNormDescriptor { channels, element, convention, activation, ..Default::default() };
            let [planned, refused] = counts.get();
            match Plan::new(&descriptor, &shape, &DeviceProfile::webgpu(class)) {
                Ok(plan) => {
                    let apart = plan.batch != plan.recorded;
                    for laid in [&plan.batch, &plan.recorded].into_iter().take(1 + usize::from(apart)) {
                        let windows = check_tiling(&plan, laid)?;
                        most.set(most.get().max(windows));
                        each_operation(&plan, laid, |dispatches| {
                            for pass in check_told(&plan, laid, dispatches)? {
                                *passes.borrow_mut().entry(pass).or_default() += windows;
                            }
                            Ok(())
                        })?;
                    }
                    counts.set([planned + 1, refused]);
                }
                Err(Error::LimitExceeded { required, available, .. }) => {
                    prop_assert!(required > available);
                    counts.set([planned, refused + 1]);
                }
                Err(Error::SharedWords { .. }) => counts.set([planned, refused + 1]),
                Err(error) => prop_assert!(false, "{error}: {shape:?} {element}"),
            }
        }
        Ok(())
    };
    proptest::test_runner::TestRunner::new(config).run(&shapes, run).unwrap();
    let [planned, refused] = counts.get();
    let passes = passes.into_inner();
    println!("{planned} planned, {refused} refused, {} windows at most, {passes:?}", most.get());
    assert!(planned > refused && most.get() > 1 << 14, "{planned} planned, {refused} refused, {}", most.get());
    // Bits of valid elements are one binding, so there are few windows of padded tensors.
    let enough = |(pass, &windows): (&Pass, &usize)| match pass {
        Pass::Reduces(_, true) | Pass::Maps(_, true) => windows > 50,
        Pass::Reduces(_, false) | Pass::Maps(_, false) => windows > 1 << 14,
    };
    assert!(passes.len() == 20 && passes.iter().all(enough), "{passes:?}");
}

/// A pipeline has the barrier as a constant: whether `trips_in_step` is 0, by which it divides.
#[test]
fn workgroups_keep_in_step_in_columns_of_large_tensors_on_software_drivers_alone() {
    let mut kept = std::collections::HashSet::new();
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for (outer, channels, inner) in
            [(1024, 512, 1), (1025, 512, 1), (4099, 131, 1), (300, 37, 49), (70_000, 8, 1), (1500, 256, 2)]
        {
            let large = outer * channels as usize * inner > 1 << 19;
            for plan in plans(outer, channels, inner, &profile).unwrap() {
                // Loops of spans have no barrier at all.
                for dispatch in all_dispatches(&plan).into_iter().filter(|dispatch| !goes_by_spans(dispatch.kernel)) {
                    let columns = dispatch.kernel.walk().is_some_and(|walk| walk.family == Family::Columns);
                    let wide = dispatch.workgroup_size > 16;
                    let long = dispatch.params.blocks > 16;
                    let expected = class == AdapterClass::Cpu && columns && wide && large && long;
                    assert_eq!(dispatch.params.trips_in_step > 0, expected, "{class:?}: {dispatch:?}");
                    if expected {
                        kept.insert(std::mem::discriminant(&dispatch.kernel));
                    }
                }
            }
        }
    }
    assert!(kept.len() >= 4, "{}", kept.len());
}

/// 64 super-rows are 16 trips.
#[test]
fn few_trips_are_not_waited_for() {
    let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
    for (outer, waits) in [(63, false), (64, false), (65, true)] {
        let plan = plan(outer, 2048, 12, &profile).unwrap();
        let maps = all_dispatches(&plan).into_iter().filter(|dispatch| match dispatch.kernel {
            Kernel::Apply(_, walk) | Kernel::MergeAndApply(_, _, walk) => walk.family == Family::Columns,
            _ => false,
        });
        let trips: Vec<_> = maps.map(|map| (map.params.blocks > 16, map.params.trips_in_step > 0)).collect();
        assert!(trips.len() >= 2 && trips.iter().all(|trips| *trips == (waits, waits)), "{outer}: {trips:?}");
    }
}

/// A grid folds into a second dimension what its first does not hold; `tests/device/on_every_adapter/limits.rs` runs such grids.
#[test]
fn workgroups_beyond_what_a_dimension_holds_are_folded() {
    let mut folded = std::collections::HashSet::new();
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile { max_compute_workgroups_per_dimension: 64, ..DeviceProfile::webgpu(class) };
        for (outer, channels, inner) in [(9, 500, 49), (3000, 300, 1), (40, 37, 400), (2, 500, 64)] {
            for plan in plans(outer, channels, inner, &profile).unwrap() {
                check_limits(&plan, &profile).unwrap();
                for dispatch in all_dispatches(&plan) {
                    let [x, y, z] = dispatch.workgroups;
                    assert!(x <= 64 && y <= 64 && z == 1 && x * y >= dispatch.params.groups, "{dispatch:?}");
                    if y > 1 {
                        assert!(x == 64 && 64 * (y - 1) < dispatch.params.groups, "{dispatch:?}");
                        folded.insert(std::mem::discriminant(&dispatch.kernel));
                    }
                }
            }
        }
    }
    assert!(folded.len() > 8, "{}", folded.len());
}

/// Software drivers give every quad an invocation where there are quads enough; the random shapes above have too few channels.
#[test]
fn quads_by_runs_cover_every_element() {
    let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
    let shapes = (5..=11).map(|inner| (3, 128, inner)).chain([
        (35, 132, 5),
        (1, 140, 301),
        (1, 128, 8191),
        (1638, 128, 5),
        (64, 128, 129),
        (300, 128, 18),
        // Rows in turn.
        (9, 32, 49),
        (40, 36, 51),
        (8, 32, 4095),
        (254, 32, 129),
        (255, 32, 129),
    ]);
    for (outer, channels, inner) in shapes {
        let mut by_runs = 0;
        for plan in plans(outer, channels, inner, &profile).unwrap() {
            check_coverage(&plan).unwrap();
            check_limits(&plan, &profile).unwrap();
            for dispatch in all_dispatches(&plan).iter().filter(|dispatch| goes_by_runs(dispatch.kernel)) {
                by_runs += 1;
                let p = &dispatch.params;
                let busy = p.split_extent == p.extent || p.split_extent >= p.positions * p.row_units;
                assert!(busy, "positions without a row: {dispatch:?}");
            }
        }
        // As far as the loops of an invocation go.
        let positions = if outer >= 8 && inner >= 32 { 4 } else { 1 };
        assert_eq!(by_runs > 0, inner % 4 != 0 && outer * inner <= 8192 * positions, "{outer}×{channels}×{inner}");
    }
    for (max_window_size, (outer, channels, inner)) in [(1 << 14, (12, 128, 7)), (1 << 16, (24, 32, 49))] {
        let in_windows = DeviceProfile { max_window_size, ..profile };
        let mut by_runs = 0;
        for plan in plans(outer, channels, inner, &in_windows).unwrap() {
            check_window_coverage(&plan).unwrap();
            by_runs += all_dispatches(&plan).iter().filter(|dispatch| goes_by_runs(dispatch.kernel)).count();
        }
        assert!(by_runs > 0, "no window of {outer}×{channels}×{inner} was gone over by runs");
    }
    let parts = Shape::flat(27, 32, 49).with_sub_batches(3).unwrap();
    let mut by_runs = 0;
    for plan in plans_of_shape(ElementType::F32, 32, &parts, &profile).unwrap() {
        check_coverage(&plan).unwrap();
        check_limits(&plan, &profile).unwrap();
        by_runs += all_dispatches(&plan).iter().filter(|dispatch| goes_by_runs(dispatch.kernel)).count();
    }
    assert!(by_runs > 0, "no part was gone over by runs");
}

/// With lanes to spare and without, in parts one behind the other, in windows; as many as one walk of an invocation may have, and more.
#[test]
fn spans_cover_every_element() {
    let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
    let count = |plan: &Plan| {
        let dispatches = all_dispatches(plan);
        dispatches.iter().filter(|dispatch| goes_by_spans(dispatch.kernel)).count()
    };
    for (outer, channels) in [(5, 36), (7, 128), (9, 260), (40, 800), (2911, 36), (3001, 36)] {
        let by_spans: usize = plans(outer, channels, 1, &profile)
            .unwrap()
            .iter()
            .map(|plan| {
                check_coverage(plan).unwrap();
                check_limits(plan, &profile).unwrap();
                count(plan)
            })
            .sum();
        assert!(by_spans > 0, "{outer}×{channels}");
    }
    let parts = Shape::flat(12, 260, 1).with_sub_batches(3).unwrap();
    for plan in plans_of_shape(ElementType::F32, 260, &parts, &profile).unwrap() {
        check_coverage(&plan).unwrap();
        check_limits(&plan, &profile).unwrap();
    }
    for max_window_size in [1 << 14, 40_000] {
        let in_windows = DeviceProfile { max_window_size, ..profile };
        let parts = Shape::flat(96, 132, 1).with_sub_batches(3).unwrap();
        for (channels, shape) in [(260, Shape::flat(97, 260, 1)), (132, parts)] {
            let plans = plans_of_shape(ElementType::F32, channels, &shape, &in_windows).unwrap();
            plans.iter().for_each(|plan| check_window_coverage(plan).unwrap());
            assert!(plans.iter().any(|plan| count(plan) > 0), "no window was gone over by spans");
        }
    }
}

#[test]
fn coverage_holds_around_every_family_threshold() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for inner in [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 60, 63, 64, 65, 68] {
            for (outer, channels) in [(1, 1), (1, 3), (2, 1), (3, 5), (4, 4), (5, 64), (33, 3), (257, 2), (2, 300)] {
                if outer * inner > 1 {
                    let plan = plan(outer, channels, inner, &profile).unwrap();
                    check_coverage(&plan)
                        .unwrap_or_else(|error| panic!("{class:?} {outer} {channels} {inner}: {error}"));
                }
            }
        }
    }
}

#[test]
fn rows_of_several_channels_cover_every_element() {
    let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
    // By positions of one and two, of two, of four and eight, with channels that do not fill the last workgroup, and rows that share units.
    for (outer, channels, inner) in
        [(33, 64, 64), (40, 65, 60), (40, 33, 60), (20, 67, 128), (17, 101, 132), (36, 65, 61)]
    {
        for element in [ElementType::F32, ElementType::F16] {
            let mut of_several = 0;
            let shape = Shape::flat(outer, channels as usize, inner);
            for plan in plans_of_shape(element, channels, &shape, &profile).unwrap() {
                check_coverage(&plan).unwrap_or_else(|error| panic!("{outer}×{channels}×{inner}: {error}"));
                check_limits(&plan, &profile).unwrap();
                let few = |dispatch: &Dispatch| {
                    let rows = dispatch.kernel.walk().is_some_and(|walk| walk.family == Family::Rows);
                    rows && dispatch.params.positions < 8
                };
                of_several += all_dispatches(&plan).iter().filter(|dispatch| few(dispatch)).count();
            }
            assert!(of_several > 0, "{outer}×{channels}×{inner}");
        }
    }
}

#[test]
fn no_shape_is_left_to_few_workgroups() {
    // A quarter of those that fill the machine, or one for every 2^15 elements, or 64 for a channel, whose slots are 256 at most and
    // four a workgroup where it is alone in columns. On GPUs one workgroup for a channel or for a tile of columns would be fewer for
    // every shape here but that of a million channels.
    const MOST_ELEMENTS: u64 = 1 << 15;
    let shapes = [
        (1 << 20, 1, 1),
        (1, 1, 1 << 20),
        (1 << 18, 4, 1),
        (1, 4, 1 << 18),
        (1024, 1024, 1),
        (1 << 14, 3, 49),
        (20, 6, 65536),
        (1 << 25, 1, 1),
        (1, 1, 1 << 25),
        (1, 1_000_000, 2),
        (350_000, 3, 1),
    ];
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for (outer, channels, inner) in shapes {
            let plan = plan(outer, channels, inner, &profile).unwrap();
            let elements = plan.tensor_size() / 4;
            let least = (profile.tuning().workgroups / 4).min(elements / MOST_ELEMENTS).min(64 * u64::from(channels));
            for dispatch in all_dispatches(&plan) {
                if walk_of(dispatch.kernel).is_some() {
                    let groups = u64::from(dispatch.params.groups);
                    assert!(groups >= least, "{class:?} {outer}×{channels}×{inner}: {least} of {dispatch:?}");
                }
            }
        }
    }
}

/// 1 % of the tensor, or 64 bytes an instance and 64 KiB; 8 bytes more where segments share gamma.
fn workspace_bound(plan: &Plan) -> u64 {
    let segmentation = plan.segmentation();
    let each = if segmentation.segments() > 1 { 64 + 8 } else { 64 };
    (plan.tensor_size() / 100).max(each * segmentation.instances() + (64 << 10))
}

#[test]
fn the_workspace_is_small() {
    let shapes = [
        (32, 64, 3136),
        (32, 256, 196),
        (32, 512, 49),
        (8, 64, 12544),
        (1024, 512, 1),
        (16, 3, 50176),
        (256, 32, 64),
        (256, 2048, 1),
        (20, 6, 65536),
        (1, 2048, 49),
        (1 << 20, 1, 1),
        (350_000, 3, 1),
        (2, 100_000, 1),
        // A super-row has four partials of a channel, which are too much.
        (256, 5001, 1),
        (32, 10_001, 1),
        (1900, 4099, 1),
        (16, 1_000_001, 1),
        (8, 4_000_002, 1),
        // Spans would have to be cut for their loops.
        (3000, 16_384, 1),
        (3500, 8192, 1),
        (2913, 4096, 1),
    ];
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        for (outer, channels, inner) in shapes {
            for (outer, inner) in [(outer, inner), (outer * inner, 1)] {
                for element in [ElementType::F32, ElementType::F16] {
                    let descriptor = BatchNormDescriptor { channels, element, ..Default::default() };
                    let shape = Shape::flat(outer, channels as usize, inner);
                    let plan = match Plan::new(&descriptor, &shape, &DeviceProfile::webgpu(class)) {
                        Err(Error::SharedWords { .. }) => continue,
                        plan => plan.unwrap(),
                    };
                    let (size, bound) = (plan.workspace_size(), workspace_bound(&plan));
                    let whole = plan.window_count() == 1;
                    let small = size <= bound || !whole;
                    assert!(small, "{class:?} {element:?} {outer}×{channels}×{inner}: {size} of {bound}");
                }
            }
        }
    }
}

#[test]
fn the_workspace_of_windows_is_small_where_they_have_400_elements_of_an_instance() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for (outer, channels, inner) in [
            (6400, 64, 3136),
            (1 << 22, 512, 1),
            (1 << 20, 4, 1025),
            (1 << 30, 4, 1),
            (3 << 30, 1, 1),
            (1 << 15, 65536, 1),
        ] {
            let plan = plan(outer, channels, inner, &profile).unwrap();
            let small = plan.workspace_size() <= workspace_bound(&plan);
            assert!(plan.window_count() > 1 && small, "{class:?} {outer}×{channels}×{inner}");
        }
    }
}

#[test]
fn tensors_beyond_one_binding_are_cut_from_the_exact_byte() {
    let profile =
        DeviceProfile { max_storage_buffer_binding_size: 4096, ..DeviceProfile::webgpu(AdapterClass::Discrete) };
    assert_eq!(plan(256, 4, 1, &profile).unwrap().window_count(), 1);
    assert_eq!(plan(205, 5, 1, &profile).unwrap().window_count(), 2);
    let profile = DeviceProfile { max_window_size: 4096, ..DeviceProfile::webgpu(AdapterClass::Discrete) };
    assert_eq!(plan(256, 4, 1, &profile).unwrap().window_count(), 1);
    assert_eq!(plan(205, 5, 1, &profile).unwrap().window_count(), 2);
}

/// 16-bit rows that share words are cut every four outer steps at most, whatever dispatches should go over; but for what a binding
/// holds.
#[test]
fn a_cap_that_is_smaller_than_any_window_gives_way_and_limits_do_not() {
    let usual = DeviceProfile::webgpu(AdapterClass::Discrete);
    let plan = |outer, max_window_size, max_storage_buffer_binding_size| {
        let profile = DeviceProfile { max_window_size, max_storage_buffer_binding_size, ..usual };
        let descriptor = BatchNormDescriptor { channels: 5, element: ElementType::Bf16, ..Default::default() };
        Plan::new(&descriptor, &Shape::flat(outer, 5, 333), &profile)
    };
    // Four steps of 5·333 elements are 13,320 bytes; what is bound is up to an alignment and a unit more.
    let least = 13_320 + 256 + 8;
    let binding = usual.max_storage_buffer_binding_size;
    for (outer, windows) in [(4, 1), (8, 2), (11, 3), (400, 100)] {
        let planned = plan(outer, 1 << 10, binding).unwrap();
        assert_eq!(planned.window_count(), windows, "{outer}");
        check_limits(&planned, &planned.profile).unwrap();
        if windows > 1 {
            check_window_coverage(&planned).unwrap();
        }
    }
    assert_eq!(plan(8, 1 << 10, least).unwrap().window_count(), 2);
    let limit = "max_storage_buffer_binding_size";
    let refused = Error::LimitExceeded { limit, required: least, available: least - 4 };
    assert_eq!(plan(8, 1 << 10, least - 4), Err(refused.clone()));
    assert_eq!(plan(8, 1 << 30, least - 4), Err(refused));
}

/// In columns, where channels are cut, every window has tiles for its own channels only.
#[test]
fn a_last_window_of_fewer_channels_has_fewer_tiles() {
    let profile = |class| DeviceProfile { max_window_size: 8 << 10, ..DeviceProfile::webgpu(class) };
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        for (outer, channels, inner) in [(1, 2650, 4), (3, 700, 8), (2, 1000, 12)] {
            let plan = plan(outer, channels, inner, &profile(class)).unwrap();
            let strategy = plan.strategy(Operation::Training);
            let by_columns = matches!(strategy, Some(Strategy::Split { reduction: Family::Columns, .. }));
            assert!(by_columns, "{class:?}: the case that this is about, not {strategy:?}");
            check_window_coverage(&plan).unwrap();
        }
    }
}

/// Slots and windows together stay within what an invocation merges and what a binding holds.
#[test]
fn large_tensors_have_few_slots_a_window() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for (outer, channels, inner) in [(1 << 37, 4, 1), (1, 1, 1 << 39), (3 << 36, 3, 1), (10_000, 100_001, 1)] {
            let plan = plan(outer, channels, inner, &profile).unwrap();
            assert!(plan.window_count() > 1, "{class:?} {outer}×{channels}×{inner}");
            let first = *plan.training(TrainingOptions::default()).unwrap().first().unwrap();
            let merged = u64::from(first.params.slots).div_ceil(u64::from(profile.finalize_workgroup_size()));
            assert!(merged <= 1 << 14, "{class:?} {outer}×{channels}×{inner}: {merged}");
            assert!(plan.workspace().partials_with_parameters().end <= profile.max_storage_buffer_binding_size);
        }
    }
}

#[test]
fn limits_below_what_webgpu_guarantees_are_named() {
    let webgpu = DeviceProfile::webgpu(AdapterClass::Integrated);
    let few_buffers = DeviceProfile { max_storage_buffers_per_shader_stage: 4, ..webgpu };
    let no_memory = DeviceProfile { max_compute_workgroup_storage_size: 0, ..webgpu };
    let no_groups = DeviceProfile { max_compute_workgroups_per_dimension: 0, ..webgpu };
    for (profile, name) in [
        (few_buffers, "max_storage_buffers_per_shader_stage"),
        (no_memory, "max_compute_workgroup_storage_size"),
        (no_groups, "max_compute_workgroups_per_dimension"),
    ] {
        let result = plan(4, 4, 4, &profile).and_then(|plan| plan.inference(InferenceOptions::default()));
        assert!(matches!(result, Err(Error::LimitExceeded { limit, .. }) if limit == name), "{result:?}");
    }
}

#[test]
fn optional_parts_decide_the_dispatches() {
    let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
    let descriptor = BatchNormDescriptor { channels: 4, ..Default::default() };
    let split = Some(Strategy::Split { reduction: Family::Columns, elementwise: Family::Columns });
    let strategies = Strategies { training: split, backward: split, ..Default::default() };
    let plan = Plan::with_strategies(&descriptor, &Shape::flat(8, 4, 8), &profile, strategies).unwrap();
    let only = |options: BackwardOptions| {
        (plan.backward(options).unwrap().len(), plan.backward_frozen(options).unwrap().len())
    };
    let input =
        BackwardOptions { saved: true, input: true, input_gradient: GradientMode::Overwrite, ..Default::default() };
    assert_eq!(only(input), (2, 1), "the frozen input gradient needs no reduction");
    assert_eq!(
        only(BackwardOptions { saved: false, ..input }),
        (4, 1),
        "without saved statistics they are taken again"
    );
    let gamma =
        BackwardOptions { saved: true, input: true, gamma_gradient: GradientMode::Accumulate, ..Default::default() };
    assert_eq!(only(gamma), (2, 2), "no input gradient, no elementwise kernel");
    assert_eq!(plan.backward(BackwardOptions::default()), Err(Error::NoGradientRequested));
    let counted = TrainingOptions { running: true, batches_tracked: true, ..Default::default() };
    assert_eq!(plan.training(counted).unwrap().len(), 2, "the reduction counts the batch");
    let counts = |options| {
        let dispatches = plan.training(options).unwrap();
        dispatches.iter().filter(|dispatch| dispatch.params.flags & Params::COUNTS_BATCH != 0).count()
    };
    assert_eq!(counts(counted), 1);
    assert_eq!(counts(TrainingOptions { batches_tracked: false, ..counted }), 0);
    assert_eq!(counts(TrainingOptions { running: false, ..counted }), 0);
}

#[test]
fn a_cumulative_average_in_one_dispatch_is_counted_by_a_second() {
    let convention = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
    let options = TrainingOptions { running: true, batches_tracked: true, ..Default::default() };
    let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
    let dispatches = |convention| {
        let descriptor = BatchNormDescriptor { channels: 64, convention, ..Default::default() };
        let plan = Plan::new(&descriptor, &Shape::flat(8, 64, 16), &profile).unwrap();
        assert!(
            matches!(plan.strategy(Operation::Training), Some(Strategy::Resident(_))),
            "the case that this is about"
        );
        plan.training(options).unwrap()
    };
    assert_eq!(dispatches(Convention::pytorch()).len(), 1);
    let kernels: Vec<_> = dispatches(convention).iter().map(|dispatch| dispatch.kernel).collect();
    assert!(matches!(kernels[..], [Kernel::Resident(..), Kernel::CountBatch]), "{kernels:?}");
}

#[test]
fn policies_decide_about_one_sample_and_none() {
    let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
    let with = |convention| {
        let descriptor = BatchNormDescriptor { channels: 3, convention, ..Default::default() };
        move |outer| Plan::new(&descriptor, &Shape::flat(outer, 3, 1), &profile).unwrap()
    };
    let training = TrainingOptions { running: true, ..Default::default() };
    let torch = with(Convention::pytorch());
    assert_eq!(torch(1).training(training), Err(Error::OneSample));
    assert_eq!(torch(1).backward(EVERYTHING), Err(Error::OneSample));
    assert!(torch(1).inference(InferenceOptions::default()).is_ok() && torch(1).backward_frozen(EVERYTHING).is_ok());
    let empty = torch(0);
    assert_eq!(empty.training(training), Ok(Vec::new()));
    assert_eq!(empty.backward(EVERYTHING).unwrap().len(), 1, "zero dgamma and dbeta");

    let updates = |dispatches: Vec<Dispatch>| dispatches.iter().any(|d| d.params.flags & Params::UPDATES_RUNNING != 0);
    let lenient = with(Convention::onnx());
    assert!(updates(lenient(1).training(training).unwrap()));
    let skip = Convention { one_sample: OneSamplePolicy::SkipRunningUpdate, ..Convention::pytorch() };
    assert!(!updates(with(skip)(1).training(training).unwrap()));
    let cumulative = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
    assert_eq!(with(cumulative)(2).training(training), Err(Error::MissingBatchesTracked));
}

/// The choices for training and backward, and the family of inference, on both sides of every threshold of the tables.
#[test]
fn selection_changes_exactly_at_its_thresholds() {
    use AdapterClass::{Cpu, Discrete};
    use Family::{Columns, Quads, Rows};
    let split = |reduction, elementwise| Strategy::Split { reduction, elementwise };
    let (rows, columns) = (Strategy::ChannelLoop(Rows), Strategy::ChannelLoop(Columns));
    let quads = Strategy::ChannelLoop(Quads);
    let resident = Strategy::Resident;
    // (class, outer, channels, inner, training, backward, inference)
    let cases = [
        // Rows that share units are walked as quads, if channels come in fours; of up to 8,192 elements, and with four workgroups.
        (Cpu, 9, 64, 3, columns, columns, Columns),
        // Few whole rows of 4 elements and more are walked as rows if there are 32 channels.
        (Cpu, 512, 64, 4, rows, rows, Rows),
        (Cpu, 513, 64, 4, columns, split(Columns, Columns), Columns),
        (Cpu, 99, 64, 4, rows, rows, Rows),
        (Cpu, 99, 64, 12, rows, rows, Rows),
        (Cpu, 99, 32, 12, rows, rows, Rows),
        (Cpu, 99, 31, 12, columns, columns, Columns),
        (Cpu, 99, 66, 10, columns, columns, Columns),
        (Cpu, 9, 64, 5, quads, quads, Quads),
        (Cpu, 9, 64, 15, quads, quads, Quads),
        (Cpu, 9, 64, 17, quads, quads, Quads),
        (Cpu, 9, 66, 17, rows, rows, Rows),
        // Short ones where rows are few.
        (Cpu, 64, 128, 15, quads, quads, Quads),
        (Cpu, 65, 128, 15, columns, columns, Quads),
        (Cpu, 512, 128, 17, quads, quads, Quads),
        (Cpu, 513, 128, 17, quads, quads, Columns),
        (Cpu, 513, 128, 65, quads, quads, Quads),
        (Cpu, 1, 2048, 49, quads, quads, Quads),
        (Cpu, 9, 16, 8191, quads, quads, Quads),
        (Cpu, 9, 16, 8193, rows, rows, Rows),
        (Cpu, 9, 12, 8191, rows, rows, Quads),
        // Rows of 16 elements and more are walked as rows in one dispatch.
        (Cpu, 9, 64, 16, rows, rows, Rows),
        (Cpu, 9, 66, 14, columns, columns, Columns),
        // So does inference where they are whole units, and from 64 on where they are not.
        (Cpu, 9, 64, 60, rows, rows, Rows),
        (Cpu, 9, 66, 62, rows, rows, Columns),
        (Cpu, 9, 64, 64, rows, rows, Rows),
        (Cpu, 9, 66, 66, rows, rows, Rows),
        (Cpu, 9, 64, 68, rows, rows, Rows),
        // Up to seven super-rows are too short for columns; four trips of an invocation are held.
        (Cpu, 7, 64, 16, rows, rows, Rows),
        (Cpu, 8, 64, 16, rows, rows, Rows),
        (Cpu, 16, 66, 18, rows, rows, Columns),
        (Cpu, 3, 64, 16, resident(Rows), resident(Rows), Rows),
        (Cpu, 4, 64, 16, resident(Rows), resident(Rows), Rows),
        (Cpu, 5, 64, 16, rows, rows, Rows),
        (Cpu, 1, 68, 15, quads, quads, Quads),
        (Cpu, 1, 66, 14, columns, columns, Columns),
        // Columns of up to 1,024 super-rows are walked in one dispatch, if there are at least four tiles of them.
        (Cpu, 1024, 256, 1, columns, split(Columns, Columns), Columns),
        (Cpu, 1025, 256, 1, split(Columns, Columns), split(Columns, Columns), Columns),
        (Cpu, 1024, 252, 1, columns, split(Columns, Columns), Columns),
        (Cpu, 1023, 128, 1, columns, split(Columns, Columns), Columns),
        (Cpu, 512, 256, 1, columns, columns, Columns),
        (Cpu, 513, 256, 1, columns, split(Columns, Columns), Columns),
        (Cpu, 1024, 12, 1, columns, split(Columns, Columns), Columns),
        // Without four channels' worth of workgroups rows are cut, unless the tensor is small.
        (Cpu, 1, 3, 21_844, rows, rows, Rows),
        (Cpu, 1, 3, 21_848, split(Rows, Rows), split(Rows, Rows), Rows),
        (Cpu, 1, 4, 21_848, rows, rows, Rows),
        // GPUs: registers hold channels of 4 trips of 256 invocations of 4 units of 4 elements.
        (Discrete, 64, 32, 256, resident(Rows), split(Rows, Rows), Rows),
        (Discrete, 65, 32, 256, split(Rows, Rows), split(Rows, Rows), Rows),
        (Discrete, 64, 31, 256, split(Rows, Rows), split(Rows, Rows), Rows),
        (Discrete, 8, 512, 15, resident(Columns), resident(Columns), Columns),
        (Discrete, 8, 512, 16, resident(Rows), resident(Rows), Columns),
        (Discrete, 8, 512, 17, resident(Rows), resident(Rows), Columns),
        (Discrete, 32, 32, 256, resident(Rows), resident(Rows), Rows),
        (Discrete, 33, 32, 256, resident(Rows), split(Rows, Rows), Rows),
        // Columns: four lanes at least, so 64 positions of 16 rows, of 8 in backward.
        (Discrete, 1024, 512, 1, resident(Columns), split(Columns, Columns), Columns),
        (Discrete, 512, 512, 1, resident(Columns), resident(Columns), Columns),
        (Discrete, 513, 512, 1, resident(Columns), split(Columns, Columns), Columns),
        (Discrete, 1025, 512, 1, split(Columns, Columns), split(Columns, Columns), Columns),
        (Discrete, 200_000, 4, 16, split(Rows, Columns), split(Rows, Columns), Columns),
        (Discrete, 200_000, 4, 15, split(Columns, Columns), split(Columns, Columns), Columns),
        (Discrete, 7, 4, 60_000, split(Rows, Rows), split(Rows, Rows), Rows),
        (Discrete, 1, 1, 65_536, split(Rows, Rows), split(Rows, Rows), Rows),
        (Discrete, 1, 4, 16_384, resident(Rows), split(Rows, Rows), Rows),
    ];
    for (class, outer, channels, inner, training, backward, inference) in cases {
        let plan = plan(outer, channels, inner, &DeviceProfile::webgpu(class)).unwrap();
        let place = format!("{class:?} {outer}×{channels}×{inner}");
        assert_eq!(plan.strategy(Operation::Training), Some(training), "{place}");
        assert_eq!(plan.strategy(Operation::Backward), Some(backward), "{place}");
        assert_eq!(plan.strategy(Operation::FrozenBackward), Some(backward), "{place}");
        assert_eq!(plan.inference_family(), Some(inference), "{place}");
    }
}

#[test]
fn a_strategy_that_cannot_serve_is_an_error() {
    let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
    let descriptor = BatchNormDescriptor { channels: 3, ..Default::default() };
    let shape = Shape::flat(64, 3, 4096);
    for strategy in Strategy::ALL {
        let listed = Plan::strategies(&descriptor, &shape, &profile, Operation::Training).unwrap().contains(&strategy);
        let pinned = Strategies { training: Some(strategy), ..Default::default() };
        match Plan::with_strategies(&descriptor, &shape, &profile, pinned) {
            Ok(plan) => assert!(listed && plan.strategy(Operation::Training) == Some(strategy), "{strategy}"),
            Err(error) => {
                assert!(!listed, "{strategy}");
                assert_eq!(error, Error::StrategyNotServed { strategy });
            }
        }
    }
    let held = Plan::strategies(&descriptor, &Shape::flat(64, 3, 64), &profile, Operation::Training).unwrap();
    assert!(held.contains(&Strategy::Resident(Family::Rows)), "{held:?}");
}

#[test]
fn partials_of_many_slots_are_merged_by_a_dispatch_of_their_own() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        let split = |family| Some(Strategy::Split { reduction: family, elementwise: family });
        let dispatches = |outer, channels, inner, family| {
            let descriptor = BatchNormDescriptor { channels, ..Default::default() };
            let strategies = Strategies { training: split(family), backward: split(family), ..Default::default() };
            let shape = Shape::flat(outer, channels as usize, inner);
            let plan = Plan::with_strategies(&descriptor, &shape, &profile, strategies).unwrap();
            [plan.training(TrainingOptions::default()), plan.backward(BackwardOptions { saved: true, ..EVERYTHING })]
                .map(Result::unwrap)
        };
        for dispatches in dispatches(3000, 32, 1, Family::Columns) {
            let kernels: Vec<_> = dispatches.iter().map(|dispatch| dispatch.kernel).collect();
            if class == AdapterClass::Cpu {
                // Cut into so few that every workgroup of the map may merge them.
                assert_eq!((kernels.len(), dispatches[1].params.slots), (2, 6), "{kernels:?}");
                continue;
            }
            let apart =
                matches!(kernels[..], [Kernel::Reduce(..), Kernel::MergePartials(_), Kernel::MergeAndApply(..)]);
            assert!(apart, "{class:?}: {kernels:?}");
            let (many, one) = (dispatches[0].params, dispatches[2].params);
            assert!(many.slots > 4 && one.slots == 1, "{class:?}");
            assert_eq!(one.partials_base, many.slots * 32 + 1, "past the slots and the batch count");
        }
        for dispatches in dispatches(16, 3, 224 * 224, Family::Rows) {
            assert_eq!(dispatches.len(), 2, "{class:?}: a map of this size may merge them first");
        }
    }
}

#[test]
fn partials_that_do_not_fit_a_binding_leave_the_shape_to_rows() {
    let columns = Strategy::Split { reduction: Family::Columns, elementwise: Family::Columns };
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let profile = DeviceProfile::webgpu(class);
        for (outer, channels) in [(16, 2_000_001), (16, 1_690_001), (19, 1_700_001), (8, 4_000_002), (11, 2_800_002)] {
            let plan = plan(outer, channels, 1, &profile).unwrap();
            let bound = plan.workspace().partials_with_parameters();
            assert!(bound.end <= profile.max_storage_buffer_binding_size, "{class:?} {channels}");
        }
        let descriptor = BatchNormDescriptor { channels: 2_000_001, ..Default::default() };
        let pinned = Strategies { training: Some(columns), ..Default::default() };
        let refused = Plan::with_strategies(&descriptor, &Shape::flat(16, 2_000_001, 1), &profile, pinned);
        assert_eq!(refused, Err(Error::StrategyNotServed { strategy: columns }), "{class:?}");
    }
}
