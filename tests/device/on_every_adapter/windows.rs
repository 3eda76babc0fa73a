//! Tensors beyond what one dispatch may go over, in windows.

use super::padding::{padded, poison};
use super::{ADVERSARIAL_SHAPES, bits};
use crate::common::case::{Case, Padding};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    BatchNorm, Convention, ElementType, Error, Family, OneSamplePolicy, SequenceAxes, Strategies, Strategy,
};

/// Shapes that windows cut at outer steps, at channels and within rows; aligned, unaligned and odd.
const SHAPES: [(&[usize], Layout); 14] = [
    (&[40, 8, 9], ChannelsFirst),
    (&[24, 128, 5], ChannelsFirst),
    (&[40, 12], ChannelsFirst),
    (&[301, 5], ChannelsFirst),
    (&[1027, 3], ChannelsLast),
    (&[9, 7, 7, 5], ChannelsLast),
    (&[6, 8, 4, 4], ChannelsFirst),
    (&[9, 5, 7, 7], ChannelsFirst),
    (&[2, 3, 33, 31], ChannelsFirst),
    (&[3, 2, 40, 40], ChannelsFirst),
    (&[1, 1, 5003], ChannelsFirst),
    (&[2, 1500], ChannelsFirst),
    (&[3, 1031], ChannelsLast),
    (&[1, 3, 20_011], ChannelsFirst),
];

/// The windows that a case is cut into on a target.
fn windows_of(target: &Target, case: &Case) -> usize {
    let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
    bn.plan(&case.shape()).unwrap().window_count()
}

#[test]
fn every_operation_in_windows_meets_the_reference() {
    on_every_target(|target| {
        let windowed = [1 << 10, 3000, 1 << 14].map(|size| target.in_windows(size));
        let mut most = 0;
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            for element in [ElementType::F32, ElementType::F16] {
                let case = Case::random(shape, layout, seed).stored_as(element);
                let truth = case.run_reference().unwrap();
                for target in &windowed {
                    let got = case.run_device(target).unwrap();
                    most = most.max(windows_of(target, &case));
                    let worst = compare(&case, &got, &truth);
                    assert!(worst.ratio <= 1.0, "{target}: {shape:?} {layout:?} {element:?}: {worst:?}");
                }
            }
        }
        assert!(most > 200, "{most} windows at most");
    });
}

/// Where windows cut channels, the last one has fewer: in columns, whose tiles are those of a window.
#[test]
fn channels_that_windows_cut_in_columns_meet_the_reference() {
    on_every_target(|target| {
        for (shape, size) in [(&[1, 2650, 4][..], 8 << 10), (&[3, 700, 8], 8 << 10), (&[2, 1000, 12], 16 << 10)] {
            let target = target.in_windows(size);
            let case = Case::random(shape, ChannelsFirst, 3);
            assert!(windows_of(&target, &case) > shape[0], "{target}: {shape:?}");
            let worst = compare(&case, &case.run_device(&target).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {shape:?}: {worst:?}");
        }
    });
}

#[test]
fn every_combination_of_optional_parts_meets_the_reference_in_windows() {
    on_every_target(|target| {
        // Software drivers take seconds to compile what one case needs.
        let seeds = if target.plan == 0 { 1000..1030 } else { 1030..1042 };
        let mut cut = 0;
        for seed in seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut shape: Vec<usize> = vec![rng.random_range(6..40), rng.random_range(1..40)];
            shape.extend((0..rng.random_range(0..4)).map(|_| rng.random_range(1..12)));
            let layout = if rng.random() { ChannelsFirst } else { ChannelsLast };
            let channels = shape[layout.channel_axis(shape.len())];
            if shape.iter().product::<usize>() <= channels.max(600) {
                continue;
            }
            let case = Case::arbitrary(&shape, layout, seed);
            let truth = case.run_reference().unwrap();
            let bytes = case.input.len() as u64 * case.element.size();
            let windowed = target.in_windows(bytes / rng.random_range(2..9) + 64);
            let got = match case.run_device(&windowed) {
                Err(Error::SharedWords { .. }) if case.element != ElementType::F32 => continue,
                got => got.unwrap(),
            };
            cut += usize::from(windows_of(&windowed, &case) > 1);
            let found = compare(&case, &got, &truth);
            assert!(found.ratio <= 1.0, "{target}: seed {seed} {shape:?} {layout:?}: {found:?} in {case:?}");
        }
        assert!(cut >= 5, "{target}: {cut} cases in windows");
    });
}

#[test]
fn padding_counts_for_nothing_in_windows() {
    let sequences = |sequence, step| Some(SequenceAxes { sequence, step });
    on_every_target(|target| {
        let windowed = [1 << 10, 2500].map(|size| target.in_windows(size));
        for (seed, (shape, layout, axes)) in (0..).zip([
            (&[7, 9, 8][..], ChannelsLast, sequences(0, 1)),
            (&[5, 6, 64], ChannelsFirst, sequences(0, 2)),
            (&[9, 7, 5], ChannelsLast, sequences(1, 0)),
            (&[3, 7, 11, 5], ChannelsFirst, sequences(0, 2)),
            (&[9, 8, 11], ChannelsFirst, sequences(0, 2)),
            (&[61, 20], ChannelsFirst, None),
            (&[2, 3, 33, 65], ChannelsFirst, None),
        ]) {
            for ratio in [0.0_f32, 1e6] {
                let mut case = padded(shape, layout, axes, seed);
                case.input.iter_mut().for_each(|value| *value = ratio + 0.1 * *value);
                let truth = case.run_reference().unwrap();
                for target in &windowed {
                    let worst = compare(&case, &case.run_device(target).unwrap(), &truth);
                    assert!(worst.ratio <= 1.0, "{target}: {shape:?} {layout:?} ratio {ratio}: {worst:?}");
                }
            }
        }
    });
}

/// A pivot from padding would cost the statistics of what follows their digits.
#[test]
fn a_window_of_nothing_but_padding_takes_no_digits_from_the_rest() {
    on_every_target(|target| {
        let windowed = target.in_windows(1 << 10);
        for (shape, layout) in [(&[64, 40][..], ChannelsFirst), (&[6, 5, 400], ChannelsFirst)] {
            let mut case = Case::random(shape, layout, 7);
            let positions = case.input.len() / case.channels();
            case.padding = Some(Padding::Flags((0..positions).map(|at| at >= positions / 2).collect()));
            case.input.iter_mut().for_each(|value| *value = 1e6 + 0.1 * *value);
            poison(&mut case);
            assert!(windows_of(&windowed, &case) >= 6);
            let worst = compare(&case, &case.run_device(&windowed).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {shape:?}: {worst:?}");
        }
    });
}

#[test]
fn large_means_outliers_and_not_a_number_do_in_windows_what_they_do_in_one_dispatch() {
    on_every_target(|target| {
        let windowed = target.in_windows(1 << 12);
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            let clean = Case::random(shape, layout, seed);
            let mut shifted = clean.clone();
            let mut spiked = clean.clone();
            for index in 0..clean.input.len() {
                let sign = if clean.channel(index).is_multiple_of(2) { 1.0 } else { -1.0 };
                shifted.input[index] = sign * 1e6 + 0.1 * shifted.input[index];
                if index < clean.channels() {
                    spiked.input[index] = 1e8;
                }
            }
            for (name, case) in [("shifted", &shifted), ("spiked", &spiked)] {
                let worst = compare(case, &case.run_device(&windowed).unwrap(), &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {name} {shape:?} {layout:?}: {worst:?}");
            }
            let mut poisoned = clean.clone();
            for index in (0..clean.input.len()).filter(|&index| clean.channel(index) == 1) {
                poisoned.input[index] = f32::NAN;
            }
            let (got, expected) = (poisoned.run_device(&windowed).unwrap(), clean.run_device(&windowed).unwrap());
            for index in (0..clean.input.len()).filter(|&index| clean.channel(index) != 1) {
                for (got, expected) in [
                    (&got.output, &expected.output),
                    (&got.inference, &expected.inference),
                    (&got.input_gradient, &expected.input_gradient),
                ] {
                    assert_eq!(got[index].to_bits(), expected[index].to_bits(), "{target}: {shape:?} [{index}]");
                }
            }
        }
    });
}

#[test]
fn windows_give_the_same_bits_each_time_and_are_walked_by_any_family() {
    on_every_target(|target| {
        let windowed = target.in_windows(2000);
        let (rows, columns, quads) = (Family::Rows, Family::Columns, Family::Quads);
        let either = [(rows, rows), (rows, columns), (columns, rows), (columns, columns)];
        let with_quads = [(quads, quads), (rows, quads), (quads, columns)];
        for (seed, (shape, families)) in
            (0..).zip([(&[65, 24][..], &either[..]), (&[12, 6, 4, 4], &either), (&[40, 8, 9], &with_quads)])
        {
            let case = Case::random(shape, ChannelsFirst, seed);
            let truth = case.run_reference().unwrap();
            for &(reduction, elementwise) in families {
                let split = Some(Strategy::Split { reduction, elementwise });
                let pin = Strategies { training: split, backward: split, inference: Some(elementwise) };
                let first = case.run_device_with(&windowed, pin).unwrap();
                let worst = compare(&case, &first, &truth);
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} {split:?}: {worst:?}");
                assert_eq!(bits(&first), bits(&case.run_device_with(&windowed, pin).unwrap()), "{target}: {shape:?}");
            }
            let alone = Strategies { training: Some(Strategy::ChannelLoop(rows)), ..Strategies::default() };
            assert!(matches!(case.run_device_with(&windowed, alone), Err(Error::StrategyNotServed { .. })));
        }
    });
}

#[test]
fn one_sample_a_channel_is_normalised_in_windows() {
    on_every_target(|target| {
        let mut case = Case::random(&[1, 2000], ChannelsFirst, 1);
        case.convention = Convention { one_sample: OneSamplePolicy::PopulationVariance, ..Convention::pytorch() };
        let worst =
            compare(&case, &case.run_device(&target.in_windows(1 << 10)).unwrap(), &case.run_reference().unwrap());
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
    });
}
