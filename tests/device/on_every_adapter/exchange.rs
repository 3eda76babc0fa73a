//! One batch over several ranks, whose records go through an exchange.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lost_devices::another;
use crate::common::case::{Case, Padding, Segments};
use crate::common::parts::run_devices_through_an_exchange;
use crate::common::tolerance::compare;
use crate::common::{Target, on_all_targets, on_every_target, support};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::exchange::{Exchange, ExchangeError, ExchangeItem, ThreadCollective, threads};
use wgpu_batch_norm::{
    BatchNorm, BatchNormDescriptor, ChannelGradientSums, ChannelMoments, ConcludeBuffers, Convention, Kernels,
    PartBuffers, Plan, RunningStatistics, SegmentRunning, ShaderChecks, Shape, Step, TrainingBuffers, TrainingStep,
    wgpu,
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
            .map(|gpu| Target {
                kernels: Kernels::new(&gpu.device),
                checks: ShaderChecks::Trusted,
                gpu: Arc::new(gpu),
                ..targets[0]
            })
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
    let plan = plan_of(target, 3, convention).1;
    Exchange::new(&target.gpu.device, &[ExchangeItem::moments(&plan, moments.slice(..plan.part_moments_size()))])
        .unwrap()
}

fn plan_of(target: &Target, channels: usize, convention: Convention) -> (BatchNorm, Plan) {
    let descriptor = BatchNormDescriptor { channels: channels as u32, convention, ..Default::default() };
    let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
    let plan = bn.plan(&Shape::new(&[4, channels]).unwrap()).unwrap();
    (bn, plan)
}

/// What two ranks return, a thread each.
fn two_ranks<T: Send>(task: impl Fn(usize, ThreadCollective) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let (task, ranks) = (&task, threads(2, Duration::from_secs(60)).into_iter().enumerate());
        let workers: Vec<_> = ranks.map(|(index, rank)| scope.spawn(move || task(index, rank))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

fn fetch(target: &Target, exchange: &mut Exchange) {
    let mut encoder = target.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let fetched = exchange.record(&mut encoder).unwrap();
    target.gpu.queue.submit([encoder.finish()]);
    target.gpu.wait();
    // Other tests poll the same device, and the thread of one of them may just be about to say that the records are mapped.
    pollster::block_on(fetched).unwrap();
}

#[test]
fn an_error_leaves_the_records_as_they_were() {
    on_every_target(|target| {
        let own: Vec<_> = (1..4).map(|i| ChannelMoments { count: 4, pivot: i as f32, offset: 0.5, m2: 2.0 }).collect();
        let conventions = [Convention::pytorch(), Convention::keras()];
        let outcomes = two_ranks(|index, mut rank| {
            let moments = target.gpu.upload("moments", &own);
            let mut exchange = exchange_of(target, conventions[index], &moments);
            fetch(target, &mut exchange);
            let error = exchange.finish(&target.gpu.queue, &mut rank).unwrap_err();
            (error, target.gpu.read::<ChannelMoments>(&moments, 3))
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

#[test]
fn several_layers_travel_in_one_message_and_may_be_written_elsewhere() {
    on_every_target(|target| {
        let (gpu, queue) = (&target.gpu, &target.gpu.queue);
        let plans = [3, 5].map(|channels| plan_of(target, channels, Convention::pytorch()).1);
        let record = |rank: usize, at: usize| ChannelMoments {
            count: [4, 12][rank],
            pivot: at as f32,
            offset: rank as f32,
            m2: 2.0,
        };
        let sum = |rank: usize, at: usize| ChannelGradientSums { sum: (rank + at) as f32, product: -1.0 };
        // Both ranks by one thread.
        let mut ranks: Vec<_> = (0..2)
            .map(|rank| {
                let moments = [3, 5]
                    .map(|count| gpu.upload("moments", &(0..count).map(|at| record(rank, at)).collect::<Vec<_>>()));
                let sums = gpu.upload("sums", &(0..3).map(|at| sum(rank, at)).collect::<Vec<_>>());
                let elsewhere = gpu.zeroed("elsewhere", plans[1].part_moments_size());
                let items = [
                    ExchangeItem::moments(&plans[0], moments[0].slice(..plans[0].part_moments_size())),
                    ExchangeItem::gradient_sums(&plans[0], sums.slice(..plans[0].gradient_sums_size())),
                    ExchangeItem::moments(&plans[1], moments[1].slice(..plans[1].part_moments_size()))
                        .into(elsewhere.slice(..plans[1].part_moments_size())),
                ];
                (Exchange::new(&gpu.device, &items).unwrap(), moments, sums, elsewhere)
            })
            .collect();
        ranks.iter_mut().for_each(|(exchange, ..)| fetch(target, exchange));
        let messages = ranks.iter_mut().flat_map(|(exchange, ..)| exchange.take().unwrap()).collect::<Vec<_>>();
        // A header, and with each layer's moments its count.
        assert_eq!(messages.len(), 2 * (8 + (3 * 3 + 2) + 2 * 3 + (3 * 5 + 2)));
        ranks.iter_mut().for_each(|(exchange, ..)| exchange.deliver(queue, &messages).unwrap());
        for (rank, (_, moments, sums, elsewhere)) in ranks.iter().enumerate() {
            for (at, got) in gpu.read::<ChannelGradientSums>(sums, 3).into_iter().enumerate() {
                let expected = ChannelGradientSums { sum: (2 * at + 1) as f32, product: -2.0 };
                assert_eq!(got, expected, "{target}: rank {rank}");
            }
            for (buffer, count) in [(&moments[0], 3), (elsewhere, 5)] {
                for (at, got) in gpu.read::<ChannelMoments>(buffer, count).into_iter().enumerate() {
                    // Means that are 1 apart, weighted 1 to 3.
                    assert_eq!((got.count, got.mean(), got.m2), (16, at as f32 + 0.75, 7.0), "{target}: rank {rank}");
                }
            }
            let left: Vec<_> = (0..5).map(|at| record(rank, at)).collect();
            assert_eq!(gpu.read::<ChannelMoments>(&moments[1], 5), left, "{target}: rank {rank}");
        }
    });
}

/// One rank of two crosses two exchanges, of so many channels each, at the first step or at the second.
fn crossed(target: &Target, channels: [usize; 2], names: Option<[&str; 2]>, first: bool) -> Vec<ExchangeError> {
    two_ranks(|index, mut rank| {
        let record = ChannelMoments { count: 4, pivot: 1.0, offset: 0.0, m2: 2.0 };
        let buffers = channels.map(|count| target.gpu.upload("moments", &vec![record; count]));
        let mut exchanges: Vec<_> = channels
            .iter()
            .zip(&buffers)
            .enumerate()
            .map(|(at, (&count, buffer))| {
                let plan = plan_of(target, count, Convention::pytorch()).1;
                let item = ExchangeItem::moments(&plan, buffer.slice(..plan.part_moments_size()));
                let exchange = Exchange::new(&target.gpu.device, &[item]).unwrap();
                match names {
                    Some(names) => exchange.named(names[at]),
                    None => exchange,
                }
            })
            .collect();
        if !first {
            for exchange in &mut exchanges {
                fetch(target, exchange);
                exchange.finish(&target.gpu.queue, &mut rank).unwrap();
            }
        }
        exchanges.iter_mut().for_each(|exchange| fetch(target, exchange));
        let before = target.gpu.read::<ChannelMoments>(&buffers[index], channels[index]);
        let error = exchanges[index].finish(&target.gpu.queue, &mut rank).unwrap_err();
        assert_eq!(target.gpu.read::<ChannelMoments>(&buffers[index], channels[index]), before, "{target}");
        error
    })
}

#[test]
fn ranks_that_cross_their_exchanges_all_get_an_error() {
    on_every_target(|target| {
        // Layers that are alike, whose messages nothing else tells apart.
        for error in crossed(target, [3, 3], None, false) {
            let found = matches!(error, ExchangeError::Disagreement { rank: 1, what: "which exchange this is" });
            assert!(found, "{target}: {error}");
        }
        for error in crossed(target, [3, 5], None, false) {
            let ExchangeError::Collective(reason) = &error else { panic!("{target}: {error}") };
            assert!(reason.to_string().contains("values, others"), "{target}: {error}");
        }
        for (channels, names, what) in
            [([3, 3], Some(["first", "second"]), "the name of the exchange"), ([3, 5], None, "channels or segments")]
        {
            for error in crossed(target, channels, names, true) {
                let found = matches!(error, ExchangeError::Disagreement { rank: 1, what: got } if got == what);
                assert!(found, "{target}: {error}");
            }
        }
    });
}

#[test]
fn what_was_fetched_for_a_step_that_was_given_up_is_not_taken() {
    on_every_target(|target| {
        let moments = target.gpu.upload("moments", &[ChannelMoments { count: 4, ..Default::default() }; 3]);
        let mut exchange = exchange_of(target, Convention::pytorch(), &moments);
        let mut alone = threads(1, Duration::from_secs(1)).remove(0);
        let queue = &target.gpu.queue;
        let mut encoder = target.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        exchange.record(&mut encoder).unwrap();
        queue.submit([encoder.finish()]);
        // Before the device was polled.
        exchange.abandon(&mut alone).unwrap();
        target.gpu.wait();
        assert!(!exchange.is_ready());
        assert!(matches!(exchange.finish(queue, &mut alone), Err(ExchangeError::NotReady)));
        fetch(target, &mut exchange);
        exchange.finish(queue, &mut alone).unwrap();
    });
}

#[test]
fn a_rank_whose_device_is_lost_tells_the_others() {
    on_every_target(|target| {
        for on_its_way in [false, true] {
            let outcomes = two_ranks(|index, mut rank| {
                let gpu = another(target);
                let own = Target {
                    kernels: Kernels::new(&gpu.device),
                    checks: ShaderChecks::Trusted,
                    gpu: Arc::new(gpu),
                    ..*target
                };
                let (device, queue) = (&own.gpu.device, &own.gpu.queue);
                let uncaptured = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&uncaptured);
                device.on_uncaptured_error(Arc::new(move |error| log.lock().unwrap().push(error.to_string())));
                let moments = own.gpu.upload("moments", &[ChannelMoments { count: 4, ..Default::default() }; 3]);
                let mut exchange = exchange_of(&own, Convention::pytorch(), &moments);
                fetch(&own, &mut exchange);
                exchange.finish(queue, &mut rank).unwrap();
                if index == 1 && !on_its_way {
                    device.destroy();
                }
                let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                exchange.record(&mut encoder).unwrap();
                queue.submit([encoder.finish()]);
                if index == 1 && on_its_way {
                    device.destroy();
                }
                own.gpu.wait();
                let outcome = exchange.finish(queue, &mut rank);
                assert!(uncaptured.lock().unwrap().is_empty(), "{target}: {uncaptured:?}");
                outcome
            });
            match &outcomes[..] {
                [Err(ExchangeError::GivenUp { rank: 1 }), Err(ExchangeError::NotMapped)] => {}
                // The records were on the host before the device was lost.
                [Ok(()), Ok(())] if on_its_way => {}
                other => panic!("{target}: {other:?}"),
            }
        }
    });
}

/// A layer of one rank: four samples of three channels, moments, training and the update of running statistics.
struct Layer {
    running: wgpu::Buffer,
    part: Step,
    exchange: Exchange,
    training: TrainingStep,
    commit: TrainingStep,
}

/// Where the variance stands beside the mean.
const VARIANCE: u64 = 256;

impl Layer {
    fn new(target: &Target, values: &[f32]) -> Self {
        let gpu = &target.gpu;
        let (bn, plan) = plan_of(target, 3, Convention::pytorch());
        let (input, output) = (gpu.upload("input", values), gpu.zeroed("output", plan.tensor_size()));
        let (moments, saved) =
            (gpu.zeroed("moments", plan.part_moments_size()), gpu.zeroed("saved", plan.saved_size()));
        let workspace = gpu.zeroed("workspace", plan.workspace_size());
        let running = gpu.upload("running statistics", &[0.5_f32; 128]);
        let tracked = RunningStatistics {
            mean: running.slice(..plan.running_size()),
            variance: running.slice(VARIANCE..VARIANCE + plan.running_size()),
            batches_tracked: None,
        };
        let [x, y] = [&input, &output].map(|tensor| tensor.slice(..plan.tensor_size()));
        let (records, scratch) = (moments.slice(..plan.part_moments_size()), workspace.slice(..plan.workspace_size()));
        let saved = saved.slice(..plan.saved_size());
        let buffers =
            TrainingBuffers { running: Some(tracked), saved: Some(saved), ..TrainingBuffers::new(x, y, scratch) };
        let conclude = ConcludeBuffers { running: Some(tracked), ..ConcludeBuffers::new(records, saved) };
        Self {
            part: bn.bind_part_moments(&plan, &PartBuffers::new(x, records, scratch)).unwrap(),
            exchange: Exchange::new(&gpu.device, &[ExchangeItem::moments(&plan, records)]).unwrap(),
            training: bn.bind_training_from_parts(&plan, records, &buffers).unwrap(),
            commit: bn.bind_conclude(&plan, &conclude).unwrap(),
            running,
        }
    }

    /// Forward; the running statistics are updated at once, or not.
    fn forward(&mut self, target: &Target, rank: &mut ThreadCollective, updates: bool) -> Result<(), ExchangeError> {
        target.gpu.submit(|pass| self.part.record(pass));
        fetch(target, &mut self.exchange);
        self.exchange.finish(&target.gpu.queue, rank)?;
        target.gpu.submit(|pass| {
            if updates {
                self.training.record(pass);
            } else {
                self.training.record_without_running_update(pass);
            }
        });
        Ok(())
    }

    fn running(&self, target: &Target) -> Vec<u32> {
        target.gpu.read(&self.running, 128)
    }
}

#[test]
fn a_step_that_fails_in_its_second_layer_updates_none() {
    on_every_target(|target| {
        let values = |seed: f32| (0..12).map(|at| (seed * at as f32).sin()).collect::<Vec<_>>();
        two_ranks(|index, mut rank| {
            let layers = || [1.0, 2.0].map(|layer| Layer::new(target, &values(layer + 0.3 * index as f32)));
            let (mut layers, mut at_once) = (layers(), layers());
            let before = layers.each_ref().map(|layer| layer.running(target));
            // Once so that the exchanges have greeted, and a second time with a rank that gives up on its way.
            for step in 0..2 {
                layers[0].forward(target, &mut rank, false).unwrap();
                if step == 1 && index == 1 {
                    layers[1].exchange.abandon(&mut rank).unwrap();
                } else {
                    let outcome = layers[1].forward(target, &mut rank, false);
                    assert_eq!(outcome.is_err(), step == 1, "{target}: {outcome:?}");
                }
                assert_eq!(layers.each_ref().map(|layer| layer.running(target)), before, "{target}");
            }
            // The same step again, which all ranks are ready for.
            layers.iter_mut().for_each(|layer| layer.forward(target, &mut rank, false).unwrap());
            target.gpu.submit(|pass| layers.iter().for_each(|layer| layer.commit.record(pass)));
            at_once.iter_mut().for_each(|layer| layer.forward(target, &mut rank, true).unwrap());
            for (layer, at_once) in layers.iter().zip(&at_once) {
                assert_eq!(layer.running(target), at_once.running(target), "{target}: layers of rank {index}");
                assert_ne!(layer.running(target), before[0], "{target}");
            }
        });
    });
}
