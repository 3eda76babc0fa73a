//! Times compute passes, chooses how often a pass repeats its work, and sums up samples.

use std::time::Instant;

use crate::support::Gpu;

/// No timed pass is planned to last longer: drivers reset devices that do not answer for seconds.
const LONGEST_PASS: f64 = 1.0;

/// Enough that the clock's steps do not show, whatever the step's size.
const MOST_ITERATIONS: usize = 4096;

/// Records work once; told which iteration of the pass it is.
pub type Record<'a> = Box<dyn Fn(usize, &mut wgpu::ComputePass<'_>) + 'a>;

/// Times passes by GPU timestamps, or by the wall clock where the device has none.
pub struct Timer<'a> {
    gpu: &'a Gpu,
    /// Take the time that processors spend, which other work leaves alone but for its share of caches, and the least of the samples.
    by_processors: bool,
    timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl<'a> Timer<'a> {
    pub fn new(gpu: &'a Gpu, by_processors: bool) -> Self {
        let timestamps = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("wgpu_batch_norm::throughput::timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu_batch_norm::throughput::resolved"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (queries, resolved)
        });
        Self { gpu, by_processors, timestamps }
    }

    /// What the times are taken with.
    pub fn clock(&self) -> &'static str {
        match (self.by_processors, &self.timestamps) {
            (true, _) => "processor time",
            (false, Some(_)) => "GPU timestamps",
            (false, None) => "wall clock",
        }
    }

    /// Seconds per iteration of every record, each taken once a round so that drift hits all alike.
    ///
    /// A pass lasts about `target` seconds; `sets` is how many sets of buffers the records take in turn.
    pub fn alternate(&self, target: f64, rounds: usize, sets: usize, records: &[Record<'_>]) -> Vec<Summary> {
        let iterations: Vec<usize> = records.iter().map(|record| self.calibrate(target, sets, record)).collect();
        let mut samples = vec![Vec::with_capacity(rounds); records.len()];
        // One round more, to warm up.
        for round in 0..=rounds {
            for ((record, iterations), samples) in records.iter().zip(&iterations).zip(&mut samples) {
                let seconds = self.pass(*iterations, record) / *iterations as f64;
                if round > 0 {
                    samples.push(seconds);
                }
            }
        }
        let summary = |samples: Vec<f64>| {
            let (of, least) = (Summary::of(samples.clone()), samples.iter().copied().fold(f64::INFINITY, f64::min));
            // Where the least counts, it counts of every round.
            if self.by_processors { Summary { time: least, samples: vec![least], ..of } } else { of }
        };
        samples.into_iter().map(summary).collect()
    }

    /// Seconds of one pass in which `record` is called with 0, 1, … `iterations − 1`.
    pub fn pass(&self, iterations: usize, record: &Record<'_>) -> f64 {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: self.timestamps.as_ref().map(|(queries, _)| wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            for iteration in 0..iterations {
                record(iteration, &mut pass);
            }
        }
        if let Some((queries, resolved)) = &self.timestamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
        }
        let commands = encoder.finish();
        // Not asked for otherwise: the call does not survive Valgrind.
        let started = (Instant::now(), if self.by_processors { processor_time() } else { None });
        self.gpu.queue.submit([commands]);
        self.gpu.wait();
        if let Some(before) = started.1 {
            return processor_time().map_or(0.0, |after| after - before);
        }
        let Some((_, resolved)) = &self.timestamps else { return started.0.elapsed().as_secs_f64() };
        let ticks: Vec<u64> = self.gpu.read(resolved, 2);
        ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.gpu.queue.get_timestamp_period()) * 1e-9
    }

    /// Warms up and finds how many iterations make a pass of about `target` seconds, a multiple of `sets` if it can be.
    fn calibrate(&self, target: f64, sets: usize, record: &Record<'_>) -> usize {
        // The first pass pays for what is made on first use.
        self.pass(sets, record);
        let mut iterations = 1;
        loop {
            let seconds = self.pass(iterations, record);
            // One iteration alone carries the cost of the pass, so few iterations overestimate: approach in steps.
            if seconds >= target / 2.0 || iterations >= MOST_ITERATIONS {
                return fit(seconds / iterations as f64, target, sets);
            }
            let growth = (target / seconds.max(1e-9)).clamp(2.0, 64.0);
            iterations = ((iterations as f64 * growth) as usize).min(MOST_ITERATIONS);
        }
    }
}

/// Seconds that processors have spent on this process, drivers in it included; not known everywhere.
fn processor_time() -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Iterations of `seconds` each for a pass of `target` seconds.
fn fit(seconds: f64, target: f64, sets: usize) -> usize {
    let iterations = ((target / seconds.max(1e-9)).ceil() as usize).clamp(1, MOST_ITERATIONS);
    let whole = iterations.next_multiple_of(sets);
    if whole as f64 * seconds <= LONGEST_PASS { whole } else { iterations }
}

/// The middle of some samples, or the least of them, and how far the middle half of them reaches.
#[derive(Clone, Debug)]
pub struct Summary {
    pub time: f64,
    /// Interquartile range over median.
    pub spread: f64,
    /// In the order of the rounds.
    samples: Vec<f64>,
}

impl Summary {
    /// Of one sample at least.
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let median = percentile(&sorted, 0.5);
        let range = percentile(&sorted, 0.75) - percentile(&sorted, 0.25);
        Self { time: median, spread: if median > 0.0 { range / median } else { 0.0 }, samples }
    }

    /// The median over the rounds of this time over what `limit` makes of the copy's and the sum's in the same round: a machine that
    /// is slower for a while is so for all of them.
    pub fn over(&self, copy: &Self, sum: &Self, limit: impl Fn(f64, f64) -> f64) -> f64 {
        let rounds = self.samples.iter().zip(&copy.samples).zip(&sum.samples);
        let mut ratios: Vec<f64> = rounds.map(|((own, copy), sum)| own / limit(*copy, *sum)).collect();
        ratios.sort_by(f64::total_cmp);
        percentile(&ratios, 0.5)
    }
}

/// Between the two neighbouring samples, in proportion; `sorted` is ascending and not empty.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * fraction;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let sorted = [1.0, 2.0, 3.0, 10.0];
        let at = |fraction| percentile(&sorted, fraction);
        assert_eq!([at(0.0), at(0.25), at(0.5), at(0.75), at(1.0)], [1.0, 1.75, 2.5, 4.75, 10.0]);
        assert_eq!(percentile(&[7.0], 0.75), 7.0);
    }

    #[test]
    fn a_summary_sorts_and_ignores_one_outlier() {
        let summary = Summary::of(vec![2.0, 1.0, 900.0, 2.0, 3.0]);
        assert_eq!((summary.time, summary.spread), (2.0, 0.5));
    }

    #[test]
    fn a_ratio_is_of_times_of_the_same_round() {
        let of = |samples: [f64; 3]| Summary::of(samples.into());
        let (own, copy, sum) = (of([3.0, 30.0, 12.0]), of([2.0, 20.0, 4.0]), of([1.0, 10.0, 2.0]));
        assert_eq!(own.over(&copy, &sum, |copy, sum| copy + sum), 1.0);
    }

    #[test]
    fn passes_last_long_enough_use_every_set_and_stay_below_a_second() {
        assert_eq!(fit(0.001, 0.01, 2), 10);
        assert_eq!(fit(0.0011, 0.01, 2), 10);
        assert_eq!(fit(0.3, 0.01, 2), 2);
        assert_eq!(fit(0.7, 0.01, 2), 1);
        assert_eq!(fit(0.0, 0.01, 2), MOST_ITERATIONS);
    }
}
