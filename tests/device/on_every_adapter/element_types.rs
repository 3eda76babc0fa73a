//! 16-bit tensors: what is stored is what was meant, to the bit.

use half::{bf16, f16};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{
    ActivationState, BackwardBuffers, BatchNorm, BatchNormDescriptor, Convention, ElementType, FrozenBackwardBuffers,
    Gradient, InferenceBuffers, Shape, TrainingBuffers,
};

use crate::common::case::{Case, rounded, stored};
use crate::common::{Target, on_every_target};

const HALVES: [ElementType; 2] = [ElementType::F16, ElementType::Bf16];

fn value(element: ElementType, bits: u16) -> f32 {
    match element {
        ElementType::F16 => f16::from_bits(bits).to_f32(),
        _ => bf16::from_bits(bits).to_f32(),
    }
}

fn bits(element: ElementType, value: f32) -> u16 {
    match element {
        ElementType::F16 => f16::from_f32(value).to_bits(),
        _ => bf16::from_f32(value).to_bits(),
    }
}

fn packed(halves: &[u16]) -> Vec<u32> {
    halves.chunks(2).map(|pair| u32::from(pair[0]) | pair.get(1).map_or(0, |&half| u32::from(half) << 16)).collect()
}

/// γ·x + z: inference through a mean of 0 and a variance of 1, without epsilon.
fn scaled(
    target: &Target,
    element: ElementType,
    shape: &[usize],
    halves: &[u16],
    gamma: &[f32],
    residual: Option<&[u16]>,
) -> Vec<u16> {
    let gpu = &target.gpu;
    let channels = shape[1];
    let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
    let descriptor = BatchNormDescriptor { channels: channels as u32, convention, element, ..Default::default() };
    let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
    let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
    let input = gpu.upload("input", &packed(halves));
    let output = gpu.upload("output", &vec![!0_u32; halves.len().div_ceil(2)]);
    let residual = residual.map(|halves| gpu.upload("residual", &packed(halves)));
    let [gamma, beta] = [gamma.to_vec(), vec![0.0; channels]].map(|values| gpu.upload("parameter", &values));
    let [mean, variance] = [0.0_f32, 1.0].map(|value| gpu.upload("running", &vec![value; channels]));
    let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
    let step = bn
        .bind_inference(
            &plan,
            &InferenceBuffers {
                residual: residual.as_ref().map(|buffer| buffer.slice(tensor)),
                gamma: Some(gamma.slice(vector)),
                beta: Some(beta.slice(vector)),
                ..InferenceBuffers::new(
                    input.slice(tensor),
                    output.slice(tensor),
                    mean.slice(vector),
                    variance.slice(vector),
                )
            },
        )
        .unwrap();
    gpu.submit(|pass| step.record(pass));
    gpu.read(&output, halves.len())
}

#[test]
fn every_16_bit_pattern_comes_back_as_it_went() {
    // Whole units of rows, and columns whose last unit is a single element.
    for shape in [&[1, 16, 4096][..], &[65_537, 1]] {
        let count = shape.iter().product::<usize>();
        let halves: Vec<u16> = (0..count).map(|index| index as u16).collect();
        on_every_target(|target| {
            for element in HALVES {
                let got = scaled(target, element, shape, &halves, &vec![1.0; shape[1]], None);
                for (&put, got) in halves.iter().zip(got) {
                    let (from, to) = (value(element, put), value(element, got));
                    let right = if from.is_nan() {
                        to.is_nan()
                    } else if from == 0.0 {
                        // −0 + β is +0 where β is +0, and shaders may ignore a zero's sign altogether.
                        to == 0.0
                    } else if element == ElementType::Bf16 && from.is_subnormal() {
                        // These are subnormal in f32 too, in which all arithmetic is done: a driver may flush them.
                        got == put || to == 0.0
                    } else {
                        got == put
                    };
                    assert!(right, "{target}: {element} {shape:?}: {put:#06x} ({from:e}) became {got:#06x} ({to:e})");
                }
            }
        });
    }
}

/// Whether a value lies halfway between two neighbours of an element type.
fn is_tie(element: ElementType, value: f32) -> bool {
    let nearest = rounded(element, value);
    if nearest == value || !nearest.is_finite() {
        return false;
    }
    let step = |up: bool| {
        let bits = bits(element, nearest);
        self::value(element, if up == (nearest > 0.0) { bits + 1 } else { bits.wrapping_sub(1) })
    };
    let other = step(value > nearest);
    f64::from(value) * 2.0 == f64::from(nearest) + f64::from(other)
}

#[test]
fn products_are_rounded_to_nearest_even_once() {
    // Few significant bits, so that products with 16-bit values are exact in f32 and many are ties; the small ones reach
    // f16's subnormal numbers, the large ones infinity.
    let gammas = [0.5, 1.5, 0.75, 1.25, 257.0 / 256.0, 1.0 / 16384.0, 3.0 / 65536.0, 2.0];
    on_every_target(|target| {
        for element in HALVES {
            let finite: Vec<u16> =
                (0..=u16::MAX).filter(|&bits| value(element, bits).is_finite()).filter(|bits| bits % 3 != 1).collect();
            let halves: Vec<u16> = finite.iter().flat_map(|&bits| [bits; 8]).collect();
            let got = scaled(target, element, &[finite.len(), 8], &halves, &gammas, None);
            let (mut ties, mut small_ties, mut overflows) = (0, 0, 0);
            for (index, (&x, got)) in halves.iter().zip(got).enumerate() {
                let (x, gamma) = (value(element, x), gammas[index % 8]);
                let exact = x * gamma;
                // A driver may flush what is subnormal in f32.
                if x.is_subnormal() || exact.is_subnormal() || exact == 0.0 {
                    continue;
                }
                let expected = bits(element, exact);
                let tie = is_tie(element, exact);
                ties += usize::from(tie);
                // In f16 these are subnormal.
                small_ties += usize::from(tie && exact.abs() < 6.0e-5);
                overflows += usize::from(value(element, expected).is_infinite());
                let near = value(element, got) == 0.0 && value(element, expected) == 0.0;
                assert!(
                    got == expected || near,
                    "{target}: {element} {gamma} · {x:e}: {got:#06x}, not {expected:#06x}"
                );
            }
            assert!(ties > 1000 && small_ties > 500 && overflows > 100, "{ties} {small_ties} {overflows}");
        }
    });
}

#[test]
fn sums_are_rounded_to_nearest_even_once() {
    on_every_target(|target| {
        for element in HALVES {
            let mut pairs: Vec<(f32, f32)> = Vec::new();
            let smallest = if element == ElementType::F16 { 2_f32.powi(-13) } else { 2_f32.powi(-100) };
            for x in (0..=u16::MAX).step_by(3).map(|bits| value(element, bits)) {
                if x.is_finite() && x.abs() >= smallest {
                    let place = value(
                        element,
                        bits(element, x.abs()) & if element == ElementType::F16 { 0x7c00 } else { 0x7f80 },
                    );
                    let half = place / if element == ElementType::F16 { 2048.0 } else { 256.0 };
                    // Halfway to a neighbour on either side, a little more and a little less.
                    pairs.extend([1.0, -1.0, 1.03125, 0.96875].map(|factor| (x, rounded(element, factor * half))));
                }
            }
            if element == ElementType::F16 {
                pairs.extend([(65504.0, 15.992_187_5), (65504.0, 16.0), (65504.0, 32.0), (-65504.0, -16.0)]);
            }
            let halves =
                |of: fn(&(f32, f32)) -> f32| pairs.iter().map(|pair| bits(element, of(pair))).collect::<Vec<_>>();
            let (x, z) = (halves(|pair| pair.0), halves(|pair| pair.1));
            let got = scaled(target, element, &[x.len(), 1], &x, &[1.0], Some(&z));
            let mut ties = 0;
            for (&(x, z), got) in pairs.iter().zip(got) {
                let exact = x + z;
                assert!(
                    exact.is_infinite() || f64::from(exact) == f64::from(x) + f64::from(z),
                    "{x:e} + {z:e} is exact"
                );
                ties += usize::from(is_tie(element, exact));
                let expected = bits(element, exact);
                assert_eq!(got, expected, "{target}: {element} {x:e} + {z:e}: {got:#06x}, not {expected:#06x}");
            }
            assert!(ties > 10_000, "{ties}");
        }
    });
    assert_eq!(bits(ElementType::F16, 65504.0 + 16.0), 0x7c00, "65520 is the first value that overflows");
}

#[test]
fn the_half_word_past_an_odd_tensor_is_written_as_zero() {
    on_every_target(|target| {
        // One type a plan, all of them where there is one plan alone.
        let elements = HALVES.into_iter().skip(target.plan % HALVES.len()).step_by(target.plans.min(HALVES.len()));
        for (element, residual) in elements.flat_map(|element| [(element, false), (element, true)]) {
            for (name, words) in results_of_odd_tensors(target, element, residual) {
                let last = words.last().unwrap();
                assert_eq!(last >> 16, 0, "{target}: {element} {name}, residual: {residual}");
                let values = words.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]);
                let finite = values.map(|half| value(element, half)).all(f32::is_finite);
                assert!(finite, "{target}: {element} {name}, residual: {residual}: all is written, nothing is tainted");
            }
        }
    });
}

/// The words of every tensor that is written; NaNs follow the last element of everything that is read.
fn results_of_odd_tensors(target: &Target, element: ElementType, residual: bool) -> Vec<(&'static str, Vec<u32>)> {
    let gpu = &target.gpu;
    let case = Case::random(&[13, 7], ChannelsFirst, 5).stored_as(element);
    let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
    let plan = bn.plan(&Shape::new(&case.shape).unwrap()).unwrap();
    let followed = |values: &[f32]| {
        let mut words = stored(element, values);
        *words.last_mut().unwrap() |= 0xffff_0000;
        gpu.upload("tensor", &words)
    };
    let (x, dy) = (followed(&case.input), followed(&case.output_gradient));
    let [y, inferred, frozen_dx] = [(); 3].map(|()| gpu.upload("result", &vec![!0_u32; case.input.len().div_ceil(2)]));
    // Accumulated, so that what stands past the end is read too.
    let [dx, dz] = [(); 2].map(|()| followed(&vec![1.0; case.input.len()]));
    let z = followed(&case.output_gradient);
    let [mean, variance] = [&case.running_mean, &case.running_variance].map(|values| gpu.upload("running", values));
    let workspace = gpu.zeroed("workspace", plan.workspace_size());
    let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
    let added = residual.then(|| z.slice(tensor));
    let training = TrainingBuffers {
        residual: added,
        ..TrainingBuffers::new(x.slice(tensor), y.slice(tensor), workspace.slice(..))
    };
    let inference = InferenceBuffers {
        residual: added,
        ..InferenceBuffers::new(x.slice(tensor), inferred.slice(tensor), mean.slice(vector), variance.slice(vector))
    };
    let backward = BackwardBuffers {
        activation: ActivationState::Recompute { residual: added },
        input_gradient: Some(Gradient::Accumulate(dx.slice(tensor))),
        residual_gradient: residual.then(|| Gradient::Accumulate(dz.slice(tensor))),
        ..BackwardBuffers::new(x.slice(tensor), dy.slice(tensor), workspace.slice(..))
    };
    let frozen = FrozenBackwardBuffers {
        input_gradient: Some(Gradient::Overwrite(frozen_dx.slice(tensor))),
        ..FrozenBackwardBuffers::new(dy.slice(tensor), mean.slice(vector), variance.slice(vector), workspace.slice(..))
    };
    let training = bn.bind_training(&plan, &training).unwrap();
    let inference = bn.bind_inference(&plan, &inference).unwrap();
    let backward = bn.bind_backward(&plan, &backward).unwrap();
    let frozen = bn.bind_backward_frozen(&plan, &frozen).unwrap();
    gpu.submit(|pass| {
        training.record(pass);
        inference.record(pass);
        backward.record(pass);
        frozen.record(pass);
    });
    let words = plan.tensor_size() as usize / 4;
    let mut results = vec![("output", y), ("inference", inferred), ("input_gradient", dx), ("frozen", frozen_dx)];
    results.extend(residual.then_some(("residual_gradient", dz)));
    results.into_iter().map(|(name, buffer)| (name, gpu.read(&buffer, words))).collect()
}
