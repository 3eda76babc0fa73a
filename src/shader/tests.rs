//! The WGSL and its Rust side, compared by reflection.

use std::collections::BTreeMap;
use std::mem::offset_of;

use naga::{AddressSpace, Expression, Literal, StorageAccess, TypeInner};

use super::Variant;
use crate::plan::{Kernel, Params, Role};

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
            .kernel
            .bindings()
            .into_iter()
            .map(|(role, written)| (role.binding(), (name_of(role).to_owned(), written || variant.pooled)))
            .collect();
        assert_eq!(declared, expected, "{}", variant.name());
        assert!(expected.len() <= 8, "{}: WebGPU guarantees 8 storage buffers", variant.name());
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
        Role::Gamma => "gamma",
        Role::Beta => "beta",
        Role::Partials => "partials",
        Role::GammaGradient => "gamma_gradient",
        Role::BetaGradient => "beta_gradient",
        Role::BatchesTracked => "batches_tracked",
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
        trips_in_step
    );
    for variant in Variant::all().filter(|variant| variant.kernel.has_params()) {
        let module = parse(variant);
        let (_, params) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
        let TypeInner::Struct { members, span } = &params.inner else { panic!("Params is a struct") };
        let declared: Vec<_> =
            members[..expected.len()].iter().map(|member| (member.name.clone().unwrap(), member.offset)).collect();
        assert_eq!(declared, expected, "{}", variant.name());
        assert_eq!(*span as usize, size_of::<Params>());
    }
}

#[test]
fn flags_have_the_same_values_in_rust_and_wgsl() {
    let variant = Variant::all().find(|variant| matches!(variant.kernel, Kernel::Apply(..))).unwrap();
    let module = parse(variant);
    let declared: BTreeMap<String, u32> = module
        .constants
        .iter()
        .filter_map(|(_, constant)| match module.global_expressions[constant.init] {
            Expression::Literal(Literal::U32(value)) => Some((constant.name.clone()?, value)),
            _ => None,
        })
        .collect();
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
        ("ACCUMULATES_INPUT_GRADIENT", Params::ACCUMULATES_INPUT_GRADIENT),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    assert_eq!(declared, expected);
}
