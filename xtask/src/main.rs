//! Command line of `cargo xtask`, the set-up and test runner of `wgpu-batch-norm`.
//!
//! It depends on the standard library alone, so that the first thing that a fresh checkout builds is ready in seconds.

mod drivers;
mod layers;
mod setup;
mod summary;
mod supply;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
Set-up and tests of wgpu-batch-norm.

Usage: cargo xtask setup
       cargo xtask test [--no-setup] [--every-driver] [--fail-fast] [-- ARGS]
       cargo xtask features | minimal-versions | deny | semver REVISION | burn
       cargo xtask help

setup   Makes sure that a Vulkan loader and driver are there. On a Debian or Ubuntu machine that has neither a GPU
        driver nor Mesa's software driver, it installs the latter with apt-get, as root or by way of a sudo that asks
        for no password; elsewhere it says what to install. macOS and Windows need nothing. On Linux it also gets
        what the tests run with besides: it unpacks SwiftShader, the Khronos validation layer and spirv-val from Debian's
        packages into target/drivers, which takes no privileges, and installs Mesa's OpenGL driver and Open MPI as it does Vulkan's.

test    Runs setup, then formatting, lints, documentation and the packaging, and tests; then, side by side, the jobs of several
        processes under Open MPI, on one host and, where network namespaces can be made, on several, doctests, spirv-val on every
        shader and one iteration of the benchmark; then the device tests on SwiftShader, with the validation layer under them,
        and through OpenGL, and the test vectors on each driver. A step that fails does not keep the others from running;
        what failed is said again at the end. Steps whose cargo component is not installed are named and left out.
        --no-setup      download and install nothing; what is there already is used
        --every-driver  fail where a driver or validator is missing; without it, what needs them is reported as NOT RUN
        --fail-fast     end with the first step that fails
        -- ARGS         for the test harness, in tests and doctests: a name to filter by, --nocapture, ...
        The last line, 'N passed, N failed, N skipped', is the sum over the tests, on each driver, and doctests; tests that are ignored
        or filtered out count as skipped. The test vectors are cases, not tests, and have their own row in the table.

features           Checks the library with every set of its features. The feature mpi needs an MPI library and libclang.
minimal-versions   Checks the library with the lowest versions of its dependencies that Cargo.toml allows, in a copy
                   under target/. Needs the registry.
deny               Licences, bans and sources of all dependencies (deny.toml). Needs cargo-deny.
semver REVISION    The public interface against that of a git revision. Needs cargo-semver-checks.
burn               Formatting, lints, documentation and tests of the package for Burn (integrations/burn), in the release profile.
                   Needs a Vulkan driver ('setup' gets one), the registry, and the first time, a while: it compiles Burn.
                   These five are not part of 'test'.

Environment:
  WGPU_BATCH_NORM_FUZZ_CASES  Cases of each fuzz test, in place of some hundreds:
                              WGPU_BATCH_NORM_FUZZ_CASES=100000 cargo xtask test -- fuzz
  WGPU_BATCH_NORM_SKIP_GPU=1  Without an adapter, the device tests fail. With this variable 'test' leaves them out,
                              and the benchmark and the test vectors with them; they count as skipped.
                              Add --no-setup to leave out the drivers as well.
  VK_DRIVER_FILES             Vulkan drivers to use in place of the system's, as for any Vulkan program.

Exit status: 0 if all went well, 1 if something failed or no test ran, 2 for a wrong command line.
";

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Setup,
    Test(test::Options),
    Supply(supply::Check),
    Help,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = match std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect() {
        Ok(arguments) => arguments,
        Err(argument) => return wrong_usage(&format!("'{}' is not valid UTF-8", argument.display())),
    };
    match parse(&arguments) {
        Ok(Command::Help) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::Setup) => status(setup::run().map(|()| drivers::prepare(true)).map(drop)),
        Ok(Command::Supply(check)) => status(supply::run(&check)),
        Ok(Command::Test(options)) => test::run(&options),
        Err(message) => wrong_usage(&message),
    }
}

fn status(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage(message: &str) -> ExitCode {
    eprintln!("xtask: {message}\n\n{USAGE}");
    ExitCode::from(2)
}

fn parse(arguments: &[String]) -> Result<Command, String> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err("no command given".into());
    };
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "setup" => match rest.first().map(String::as_str) {
            None => Ok(Command::Setup),
            Some("--help" | "-h") => Ok(Command::Help),
            Some(other) => Err(format!("unexpected argument '{other}' for 'setup'")),
        },
        "test" => parse_test(rest),
        "features" => alone(rest, supply::Check::Features),
        "minimal-versions" => alone(rest, supply::Check::MinimalVersions),
        "deny" => alone(rest, supply::Check::Deny),
        "burn" => alone(rest, supply::Check::Burn),
        "semver" => match rest {
            [baseline] if !baseline.starts_with('-') => {
                Ok(Command::Supply(supply::Check::Semver { baseline: baseline.clone() }))
            }
            [argument] if ["--help", "-h"].contains(&argument.as_str()) => Ok(Command::Help),
            _ => Err("'semver' takes one git revision to compare with".into()),
        },
        other => Err(format!("unknown command '{other}'")),
    }
}

/// A check that takes no arguments.
fn alone(rest: &[String], check: supply::Check) -> Result<Command, String> {
    match rest.first().map(String::as_str) {
        None => Ok(Command::Supply(check)),
        Some("--help" | "-h") => Ok(Command::Help),
        Some(other) => Err(format!("unexpected argument '{other}'")),
    }
}

fn parse_test(arguments: &[String]) -> Result<Command, String> {
    let mut options = test::Options::default();
    for (index, argument) in arguments.iter().enumerate() {
        match argument.as_str() {
            "--no-setup" => options.no_setup = true,
            "--every-driver" => options.every_driver = true,
            "--fail-fast" => options.fail_fast = true,
            "--help" | "-h" => return Ok(Command::Help),
            "--" => {
                options.harness = arguments[index + 1..].to_vec();
                break;
            }
            other => return Err(format!("unexpected argument '{other}' for 'test' (harness arguments follow '--')")),
        }
    }
    Ok(Command::Test(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_are_recognised() {
        assert_eq!(parsed("setup"), Ok(Command::Setup));
        assert_eq!(parsed("help"), Ok(Command::Help));
        assert_eq!(parsed("test --help"), Ok(Command::Help));
        assert_eq!(parsed("test"), Ok(Command::Test(test::Options::default())));
        assert_eq!(parsed("features"), Ok(Command::Supply(supply::Check::Features)));
        assert_eq!(parsed("minimal-versions"), Ok(Command::Supply(supply::Check::MinimalVersions)));
        assert_eq!(parsed("burn"), Ok(Command::Supply(supply::Check::Burn)));
        assert_eq!(parsed("deny --help"), Ok(Command::Help));
        let baseline = String::from("v0.1.0");
        assert_eq!(parsed("semver v0.1.0"), Ok(Command::Supply(supply::Check::Semver { baseline })));
    }

    #[test]
    fn harness_arguments_follow_the_dashes() {
        let expected = test::Options {
            no_setup: true,
            harness: vec!["--no-setup".into(), "--".into(), "x".into()],
            ..test::Options::default()
        };
        assert_eq!(parsed("test --no-setup -- --no-setup -- x"), Ok(Command::Test(expected)));
        let every = test::Options { every_driver: true, ..test::Options::default() };
        assert_eq!(parsed("test --every-driver"), Ok(Command::Test(every)));
        let fast = test::Options { fail_fast: true, ..test::Options::default() };
        assert_eq!(parsed("test --fail-fast"), Ok(Command::Test(fast)));
        let only_dashes = test::Options::default();
        assert_eq!(parsed("test --"), Ok(Command::Test(only_dashes)));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in
            ["", "tset", "setup now", "test backward", "test --no-setpu", "semver", "semver --x", "deny x", "burn x"]
        {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
