//! One batch over two ranks, each a thread with a Burn device of its own, beside the whole batch on one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::{Device, Tensor, TensorData};
use burn_wgpu_batch_norm::{Activation, BatchNorm, BatchNormConfig, Error, Ranks, connect};
use wgpu_batch_norm::exchange::threads;

/// Of the largest value and at least of 1. Merged moments and sums are rounded once more than the whole batch's, and dL/dγ and
/// dL/dβ added up in another order; on lavapipe the largest difference was 3.1e-7.
const TOLERANCE: f32 = 2e-6;
const CHANNELS: usize = 6;
/// Samples of the batch, and of the first rank.
const SAMPLES: [usize; 2] = [9, 4];

/// The wgpu device that all Burn devices of these tests share.
static SETUP: LazyLock<WgpuSetup> =
    LazyLock::new(|| Device::wgpu_options().init_with_setup().expect("these tests need a wgpu adapter").1);

/// A Burn device of its own, on the one wgpu device.
fn device() -> Device {
    let device = Device::wgpu_options().setup(SETUP.clone()).init().unwrap();
    connect(&device, &SETUP).unwrap();
    device.autodiff()
}

/// Some samples of a tensor that is the same for everybody.
fn tensor(seed: usize, samples: std::ops::Range<usize>, device: &Device) -> Tensor<4> {
    let inner = CHANNELS * 5 * 3;
    let value = |at: usize| 3.0 + ((at * 7919 + seed * 104_729) % 1009) as f32 / 500.0;
    let values: Vec<f32> = (samples.start * inner..samples.end * inner).map(value).collect();
    Tensor::from_data(TensorData::new(values, [samples.len(), CHANNELS, 5, 3]), device)
}

/// What two steps leave: y and dL/dx of this share, dL/dγ and dL/dβ, running mean and variance.
fn train(module: &BatchNorm, samples: &std::ops::Range<usize>, residual: bool, device: &Device) -> [Vec<f32>; 6] {
    let values = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
    let mut results = std::array::from_fn(|_| Vec::new());
    for step in 0..2_usize {
        let of = |seed: usize| tensor(10 * step + seed, samples.clone(), device);
        let x = of(1).require_grad();
        let y = if residual { module.forward_residual(x.clone(), of(2)) } else { module.forward(x.clone()) };
        let gradients = (y.clone() * (of(3) - 4.0)).sum().backward();
        results = [
            values(y.flatten(0, 3)),
            values(x.grad(&gradients).unwrap().flatten(0, 3)),
            values(module.gamma.grad(&gradients).unwrap()),
            values(module.beta.grad(&gradients).unwrap()),
            values(module.running_mean.value_sync()),
            values(module.running_var.value_sync()),
        ];
    }
    results
}

fn config(activation: Activation) -> BatchNormConfig {
    BatchNormConfig::new(CHANNELS).with_activation(activation)
}

fn shares() -> [std::ops::Range<usize>; 2] {
    [0..SAMPLES[1], SAMPLES[1]..SAMPLES[0]]
}

/// What two ranks return.
fn two_ranks<T: Send>(task: impl Fn(usize, Ranks) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let (task, ranks) = (&task, threads(2, Duration::from_secs(120)).into_iter().enumerate());
        let workers: Vec<_> = ranks.map(|(index, rank)| scope.spawn(move || task(index, Ranks::new(rank)))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn two_ranks_are_the_whole_batch() {
    for (activation, residual) in
        [(Activation::Identity, false), (Activation::Relu, true), (Activation::Gelu, true), (Activation::Silu, false)]
    {
        let alone = device();
        let whole = train(&config(activation).init(&alone), &(0..SAMPLES[0]), residual, &alone);
        let shares = shares();
        let parts = two_ranks(|index, ranks| {
            let device = device();
            let module = config(activation).init(&device).with_ranks(&ranks);
            train(&module, &shares[index], residual, &device)
        });
        let both = |index: usize| [&parts[0][index], &parts[1][index]];
        let join = |index| both(index).map(Clone::clone).concat();
        let sum = |index| both(index)[0].iter().zip(both(index)[1]).map(|(a, b)| a + b).collect::<Vec<_>>();
        for (what, got, want) in [
            ("output", join(0), &whole[0]),
            ("input gradient", join(1), &whole[1]),
            ("gamma gradient", sum(2), &whole[2]),
            ("beta gradient", sum(3), &whole[3]),
            ("running mean", parts[0][4].clone(), &whole[4]),
            ("running variance", parts[0][5].clone(), &whole[5]),
        ] {
            assert_eq!(got.len(), want.len(), "{activation:?}: {what}");
            let scale = want.iter().fold(1.0_f32, |scale, value| scale.max(value.abs()));
            let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
            println!("{activation:?}, {what}: {:.1e}", worst / scale);
            assert!(worst <= TOLERANCE * scale, "{activation:?}: {what}: {worst} of {scale}");
        }
        assert_eq!(parts[0][4..], parts[1][4..], "all ranks know the same of the batch");
    }
}

#[test]
fn one_value_a_rank_is_a_batch_and_none_is_refused() {
    let outputs = two_ranks(|index, ranks| {
        let device = device();
        let module = BatchNormConfig::new(1).init(&device).with_ranks(&ranks);
        let x = Tensor::<2>::from_data([[if index == 0 { -1.0_f32 } else { 3.0 }]], &device);
        let none = Tensor::<2>::from_data(TensorData::new(Vec::<f32>::new(), [0, 1]), &device);
        assert_eq!(module.try_forward(none, None).err(), Some(Error::EmptyShare));
        let y = module.forward(x).into_data().try_to_vec::<f32>().unwrap()[0];
        // Inference takes the running statistics, and nobody waits for anybody.
        let inferred = module.valid().forward(Tensor::<2>::from_data([[1.0_f32]], &device.inner()));
        (y, inferred.into_data().try_to_vec::<f32>().unwrap()[0])
    });
    // Mean 1, variance 4; running mean 0.1, running variance 0.9 + 0.1·4.
    for ((y, inferred), want) in outputs.into_iter().zip([-1.0, 1.0]) {
        assert!((y - want).abs() < 1e-5, "{y}");
        assert!((inferred - 0.9 / 1.3_f32.sqrt()).abs() < 1e-5, "{inferred}");
    }
}

/// Nobody waits for it, and snapshots from before keep their statistics.
#[test]
fn a_rank_that_has_left_is_a_panic_at_the_others() {
    let mut collectives = threads(2, Duration::from_secs(120));
    let ranks = Ranks::new(collectives.remove(0));
    drop(collectives);
    let device = device();
    let module = config(Activation::Identity).init(&device).with_ranks(&ranks);
    let before = module.valid();
    let x = tensor(1, 0..2, &device);
    let trained = catch_unwind(AssertUnwindSafe(|| module.forward(x).into_data()));
    assert!(trained.is_err());
    assert_eq!(before.running_mean.value().into_data().try_to_vec::<f32>().unwrap(), [0.0; CHANNELS]);
}
