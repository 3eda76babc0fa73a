//! What ResNet-50's batch norms cost on a network, by the usual model: α seconds a message and β bytes a second.
//!
//! Gathers take log₂ k steps and receive k − 1 messages (recursive doubling); sums take 2·log₂ k steps and move their message twice
//! (Rabenseifner); merges in groups are two gathers, each of √k. No overlap, no contention.

use std::time::Duration;

const LATENCY: f64 = 5e-6;
/// 100 Gbit/s.
const BANDWIDTH: f64 = 12.5e9;
/// Bytes of a call that ranks compare.
const COMPARISON: f64 = 16.0;
const DEVICES: [u32; 3] = [8, 64, 1024];

/// Channels of ResNet-50's batch norms, and whether one stands beside another (the shortcut of a stage's first block), so that their
/// messages can be one.
fn resnet50() -> Vec<(usize, bool)> {
    let mut norms = vec![(64, false)];
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            norms.extend([(width, false), (width, false), (4 * width, false)]);
            if block == 0 {
                norms.push((4 * width, true));
            }
        }
    }
    norms
}

fn steps(devices: u32) -> f64 {
    f64::from(devices).log2()
}

fn gather(bytes: f64, devices: u32) -> f64 {
    steps(devices) * LATENCY + f64::from(devices - 1) * bytes / BANDWIDTH
}

fn sum(bytes: f64, devices: u32) -> f64 {
    2.0 * steps(devices) * LATENCY + 2.0 * bytes / BANDWIDTH
}

/// Groups of the largest divisor up to the root, from 32 devices on, as the library's.
fn in_groups(bytes: f64, devices: u32) -> f64 {
    if devices < 32 {
        return gather(bytes, devices);
    }
    let group = (1..=devices.isqrt()).rev().find(|size| devices.is_multiple_of(*size)).unwrap_or(1);
    gather(bytes, group) + gather(bytes, devices / group)
}

/// Values of each message: those that stand beside another one are in its message.
fn messages(a_channel: usize, a_layer: usize, header: usize, together: bool) -> Vec<f64> {
    let mut messages: Vec<f64> = Vec::new();
    for (channels, beside) in resnet50() {
        let values = (a_channel * channels + a_layer) as f64;
        match messages.last_mut().filter(|_| beside && together) {
            Some(last) => *last += values,
            None => messages.push(values + header as f64),
        }
    }
    messages.iter().map(|values| 4.0 * values).collect()
}

/// Prints the tables; `staging` is the measured time between device and host of one exchange, where it could be told.
pub fn print(staging: Option<Duration>) {
    println!(
        "ResNet-50, {} batch norms, {} channels; network of 5 µs and 100 Gbit/s; forward and backward, ms:",
        resnet50().len(),
        resnet50().iter().map(|norm| norm.0).sum::<usize>()
    );
    println!("devices  PyTorch's scheme  one gather  in groups  in groups, branches together  comparing calls adds");
    let total = |messages: &[f64], cost: fn(f64, u32) -> f64, devices| -> f64 {
        1e3 * messages.iter().map(|&bytes| cost(bytes, devices)).sum::<f64>()
    };
    let [apart, together] = [false, true].map(|together| [messages(3, 2, 8, together), messages(2, 0, 8, together)]);
    for devices in DEVICES {
        let pytorch =
            total(&messages(2, 1, 0, false), gather, devices) + total(&messages(2, 0, 0, false), sum, devices);
        let ours = |all: &[Vec<f64>; 2], cost: fn(f64, u32) -> f64| -> f64 {
            all.iter().map(|messages| total(messages, cost, devices)).sum()
        };
        println!(
            "{devices:>7}  {pytorch:>16.2}  {:>10.2}  {:>9.2}  {:>28.2}  {:>20.2}",
            ours(&apart, gather),
            ours(&apart, in_groups),
            ours(&together, in_groups),
            2e3 * together[0].len() as f64 * gather(COMPARISON, devices)
        );
    }
    let Some(staging) = staging.map(|staging| staging.as_secs_f64()) else {
        println!("The way through the host could not be told from the machine's other work.");
        return;
    };
    println!(
        "Through the host, add {:.0} µs an exchange, as measured above: {:.1} ms for {}, {:.1} ms for {} with branches together.",
        1e6 * staging,
        2e3 * staging * apart[0].len() as f64,
        2 * apart[0].len(),
        2e3 * staging * together[0].len() as f64,
        2 * together[0].len()
    );
}
