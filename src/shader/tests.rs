//! The WGSL and its Rust side, compared by reflection.

use std::collections::BTreeMap;
use std::mem::offset_of;

use naga::{AddressSpace, Expression, Literal, StorageAccess, TypeInner};

use super::{Constants, Variant};
use crate::plan::{
    CompanionUse, DeviceProfile, Elementwise, Fusion, GradientMode, Kernel, Operation, Params, Plan, Role,
};
use crate::{Activation, AdapterClass, BatchNormDescriptor, ChannelHealth, Shape};

fn parse(variant: Variant) -> naga::Module {
    let source = variant.source();
    naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)))
}

#[test]
fn bindings_have_the_roles_numbers_and_access_that_the_host_binds() {
    for variant in Variant::all() {
        let module = parse(variant);
        let declared: BTreeMap<u32, (String, bool)> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let binding = variable.binding?.binding;
                let written = match variable.space {
                    AddressSpace::Storage { access } => access.contains(StorageAccess::STORE),
                    AddressSpace::Uniform => return None,
                    space => panic!("{}: {space:?}", variant.name()),
                };
                Some((binding, (variable.name.clone().unwrap(), written)))
            })
            .collect();
        let expected: BTreeMap<u32, (String, bool)> = variant
            .bindings()
            .into_iter()
            .map(|(role, written)| (role.binding(), (name_of(role).to_owned(), written)))
            .collect();
        assert_eq!(declared, expected, "{}", variant.name());
        // Where more is bound, the planner takes a strategy that binds less unless the device has more.
        let spare = matches!(
            variant.kernel,
            Kernel::ChannelLoop(Operation::FrozenBackward, Fusion::Activation, ..)
                | Kernel::Resident(Operation::FrozenBackward, Fusion::Activation, ..)
        );
        assert!(expected.len() <= 8 + usize::from(spare), "{}: WebGPU guarantees 8 storage buffers", variant.name());
    }
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::Input => "input",
        Role::Output => "output",
        Role::OutputGradient => "output_gradient",
        Role::InputGradient => "input_gradient",
        Role::Statistics => "statistics",
        Role::RunningMean => "running_mean",
        Role::RunningVariance => "running_variance",
        Role::GradientSums => "gradient_sums",
        Role::PartMoments => "part_moments",
        Role::MergedGradientSums => "merged_gradient_sums",
        Role::Gamma => "gamma",
        Role::Beta => "beta",
        Role::Partials => "partials",
        Role::GammaGradient => "gamma_gradient",
        Role::BetaGradient => "beta_gradient",
        Role::BatchesTracked => "batches_tracked",
        Role::Companion => "companion",
        Role::ActivationMask => "activation_mask",
        Role::ResidualGradient => "residual_gradient",
        Role::Health => "health",
        Role::LayerBias => "layer_bias",
        Role::FoldedBias => "folded_bias",
        Role::Moments => "moments",
        Role::Prepared => "prepared",
        Role::Valid => "valid",
        Role::ValidSource => "valid_source",
        Role::Renormalization => "renormalization",
        Role::RenormalizationLimits => "renormalization_limits",
        Role::InstanceGammaGradient => "instance_gamma_gradient",
        Role::InstanceBetaGradient => "instance_beta_gradient",
    }
}

macro_rules! offsets {
    ($($field:ident),*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field) as u32)),*] };
}

#[test]
fn the_parameter_block_has_the_same_layout_in_rust_and_wgsl() {
    let expected = offsets!(
        elements,
        units,
        channels,
        inner,
        outer_elements,
        groups,
        tiles,
        lanes,
        positions,
        merge_groups,
        row_units,
        extent,
        split_extent,
        step_elements,
        step_unit,
        blocks,
        repeats,
        slots,
        flags,
        epsilon,
        inverse_count,
        inverse_count_residual,
        variance_factor,
        weight_of_new,
        weight_of_old,
        slot_positions,
        slot_merge_groups,
        partials_base,
        trips_in_step,
        records_base,
        slope,
        part_channels,
        part_elements,
        part_tiles,
        steps,
        parameter_channels,
        segments,
        valid_base,
        valid_bits,
        sequence_stride,
        sequence_length,
        step_stride,
        step_length,
        position_bits
    );
    for variant in Variant::all() {
        let module = parse(variant);
        let (_, params) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
        let TypeInner::Struct { members, span } = &params.inner else { panic!("Params is a struct") };
        let declared: Vec<_> =
            members[..expected.len()].iter().map(|member| (member.name.clone().unwrap(), member.offset)).collect();
        assert_eq!(declared, expected, "{}", variant.name());
        assert_eq!(*span as usize, size_of::<Params>());
    }
}

/// The `u32` constants that a variant declares.
fn constants_of(variant: Variant) -> BTreeMap<String, u32> {
    let module = parse(variant);
    let constants = module.constants.iter();
    constants
        .filter_map(|(_, constant)| match module.global_expressions[constant.init] {
            Expression::Literal(Literal::U32(value)) => Some((constant.name.clone()?, value)),
            _ => None,
        })
        .collect()
}

fn find(kernel: impl Fn(Kernel) -> bool) -> Variant {
    Variant::all().find(|variant| kernel(variant.kernel)).unwrap()
}

#[test]
fn the_pipeline_constants_are_those_that_the_source_declares() {
    for variant in Variant::all() {
        let module = parse(variant);
        let mut declared: Vec<_> =
            module.overrides.iter().map(|(_, constant)| constant.name.clone().unwrap()).collect();
        let all = Constants {
            workgroup_size: Some(64),
            activation: Some(1),
            companion: Some(1),
            input_gradient: Some(1),
            residual_gradient: Some(1),
            brain_float: Some(true),
            keeps_in_step: Some(true),
            stores_in_turn: Some(true),
            span: Some(8),
        };
        let mut given: Vec<_> = variant.constants(all).list().into_iter().map(|(name, _)| name.to_owned()).collect();
        declared.sort();
        given.sort();
        assert_eq!(declared, given, "{}", variant.name());
    }
}

#[test]
fn codes_have_the_same_values_in_rust_and_wgsl() {
    let variant = find(|kernel| matches!(kernel, Kernel::Apply(Elementwise::Normalize(_, Fusion::Companion), ..)));
    let declared = constants_of(variant);
    let code = |activation| {
        let descriptor = BatchNormDescriptor { channels: 1, activation, ..Default::default() };
        let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
        Plan::new(&descriptor, &Shape::flat(2, 1, 1), &profile).unwrap().activation_code()
    };
    for (name, activation) in [
        ("IDENTITY", Activation::Identity),
        ("RELU", Activation::Relu),
        ("RELU", Activation::LeakyRelu { slope: 0.0 }),
        ("LEAKY_RELU", Activation::LeakyRelu { slope: 0.1 }),
        ("SILU", Activation::Silu),
        ("GELU", Activation::Gelu),
        ("GELU_TANH", Activation::GeluTanh),
    ] {
        assert_eq!(declared[name], code(activation), "{name}");
    }
    for (name, companion) in
        [("NO_COMPANION", CompanionUse::None), ("RESIDUAL", CompanionUse::Residual), ("OUTPUT", CompanionUse::Output)]
    {
        assert_eq!(declared[name], companion as u32, "{name}");
    }
    let gradients = constants_of(find(|kernel| matches!(kernel, Kernel::Apply(Elementwise::InputGradient(_), ..))));
    for (name, mode) in [("OMITTED", GradientMode::Omit), ("ACCUMULATED", GradientMode::Accumulate)] {
        assert_eq!(gradients[name], mode as u32, "{name}");
    }
    let health = constants_of(find(|kernel| kernel == Kernel::ReportHealth));
    assert_eq!(health["NON_FINITE"], ChannelHealth::NON_FINITE);
    assert_eq!(health["ZERO_VARIANCE"], ChannelHealth::ZERO_VARIANCE);
}

#[test]
fn flags_have_the_same_values_in_rust_and_wgsl() {
    // This kernel declares no other constants.
    let declared = constants_of(find(|kernel| kernel == Kernel::FoldBias));
    let expected = [
        ("HAS_GAMMA", Params::HAS_GAMMA),
        ("HAS_BETA", Params::HAS_BETA),
        ("SAVES_STATISTICS", Params::SAVES_STATISTICS),
        ("UPDATES_RUNNING", Params::UPDATES_RUNNING),
        ("CUMULATIVE", Params::CUMULATIVE),
        ("COUNTS_BATCH", Params::COUNTS_BATCH),
        ("WANTS_GAMMA_GRADIENT", Params::WANTS_GAMMA_GRADIENT),
        ("WANTS_BETA_GRADIENT", Params::WANTS_BETA_GRADIENT),
        ("ACCUMULATES_GAMMA_GRADIENT", Params::ACCUMULATES_GAMMA_GRADIENT),
        ("ACCUMULATES_BETA_GRADIENT", Params::ACCUMULATES_BETA_GRADIENT),
        ("RECORDS_PARAMETERS", Params::RECORDS_PARAMETERS),
        ("GUARDS_RUNNING", Params::GUARDS_RUNNING),
        ("HAS_LAYER_BIAS", Params::HAS_LAYER_BIAS),
        ("UNBIASED", Params::UNBIASED),
        ("HAS_VALID", Params::HAS_VALID),
        ("RENORMALIZES", Params::RENORMALIZES),
        ("SHARES_RUNNING", Params::SHARES_RUNNING),
        ("AVERAGES_SEGMENTS", Params::AVERAGES_SEGMENTS),
        ("FROM_LENGTHS", Params::FROM_LENGTHS),
        ("UPDATES_FROM_ONE", Params::UPDATES_FROM_ONE),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    assert_eq!(declared, expected);
}
