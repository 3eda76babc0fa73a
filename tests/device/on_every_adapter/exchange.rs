//! One batch over several ranks, whose records go through an exchange.

use std::sync::Arc;
use std::time::Duration;

use crate::common::case::{Case, Padding, Segments};
use crate::common::parts::run_devices_through_an_exchange;
use crate::common::tolerance::compare;
use crate::common::{Target, on_all_targets, on_every_target, support};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::exchange::{Exchange, ExchangeError, ExchangeItem, threads};
use wgpu_batch_norm::{
    BatchNorm, BatchNormDescriptor, ChannelMoments, Convention, Kernels, SegmentRunning, Shape, wgpu,
};

const CUTS: [(&[usize], Layout, &[usize]); 4] = [
    (&[9, 5, 7, 7], ChannelsFirst, &[4, 0, 5]),
    (&[12, 7, 16], ChannelsLast, &[12]),
    (&[40, 12], ChannelsFirst, &[1, 1, 30, 8]),
    (&[10, 6, 5, 3], ChannelsLast, &[7, 3]),
];

fn assert_ranks_meet_the_whole(case: &Case, samples: &[usize], targets: &[&Target]) {
    let truth = case.run_reference().unwrap();
    let got = run_devices_through_an_exchange(case, samples, targets, &truth).unwrap();
    let worst = compare(case, &got, &truth);
    assert!(worst.ratio <= 1.0, "{}: {:?} in {samples:?}: {worst:?}", targets[0], case.shape);
}

#[test]
fn ranks_are_the_whole_batch() {
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            assert_ranks_meet_the_whole(&Case::random(shape, layout, seed), samples, &[target]);
        }
    });
}

#[test]
fn a_mean_of_a_million_deviations_costs_no_digits_on_the_way() {
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let mut case = Case::random(shape, layout, seed);
            case.input.iter_mut().for_each(|value| *value = 1e6 + 0.1 * *value);
            assert_ranks_meet_the_whole(&case, samples, &[target]);
        }
    });
}

#[test]
fn counts_of_segments_travel_where_padding_makes_them_unequal() {
    on_every_target(|target| {
        let mut case = Case::random(&[9, 5, 4], ChannelsFirst, 3);
        let positions = case.input.len() / case.channels();
        case.padding = Some(Padding::Flags((0..positions).map(|at| at % 3 != 1).collect()));
        let case = case.segmented(Segments::Along(2), SegmentRunning::Separate);
        assert_ranks_meet_the_whole(&case, &[4, 0, 5], &[target]);
    });
}

#[test]
fn ranks_may_have_devices_of_their_own() {
    on_all_targets(|targets| {
        // Where there is one device only, it is opened again.
        let again: Vec<Target> = if targets.len() == 1 { support::open_all(None) } else { Vec::new() }
            .into_iter()
            .map(|gpu| Target { kernels: Kernels::new(&gpu.device), gpu: Arc::new(gpu), ..targets[0] })
            .collect();
        let targets: Vec<&Target> = targets.iter().chain(&again).collect();
        assert!(targets.len() > 1);
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            assert_ranks_meet_the_whole(&Case::random(shape, layout, seed), samples, &targets);
        }
    });
}

/// An exchange of three channels' moments.
fn exchange_of(target: &Target, convention: Convention, moments: &wgpu::Buffer) -> Exchange {
    let descriptor = BatchNormDescriptor { channels: 3, convention, ..Default::default() };
    let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
    let plan = bn.plan(&Shape::new(&[4, 3]).unwrap()).unwrap();
    Exchange::new(&target.gpu.device, &[ExchangeItem::moments(&plan, moments.slice(..plan.part_moments_size()))])
        .unwrap()
}

fn fetch(target: &Target, exchange: &mut Exchange) {
    let mut encoder = target.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    exchange.record(&mut encoder).unwrap();
    target.gpu.queue.submit([encoder.finish()]);
    target.gpu.wait();
}

#[test]
fn an_error_leaves_the_records_as_they_were() {
    on_every_target(|target| {
        let own: Vec<_> = (1..4).map(|i| ChannelMoments { count: 4, pivot: i as f32, offset: 0.5, m2: 2.0 }).collect();
        let conventions = [Convention::pytorch(), Convention::keras()];
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .zip(conventions)
                .map(|(mut rank, convention)| {
                    let own = &own;
                    scope.spawn(move || {
                        let moments = target.gpu.upload("moments", own);
                        let mut exchange = exchange_of(target, convention, &moments);
                        fetch(target, &mut exchange);
                        let error = exchange.finish(&target.gpu.queue, &mut rank).unwrap_err();
                        (error, target.gpu.read::<ChannelMoments>(&moments, 3))
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        for (error, moments) in outcomes {
            let named =
                matches!(error, ExchangeError::Disagreement { rank: 1, what } if what.starts_with("conventions"));
            assert!(named, "{target}: {error}");
            assert_eq!(moments, own, "{target}");
        }
    });
}

#[test]
fn an_exchange_goes_in_order_and_can_be_taken_up_again() {
    on_every_target(|target| {
        let own = vec![ChannelMoments { count: 4, pivot: 1.0, offset: 0.25, m2: 2.0 }; 3];
        let moments = target.gpu.upload("moments", &own);
        let mut exchange = exchange_of(target, Convention::pytorch(), &moments);
        let mut alone = threads(1, Duration::from_secs(1)).remove(0);
        let queue = &target.gpu.queue;
        assert!(matches!(exchange.finish(queue, &mut alone), Err(ExchangeError::NotReady)));
        let encoder = || target.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut dropped = encoder();
        exchange.record(&mut dropped).unwrap();
        assert!(matches!(exchange.record(&mut encoder()), Err(ExchangeError::UnderWay)));
        // Never submitted, so nothing is under way any more.
        drop(dropped);
        for _ in 0..3 {
            fetch(target, &mut exchange);
            assert!(exchange.is_ready());
            exchange.finish(queue, &mut alone).unwrap();
            assert_eq!(target.gpu.read::<ChannelMoments>(&moments, 3).len(), 3);
        }
        let merged = target.gpu.read::<ChannelMoments>(&moments, 3);
        assert!(merged.iter().all(|got| got.count == 4 && got.mean() == 1.25 && got.m2 == 2.0), "{target}: {merged:?}");
        // What the program's own kernels count unequally does not travel.
        let mixed: Vec<_> = (1..4).map(|count| ChannelMoments { count, ..own[0] }).collect();
        queue.write_buffer(&moments, 0, bytemuck::cast_slice(&mixed));
        fetch(target, &mut exchange);
        let refused = exchange.finish(queue, &mut alone);
        assert!(matches!(refused, Err(ExchangeError::MixedCounts { item: 0, instance: 1 })), "{refused:?}");
        assert_eq!(target.gpu.read::<ChannelMoments>(&moments, 3), mixed, "{target}");
    });
}
