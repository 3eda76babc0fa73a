//! What has failed in other systems, as far as no device is needed to see it; `docs/failures.md` has the list.

use wgpu_batch_norm::shader::Variant;

use super::*;

#[test]
fn saved_statistics_and_vectors_have_one_size_whatever_tensors_are_stored_as() {
    let noop = Noop::new();
    for element in ElementType::ALL {
        let descriptor = BatchNormDescriptor { channels: 64, element, ..Default::default() };
        let bn = BatchNorm::new(&noop.device, &descriptor).unwrap();
        let plan = bn.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
        // All that backward needs beside x: 16 bytes a channel, and nothing of the tensor's size.
        assert_eq!(
            (plan.saved_size(), plan.vector_size(), plan.running_size()),
            (64 * 16, 64 * 4, 64 * 4),
            "{element}"
        );
        let roles = Roles::new(&noop, &plan);
        assert!(bn.bind_training(&plan, &roles.training()).is_ok());
        // In 16 bits, which is refused before anything is recorded.
        type Put<'a> = fn(&mut TrainingBuffers<'a>, wgpu::BufferSlice<'a>);
        let places: [(&str, u64, Put<'_>); 5] = [
            ("saved", plan.saved_size(), |b, s| b.saved = Some(s)),
            ("gamma", plan.vector_size(), |b, s| b.gamma = Some(s)),
            ("beta", plan.vector_size(), |b, s| b.beta = Some(s)),
            ("running.mean", plan.running_size(), |b, s| b.running.as_mut().unwrap().mean = s),
            ("running.variance", plan.running_size(), |b, s| b.running.as_mut().unwrap().variance = s),
        ];
        let half = places.map(|(_, size, _)| noop.storage(size / 2));
        for ((name, size, put), half) in places.into_iter().zip(&half) {
            let mut buffers = roles.training();
            put(&mut buffers, half.slice(..));
            let refused = Error::WrongSize { binding: name, expected: size, actual: size / 2 };
            assert_eq!(bn.bind_training(&plan, &buffers).map(drop), Err(refused), "{element}");
        }
    }
    noop.assert_quiet();
}

#[test]
fn sizes_around_every_power_of_two_are_exact_or_refused() {
    // Limits as generous as they come, so that nothing but arithmetic stands in the way.
    let profile = wgpu_batch_norm::DeviceProfile {
        max_storage_buffer_binding_size: u64::MAX,
        ..*Kernels::new(&Noop::new().device).profile()
    };
    let (mut planned, mut refused) = (0, 0);
    for bits in 20..63_u32 {
        for (delta, channels) in [(-1_i64, 1), (0, 1), (1, 1), (0, 64), (64, 64)] {
            let elements = (1_i64 << bits) + delta;
            let rows = elements as usize / channels;
            for (outer, inner) in [(rows, 1), (1, rows)] {
                for element in ElementType::ALL {
                    let descriptor = BatchNormDescriptor { channels: channels as u32, element, ..Default::default() };
                    let plan = Plan::new(&descriptor, &Shape::flat(outer, channels, inner), &profile);
                    let name = format!("2^{bits} {delta:+}, {channels} channels, {inner} inner, {element}");
                    match plan {
                        Ok(plan) => {
                            let bytes = if element == ElementType::F32 { 4 } else { 2 };
                            let size = (outer * channels * inner) as u64 * bytes;
                            assert_eq!(plan.tensor_size(), size.next_multiple_of(4), "{name}");
                            assert!(plan.workspace_size() < size.max(1 << 20), "{name}");
                            planned += 1;
                        }
                        Err(Error::LimitExceeded { required, available, .. }) => {
                            assert!(required > available, "{name}");
                            refused += 1;
                        }
                        Err(Error::TooManyWindows { windows, most }) => {
                            assert!(windows > most, "{name}");
                            refused += 1;
                        }
                        Err(Error::ShapeTooLarge { .. }) => refused += 1,
                        Err(error) => panic!("{name}: {error}"),
                    }
                }
            }
        }
    }
    assert!(planned > 300 && refused > 0, "{planned} planned, {refused} refused");
}

#[test]
fn a_tensor_beyond_one_binding_is_served_in_windows() {
    let noop = Noop::new();
    let most = noop.device.limits().max_storage_buffer_binding_size;
    let bn = BatchNorm::new(&noop.device, &BatchNormDescriptor { channels: 32, ..Default::default() }).unwrap();
    for (rows, windows) in [(most / 128, 1), (most / 128 + 1, 2)] {
        let plan = bn.plan(&Shape::flat(rows as usize, 32, 1)).unwrap();
        assert_eq!((plan.tensor_size(), plan.window_count()), (128 * rows, windows));
        let [x, y] = [(); 2].map(|()| noop.storage(plan.tensor_size()));
        let workspace = noop.storage(plan.workspace_size());
        let buffers = TrainingBuffers::new(x.slice(..), y.slice(..), workspace.slice(..));
        let step = bn.bind_training(&plan, &buffers).unwrap();
        noop.run(|pass| step.record(pass));
        noop.assert_quiet();
    }
}

#[test]
fn shapes_epsilon_and_momentum_need_no_pipelines_of_their_own() {
    let (noop, compiled) = Noop::counting_pipelines();
    let kernels = Kernels::new(&noop.device);
    let bind = |convention, shape: [usize; 4]| {
        let descriptor = BatchNormDescriptor { channels: shape[1] as u32, convention, ..Default::default() };
        let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
        let plan = bn.plan(&Shape::new(&shape).unwrap()).unwrap();
        let roles = Roles::new(&noop, &plan);
        bn.bind_training(&plan, &roles.training()).unwrap();
        bn.bind_inference(&plan, &roles.inference()).unwrap();
        bn.bind_backward(&plan, &roles.backward()).unwrap();
        bn.bind_backward_frozen(&plan, &roles.frozen()).unwrap();
    };
    bind(Convention::pytorch(), [8, 64, 32, 32]);
    let first = compiled();
    assert!((4..=16).contains(&first), "{first} pipelines");
    for convention in [Convention::pytorch(), Convention::keras(), Convention::onnx()] {
        for shape in [[8, 64, 32, 32], [9, 64, 32, 32], [8, 72, 32, 32], [8, 64, 36, 32], [16, 64, 32, 64]] {
            bind(convention, shape);
        }
    }
    // A strategy may change with the shape, and brings kernels of its own; the number of shapes does not matter.
    assert!(compiled() <= 2 * first, "{} pipelines after {first}", compiled());
    noop.assert_quiet();
}

/// Software drivers keep workgroups in step where a tensor is larger than caches, by a constant of the pipeline; where a workgroup
/// holds its channels in registers there is no loop to do so in.
#[test]
fn kernels_that_hold_their_blocks_are_compiled_once_for_small_and_for_large_tensors() {
    let (noop, compiled) = Noop::counting_pipelines();
    let descriptor = KernelsDescriptor { class: Some(AdapterClass::Cpu), ..Default::default() };
    let kernels = Kernels::with_descriptor(&noop.device, &descriptor);
    // Just below and above what caches hold, and in the loop more trips than are not waited for. Elements of a channel beside each
    // other, since spans wait for nobody.
    let cases = [
        (Strategy::Resident(Family::Columns), 16, [16_000, 17_000], 1),
        (Strategy::ChannelLoop(Family::Columns), 80, [3_200, 3_400], 2),
    ];
    for (strategy, rows, channels, expected) in cases {
        let before = compiled();
        for channels in channels {
            let descriptor = BatchNormDescriptor { channels, ..Default::default() };
            let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
            let pin = Strategies { training: Some(strategy), ..Default::default() };
            let plan = bn.plan_with(&Shape::new(&[rows, channels as usize, 2]).unwrap(), pin).unwrap();
            let roles = Roles::new(&noop, &plan);
            let [x, y] = [0, 1].map(|tensor| roles.tensors[tensor].slice(..));
            bn.bind_training(&plan, &TrainingBuffers::new(x, y, roles.workspace.slice(..))).unwrap();
        }
        assert_eq!(compiled() - before, expected, "{strategy}");
    }
    noop.assert_quiet();
}

/// Pipelines are most of what a program's start costs, so an operation may not need many: a split's two, one more where it has three
/// dispatches, and one for each small dispatch beside.
#[test]
fn operations_need_few_pipelines_in_every_layout() {
    let (noop, compiled) = Noop::counting_pipelines();
    for class in [AdapterClass::Cpu, AdapterClass::Integrated, AdapterClass::Discrete] {
        for (shape, layout) in [
            (&[1024, 512][..], Layout::ChannelsFirst),
            (&[8, 64, 14, 14], Layout::ChannelsFirst),
            (&[8, 7, 7, 64], Layout::ChannelsLast),
            (&[2, 3, 112, 112], Layout::ChannelsFirst),
            (&[20, 6, 4097], Layout::ChannelsFirst),
        ] {
            // Kernels of their own for each operation, so that all it needs is compiled for it.
            let count = |bind: &dyn Fn(&BatchNorm, &Plan, &Roles)| {
                let descriptor = KernelsDescriptor { class: Some(class), ..Default::default() };
                let kernels = Kernels::with_descriptor(&noop.device, &descriptor);
                let channels = shape[layout.channel_axis(shape.len())] as u32;
                let descriptor = BatchNormDescriptor { channels, layout, ..Default::default() };
                let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
                let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
                let roles = Roles::new(&noop, &plan);
                let before = compiled();
                bind(&bn, &plan, &roles);
                compiled() - before
            };
            let counts = [
                count(&|bn, plan, roles| drop(bn.bind_training(plan, &roles.training()).unwrap())),
                count(&|bn, plan, roles| drop(bn.bind_inference(plan, &roles.inference()).unwrap())),
                count(&|bn, plan, roles| drop(bn.bind_backward(plan, &roles.backward()).unwrap())),
                count(&|bn, plan, roles| drop(bn.bind_backward_frozen(plan, &roles.frozen()).unwrap())),
            ];
            for (count, most) in counts.into_iter().zip([4, 1, 4, 3]) {
                assert!((1..=most).contains(&count), "{class:?} {shape:?} {layout:?}: {counts:?} pipelines");
            }
            println!("{class:?} {shape:?} {layout:?}: {counts:?} pipelines");
        }
    }
    noop.assert_quiet();
}

#[test]
fn shaders_use_nothing_that_differs_between_runs_or_is_not_everywhere() {
    let mut seen = 0;
    for variant in Variant::all() {
        let source = variant.source();
        let code: String =
            source.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
        // Sizes of subgroups vary, native f16 is not everywhere, rounding of the packing built-ins is the driver's.
        for word in ["subgroup", "enable ", "f16(", "<f16>", "pack2x16float", "isNan", "isInf"] {
            assert!(!code.contains(word), "{}: {word}", variant.name());
        }
        for word in ["u64", "i64", "f64"] {
            assert!(variant.double_words || !code.contains(word), "{}: {word}", variant.name());
        }
        let arrays = ["array<u64>", "array<vec2<u64>>"];
        assert_eq!(arrays.iter().any(|array| code.contains(array)), variant.double_words, "{}", variant.name());
        // Atomics of integers only, where the order does not matter.
        for (at, _) in code.match_indices("atomic<") {
            let kind = &code[at + "atomic<".len()..];
            assert!(kind.starts_with("u32>"), "{}: {}", variant.name(), &kind[..8]);
        }
        for operation in ["atomicExchange", "atomicCompareExchangeWeak", "atomicSub"] {
            assert!(!code.contains(operation), "{}: {operation}", variant.name());
        }
        seen += 1;
    }
    assert!(seen > 100);
}

#[test]
fn operations_take_as_many_dispatches_as_documented_in_every_layout() {
    let noop = Noop::new();
    let kernels = Kernels::new(&noop.device);
    for (shape, layout) in [
        (&[1024, 512][..], Layout::ChannelsFirst),
        (&[8, 64, 14, 14], Layout::ChannelsFirst),
        (&[8, 14, 14, 64], Layout::ChannelsLast),
        (&[2, 3, 112, 112], Layout::ChannelsFirst),
        (&[2, 112, 112, 3], Layout::ChannelsLast),
        (&[20, 6, 4096], Layout::ChannelsFirst),
    ] {
        let channels = shape[layout.channel_axis(shape.len())] as u32;
        let descriptor = BatchNormDescriptor { channels, layout, ..Default::default() };
        let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
        let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
        let roles = Roles::new(&noop, &plan);
        let training = bn.bind_training(&plan, &roles.training()).unwrap().dispatch_count();
        let inference = bn.bind_inference(&plan, &roles.inference()).unwrap().dispatch_count();
        let backward = bn.bind_backward(&plan, &roles.backward()).unwrap().dispatch_count();
        let frozen = FrozenBackwardBuffers { gamma_gradient: None, beta_gradient: None, ..roles.frozen() };
        let frozen = bn.bind_backward_frozen(&plan, &frozen).unwrap().dispatch_count();
        // A transposition would be one more, and a tensor that is written between would be another.
        assert!((1..=3).contains(&training) && (1..=3).contains(&backward), "{shape:?}: {training}, {backward}");
        assert_eq!((inference, frozen), (1, 1), "{shape:?}");
        // And no workspace of the tensor's size.
        assert!(plan.workspace_size() < plan.tensor_size() / 2, "{shape:?}: {}", plan.workspace_size());
    }
    noop.assert_quiet();
}
