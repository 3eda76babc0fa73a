//! The module beside Burn's own, on Burn's wgpu device.

use std::sync::LazyLock;

use burn::backend::{CubeDevice, DispatchDevice};
use burn::module::Module;
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_wgpu_batch_norm::{Activation, BatchNorm, BatchNormConfig, Error, RunningVariance, Unserved, connect};

/// What Burn's results are worth, as a share of the largest value and at least of 1: it sums in f32 without pivots, over 2,048
/// values a channel here, of deviation 1 and mean 0.3. The largest difference seen on lavapipe is 3e-6. The kernels themselves
/// are held to bounds against an f64 reference in the crate's own tests.
const TOLERANCE: f64 = 1e-5;

/// The default device, which a process can start once.
static DEVICE: LazyLock<(Device, WgpuSetup)> = LazyLock::new(|| {
    let (device, setup) = Device::wgpu_options().init_with_setup().expect("these tests need a wgpu adapter");
    connect(&device, &setup).expect("the setup is the device's");
    (device, setup)
});

fn device() -> Device {
    DEVICE.0.clone()
}

/// The same wgpu device under another identity, which nobody connected.
fn unconnected() -> Device {
    Device::wgpu_options().setup(DEVICE.1.clone()).init().unwrap()
}

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    // A generator of our own: Burn's is seeded for a device, which all tests share.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // The sum of four uniform values: near enough to normal, deviation 1, mean 0.3.
    let mut normal = || ((0..4).map(|_| next()).sum::<f32>() - 2.0) * 3f32.sqrt() + 0.3;
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| normal()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    assert!(!got.is_empty(), "{what}: nothing compared");
    let scale = want.iter().fold(1.0, |scale: f64, value| scale.max(f64::from(value.abs())));
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = f64::from(got) - f64::from(want);
        assert!(error.abs() <= tolerance * scale, "{what}[{index}]: {got} and not {want}");
    }
}

/// Both modules with the same parameters, none of them 1 or 0.
fn modules(
    channels: usize,
    config: impl Fn(BatchNormConfig) -> BatchNormConfig,
    device: &Device,
) -> (BatchNorm, burn::nn::BatchNorm) {
    let mut theirs = burn::nn::BatchNormConfig::new(channels).init(device);
    theirs.gamma = theirs.gamma.map(|gamma| {
        gamma.clone().mul_scalar(0.5).add(random([channels], 91, &gamma.device())).detach().require_grad()
    });
    theirs.beta = theirs.beta.map(|beta| random([channels], 92, &beta.device()).detach().require_grad());
    // Records do not share running statistics, as clones of a module do.
    let ours = config(BatchNormConfig::new(channels)).init(device).load_record(theirs.clone().into_record());
    (ours, theirs)
}

/// The tensors that a step leaves: y, the gradients of x, gamma, beta, and the running statistics.
struct Step {
    output: Vec<f32>,
    gradients: [Vec<f32>; 3],
    running: [Vec<f32>; 2],
}

fn step<const D: usize>(
    forward: impl Fn(Tensor<D>) -> Tensor<D>,
    input: Tensor<D>,
    weight: Tensor<D>,
    parameters: [Tensor<1>; 2],
    running: impl Fn() -> [Tensor<1>; 2],
) -> Step {
    let input = input.detach().require_grad();
    let output = forward(input.clone());
    let gradients = (output.clone() * weight).sum().backward();
    let [gamma, beta] = parameters.map(|parameter| values(parameter.grad(&gradients).unwrap()));
    let gradients = [values(input.grad(&gradients).unwrap()), gamma, beta];
    Step { output: values(output), gradients, running: running().map(values) }
}

fn our_step<const D: usize>(module: &BatchNorm, input: Tensor<D>, weight: Tensor<D>) -> Step {
    module.served(&input).expect("the kernels serve this");
    step(
        |input| module.forward(input),
        input,
        weight,
        [module.gamma.val(), module.beta.val()],
        || [module.running_mean.value_sync(), module.running_var.value_sync()],
    )
}

fn their_step<const D: usize>(module: &burn::nn::BatchNorm, input: Tensor<D>, weight: Tensor<D>) -> Step {
    step(
        |input| module.forward(input),
        input,
        weight,
        [module.gamma.val(), module.beta.val()],
        || [module.running_mean.value_sync(), module.running_var.value_sync()],
    )
}

#[track_caller]
fn assert_steps_agree(what: &str, ours: &Step, theirs: &Step, tolerance: f64) {
    assert_close(&format!("{what}: output"), &ours.output, &theirs.output, tolerance);
    for (name, ours, theirs) in [
        ("input gradient", &ours.gradients[0], &theirs.gradients[0]),
        ("gamma gradient", &ours.gradients[1], &theirs.gradients[1]),
        ("beta gradient", &ours.gradients[2], &theirs.gradients[2]),
        ("running mean", &ours.running[0], &theirs.running[0]),
        ("running variance", &ours.running[1], &theirs.running[1]),
    ] {
        assert_close(&format!("{what}: {name}"), ours, theirs, tolerance);
    }
}

fn check_training<const D: usize>(shape: [usize; D]) {
    let device = device().autodiff();
    let (ours, theirs) = modules(shape[1], |config| config, &device);
    // Two steps, so that the second starts from running statistics that the first left.
    for seed in 0..2 {
        let input = random(shape, 2 * seed + 1, &device);
        let weight = random(shape, 2 * seed + 2, &device);
        let ours = our_step(&ours, input.clone(), weight.clone());
        let theirs = their_step(&theirs, input, weight);
        assert_steps_agree(&format!("{shape:?}, step {seed}"), &ours, &theirs, TOLERANCE);
    }
}

#[test]
fn training_agrees_with_burn_in_every_rank() {
    check_training([17, 5]);
    check_training([64, 128]);
    check_training([6, 3, 11]);
    check_training([4, 8, 6, 7]);
    check_training([2, 16, 32, 32]);
    check_training([2, 3, 4, 5, 6]);
}

#[test]
fn one_value_a_channel_trains_as_in_burn() {
    check_training([1, 7]);
    check_training([1, 3, 1, 1]);
}

#[test]
fn the_running_variance_is_unbiased_where_asked() {
    let device = device().autodiff();
    let (ours, theirs) = modules(3, |config| config.with_running_variance(RunningVariance::Unbiased), &device);
    let input = random([5, 3, 2], 1, &device);
    let weight = random([5, 3, 2], 2, &device);
    let [biased, unbiased] = [their_step(&theirs, input.clone(), weight.clone()), our_step(&ours, input, weight)];
    let bessel = 10.0 / 9.0;
    // From 1 with momentum 0.1: what is beyond 0.9 is a tenth of the batch's variance.
    let want: Vec<f32> = biased.running[1].iter().map(|value| 0.9 + (value - 0.9) * bessel).collect();
    assert_close("running variance", &unbiased.running[1], &want, TOLERANCE);
    assert_close("running mean", &unbiased.running[0], &biased.running[0], TOLERANCE);
    assert_close("output", &unbiased.output, &biased.output, TOLERANCE);
}

#[test]
fn inference_agrees_with_burn() {
    let device = device();
    let training = device.clone().autodiff();
    let (ours, theirs) = modules(6, |config| config, &training);
    let input = random([8, 6, 5, 5], 1, &training);
    let _ = (ours.forward(input.clone()), theirs.forward(input));
    let (ours, theirs) = (ours.valid(), theirs.valid());
    for shape in [[3, 6, 4, 4], [1, 6, 1, 1], [2, 6, 33, 1]] {
        let input = random(shape, 3, &device);
        ours.served(&input).unwrap();
        let kept = input.clone();
        assert_close("output", &values(ours.forward(input.clone())), &values(theirs.forward(input)), TOLERANCE);
        // Work in place is for tensors that nobody else holds.
        assert_eq!(values(kept), values(random(shape, 3, &device)));
        let in_place = ours.forward(random(shape, 3, &device) + 0.0);
        assert_close(
            "output in place",
            &values(in_place),
            &values(theirs.forward(random(shape, 3, &device))),
            TOLERANCE,
        );
    }
}

#[test]
fn frozen_modules_use_running_statistics_and_pass_gradients_on() {
    let device = device().autodiff();
    let (ours, theirs) = modules(4, |config| config, &device);
    let _ = (ours.forward(random([9, 4, 3], 1, &device)), theirs.forward(random([9, 4, 3], 1, &device)));
    // Burn's running states show an update of this thread only when it is asked for.
    for state in [&ours.running_mean, &ours.running_var, &theirs.running_mean, &theirs.running_var] {
        let _ = state.value_sync();
    }
    // The flag alone: parameters go on learning, and so tell their gradients.
    let (mut ours, mut theirs) = (ours, theirs);
    ours.training = ours.training.with_value(false);
    theirs.training = theirs.training.with_value(false);
    let (input, weight) = (random([5, 4, 3], 2, &device), random([5, 4, 3], 3, &device));
    let before = values(ours.running_mean.value_sync());
    let (our, their) = (our_step(&ours, input.clone(), weight.clone()), their_step(&theirs, input, weight));
    assert_steps_agree("frozen", &our, &their, TOLERANCE);
    assert_eq!(before, our.running[0], "running statistics stay as they were");
}

#[test]
fn views_of_every_kind_are_inputs() {
    let device = device().autodiff();
    let (ours, theirs) = modules(6, |config| config, &device);
    type Make = fn(&Device, u64) -> Tensor<4>;
    let make: [(&str, Make); 6] = [
        ("channels last", |device, seed| random([3, 4, 5, 6], seed, device).permute([0, 3, 1, 2])),
        ("transposed", |device, seed| random([6, 3, 4, 5], seed, device).swap_dims(0, 1)),
        ("rows and columns swapped", |device, seed| random([3, 6, 5, 4], seed, device).swap_dims(2, 3)),
        ("a slice of the batch", |device, seed| random([9, 6, 4, 5], seed, device).slice([5..8, 0..6, 0..4, 0..5])),
        ("a slice of the channels", |device, seed| random([3, 8, 4, 5], seed, device).slice([0..3, 1..7, 0..4, 0..5])),
        ("expanded", |device, seed| random([3, 6, 1, 5], seed, device).expand([3, 6, 4, 5])),
    ];
    for (name, make) in make {
        for (weight_name, weight) in [("its", make(&device, 2)), ("a dense", random([3, 6, 4, 5], 3, &device))] {
            let input = make(&device, 1);
            let ours = our_step(&ours, input.clone(), weight.clone());
            let theirs = their_step(&theirs, input, weight);
            assert_steps_agree(&format!("{name}, {weight_name} gradient"), &ours, &theirs, TOLERANCE);
        }
    }
}

/// Burn hands out a slice that starts where a binding may as a view, and any other as a copy.
#[test]
fn slices_that_start_anywhere_are_inputs() {
    let device = device();
    let (ours, theirs) = modules(5, |config| config, &device.clone().autodiff());
    let (ours, theirs) = (ours.valid(), theirs.valid());
    for start in 0..16 {
        let input = random([40, 5], 1, &device).slice([start..start + 24, 0..5]);
        assert_close("output", &values(ours.forward(input.clone())), &values(theirs.forward(input)), TOLERANCE);
    }
}

#[test]
fn activations_and_residuals_are_fused_forward_and_backward() {
    let device = device().autodiff();
    let unconnected = unconnected().autodiff();
    for activation in [
        Activation::Identity,
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Silu,
        Activation::Gelu,
    ] {
        for residual in [false, true] {
            for trains in [true, false] {
                // The same module on the unconnected device runs on Burn's operations.
                let [kernels, operations] = [&device, &unconnected].map(|device| {
                    let (mut module, _) = modules(5, |config| config.with_activation(activation), device);
                    module.training = module.training.with_value(trains);
                    let shape = [4, 5, 3, 2];
                    let z = residual.then(|| random(shape, 3, device).require_grad());
                    let input = random(shape, 1, device);
                    assert_eq!(module.served(&input).is_ok(), device.clone().inner() == self::device());
                    let step = step(
                        |input| match &z {
                            Some(z) => module.forward_residual(input, z.clone()),
                            None => module.forward(input),
                        },
                        input,
                        random(shape, 2, device),
                        [module.gamma.val(), module.beta.val()],
                        || [module.running_mean.value_sync(), module.running_var.value_sync()],
                    );
                    // The gradient of z on its own, through a second graph.
                    let dz = z.map(|z| {
                        let output = module.forward_residual(random(shape, 1, device), z.clone());
                        let gradients = (output * random(shape, 2, device)).sum().backward();
                        values(z.grad(&gradients).unwrap())
                    });
                    (step, dz)
                });
                let what = format!("{activation:?}, residual {residual}, training {trains}");
                assert_steps_agree(&what, &kernels.0, &operations.0, TOLERANCE);
                if let (Some(ours), Some(theirs)) = (kernels.1, operations.1) {
                    assert_close(&format!("{what}: residual gradient"), &ours, &theirs, TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn two_modules_share_a_device_within_a_graph_and_between_threads() {
    let run = |seed: u64| {
        let device = device().autodiff();
        let (ours, theirs) = modules(8, |config| config, &device);
        let (our_second, their_second) = modules(8, |config| config, &device);
        for step in 0..4 {
            let input = random([4, 8, 9], seed + step, &device);
            let weight = random([4, 8, 9], seed + step + 100, &device);
            let our = step_through(|x| our_second.forward(ours.forward(x).mul_scalar(2.0)), &input, &weight);
            let their = step_through(|x| their_second.forward(theirs.forward(x).mul_scalar(2.0)), &input, &weight);
            assert_close("output", &our.0, &their.0, TOLERANCE);
            assert_close("gradient", &our.1, &their.1, TOLERANCE);
        }
        let [ours, theirs] = [ours.running_var.value_sync(), theirs.running_var.value_sync()].map(values);
        assert_close("running variance", &ours, &theirs, TOLERANCE);
    };
    std::thread::scope(|scope| {
        for seed in [1, 1000, 2000] {
            scope.spawn(move || run(seed));
        }
    });
}

fn step_through(
    forward: impl Fn(Tensor<3>) -> Tensor<3>,
    input: &Tensor<3>,
    weight: &Tensor<3>,
) -> (Vec<f32>, Vec<f32>) {
    let input = input.clone().detach().require_grad();
    let output = forward(input.clone());
    let gradients = (output.clone() * weight.clone()).sum().backward();
    (values(output), values(input.grad(&gradients).unwrap()))
}

#[test]
fn tensors_made_on_one_thread_are_normalised_on_another() {
    let device = device().autodiff();
    let (ours, theirs) = modules(4, |config| config, &device);
    for seed in 0..20 {
        // Work that Burn has not submitted yet, in the stream of this thread.
        let make = || random([64, 4, 16, 16], seed, &device).abs().add_scalar(0.5).sqrt().exp().log();
        let want = values(theirs.forward(make()));
        let input = make();
        let got = std::thread::scope(|scope| {
            let ours = &ours;
            scope.spawn(move || values(ours.forward(input))).join().unwrap()
        });
        assert_close("output", &got, &want, TOLERANCE);
    }
}

#[test]
fn gradient_checkpointing_computes_the_input_again() {
    let plain = device().autodiff();
    let checkpointed = device().autodiff().gradient_checkpointing();
    let [plain, checkpointed] = [plain, checkpointed].map(|device| {
        let (module, _) = modules(3, |config| config.with_activation(Activation::Silu), &device);
        let input = random([4, 3, 5], 1, &device).require_grad();
        // A product is cheap, so checkpointing drops it and makes it again.
        let output = module.forward(input.clone().mul_scalar(1.5));
        let gradients = (output * random([4, 3, 5], 2, &device)).sum().backward();
        values(input.grad(&gradients).unwrap())
    });
    assert_close("input gradient", &checkpointed, &plain, 1e-6);
}

#[test]
fn half_precision_tensors_keep_their_type() {
    let device = device().autodiff();
    let (module, _) = modules(8, |config| config, &device);
    let input = random([16, 8, 7], 1, &device);
    let weight = random([16, 8, 7], 2, &device);
    let full = step_through(|x| module.forward(x), &input, &weight);
    let input = input.cast(DType::F16).detach().require_grad();
    module.served(&input).unwrap();
    let output = module.forward(input.clone());
    assert_eq!(output.dtype(), DType::F16);
    let gradients = (output.clone() * weight.cast(DType::F16)).sum().backward();
    let gradient = input.grad(&gradients).unwrap();
    assert_eq!(gradient.dtype(), DType::F16);
    // 11 significant bits of inputs, weights and results, each below 8.
    assert_close("output", &values(output), &full.0, 4e-3);
    assert_close("input gradient", &values(gradient), &full.1, 4e-3);
}

#[test]
fn modules_and_records_of_burn_convert_both_ways() {
    let device = device().autodiff();
    let (_, theirs) = modules(3, |config| config, &device);
    let _ = theirs.forward(random([4, 3], 1, &device));
    let want = values(theirs.valid().forward(random([4, 3], 2, &device.clone().inner())));
    let ids = [theirs.gamma.id, theirs.beta.id];

    let converted = BatchNorm::from_burn(theirs.clone());
    assert_eq!(ids, [converted.gamma.id, converted.beta.id], "optimisers know parameters by their ids");
    let loaded = BatchNormConfig::new(3).init(&device).load_record(theirs.into_record());
    for module in [&converted, &loaded] {
        let got = values(module.valid().forward(random([4, 3], 2, &device.clone().inner())));
        assert_close("converted", &got, &want, TOLERANCE);
    }
    let back = burn::nn::BatchNormConfig::new(3).init(&device).load_record(loaded.into_record());
    for module in [back, converted.into_burn()] {
        let got = values(module.valid().forward(random([4, 3], 2, &device.clone().inner())));
        assert_close("converted back", &got, &want, TOLERANCE);
    }
}

#[test]
fn snapshots_of_a_module_keep_their_statistics_while_it_trains_on() {
    let device = device().autodiff();
    let (module, _) = modules(3, |config| config, &device);
    let _ = module.forward(random([4, 3], 1, &device));
    let snapshot = module.valid();
    let before = values(snapshot.running_var.value());
    for seed in 0..3 {
        let _ = module.forward(random([4, 3], seed, &device).mul_scalar(5.0));
    }
    assert_ne!(values(module.running_var.value_sync()), before, "training went on");
    assert_eq!(values(snapshot.running_var.value()), before);
}

#[test]
fn what_cannot_be_normalised_is_refused_by_name() {
    let device = device().autodiff();
    let module = BatchNormConfig::new(3).init(&device);
    let refusal = |result: Result<_, Error>| result.map(|_: ()| ()).unwrap_err();
    let rank = module.try_forward(Tensor::<1>::zeros([3], &device), None).map(drop);
    assert_eq!(refusal(rank), Error::Rank { rank: 1 });
    let channels = module.try_forward(Tensor::<2>::zeros([2, 4], &device), None).map(drop);
    assert_eq!(refusal(channels), Error::Channels { expected: 3, actual: 4 });
    let input = Tensor::<2>::zeros([2, 3], &device);
    let residual = module.try_forward(input.clone(), Some(Tensor::zeros([3, 3], &device))).map(drop);
    assert_eq!(refusal(residual), Error::ResidualShape { input: vec![2, 3], residual: vec![3, 3] });
    let elsewhere = module.try_forward(Tensor::<2>::zeros([2, 3], &unconnected()), None).map(drop);
    assert_eq!(refusal(elsewhere), Error::Devices);

    let unbiased = BatchNormConfig::new(3).with_running_variance(RunningVariance::Unbiased).init(&device);
    let one = Tensor::<4>::ones([1, 3, 1, 1], &device);
    assert_eq!(refusal(unbiased.try_forward(one.clone(), None).map(drop)), Error::OneSample);
    assert!(unbiased.valid().try_forward(one.inner(), None).is_ok(), "inference takes one sample");
}

#[test]
fn a_batch_without_elements_is_returned_and_leaves_the_statistics() {
    let device = device().autodiff();
    let module = BatchNormConfig::new(3).init(&device);
    let empty = Tensor::<3>::from_data(TensorData::new(Vec::<f32>::new(), [0, 3, 4]), &device);
    assert_eq!(module.forward(empty).dims(), [0, 3, 4]);
    assert_eq!(values(module.running_mean.value_sync()), [0.0; 3]);
    assert_eq!(values(module.running_var.value_sync()), [1.0; 3]);
}

#[test]
fn devices_that_are_not_connected_use_burns_operations() {
    let device = unconnected().autodiff();
    let (ours, theirs) = modules(3, |config| config, &device);
    let (input, weight) = (random([4, 3, 2], 1, &device), random([4, 3, 2], 2, &device));
    assert_eq!(ours.served(&input), Err(Unserved::NotConnected));
    assert_eq!(ours.try_forward(input.clone(), None).map(drop).unwrap_err(), Error::Unserved(Unserved::NotConnected));
    let our = step(
        |input| ours.forward(input),
        input.clone(),
        weight.clone(),
        [ours.gamma.val(), ours.beta.val()],
        || [ours.running_mean.value_sync(), ours.running_var.value_sync()],
    );
    let their = their_step(&theirs, input, weight);
    assert_eq!((our.output, our.gradients, our.running), (their.output, their.gradients, their.running));
}

#[test]
fn parameters_of_other_types_are_not_served() {
    let device = device();
    let mut module = BatchNormConfig::new(3).init(&device);
    module.gamma = module.gamma.map(|gamma| gamma.cast(DType::F16));
    let input = random([2, 3], 1, &device);
    assert_eq!(module.served(&input), Err(Unserved::ParameterType(DType::F16)));
}

#[test]
fn a_setup_of_another_device_is_refused() {
    let DispatchDevice::Cube(CubeDevice::Wgpu(_)) = device().as_dispatch() else { panic!("not a wgpu device") };
    let setup = &DEVICE.1;
    let (other, queue) =
        burn::tensor::read_sync(setup.adapter.request_device(&wgpu_batch_norm::wgpu::DeviceDescriptor::default()))
            .unwrap();
    let foreign = WgpuSetup { device: other, queue, ..setup.clone() };
    let refused = connect(&device(), &foreign).unwrap_err();
    assert!(matches!(refused, Unserved::ForeignSetup { .. }), "{refused}");
    // What was connected before still is.
    assert_eq!(BatchNormConfig::new(3).init(&device()).served(&random([2, 3], 1, &device())), Ok(()));
}
