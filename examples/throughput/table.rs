//! Rows of results: as a table, as JSON, and summed over the layers of ResNet-50.

use serde::Serialize;
use wgpu_batch_norm::Plan;

use crate::configuration::Configuration;
use crate::operations::Operation;
use crate::shapes::{Dims, RESNET_50};

/// Interquartile range over median above which a figure is not to be trusted.
const LARGE_SPREAD: f64 = 0.1;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub op: &'static str,
    pub layout: &'static str,
    #[serde(flatten)]
    pub configuration: Configuration,
    /// (N, C, H, W) in either layout.
    pub shape: Dims,
    pub tensor_bytes: u64,
    #[serde(flatten)]
    pub status: Status,
    #[serde(flatten)]
    pub workspace: Option<Workspace>,
    #[serde(flatten)]
    pub beside: Option<Beside>,
    pub adapter: String,
    pub clock: &'static str,
}

/// What came out of it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Status {
    Measured(Figures),
    /// The library or the device said no.
    Refused(#[serde(serialize_with = "as_error")] String),
    /// The results are not what the reference says, so they were not timed.
    Wrong(#[serde(serialize_with = "as_error")] String),
}

fn as_error<S: serde::Serializer>(message: &str, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("error", message)?;
    map.end()
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub strategy: String,
    pub dispatches: usize,
    /// Median.
    pub ms: f64,
    /// Interquartile range over median.
    pub spread: f64,
    pub ns_per_element: f64,
    /// On the bytes of each input once and each output once.
    pub ideal_gbps: f64,
    /// On the bytes that the strategy moves.
    pub moved_gbps: f64,
    /// `moved_gbps` over the copy's.
    pub copy_ratio: f64,
    /// What the operation's sums and copies take.
    pub limit_ms: f64,
    /// The median over the rounds of a round's time over its limit.
    pub limit_ratio: f64,
}

/// Whose the operation is where it is not ours, and how it stands beside ours.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    pub peer: String,
    /// Its time over ours, where both were measured.
    pub peer_ratio: Option<f64>,
}

/// Scratch that the plan asks for, beside what it may.
#[derive(Clone, Debug, Serialize)]
pub struct Workspace {
    pub workspace_bytes: u64,
    pub workspace_bound: u64,
}

impl Workspace {
    pub fn of(plan: &Plan) -> Self {
        let segmentation = plan.segmentation();
        let bound = Self::bound(plan.tensor_size(), segmentation.instances(), segmentation.segments() > 1);
        Self { workspace_bytes: plan.workspace_size(), workspace_bound: bound }
    }

    /// The larger of 1 % of the tensor and 64 bytes an instance (a channel of a segment) plus 64 KiB; 8 bytes more an
    /// instance where segments share gamma.
    fn bound(tensor: u64, instances: u64, shares: bool) -> u64 {
        let each = if shares { 64 + 8 } else { 64 };
        (tensor / 100).max(each * instances + (64 << 10))
    }

    const fn exceeds(&self) -> bool {
        self.workspace_bytes > self.workspace_bound
    }
}

impl Row {
    pub const fn figures(&self) -> Option<&Figures> {
        match &self.status {
            Status::Measured(figures) => Some(figures),
            Status::Refused(_) | Status::Wrong(_) => None,
        }
    }

    /// Whose it is, before a message.
    fn whose(&self) -> String {
        self.beside.as_ref().map_or(String::new(), |beside| format!("{}: ", beside.peer))
    }

    /// Why there are no figures.
    pub fn error(&self) -> Option<&str> {
        match &self.status {
            Status::Measured(_) => None,
            Status::Refused(message) | Status::Wrong(message) => Some(message),
        }
    }
}

/// `(32,64,56,56)`.
pub fn shape_name([n, c, h, w]: Dims) -> String {
    format!("({n},{c},{h},{w})")
}

pub fn print_header() {
    println!(
        "{:19} {:5} {:15} {:21} {:>4} {:>9} {:>6} {:>7} {:>7} {:>6} {:>6} {:>10}",
        "shape (N,C,H,W)",
        "lay.",
        "op",
        "strategy",
        "disp",
        "ms",
        "spread",
        "ideal",
        "moved",
        "/copy",
        "/limit",
        "workspace"
    );
    println!("{:85} {:>7} {:>7} {:>13} {:>10}", "", "GB/s", "GB/s", "", "bytes");
}

pub fn print_rows(rows: &[Row]) {
    for row in rows {
        let key = format!("{:19} {:5} {:15}", shape_name(row.shape), row.layout, row.op);
        let workspace = row.workspace.as_ref().map_or(String::new(), |workspace| {
            let mark = if workspace.exceeds() { " EXCEEDS ITS BOUND" } else { "" };
            format!("{:>10}{mark}", workspace.workspace_bytes)
        });
        let beside = row.beside.as_ref().and_then(|beside| beside.peer_ratio);
        let beside = beside.map_or(String::new(), |ratio| format!("{ratio:.2} of ours"));
        match &row.status {
            Status::Measured(figures) => {
                let mark = if figures.spread > LARGE_SPREAD { '!' } else { ' ' };
                println!(
                    "{key} {:21} {:>4} {:>9.4} {:>4.0}%{mark} {:>7.2} {:>7.2} {:>6.2} {:>6.2} {workspace}{beside}",
                    figures.strategy,
                    figures.dispatches,
                    figures.ms,
                    figures.spread * 100.0,
                    figures.ideal_gbps,
                    figures.moved_gbps,
                    figures.copy_ratio,
                    figures.limit_ratio,
                );
            }
            Status::Refused(message) => println!("{key} {}{message}", row.whose()),
            Status::Wrong(message) => println!("{key} {}WRONG, not timed: {message}", row.whose()),
        }
    }
}

/// Warns of figures that vary and of workspaces that are too large; returns whether every result was right.
pub fn print_verdict(rows: &[Row]) -> bool {
    let count = |matches: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| matches(row)).count();
    let noisy = count(&|row| row.figures().is_some_and(|figures| figures.spread > LARGE_SPREAD));
    if noisy > 0 {
        println!(
            "\nWarning: {noisy} of {} rows (!) spread by more than {:.0} %; something else used the machine.",
            rows.len(),
            LARGE_SPREAD * 100.0
        );
    }
    let segmented = rows.first().is_some_and(|row| row.configuration.segments.is_some());
    let planned = count(&|row| row.workspace.is_some());
    let large = count(&|row| row.workspace.as_ref().is_some_and(Workspace::exceeds));
    println!(
        "\nWorkspace: {large} of {planned} rows exceed the larger of 1 % of the tensor and {} plus 64 KiB.",
        if segmented { "72 bytes a channel of each segment" } else { "64 bytes a channel" }
    );
    let wrong = count(&|row| matches!(row.status, Status::Wrong(_)));
    if wrong > 0 {
        println!("\nWRONG RESULTS in {wrong} rows.");
    }
    wrong == 0
}

/// The 53 batch norms of ResNet-50, each distinct shape weighted by its layers; nothing where a shape was not asked for.
pub fn print_resnet(rows: &[Row]) {
    let Some(Row { configuration, .. }) = rows.first() else { return };
    let mut lines = Vec::new();
    for layout in ["first", "last"] {
        // Without marking, which is done once a batch and not in every layer.
        for operation in Operation::ALL {
            if let Some(sum) = sum_resnet(rows, operation.name(), layout) {
                let limit = operation.limit_formula(configuration, 1);
                lines.push(format!("{:15} {layout:5} {sum}  limit: {limit}", operation.name()));
            }
        }
    }
    if !lines.is_empty() {
        println!(
            "\nResNet-50, N = 32, all 53 batch norms\n{:15} {:5} {:>9} {:>9} {:>6}",
            "op", "lay.", "ms", "limit", "/limit"
        );
        println!("{}", lines.join("\n"));
    }
}

fn sum_resnet(rows: &[Row], op: &str, layout: &str) -> Option<String> {
    let (mut ms, mut limit_ms, mut missing) = (0.0, 0.0, 0);
    for (dims, layers) in RESNET_50 {
        let row = rows.iter().find(|row| row.op == op && row.layout == layout && row.shape == dims)?;
        match row.figures() {
            Some(figures) => {
                ms += f64::from(layers) * figures.ms;
                limit_ms += f64::from(layers) * figures.limit_ms;
            }
            None => missing += layers,
        }
    }
    let note =
        if missing > 0 { format!("  without {missing} layers that could not be measured") } else { String::new() };
    Some(format!("{ms:>9.2} {limit_ms:>9.2} {:>6.2}{note}", ms / limit_ms))
}

/// Peers beside ours, shape after shape, with forward and backward together; nothing where there were none.
pub fn print_peers(rows: &[Row]) {
    let mut names: Vec<&str> = rows.iter().filter_map(|row| Some(row.beside.as_ref()?.peer.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let lines = compare(rows, name);
        if lines.is_empty() {
            continue;
        }
        println!("\n{name} beside ours, channels first\n");
        println!(
            "{:19} {:18} {:>9} {:>9} {:>9} {:>11} {:>10}",
            "shape (N,C,H,W)", "op", "peer ms", "ours ms", "peer/ours", "peer/limit", "ours/limit"
        );
        for Compared { shape, what, peer_ms, ours_ms, limit_ms } in &lines {
            println!(
                "{:19} {what:18} {peer_ms:>9.3} {ours_ms:>9.3} {:>9.2} {:>11.2} {:>10.2}",
                shape_name(*shape),
                peer_ms / ours_ms,
                peer_ms / limit_ms,
                ours_ms / limit_ms,
            );
        }
        let mut ratios: Vec<f64> = lines.iter().map(|line| line.peer_ms / line.ours_ms).collect();
        ratios.sort_by(f64::total_cmp);
        if let Some(least) = ratios.first() {
            let ahead = ratios.iter().filter(|ratio| **ratio > 1.0).count();
            println!("Ours is ahead in {ahead} of {}; the least ratio is {least:.2}.", ratios.len());
        }
    }
}

/// What a peer and ours take for the same.
struct Compared {
    shape: Dims,
    what: &'static str,
    peer_ms: f64,
    ours_ms: f64,
    limit_ms: f64,
}

/// Every shape and operation that both have; the limit of two operations is that of the one and that of the other.
fn compare(rows: &[Row], name: &str) -> Vec<Compared> {
    const WHAT: [(&str, &[Operation]); 4] = [
        ("training", &[Operation::Training]),
        ("inference", &[Operation::Inference]),
        ("backward", &[Operation::Backward]),
        ("forward + backward", &[Operation::Training, Operation::Backward]),
    ];
    let of_peer = |row: &&Row| row.beside.as_ref().is_some_and(|beside| beside.peer == name);
    let mut shapes: Vec<Dims> = rows.iter().filter(of_peer).map(|row| row.shape).collect();
    shapes.dedup();
    let mut lines = Vec::new();
    for shape in shapes {
        let here = || rows.iter().filter(|row| row.shape == shape && row.layout == "first");
        for (what, operations) in WHAT {
            let sum = |figure: &dyn Fn(Operation) -> Option<f64>| operations.iter().copied().map(figure).sum();
            let of = |operation: Operation| here().find(|row| row.op == operation.name()).and_then(Row::figures);
            let peer_of = |operation: Operation| {
                here().filter(of_peer).find(|row| row.op == operation.peer_name()).and_then(Row::figures)
            };
            let peer_ms: Option<f64> = sum(&|operation| Some(peer_of(operation)?.ms));
            let ours_ms: Option<f64> = sum(&|operation| Some(of(operation)?.ms));
            let limit_ms: Option<f64> = sum(&|operation| Some(of(operation)?.limit_ms));
            if let (Some(peer_ms), Some(ours_ms), Some(limit_ms)) = (peer_ms, ours_ms, limit_ms) {
                lines.push(Compared { shape, what, peer_ms, ours_ms, limit_ms });
            }
        }
    }
    lines
}

/// One object a row.
pub fn json(rows: &[Row]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shape: Dims, status: Status) -> Row {
        Row {
            op: "training",
            layout: "first",
            configuration: Configuration::default(),
            shape,
            tensor_bytes: 4 * shape.iter().product::<usize>() as u64,
            status,
            workspace: Some(Workspace { workspace_bytes: 10, workspace_bound: 9 }),
            beside: None,
            adapter: "adapter".into(),
            clock: "wall clock",
        }
    }

    fn measured(ms: f64) -> Status {
        Status::Measured(Figures {
            strategy: "split rows/rows".into(),
            dispatches: 3,
            ms,
            spread: 0.0,
            ns_per_element: 1.0,
            ideal_gbps: 1.0,
            moved_gbps: 1.0,
            copy_ratio: 1.0,
            limit_ms: ms / 2.0,
            limit_ratio: 2.0,
        })
    }

    #[test]
    fn json_rows_are_flat_and_have_figures_or_an_error() {
        let rows = [row([1; 4], measured(5.0)), row([1; 4], Status::Refused("too large".into()))];
        let json: serde_json::Value = serde_json::from_str(&json(&rows).unwrap()).unwrap();
        let fields = [
            "op",
            "layout",
            "element",
            "activation",
            "residual",
            "padded",
            "renormalized",
            "shape",
            "strategy",
            "dispatches",
            "ms",
            "ideal_gbps",
            "moved_gbps",
            "copy_ratio",
            "limit_ratio",
            "workspace_bytes",
        ];
        assert!(fields.iter().all(|field| !json[0][field].is_null()), "{json}");
        assert!(json[0]["error"].is_null() && json[1]["ms"].is_null());
        assert!(json[0].get("segments").is_some_and(serde_json::Value::is_null));
        assert_eq!(json[1]["error"], "too large");
    }

    #[test]
    fn the_workspace_bound_is_the_larger_of_the_two() {
        assert_eq!(Workspace::bound(1 << 20, 3, false), 64 * 3 + 65536);
        assert_eq!(Workspace::bound(1 << 20, 3, true), 72 * 3 + 65536);
        assert_eq!(Workspace::bound(100 << 20, 3, false), 1 << 20);
        assert!(Workspace { workspace_bytes: 10, workspace_bound: 9 }.exceeds());
        assert!(!Workspace { workspace_bytes: 9, workspace_bound: 9 }.exceeds());
    }

    #[test]
    fn a_peer_stands_beside_ours_operation_by_operation_and_step_by_step() {
        let peer = |op, ms| {
            let beside = Some(Beside { peer: "peer".into(), peer_ratio: Some(2.0) });
            Row { op, beside, workspace: None, ..row([1; 4], measured(ms)) }
        };
        let ours = |op, ms| Row { op, ..row([1; 4], measured(ms)) };
        let rows =
            [ours("training", 1.0), peer("peer_training", 3.0), ours("backward", 2.0), peer("peer_backward", 4.0)];
        let lines = compare(&rows, "peer");
        let told: Vec<_> = lines.iter().map(|line| (line.what, line.peer_ms, line.ours_ms, line.limit_ms)).collect();
        let expected =
            [("training", 3.0, 1.0, 0.5), ("backward", 4.0, 2.0, 1.0), ("forward + backward", 7.0, 3.0, 1.5)];
        assert_eq!(told, expected);
        assert!(compare(&rows, "another").is_empty());
        let json: serde_json::Value = serde_json::from_str(&json(&rows).unwrap()).unwrap();
        assert!(json[0].get("peer").is_none());
        assert_eq!((json[1]["peer"].as_str(), json[1]["peer_ratio"].as_f64()), (Some("peer"), Some(2.0)));
    }

    #[test]
    fn resnet_weighs_shapes_by_their_layers_and_says_what_is_missing() {
        let mut rows: Vec<Row> = RESNET_50.iter().map(|(dims, _)| row(*dims, measured(1.0))).collect();
        let sum = sum_resnet(&rows, "training", "first").unwrap();
        assert_eq!(sum.split_whitespace().collect::<Vec<_>>(), ["53.00", "26.50", "2.00"]);
        rows[1].status = Status::Refused("no".into());
        assert!(sum_resnet(&rows, "training", "first").unwrap().contains("without 6 layers"));
        assert!(sum_resnet(&rows, "training", "last").is_none());
    }
}
