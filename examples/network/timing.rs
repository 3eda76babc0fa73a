//! Two networks beside each other on the clock.

use std::time::{Duration, Instant};

use super::context::Context;
use super::plot::Spread;
use super::tape::Program;

/// How long a round should take for each network.
const ROUND: Duration = Duration::from_millis(60);

/// Milliseconds of one forward of each, taken in turn so that both meet whatever else the machine does.
pub fn forwards_in_turn(context: &Context, programs: [&Program; 2], rounds: usize) -> [Spread; 2] {
    let time = |program: &Program, repeats: u32| {
        let start = Instant::now();
        context.gpu.submit(|pass| (0..repeats).for_each(|_| program.record_forward(pass)));
        context.gpu.wait();
        start.elapsed().as_secs_f64() * 1e3 / f64::from(repeats)
    };
    let repeats = (ROUND.as_secs_f64() * 1e3 / time(programs[0], 1)).clamp(1.0, 1000.0) as u32;
    let rounds: Vec<[f64; 2]> = (0..rounds).map(|_| programs.map(|program| time(program, repeats))).collect();
    [0, 1].map(|index| Spread::of(rounds.iter().map(|round| round[index])))
}
