//! The tables of failures elsewhere, `docs/failures.md`, and of faults, `docs/support.md`, name tests that exist and that are not ignored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The rows of the table: number, what failed, links, tests.
fn rows(text: &str) -> Vec<[&str; 4]> {
    let cells = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let row: [&str; 4] = cells.try_into().expect("four columns");
        row[0].parse::<u32>().is_ok().then_some(row)
    });
    cells.collect()
}

/// Whether a source has a function of this name that is a test, be it one of proptest, and that is not ignored.
fn has_test(source: &str, name: &str) -> bool {
    // Other attributes, of a line or of several, may stand between.
    let (mut is_test, mut is_ignored) = (false, false);
    source.lines().map(str::trim).any(|line| {
        is_test |= line == "#[test]";
        is_ignored |= line.starts_with("#[ignore");
        let Some(rest) = line.strip_prefix("fn ") else { return false };
        let (is_test, is_ignored) = (std::mem::take(&mut is_test), std::mem::take(&mut is_ignored));
        is_test && !is_ignored && rest.split('(').next() == Some(name)
    })
}

/// Tests by the name that documents give them, `file::function`.
#[derive(Default)]
struct Tests {
    sources: HashMap<PathBuf, String>,
}

impl Tests {
    /// Fails unless all that a cell names exist; gives their number.
    fn assert_exist(&mut self, row: &str, cell: &str) -> usize {
        let named = cell.split('`').filter(|part| part.contains("::"));
        named
            .inspect(|test| {
                let (file, function) = test.rsplit_once("::").unwrap();
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
                let source = self.sources.entry(path).or_insert_with_key(|path| {
                    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{row}: {file}: {error}"))
                });
                assert!(has_test(source, function), "{row}: {file} has no test `{function}`, or ignores it");
            })
            .count()
    }
}

#[test]
fn every_fault_has_tests_that_exist() {
    let section = include_str!("../docs/support.md").split("\n## ").find_map(|part| part.strip_prefix("Faults\n"));
    let rows = section.expect("a section on faults").lines().filter(|line| line.starts_with("| "));
    let mut tests = Tests::default();
    // The first names the columns.
    let counts: Vec<_> = rows
        .skip(1)
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, fault, happens, afterwards, named, _] = cells[..] else { panic!("four columns: {row}") };
            assert!(!happens.is_empty() && !afterwards.is_empty(), "{fault}");
            tests.assert_exist(fault, named)
        })
        .collect();
    assert!(counts.len() >= 8 && counts.iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn what_was_run_by_hand_are_tests_that_exist() {
    let text = include_str!("../docs/support.md");
    for title in ["Large tensors\n", "Fuzzing\n"] {
        let section = text.split("\n## ").find_map(|part| part.strip_prefix(title)).expect("a section of that title");
        assert!(Tests::default().assert_exist(title, section) > 1, "{title}");
    }
}

#[test]
fn every_failure_has_tests_that_exist() {
    let text = include_str!("../docs/failures.md");
    let rows = rows(text);
    let numbers: Vec<_> = rows.iter().map(|row| row[0].parse::<usize>().unwrap()).collect();
    assert_eq!(numbers, (1..=51).collect::<Vec<_>>());
    let mut existing = Tests::default();
    for [number, _, links, tests] in rows {
        assert!(existing.assert_exist(number, tests) > 0, "{number}: no test");
        for link in links.split("](").skip(1) {
            let address = link.split(')').next().unwrap();
            let number_of_issue =
                address.strip_prefix("https://github.com/").and_then(|path| path.split_once("/issues/"));
            let (_, issue) = number_of_issue.unwrap_or_else(|| panic!("{number}: {address}"));
            assert!(issue.parse::<u32>().is_ok(), "{number}: {address}");
        }
    }
}

#[test]
fn a_test_is_known_by_its_attributes_and_its_whole_name() {
    let source = "#[test]\nfn one() {\n}\n\nfn two() {}\n\n    #[test]\n    #[expect(\n        unsafe_code,\n    )]\n    fn three(\n";
    assert!(has_test(source, "one") && has_test(source, "three"));
    assert!(!has_test(source, "two") && !has_test(source, "on") && !has_test(source, "four"));
    let ignored =
        "#[test]\n#[ignore]\nfn one() {}\n#[ignore = \"slow\"]\n#[test]\nfn two() {}\n#[test]\nfn three() {}\n";
    assert!(!has_test(ignored, "one") && !has_test(ignored, "two") && has_test(ignored, "three"));
}
