//! Messages and collectives, without a device.

use std::time::{Duration, Instant};

use super::message::MessageLayout;
use super::*;
use crate::{
    AdapterClass, BatchNormDescriptor, ChannelGradientSums, ChannelMoments, Convention, DeviceProfile, Momentum, Shape,
    reference,
};

fn plan(channels: u32, convention: Convention) -> Plan {
    let descriptor = BatchNormDescriptor { channels, convention, ..Default::default() };
    let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
    Plan::new(&descriptor, &Shape::new(&[4, channels as usize]).unwrap(), &profile).unwrap()
}

fn layout(channels: u32) -> MessageLayout {
    MessageLayout::new([(Kind::Moments, &plan(channels, Convention::pytorch()))])
}

fn message(layout: &MessageLayout, step: u32, moments: &[ChannelMoments]) -> Vec<f32> {
    let mut message = vec![0.0; layout.length()];
    layout.write(bytemuck::cast_slice(moments), step, &mut message).unwrap();
    message
}

fn merged(layout: &MessageLayout, messages: &[f32]) -> Vec<f32> {
    let mut merged = vec![0.0; layout.length()];
    layout.merge(messages, &mut merged).unwrap();
    merged
}

fn moments_of(layout: &MessageLayout, merged: &[f32]) -> Result<Vec<ChannelMoments>, ExchangeError> {
    let mut records = Vec::new();
    layout.read(merged, 0, None, &mut records)?;
    Ok(bytemuck::pod_collect_to_vec(&records))
}

/// Means of a million deviations, and a rank without data whose record holds anything.
fn parts() -> Vec<Vec<ChannelMoments>> {
    let of = |rank: usize, channel: usize| ChannelMoments {
        count: [3, 0, 70_000, 3_000_000_000][rank],
        pivot: if rank == 1 { f32::NAN } else { 1e6 + channel as f32 },
        offset: 0.031_25 * rank as f32,
        m2: 0.01 * (rank + channel) as f32,
    };
    (0..4).map(|rank| (0..5).map(|channel| of(rank, channel)).collect()).collect()
}

#[test]
fn merged_messages_are_the_references_merge() {
    let layout = layout(5);
    assert_eq!(layout.length(), 8 + 2 + 3 * 5);
    let parts = parts();
    let messages: Vec<f32> = parts.iter().flat_map(|part| message(&layout, 0, part)).collect();
    let bn = reference::BatchNorm::new(&BatchNormDescriptor { channels: 5, ..Default::default() }).unwrap();
    let mut expected = vec![ChannelMoments::default(); 5];
    bn.merge_moments(&bn.plan(&Shape::new(&[4, 5]).unwrap()).unwrap(), &parts.concat(), &mut expected).unwrap();
    assert_eq!(moments_of(&layout, &merged(&layout, &messages)).unwrap(), expected);
}

#[test]
fn groups_of_ranks_merge_to_the_same_within_rounding() {
    let layout = layout(5);
    let messages: Vec<Vec<f32>> = parts().iter().map(|part| message(&layout, 0, part)).collect();
    let whole = moments_of(&layout, &merged(&layout, &messages.concat())).unwrap();
    let pairs = [merged(&layout, &messages[..2].concat()), merged(&layout, &messages[2..].concat())].concat();
    for (got, whole) in moments_of(&layout, &merged(&layout, &pairs)).unwrap().iter().zip(&whole) {
        let mean = |moments: &ChannelMoments| f64::from(moments.pivot) + f64::from(moments.offset);
        assert_eq!(got.count, whole.count);
        // The offset's rounding, and that of M2 once a level.
        assert!((mean(got) - mean(whole)).abs() <= f64::from(f32::EPSILON * whole.offset.abs()), "{got:?} {whole:?}");
        assert!((got.m2 - whole.m2).abs() <= 2.0 * f32::EPSILON * whole.m2, "{got:?} {whole:?}");
    }
}

#[test]
fn a_sum_with_zeros_is_a_gather() {
    let layout = layout(5);
    let parts = parts();
    let length = layout.length();
    let padded = parts.iter().enumerate().map(|(rank, part)| {
        let mut all = vec![0.0_f32; length * parts.len()];
        all[rank * length..][..length].copy_from_slice(&message(&layout, 0, part));
        all
    });
    let summed = padded
        .reduce(|mut sum, other| {
            sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
            sum
        })
        .unwrap();
    let gathered: Vec<f32> = parts.iter().flat_map(|part| message(&layout, 0, part)).collect();
    assert_eq!(summed, gathered);
}

#[test]
fn more_elements_than_a_record_counts_are_an_error() {
    let layout = layout(1);
    let part = message(&layout, 0, &[ChannelMoments { count: 3_000_000_000, pivot: 1.0, offset: 0.0, m2: 1.0 }]);
    let refused = moments_of(&layout, &merged(&layout, &[part.clone(), part].concat()));
    assert!(
        matches!(refused, Err(ExchangeError::Refused(Error::TooManyForMoments { count: 6_000_000_000 }))),
        "{refused:?}"
    );
}

#[test]
fn every_fault_names_its_rank_also_through_a_tree() {
    let layout = layout(2);
    let part = [ChannelMoments { count: 2, pivot: 1.0, offset: 0.0, m2: 1.0 }; 2];
    let good = message(&layout, 0, &part);
    let mut given_up = good.clone();
    layout.write_failure(0, &mut given_up);
    let other = MessageLayout::new([(Kind::Moments, &plan(2, Convention::keras()))]);
    let faults = [
        given_up,
        vec![0.0; layout.length()],
        message(&layout, 1, &part),
        message(&other, 0, &part),
        vec![f32::NAN; layout.length()],
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        for rank in 1..4 {
            let mut messages = vec![good.clone(); 4];
            messages[rank].clone_from(&fault);
            let tree = [merged(&layout, &messages[..2].concat()), merged(&layout, &messages[2..].concat())].concat();
            for all in [messages.concat(), tree] {
                let error = moments_of(&layout, &merged(&layout, &all)).unwrap_err();
                // In a tree a pair that agrees with itself is the one that disagrees with the others.
                let found = match error {
                    ExchangeError::GivenUp { rank } if index == 0 => rank,
                    ExchangeError::Missing { rank } if index == 1 || index == 4 => rank,
                    ExchangeError::OutOfStep { rank } if index == 2 => rank,
                    ExchangeError::Disagreement { rank, .. } if index == 3 => rank,
                    error => panic!("fault {index}: {error}"),
                };
                assert!(found == rank || ((2..=3).contains(&index) && found / 2 == 1), "fault {index}: {found} {rank}");
            }
        }
    }
    let mut records = Vec::new();
    let short = layout.read(&merged(&layout, &good), 0, Some(2), &mut records);
    assert!(matches!(short, Err(ExchangeError::WrongRanks { expected: 2, actual: 1 })), "{short:?}");
    let refused = layout.merge(&good[1..], &mut vec![0.0; layout.length()]);
    assert!(matches!(refused, Err(ExchangeError::WrongLength { .. })));
}

#[test]
fn greetings_say_what_ranks_disagree_on() {
    let greeting = |kind, channels, convention| {
        MessageLayout::new([(kind, &plan(channels, convention))]).greeting(7, false).to_vec()
    };
    let own = greeting(Kind::Moments, 4, Convention::pytorch());
    let with_third = |third: Vec<f32>| layout(4).pair(&[own.clone(), own.clone(), third].concat());
    assert!(with_third(own.clone()).is_ok());
    let same = Convention { momentum: Momentum::WeightOfOld(0.9), ..Convention::pytorch() };
    assert!(with_third(greeting(Kind::Moments, 4, same)).is_ok());
    for (third, expected) in [
        (greeting(Kind::GradientSums, 4, Convention::pytorch()), "what is exchanged"),
        (greeting(Kind::Moments, 5, Convention::pytorch()), "channels or segments"),
        (greeting(Kind::Moments, 4, Convention::burn()), "conventions (epsilon, momentum, policies, activation)"),
    ] {
        match with_third(third) {
            Err(ExchangeError::Disagreement { rank: 2, what }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(with_third(vec![0.0; GREETING]), Err(ExchangeError::Missing { rank: 2 })));
    let mut named = layout(4);
    named.set_name("second");
    let disagreement = with_third(named.greeting(7, false).to_vec());
    assert!(matches!(disagreement, Err(ExchangeError::Disagreement { rank: 2, what: "the name of the exchange" })));
    let gone = layout(4).greeting(7, true).to_vec();
    assert!(matches!(with_third(gone), Err(ExchangeError::GivenUp { rank: 2 })));
}

#[test]
fn exchanges_that_are_alike_do_not_pass_for_each_other() {
    let part = [ChannelMoments { count: 2, pivot: 1.0, offset: 0.0, m2: 1.0 }; 2];
    let paired = |numbers: [u32; 2]| {
        let mut layout = layout(2);
        let greetings: Vec<f32> = numbers.iter().flat_map(|&number| layout.greeting(number, false)).collect();
        layout.pair(&greetings).unwrap();
        layout
    };
    // Two exchanges on each of two ranks, whose numbers are their own.
    let [first, second] = [paired([3, 70_001]), paired([4, 70_000])];
    let [of_first, of_second] = [message(&first, 0, &part), message(&second, 0, &part)];
    assert!(moments_of(&first, &merged(&first, &[of_first.clone(), of_first.clone()].concat())).is_ok());
    let crossed = [of_first, of_second].concat();
    for layout in [first, second] {
        let error = moments_of(&layout, &merged(&layout, &crossed));
        assert!(matches!(error, Err(ExchangeError::Disagreement { rank: 1, .. })), "{error:?}");
    }
}

#[test]
fn what_is_no_message_is_an_error_whatever_it_holds() {
    let layout = layout(2);
    let part = [ChannelMoments { count: 2, pivot: 1.0, offset: 0.0, m2: 1.0 }; 2];
    let good = message(&layout, 0, &part);
    // The halves of the count stand behind the header.
    for (at, value) in [(8, f32::INFINITY), (8, -1.0), (8, 1e30), (9, 65_536.0), (9, 0.5), (9, f32::NAN)] {
        let mut bad = good.clone();
        bad[at] = value;
        let error = moments_of(&layout, &merged(&layout, &[good.clone(), bad].concat()));
        assert!(matches!(error, Err(ExchangeError::Missing { rank: 1 })), "{value}: {error:?}");
    }
    let mut many = good.clone();
    many[1] = 16_777_215.0;
    assert!(moments_of(&layout, &merged(&layout, &many.repeat(3))).is_err());
}

#[test]
fn gradient_sums_add_up_in_f64() {
    let layout = MessageLayout::new([(Kind::GradientSums, &plan(2, Convention::pytorch()))]);
    assert_eq!(layout.length(), 8 + 2 * 2);
    let of = |sum: f32| {
        let mut message = vec![0.0; layout.length()];
        let records = [ChannelGradientSums { sum, product: 1.0 }; 2];
        layout.write(bytemuck::cast_slice(&records), 0, &mut message).unwrap();
        message
    };
    // In f32, the ones vanish beside 2^24.
    let all: Vec<f32> = [16_777_216.0, 1.0, 1.0].into_iter().flat_map(of).collect();
    let mut records = Vec::new();
    layout.read(&merged(&layout, &all), 0, Some(3), &mut records).unwrap();
    let expected = [ChannelGradientSums { sum: 16_777_218.0, product: 3.0 }; 2];
    assert_eq!(bytemuck::pod_collect_to_vec::<_, ChannelGradientSums>(&records), expected);
}

#[test]
fn threads_gather_in_order_of_rank_and_never_wait_for_ever() {
    let gathered = std::thread::scope(|scope| {
        let workers: Vec<_> = threads(3, Duration::from_secs(60))
            .into_iter()
            .map(|mut rank| {
                scope.spawn(move || {
                    let mut last = Vec::new();
                    for round in 0..100 {
                        let mut messages = vec![(10 * round + rank.rank()) as f32];
                        collective::gather(&mut rank, 1, &mut messages).unwrap();
                        last = messages;
                    }
                    (last, rank)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(gathered.iter().all(|(last, _)| *last == [990.0, 991.0, 992.0]));

    let mut patient = threads(1, Duration::MAX).remove(0);
    collective::gather(&mut patient, 2, &mut vec![1.0, 2.0]).unwrap();
    let uneven = threads(2, Duration::from_secs(3600)).remove(0).all_gather(&mut [0.0; 3]).unwrap_err();
    assert_eq!(uneven.to_string(), "3 values are not 2 equal shares");

    let start = Instant::now();
    let mut ranks = threads(2, Duration::from_millis(50));
    let late = collective::gather(&mut ranks[0], 1, &mut vec![1.0]).unwrap_err();
    assert!(late.to_string().starts_with("1 of 2 ranks came"), "{late}");
    assert!(collective::gather(&mut ranks[1], 1, &mut vec![1.0]).is_err());
    let mut ranks = threads(2, Duration::from_secs(3600));
    drop(ranks.pop());
    let left = collective::gather(&mut ranks[0], 1, &mut vec![1.0]).unwrap_err();
    assert_eq!(left.to_string(), "rank 1 has left");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_closure_is_a_collective() {
    let mut second = gather_with(1, 2, |messages: &mut [f32]| {
        assert_eq!(messages[..2], [0.0, 0.0]);
        messages[..2].copy_from_slice(&[1.0, 2.0]);
        Ok(())
    });
    let mut messages = vec![3.0, 4.0];
    collective::gather(&mut second, 2, &mut messages).unwrap();
    assert_eq!(messages, [1.0, 2.0, 3.0, 4.0]);
    let mut nobody = gather_with(2, 2, |_: &mut [f32]| Ok(()));
    assert!(collective::gather(&mut nobody, 2, &mut vec![0.0; 2]).is_err());
}
