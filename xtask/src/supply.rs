//! What the package promises to those who depend on it: every set of features builds, the lowest versions that its manifest
//! allows do, dependencies have licences and sources that are accepted, and an interface changes with its version.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::test::{cargo, has_subcommand, root};

const PACKAGE: &str = "wgpu-batch-norm";

#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// Every set of features.
    Features,
    /// The lowest versions of direct dependencies.
    MinimalVersions,
    /// Licences, bans and sources.
    Deny,
    /// The interface against that of a revision.
    Semver { baseline: String },
    /// The package for Burn.
    Burn,
}

/// Runs a check. The error is a message for the user.
pub fn run(check: &Check) -> Result<(), String> {
    let root = root();
    match check {
        Check::Features => features(&root),
        Check::MinimalVersions => minimal_versions(&root),
        Check::Burn => burn(&root),
        Check::Deny => {
            installed("deny", "cargo-deny")?;
            let arguments = ["deny", "--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
            run_cargo(&root, &arguments.map(OsString::from), None)
        }
        Check::Semver { baseline } => {
            installed("semver-checks", "cargo-semver-checks")?;
            let arguments = ["semver-checks", "--package", PACKAGE, "--baseline-rev", baseline];
            run_cargo(&root, &arguments.map(OsString::from), None)
        }
    }
}

/// Formatting, lints with and without Burn's fusion, documentation and tests of `integrations/burn`, which is outside the
/// workspace and has a target folder of its own.
fn burn(root: &Path) -> Result<(), String> {
    let folder = root.join("integrations/burn");
    let lines = [
        "fmt --check",
        "clippy --release --locked --all-targets -- -D warnings",
        "clippy --release --locked --all-targets --no-default-features -- -D warnings",
        "rustdoc --release --locked --lib -- -D warnings",
        "test --release --locked",
    ];
    for line in lines {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        run_cargo(&folder, &arguments, None)?;
    }
    Ok(())
}

fn installed(subcommand: &str, package: &str) -> Result<(), String> {
    let hint = format!("'cargo {subcommand}' is not installed: cargo install {package} --locked");
    if has_subcommand(subcommand) { Ok(()) } else { Err(hint) }
}

fn features(root: &Path) -> Result<(), String> {
    let manifest = manifest(root)?;
    let names: Vec<&str> = section(&manifest, "features").map(|(name, _)| name).collect();
    let sets = powerset(&names);
    for set in &sets {
        let set = set.join(",");
        let arguments =
            ["check", "--locked", "--package", PACKAGE, "--lib", "--no-default-features", "--features", &set];
        run_cargo(root, &arguments.map(OsString::from), None)?;
    }
    println!("features: {} sets of {} features build", sets.len(), names.len());
    Ok(())
}

/// Every subset, the empty one first.
fn powerset<'a>(names: &[&'a str]) -> Vec<Vec<&'a str>> {
    (0..1_usize << names.len())
        .map(|set| names.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, &name)| name).collect())
        .collect()
}

/// Builds a copy of the library, without its tests and their dependencies, against the lowest versions of its own
/// dependencies. `-Z direct-minimal-versions` does as much on nightly; this needs none. What dependencies depend on is as
/// new as it may be, since their lower bounds are not this package's.
fn minimal_versions(root: &Path) -> Result<(), String> {
    let manifest = manifest(root)?;
    let target = root.join("target/minimal-versions");
    let copy = target.join("package");
    let failed = |error: io::Error| format!("{}: {error}", copy.display());
    // From an earlier run; without one there is nothing to remove.
    drop(fs::remove_dir_all(&copy));
    // The last is what the library's documentation includes.
    for folder in ["src", "shaders", "docs"] {
        copy_folder(&root.join(folder), &copy.join(folder)).map_err(failed)?;
    }
    fs::copy(root.join("README.md"), copy.join("README.md")).map_err(failed)?;
    fs::write(copy.join("Cargo.toml"), library_alone(&manifest)).map_err(failed)?;
    run_cargo(&copy, &["generate-lockfile"].map(OsString::from), None)?;
    let lowest: Vec<_> = section(&manifest, "dependencies")
        .map(|(name, requirement)| match lower_bound(requirement) {
            Some(version) => Ok((name, version)),
            None => Err(format!("the version of '{name}' is not understood: {requirement}")),
        })
        .collect::<Result<_, _>>()?;
    // A pin that another one does not allow yet is tried again after that one.
    let mut waiting = lowest.clone();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut last = Ok(());
        waiting.retain(|(name, version)| {
            let arguments = ["update", "--package", name, "--precise", version].map(OsString::from);
            let pinned = run_cargo(&copy, &arguments, None);
            let failed = pinned.is_err();
            if failed {
                last = pinned;
            }
            failed
        });
        if waiting.len() == before {
            return last;
        }
    }
    run_cargo(&copy, &["check", "--locked", "--lib", "--all-features"].map(OsString::from), Some(&target))?;
    let names: Vec<_> = lowest.iter().map(|(name, version)| format!("{name} {version}")).collect();
    println!("minimal-versions: the library builds with {}", names.join(", "));
    Ok(())
}

fn manifest(root: &Path) -> Result<String, String> {
    let path = root.join("Cargo.toml");
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The manifest without members, tests, examples and benchmarks.
fn library_alone(manifest: &str) -> String {
    let mut kept = String::new();
    let mut keeps = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            let left_out = ["[dev-dependencies]", "[[bench]]", "[[example]]", "[[test]]", "[profile."];
            keeps = !left_out.iter().any(|section| line.starts_with(section));
        }
        if keeps && !line.starts_with("members") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The keys and values of a section whose entries are a line each.
fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(move |line| line.trim() != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        Some((key.trim(), value.trim()))
    })
}

/// The lowest version that a requirement as `"1.2"` or `{ version = "1.2", … }` allows.
fn lower_bound(requirement: &str) -> Option<String> {
    let text = match requirement.strip_prefix('{') {
        Some(table) => table.split_once("version")?.1.trim_start().strip_prefix('=')?.trim_start(),
        None => requirement,
    };
    let version = text.strip_prefix('"')?.split('"').next()?;
    let numbers: Vec<&str> = version.split('.').collect();
    let plain = numbers.iter().all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    (plain && numbers.len() <= 3).then(|| [numbers, vec!["0"; 3]].concat()[..3].join("."))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

fn run_cargo(folder: &Path, arguments: &[OsString], target: Option<&Path>) -> Result<(), String> {
    let line = arguments.join(OsStr::new(" "));
    let line = format!("cargo {}", line.display());
    println!("==> {line}");
    let mut command = Command::new(cargo());
    // What this program was built with is not for what it builds.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    let status = command.args(arguments).current_dir(folder).stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("failed, its own message is above: {line}")),
        Err(error) => Err(format!("'{line}' could not be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "\
[workspace]
members = [\"xtask\"]

[package]
name = \"a\"

[features]
# A comment = with an equals sign
half = [\"dep:half\"]
more = []

[dependencies]
bytemuck = { version = \"1.25\", features = [\"derive\"] }
thiserror = \"2.0.21\"

[dev-dependencies]
rand = \"0.9\"

[[bench]]
name = \"b\"

[[test]]
name = \"t\"

[lints]
workspace = true
";

    #[test]
    fn sections_are_read_by_name() {
        let features: Vec<_> = section(MANIFEST, "features").map(|(name, _)| name).collect();
        assert_eq!(features, ["half", "more"]);
        let dependencies: Vec<_> = section(MANIFEST, "dependencies").collect();
        assert_eq!(dependencies[1], ("thiserror", "\"2.0.21\""));
        assert_eq!(section(MANIFEST, "nothing").count(), 0);
    }

    #[test]
    fn every_set_of_features_is_there_once() {
        assert_eq!(powerset(&[]), [[""; 0]]);
        assert_eq!(powerset(&["a", "b"]), [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]);
    }

    #[test]
    fn lower_bounds_are_whole_versions() {
        assert_eq!(lower_bound("\"2.0.21\"").as_deref(), Some("2.0.21"));
        assert_eq!(lower_bound("{ version = \"1.25\", features = [\"x\"] }").as_deref(), Some("1.25.0"));
        assert_eq!(lower_bound("\"1\"").as_deref(), Some("1.0.0"));
        for unknown in ["\"^1.2\"", "\"1.*\"", "{ path = \".\" }", "\"\"", "1"] {
            assert_eq!(lower_bound(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_library_stands_without_its_tests() {
        let alone = library_alone(MANIFEST);
        assert!(alone.contains("[dependencies]") && alone.contains("[lints]\nworkspace = true"));
        for gone in ["members", "dev-dependencies", "rand", "[[bench]]", "name = \"b\"", "[[test]]", "name = \"t\""] {
            assert!(!alone.contains(gone), "{gone}");
        }
    }

    #[test]
    fn the_manifest_of_the_package_is_understood() {
        let manifest = manifest(&root()).unwrap();
        assert!(section(&manifest, "features").count() > 0);
        let dependencies: Vec<_> = section(&manifest, "dependencies").collect();
        assert!(dependencies.iter().any(|(name, _)| *name == "wgpu"));
        assert!(dependencies.iter().all(|(_, requirement)| lower_bound(requirement).is_some()), "{dependencies:?}");
    }
}
