//! Reads the results out of the output of the test commands and adds them up.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;
use std::time::Duration;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Counts {
    /// How many really ran.
    pub const fn ran(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, counts| {
            sum += counts;
            sum
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Whose results a step prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// None: the step counts nothing.
    None,
    /// Those of libtest, one result for each test binary. They make up the sum.
    Libtest,
    /// Those of the example `verify`, in its last line. It counts cases of test vectors times adapters, not tests, so
    /// that its numbers stay out of the sum.
    Cases,
}

/// Follows the output of one step, line by line.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    counts: Option<Counts>,
    ignored: Vec<String>,
}

impl Reader {
    pub const fn new(format: Format) -> Self {
        Self { format, counts: None, ignored: Vec::new() }
    }

    pub fn line(&mut self, line: &str) {
        let line = &without_colours(line);
        match self.format {
            Format::None => {}
            Format::Libtest => {
                if let Some(counts) = libtest_result(line) {
                    *self.counts.get_or_insert_default() += counts;
                } else if let Some(name) = libtest_ignored(line) {
                    self.ignored.push(name);
                }
            }
            Format::Cases => {
                if let Some(counts) = cases_result(line) {
                    self.counts = Some(counts);
                }
            }
        }
    }

    /// The counts, `None` if no result was printed, and the names of ignored tests.
    pub fn finish(self) -> (Option<Counts>, Vec<String>) {
        (self.counts, self.ignored)
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn libtest_result(line: &str) -> Option<Counts> {
    let verdict = line.trim().strip_prefix("test result: ")?;
    let (_, numbers) = verdict.split_once(". ")?;
    let mut fields = numbers.split("; ");
    Some(Counts {
        passed: number(fields.next()?, "passed")?,
        failed: number(fields.next()?, "failed")?,
        skipped: number(fields.next()?, "ignored")? + number(fields.nth(1)?, "filtered out")?,
    })
}

/// `test name ... ignored` or `test name ... ignored, reason`, given back as `name` or `name (reason)`.
fn libtest_ignored(line: &str) -> Option<String> {
    let (name, end) = line.trim().strip_prefix("test ")?.split_once(" ... ignored")?;
    match end.strip_prefix(", ") {
        Some(reason) => Some(format!("{name} ({reason})")),
        None => end.is_empty().then(|| name.into()),
    }
}

/// `3 passed, 0 failed, 1 skipped`
fn cases_result(line: &str) -> Option<Counts> {
    let mut fields = line.trim().split(", ");
    let counts = Counts {
        passed: number(fields.next()?, "passed")?,
        failed: number(fields.next()?, "failed")?,
        skipped: number(fields.next()?, "skipped")?,
    };
    fields.next().is_none().then_some(counts)
}

fn number(field: &str, unit: &str) -> Option<u64> {
    field.strip_suffix(unit)?.trim_end().parse().ok()
}

/// Takes out the escape sequences that a test harness prints if it is told to colour its output.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|letter: char| ('@'..='~').contains(&letter)).map_or(part.len(), |index| index + 1);
        plain.push_str(&part[end..]);
    }
    plain
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// Left out, with the reason.
    Skipped(String),
    /// What it needs is missing on this machine: what.
    NotRun(String),
}

/// What became of one step.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub format: Format,
    pub outcome: Outcome,
    pub counts: Option<Counts>,
    pub ignored: Vec<String>,
    /// What else there is to say of a step that ran.
    pub remark: String,
    pub time: Duration,
}

impl Row {
    pub const fn new(name: &'static str, format: Format) -> Self {
        Self {
            name,
            format,
            outcome: Outcome::Passed,
            counts: None,
            ignored: Vec::new(),
            remark: String::new(),
            time: Duration::ZERO,
        }
    }
}

/// The sum over the rows that count tests.
pub fn sum(rows: &[Row]) -> Counts {
    rows.iter().filter(|row| row.format == Format::Libtest).filter_map(|row| row.counts).sum()
}

/// One line for each step, then the ignored tests by name: a test that did not run must not go unnoticed.
pub fn table(rows: &[Row]) -> String {
    let header = format!("{:<20}{:<8}{:>8}{:>8}{:>9}{:>10}", "step", "result", "passed", "failed", "skipped", "time");
    let ignored = rows.iter().flat_map(|row| &row.ignored).map(|name| format!("ignored: {name}"));
    let lines: Vec<_> = std::iter::once(header).chain(rows.iter().map(table_line)).chain(ignored).collect();
    lines.join("\n")
}

fn table_line(row: &Row) -> String {
    let result = match row.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped(_) => "skipped",
        Outcome::NotRun(_) => "NOT RUN",
    };
    let remark = match (&row.outcome, row.format, row.counts) {
        (Outcome::Skipped(reason) | Outcome::NotRun(reason), ..) => format!("  {reason}"),
        (_, Format::Cases, Some(_)) => "  cases, not in the sum".into(),
        _ if row.remark.is_empty() => String::new(),
        _ => format!("  {}", row.remark),
    };
    let [passed, failed, skipped] = row.counts.map_or_else(Default::default, |counts| {
        [counts.passed, counts.failed, counts.skipped].map(|count| count.to_string())
    });
    let time = format!("{:.1} s", row.time.as_secs_f64());
    format!("{:<20}{result:<8}{passed:>8}{failed:>8}{skipped:>9}{time:>10}{remark}", row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test plan::tests::rows_are_split ... ok
test gpu::tests::device_is_lost ... ignored
test gpu::tests::large_batch ... ignored, needs 16 GiB of GPU memory
test plan::tests::empty ... FAILED

failures:

---- plan::tests::empty stdout ----
test result is not what was expected: 1 passed; 2 failed

test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.03s

     Running tests/backward.rs (target/release/deps/backward-0123456789abcdef)

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test src/lib.rs - (line 12) - compile ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s

all doctests ran in 1.52s; merged doctests compilation took 0.32s
";

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    fn read(format: Format, output: &str) -> (Option<Counts>, Vec<String>) {
        let mut reader = Reader::new(format);
        output.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    fn row(name: &'static str, format: Format, counts: Option<Counts>) -> Row {
        Row { counts, time: Duration::from_millis(1520), ..Row::new(name, format) }
    }

    #[test]
    fn results_of_libtest_add_up() {
        let (total, ignored) = read(Format::Libtest, OUTPUT);
        // Two ignored, seven filtered out.
        assert_eq!(total, Some(counts(2, 1, 9)));
        assert_eq!(ignored, ["gpu::tests::device_is_lost", "gpu::tests::large_batch (needs 16 GiB of GPU memory)"]);
    }

    #[test]
    fn no_result_is_not_zero_results() {
        assert_eq!(read(Format::Libtest, "error: could not compile `wgpu-batch-norm`\n"), (None, Vec::new()));
        assert_eq!(read(Format::Cases, "0 passed, 0 failed\n"), (None, Vec::new()));
        assert_eq!(read(Format::None, OUTPUT), (None, Vec::new()));
    }

    #[test]
    fn carriage_returns_and_colours_are_ignored() {
        let line = "test result: \u{1b}[32mok\u{1b}[m. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\r";
        assert_eq!(read(Format::Libtest, line).0, Some(counts(5, 0, 0)));
        assert_eq!(without_colours("\u{1b}[1;31mred\u{1b}(B\u{1b}[m"), "red\u{1b}(B");
        assert_eq!(without_colours("cut \u{1b}[3"), "cut ");
    }

    #[test]
    fn the_last_line_of_verify_counts() {
        let output = "lavapipe: 12 passed, 0 failed, 0 skipped\n12 passed, 0 failed, 0 skipped\n24 passed, 1 failed, 3 skipped\n";
        assert_eq!(read(Format::Cases, output).0, Some(counts(24, 1, 3)));
        for other in ["1 passed, 2 failed, 3 skipped, 4 lost", "1 passed, 2 failed, 3 ignored", "1 passed, 2 failed"] {
            assert_eq!(cases_result(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_sum_is_over_tests_alone() {
        let rows = [
            row("clippy", Format::None, None),
            row("tests", Format::Libtest, Some(counts(10, 1, 2))),
            row("doctests", Format::Libtest, Some(counts(3, 0, 0))),
            row("verify", Format::Cases, Some(counts(100, 0, 50))),
        ];
        assert_eq!(sum(&rows), counts(13, 1, 2));
        assert_eq!(sum(&rows).to_string(), "13 passed, 1 failed, 2 skipped");
        assert_eq!(sum(&rows).ran(), 14);
    }

    #[test]
    fn the_table_shows_each_step_and_ignored_test() {
        let mut rows = [
            row("clippy", Format::None, None),
            row("tests", Format::Libtest, Some(counts(10, 1, 2))),
            row("verify", Format::Cases, Some(counts(100, 0, 50))),
            row("tests, SwiftShader", Format::Libtest, Some(counts(3, 0, 0))),
            row("verify, OpenGL", Format::Cases, None),
        ];
        rows[3].remark = "clean".into();
        rows[4].outcome = Outcome::NotRun("no libEGL.so.1".into());
        rows[0].outcome = Outcome::Skipped("not installed".into());
        rows[1].outcome = Outcome::Failed;
        rows[1].ignored = vec!["large_batch".into()];
        assert_eq!(
            table(&rows),
            "\
step                result    passed  failed  skipped      time
clippy              skipped                               1.5 s  not installed
tests               FAILED        10       1        2     1.5 s
verify              ok           100       0       50     1.5 s  cases, not in the sum
tests, SwiftShader  ok             3       0        0     1.5 s  clean
verify, OpenGL      NOT RUN                               1.5 s  no libEGL.so.1
ignored: large_batch"
        );
    }
}
