//! Machines that are not at hand: adapters with any limits, features and sizes of subgroups, as wgpu's noop backend fakes them, of
//! every class.

use wgpu::{Features, Limits};

use super::aliasing::{ALIGNMENT, Given, operations};
use super::*;

#[derive(Clone, Debug)]
struct Machine {
    /// Told to the kernels: wgpu's noop backend has an option for the kind of a device, but says of any that it is a processor.
    class: AdapterClass,
    limits: Limits,
    features: Features,
    /// The least and the most invocations of a subgroup.
    subgroups: [u32; 2],
}

impl Machine {
    /// As little as WebGPU lets there be.
    fn webgpu(class: AdapterClass) -> Self {
        Self { class, limits: Limits::default(), features: Features::empty(), subgroups: [4, 128] }
    }

    /// A device with all that the adapter has, and kernels for it.
    fn open(&self) -> (Noop, Kernels) {
        let noop = wgpu::NoopBackendOptions {
            enable: true,
            limits: Some(self.limits.clone()),
            features: Some(self.features),
            subgroup_min_size: Some(self.subgroups[0]),
            subgroup_max_size: Some(self.subgroups[1]),
            ..Default::default()
        };
        let (_, adapter) = instance(noop);
        let info = adapter.get_info();
        assert_eq!([info.subgroup_min_size, info.subgroup_max_size], self.subgroups);
        let (required_limits, required_features) = (adapter.limits(), adapter.features());
        assert_eq!((&required_limits, required_features), (&self.limits, self.features));
        let descriptor = wgpu::DeviceDescriptor { required_limits, required_features, ..Default::default() };
        let noop = Noop::open(adapter, &descriptor);
        let descriptor = KernelsDescriptor { class: Some(self.class), ..Default::default() };
        let kernels = Kernels::with_descriptor(&noop.device, &descriptor);
        (noop, kernels)
    }
}

const CLASSES: [AdapterClass; 3] = [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu];

/// Rows, columns, unaligned rows, and elements that fill no unit.
const SHAPES: [[usize; 3]; 4] = [[8, 64, 16], [33, 12, 5], [2, 70, 65], [3, 5, 7]];

/// Every shape.
fn plan_everything(kernels: &Kernels, element: ElementType) -> [(BatchNorm, Plan); SHAPES.len()] {
    SHAPES.map(|shape| {
        // Has a derivative from every source, and an inverse.
        let activation = Activation::LeakyRelu { slope: 0.1 };
        let channels = shape[1] as u32;
        let descriptor = BatchNormDescriptor { channels, element, activation, ..Default::default() };
        let bn = BatchNorm::with_kernels(kernels, &descriptor).unwrap();
        let plan = bn.plan(&Shape::new(&shape).unwrap()).unwrap();
        (bn, plan)
    })
}

/// Plans every shape and records every operation, from buffers of their own and from one pooled buffer.
fn run_everything((noop, kernels): &(Noop, Kernels), element: ElementType) {
    for (bn, plan) in plan_everything(kernels, element) {
        for operation in operations(&plan) {
            let own: Vec<_> = operation.places.iter().map(|place| noop.storage(place.size)).collect();
            let pool = noop.storage(operation.places.iter().map(|p| p.size.next_multiple_of(ALIGNMENT)).sum());
            let mut end = 0;
            let pooled: Vec<_> = (operation.places.iter())
                .map(|place| {
                    let start = end;
                    end = (start + place.size).next_multiple_of(ALIGNMENT);
                    pool.slice(start..start + place.size)
                })
                .collect();
            for slices in [own.iter().map(|buffer| buffer.slice(..)).collect(), pooled] {
                let record = (operation.bind)(&bn, &plan, &Given::all(&slices))
                    .unwrap_or_else(|error| panic!("{:?} {element}: {}: {error}", plan.problem(), operation.name));
                noop.run(|pass| record(pass));
                noop.assert_quiet();
            }
        }
    }
}

#[test]
fn the_class_is_that_of_the_adapter_unless_the_descriptor_says_another() {
    let (noop, _) = Machine::webgpu(AdapterClass::Discrete).open();
    assert_eq!(noop.adapter.get_info().device_type, wgpu::DeviceType::Cpu);
    assert_eq!(Kernels::new(&noop.device).profile().class, AdapterClass::Cpu);
    for class in CLASSES {
        let descriptor = KernelsDescriptor { class: Some(class), ..Default::default() };
        assert_eq!(Kernels::with_descriptor(&noop.device, &descriptor).profile().class, class);
    }
}

#[test]
fn plans_are_the_same_with_all_features_and_with_none_and_with_subgroups_of_any_size() {
    let all = Features::all().difference(Features::all_experimental_mask());
    let sizes = [[4, 4], [8, 8], [16, 16], [32, 32], [64, 64], [128, 128], [4, 128]];
    for (turn, class) in (0..).zip(CLASSES) {
        let usual = Machine::webgpu(class);
        let expected = plan_everything(&usual.open().1, ElementType::F16).map(|(_, plan)| plan);
        for (index, subgroups) in (0..).zip(sizes) {
            for features in [Features::empty(), all] {
                let machine = Machine { features, subgroups, ..usual.clone() }.open();
                let plans = plan_everything(&machine.1, ElementType::F16).map(|(_, plan)| plan);
                assert!(plans == expected, "{class:?} {subgroups:?} {features:?}");
                // Each size with one of the classes, since pipelines take a second or two.
                if index % 3 == turn && features == all {
                    run_everything(&machine, ElementType::F16);
                }
            }
        }
    }
}

/// Fewer of everything than WebGPU guarantees, but for bindings.
fn small() -> Limits {
    Limits {
        max_compute_invocations_per_workgroup: 64,
        max_compute_workgroup_size_x: 64,
        max_compute_workgroup_storage_size: 4 << 10,
        max_compute_workgroups_per_dimension: 64,
        max_storage_buffer_binding_size: 32 << 10,
        ..Limits::default()
    }
}

/// What large GPUs have.
fn large() -> Limits {
    Limits {
        max_storage_buffers_per_shader_stage: 64,
        max_compute_invocations_per_workgroup: 1024,
        max_compute_workgroup_size_x: 1024,
        max_compute_workgroup_storage_size: 64 << 10,
        max_storage_buffer_binding_size: (4 << 30) - 4,
        max_buffer_size: u64::from(u32::MAX),
        max_uniform_buffer_binding_size: 1 << 20,
        min_storage_buffer_offset_alignment: 32,
        min_uniform_buffer_offset_alignment: 32,
        ..Limits::default()
    }
}

#[test]
fn every_operation_runs_within_the_limits_of_any_machine() {
    for class in CLASSES {
        for limits in [Limits::default(), small(), large()] {
            let machine = Machine { limits, ..Machine::webgpu(class) }.open();
            for element in ElementType::ALL {
                run_everything(&machine, element);
            }
        }
    }
}

#[test]
fn a_machine_with_more_is_given_larger_windows_fewer_dispatches_and_wider_workgroups() {
    for class in CLASSES {
        let [webgpu, small, large] =
            [Limits::default(), small(), large()].map(|limits| Machine { limits, ..Machine::webgpu(class) }.open());
        let bn = |(_, kernels): &(Noop, Kernels)| {
            let descriptor = BatchNormDescriptor { channels: 64, activation: Activation::Silu, ..Default::default() };
            BatchNorm::with_kernels(kernels, &descriptor).unwrap()
        };
        // 320 MiB: three bindings of 128 MiB.
        let long = Shape::flat(5 << 18, 64, 1);
        let windows = |machine| bn(machine).plan(&long).unwrap().window_count();
        assert_eq!((windows(&webgpu), windows(&large)), (3, 1), "{class:?}");
        // An activation that is recomputed in a backward through frozen statistics takes nine bindings at once.
        let dispatches = |machine: &(Noop, Kernels)| {
            let bn = bn(machine);
            let plan = bn.plan(&Shape::new(&[2, 64, 16]).unwrap()).unwrap();
            let roles = Roles::new(&machine.0, &plan);
            bn.bind_backward_frozen(&plan, &roles.frozen()).unwrap().dispatch_count()
        };
        assert_eq!((dispatches(&webgpu), dispatches(&large)), (2, 1), "{class:?}");
        // A channel that 256 invocations hold and 64 do not.
        let held = |machine| {
            let bn = bn(machine);
            bn.plan(&Shape::new(&[16, 64, 256]).unwrap()).unwrap().strategy(wgpu_batch_norm::Operation::Training)
        };
        if class != AdapterClass::Cpu {
            assert_eq!(held(&webgpu), Some(Strategy::Resident(Family::Rows)), "{class:?}");
            assert_ne!(held(&small), held(&webgpu), "{class:?}");
        }
    }
}
