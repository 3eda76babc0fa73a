//! The example library against its mathematics: every layer's forward against the same in f64 on the host, its gradients against
//! central differences of that, optimisers against their formulas.
//!
//! In the examples' folder because it is the examples that it protects; `Cargo.toml` makes it a test.

#[path = "mod.rs"]
mod network;

use network::digits::{Batches, CLASSES, Digits, PIXELS};
use network::plot::{Heat, Lines, Panel, Series, Spread};
use network::sequences::{SHORTEST, STEPS, Sequences, WIDTH};

mod on_every_adapter;

#[test]
fn the_split_is_the_customary_one() {
    let digits = Digits::load();
    assert_eq!((digits.training.len(), digits.test.len()), (1437, 360));
    for split in [&digits.training, &digits.test] {
        assert_eq!(split.images.len(), split.len() * PIXELS);
        assert!(split.images.iter().all(|grey| (0.0..=1.0).contains(grey)));
        assert!(split.labels.iter().all(|&label| (label as usize) < CLASSES));
    }
    assert_eq!(digits.training.labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn an_epoch_takes_no_sample_twice_and_a_seed_gives_one_order() {
    let mut batches = Batches::new(100, 30, 7);
    let epoch = batches.take(3);
    let mut sorted = epoch.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 90);
    let next = batches.take(3);
    assert_ne!(epoch, next);
    assert_eq!(Batches::new(100, 30, 7).take(6), [epoch, next].concat());
}

#[test]
fn sequences_end_where_their_length_says() {
    let test = Digits::load().test;
    let sequences = Sequences::cut(&test, 3);
    let by_step = sequences.by_step();
    assert!((SHORTEST..=STEPS as u32).all(|length| sequences.lengths.contains(&length)));
    let mut kept = 0;
    for (sequence, &length) in sequences.lengths.iter().enumerate() {
        for step in 0..STEPS {
            let row = &by_step[(step * test.len() + sequence) * WIDTH..][..WIDTH];
            let pixels = &test.images[sequence * PIXELS + step * WIDTH..][..WIDTH];
            if step < length as usize {
                assert_eq!(row, pixels, "{sequence}, {step}");
                kept += 1;
            } else {
                assert_eq!(row, [0.0; WIDTH], "{sequence}, {step}");
            }
        }
    }
    assert!(kept > test.len() * SHORTEST as usize && kept < test.len() * STEPS);
}

#[test]
fn a_spread_is_median_and_extremes() {
    assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, low: 1.0, high: 3.0 });
    assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, low: 1.0, high: 4.0 });
    assert!(Spread::of([]).median.is_nan());
    let series = Series::over_runs("a", &[0.0, 1.0, 2.0], &[vec![1.0, 2.0, 3.0], vec![3.0, 4.0]]);
    assert_eq!(series.points.len(), 2, "a run that was stopped ends the curve");
    assert_eq!((series.points[1].low, series.points[1].y, series.points[1].high), (2.0, 3.0, 4.0));
}

#[test]
fn plots_have_their_values_beside_them() {
    let folder = std::env::temp_dir().join(format!("wgpu_batch_norm_plot_{}", std::process::id()));
    let path = folder.join("deep/plot.svg");
    let lines = Lines {
        title: "curves".into(),
        series: vec![Series::new("a, b", [(1.0, 2.0), (2.0, 8.0)])],
        ..Default::default()
    };
    let heat = Heat {
        title: "map".into(),
        columns: vec!["1".into(), "10".into()],
        rows: vec!["low".into()],
        values: vec![vec![Spread::of([0.25, 0.5, 0.125]), Spread::of([])]],
        range: 0.0..1.0,
        decimals: 2,
        ..Default::default()
    };
    network::plot::write(&path, &[Panel::Lines(lines), Panel::Heat(heat)]).unwrap();
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(svg.contains("curves") && svg.contains("0.25") && svg.contains("0.12–0.50"), "{svg}");
    let csv = std::fs::read_to_string(path.with_extension("csv")).unwrap();
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows[..2], ["panel,series,x,y,low,high", "\"curves\",\"a, b\",1,2,2,2"]);
    assert_eq!(rows[3], "\"map\",\"low\",\"1\",0.25,0.125,0.5");
    let curve = vec![Series::new("a", [(1.0, 1.0), (2.0, 0.0), (3.0, f64::NAN), (4.0, 10.0)])];
    let lines = Lines { log_y: true, series: curve, ..Default::default() };
    network::plot::write(&path, &[Panel::Lines(lines)]).unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("NaN"), "what has no logarithm is left out");
    assert!(std::fs::read_to_string(path.with_extension("csv")).unwrap().contains("NaN"), "but not from the values");
    let nothing = || Panel::Lines(Lines { title: "nothing".into(), ..Default::default() });
    assert!(network::plot::write(&path, &[nothing(), nothing()]).is_err(), "nothing to draw");
    let lines = Lines { series: vec![Series::new("a", [(1.0, 2.0)])], ..Default::default() };
    network::plot::write(&path, &[nothing(), Panel::Lines(lines)]).unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("nothing"), "one part without values leaves the other");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_example_has_its_own_defaults() {
    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        common: network::arguments::Common,
    }
    let parsed = |line: &[&str]| {
        let matches =
            network::arguments::command::<Arguments>("70", "target/there").try_get_matches_from(line).unwrap();
        <Arguments as clap::FromArgMatches>::from_arg_matches(&matches).unwrap().common
    };
    let defaults = parsed(&["example"]);
    assert_eq!(defaults.seeds().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((defaults.steps, defaults.out), (70, "target/there".into()));
    let line = ["example", "--steps", "3", "--seed", "9", "--seeds", "2", "--out", "here", "--adapter", "x"];
    let given = parsed(&line);
    assert_eq!(given.seeds().collect::<Vec<_>>(), [9, 10]);
    assert_eq!((given.steps, given.out, given.adapter), (3, "here".into(), Some("x".into())));
}

#[test]
fn learning_rates_that_teach_nothing_are_refused() {
    assert_eq!(network::arguments::positive("0.1"), Ok(0.1));
    for refused in ["0", "-0.1", "NaN", "inf", "fast"] {
        assert!(network::arguments::positive(refused).is_err(), "{refused}");
    }
}
