//! The table of failures elsewhere, `docs/failures.md`, names tests that exist.

use std::collections::HashMap;
use std::path::Path;

/// The rows of the table: number, what failed, links, tests.
fn rows(text: &str) -> Vec<[&str; 4]> {
    let cells = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let row: [&str; 4] = cells.try_into().expect("four columns");
        row[0].parse::<u32>().is_ok().then_some(row)
    });
    cells.collect()
}

/// Whether a source has a function of this name that is a test, be it one of proptest.
fn has_test(source: &str, name: &str) -> bool {
    let mut before = "";
    source.lines().map(str::trim).any(|line| {
        let found =
            before == "#[test]" && line.strip_prefix("fn ").is_some_and(|rest| rest.split('(').next() == Some(name));
        // Attributes may stand between.
        if !line.starts_with("#[") || line == "#[test]" {
            before = line;
        }
        found
    })
}

#[test]
fn every_failure_has_tests_that_exist_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = include_str!("../docs/failures.md");
    let rows = rows(text);
    let numbers: Vec<_> = rows.iter().map(|row| row[0].parse::<usize>().unwrap()).collect();
    assert_eq!(numbers, (1..=51).collect::<Vec<_>>());
    let mut sources = HashMap::new();
    for [number, failure, links, tests] in rows {
        let mut named = 0;
        for test in tests.split('`').filter(|part| part.contains("::")) {
            let (file, function) = test.rsplit_once("::").unwrap();
            let source = sources.entry(file).or_insert_with(|| {
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{number}: {file}: {error}"))
            });
            assert!(has_test(source, function), "{number}: {file} has no test `{function}`");
            named += 1;
        }
        assert!(named > 0 || failure.contains("**Does not apply**"), "{number}: no test, and no reason why not");
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
fn a_test_is_known_by_its_attribute_and_its_whole_name() {
    let source = "#[test]\nfn one() {\n}\n\nfn two() {}\n\n    #[test]\n    #[expect(unsafe_code)]\n    fn three(\n";
    assert!(has_test(source, "one") && has_test(source, "three"));
    assert!(!has_test(source, "two") && !has_test(source, "on") && !has_test(source, "four"));
}
