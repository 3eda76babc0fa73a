//! The example `train_digits_mpi` under a real `mpirun`: ranks against one process, faults of every kind, of which every rank
//! must say something, in time, and stops, on which all ranks agree.

#[path = "../examples/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the ranks wait for each other in tests of faults, in seconds.
const TIMEOUT: u64 = 15;
/// A job that takes longer hangs. Tests in which nobody may wait for the deadline have a later one, so that who does wait hangs.
const LONGEST: Duration = Duration::from_secs(150);

/// The examples, of which this is `train_digits_mpi`, built with the profile of this test.
fn example() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--features", "mpi"]);
        build.args(["--example", "train_digits_mpi", "--example", "synchronised_cost"]);
        if !cfg!(debug_assertions)
            || std::env::current_exe().is_ok_and(|path| path.iter().any(|part| part == "release"))
        {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(built.success(), "the example does not build");
        let folder = std::env::current_exe().expect("a program has a path");
        folder.ancestors().nth(2).expect("target/profile/deps/program").join("examples/train_digits_mpi")
    })
}

struct Outcome {
    success: bool,
    text: String,
    /// The losses that rank 0 has written, if it did.
    losses: String,
}

impl Outcome {
    /// The one line that a rank said of its error.
    fn error_of(&self, rank: usize) -> &str {
        let start = format!("rank {rank}: error: ");
        let found = self.text.lines().find_map(|line| line.strip_prefix(&start));
        found.unwrap_or_else(|| panic!("rank {rank} says no error:\n{}", self.text))
    }
}

/// Runs a job of so many ranks, one job at a time, and fails where it does not end.
fn job(mpirun: &[&str], ranks: usize, arguments: &str) -> Outcome {
    watched_job(mpirun, ranks, arguments, |_, _| ())
}

/// The same; `watch` is shown again and again what the job has said, and the process of `mpirun`.
fn watched_job(mpirun: &[&str], ranks: usize, arguments: &str, watch: impl FnMut(&str, u32)) -> Outcome {
    let program = example();
    let out = program.with_file_name(format!("train_digits_mpi_{ranks}.svg"));
    let out = out.to_str().expect("a path in UTF-8");
    let arguments: Vec<_> = arguments.split_whitespace().chain(["--out", out]).collect();
    job_of(program, mpirun, ranks, &arguments, watch)
}

fn job_of(
    program: &Path,
    mpirun: &[&str],
    ranks: usize,
    arguments: &[&str],
    mut watch: impl FnMut(&str, u32),
) -> Outcome {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let values = program.with_file_name(format!("train_digits_mpi_{ranks}.csv"));
    let _ = std::fs::remove_file(&values);
    let mut command = Command::new("mpirun");
    // More ranks than cores, and root, which is what a container has.
    command.args(["--oversubscribe", "--allow-run-as-root"]).args(mpirun).args(["-n", &ranks.to_string()]);
    command.arg(program).args(arguments);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun starts (Debian: openmpi-bin)");
    let text = Arc::new(Mutex::new(Vec::new()));
    let readers = [
        read(child.stdout.take().expect("it is piped"), &text),
        read(child.stderr.take().expect("it is piped"), &text),
    ];
    let said = || String::from_utf8_lossy(&text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("mpirun can be waited for") {
            break status;
        }
        if start.elapsed() > LONGEST {
            child.kill().expect("mpirun can be stopped");
            child.wait().expect("mpirun can be waited for");
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            panic!("the job hangs:\n{}", said());
        }
        watch(&said(), child.id());
        std::thread::sleep(Duration::from_millis(20));
    };
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let losses = std::fs::read_to_string(&values).unwrap_or_default();
    Outcome { success: status.success(), text: said(), losses }
}

/// Reads lines, which stay whole among those of the other pipe.
fn read(pipe: impl std::io::Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> std::thread::JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let (mut pipe, mut line) = (BufReader::new(pipe), Vec::new());
        while pipe.read_until(b'\n', &mut line).expect("output can be read") > 0 {
            into.lock().unwrap_or_else(PoisonError::into_inner).append(&mut line);
        }
    })
}

fn assert_like_one_process(outcome: &Outcome, ranks: usize) {
    let verdict = format!("{ranks} ranks against one process: ok");
    assert!(outcome.success && outcome.text.contains(&verdict), "{}", outcome.text);
}

#[test]
fn two_and_four_ranks_train_as_one_process_does() {
    for ranks in [2, 4] {
        assert_like_one_process(&job(&[], ranks, "--steps 100"), ranks);
    }
}

#[test]
fn shares_may_be_unequal_and_empty() {
    let outcome = job(&[], 3, "--steps 60 --uneven");
    assert!(outcome.text.contains("rank 2 of 3: rows 60..60 of 60"), "{}", outcome.text);
    assert_like_one_process(&outcome, 3);
}

#[test]
fn statistics_may_be_merged_in_groups_of_ranks() {
    assert_like_one_process(&job(&[], 4, "--steps 60 --groups 2 --uneven"), 4);
    let refused = job(&[], 3, "--steps 1 --groups 2");
    assert!(!refused.success && refused.text.contains("3 ranks do not fall into groups of 2"), "{}", refused.text);
}

#[test]
fn a_fault_is_named_through_groups() {
    let outcome = job(&ALL_SPEAK, 4, "--steps 5 --timeout 600 --groups 2 --fault give-up --fault-rank 2");
    for rank in [0, 1, 3] {
        assert!(outcome.error_of(rank).starts_with("step 3: rank 2 has given up"), "{}", outcome.text);
    }
}

/// Each rank may say what it found, whatever the others have said already.
const ALL_SPEAK: [&str; 3] = ["-mca", "orte_abort_on_non_zero_status", "0"];

#[test]
fn ranks_that_disagree_are_an_error_on_every_rank() {
    for (fault, what) in [("channels", "channels or segments"), ("convention", "conventions")] {
        let outcome = job(&ALL_SPEAK, 3, &format!("--steps 5 --timeout {TIMEOUT} --fault {fault}"));
        for rank in 0..3 {
            let error = outcome.error_of(rank);
            assert!(error.starts_with(&format!("step 0: rank 1 disagrees with rank 0 on {what}")), "{error}");
            assert!(error.ends_with("running statistics are those of the step before"), "{error}");
        }
    }
}

#[test]
fn a_rank_that_gives_up_is_named_by_the_others() {
    // At the last exchange too, when all layers have been through forward.
    for exchange in [0, 5] {
        let fault = format!("--steps 5 --timeout 600 --fault give-up --fault-exchange {exchange}");
        let outcome = job(&ALL_SPEAK, 3, &fault);
        for rank in 0..3 {
            let expected = "step 3: rank 1 has given up; running statistics are those of the step before";
            assert_eq!(outcome.error_of(rank), expected);
        }
    }
}

#[test]
fn the_survivors_of_a_rank_that_dies_do_not_wait_for_ever() {
    // The last one is the sum of gradients, behind all exchanges.
    for exchange in [0, 4, 6] {
        let fault = format!("--steps 5 --timeout {TIMEOUT} --fault die --fault-exchange {exchange}");
        let outcome = job(&["--enable-recovery"], 3, &fault);
        for rank in [0, 2] {
            let error = outcome.error_of(rank);
            assert!(error.starts_with("step 3: the collective failed: "), "{error}");
            assert!(error.ends_with("running statistics are those of the step before"), "{error}");
        }
    }
}

#[test]
fn ranks_that_make_different_calls_are_an_error_on_every_rank() {
    let cases = [
        // The next layer's message has the same length, the one of gradient sums another, and then gradients are summed.
        (0, "rank 1 disagrees with rank 0 on which exchange this is"),
        (2, "rank 1 exchanges messages of 208 values, while rank 0 exchanges messages of 310 values"),
        (5, "rank 1 sums "),
    ];
    for (exchange, what) in cases {
        for (ranks, groups) in [(3, 1), (4, 2)] {
            let fault = "--steps 5 --timeout 600 --fault skip";
            let outcome = job(&ALL_SPEAK, ranks, &format!("{fault} --fault-exchange {exchange} --groups {groups}"));
            for rank in 0..ranks {
                let error = outcome.error_of(rank);
                assert!(error.starts_with("step 3: ") && error.contains(what), "{error}");
                assert!(error.ends_with("running statistics are those of the step before"), "{error}");
            }
        }
    }
}

#[test]
fn ranks_that_ask_for_other_groups_are_an_error_on_every_rank() {
    let outcome = job(&ALL_SPEAK, 4, "--steps 1 --timeout 600 --groups 2 --fault groups");
    for rank in 0..4 {
        assert_eq!(outcome.error_of(rank), "rank 1 has groups of 4, while rank 0 has groups of 2");
    }
}

#[test]
fn mpirun_ends_a_job_of_which_a_rank_dies() {
    let outcome = job(&[], 3, "--steps 5 --timeout 600 --fault die");
    assert!(!outcome.success && !outcome.text.contains("against one process"), "{}", outcome.text);
}

#[test]
fn the_ranks_of_a_machine_take_its_adapters_in_turn() {
    let outcome = job(&[], 3, "--steps 20");
    assert_like_one_process(&outcome, 3);
    // Where the test command puts a second driver beside the first.
    if let Ok(beside) = std::env::var("WGPU_BATCH_NORM_ADAPTER") {
        let on_it = |line: &&str| line.starts_with("rank ") && line.contains(" of 3: ") && line.contains(&beside);
        let count = outcome.text.lines().filter(on_it).count();
        assert!((1..3).contains(&count), "{beside} and another one: {}", outcome.text);
    }
    for rank in 0..3 {
        let gpu = support::open_in_turn(None, rank).expect("there is an adapter");
        let start = format!("rank {rank} of 3: ");
        let mut lines = outcome.text.lines();
        let line = lines.find(|line| line.starts_with(&start)).expect("each rank says what it has");
        assert!(line.ends_with(&gpu.info.name), "{line}: not {}", gpu.info.name);
    }
}

/// A job of three ranks that trains for ever, with one Ctrl-C for a process that `whom` finds, when training has begun.
#[cfg(target_os = "linux")]
fn stopped_job(whom: impl Fn(&str, u32) -> u32) -> Outcome {
    use rustix::process::{Pid, Signal, kill_process};
    let mut asked = false;
    // A second may be short on a busy machine.
    let patient = ["--mca", "odls_base_sigkill_timeout", "10"];
    let outcome = watched_job(&patient, 3, "--steps 100000", |text, mpirun| {
        if !asked && text.lines().any(|line| line.starts_with("step 1 of 100000: loss 2.")) {
            let process = Pid::from_raw(whom(text, mpirun).try_into().unwrap()).expect("no process is 0");
            kill_process(process, Signal::INT).expect("the process is there");
            asked = true;
        }
    });
    assert!(asked, "{}", outcome.text);
    let steps = |rank: usize| {
        let start = format!("rank {rank}: stopped behind step ");
        let found = outcome.text.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix(" of 100000"));
        found.unwrap_or_else(|| panic!("rank {rank} does not say that it stops:\n{}", outcome.text)).to_owned()
    };
    assert_eq!([steps(1), steps(2)], [steps(0), steps(0)], "{}", outcome.text);
    let kept = format!("stopped as asked: the loss of {} steps is kept", steps(0));
    assert!(outcome.text.contains(&kept), "{}", outcome.text);
    let losses: Vec<_> = outcome.losses.lines().skip(1).collect();
    assert_eq!(losses.len().to_string(), steps(0), "{}", outcome.text);
    assert!(losses[0].starts_with("0,2."), "{}", losses[0]);
    outcome
}

#[test]
#[cfg(target_os = "linux")]
fn all_ranks_stop_together_when_one_is_asked() {
    let outcome = stopped_job(|text, _| {
        let line = text.lines().find(|line| line.starts_with("rank 1 of 3: ")).expect("each rank says what it has");
        let process = line.split(", ").find_map(|part| part.strip_prefix("process ")).expect("its process");
        process.parse().expect("a number")
    });
    assert!(outcome.success, "{}", outcome.text);
}

/// `mpirun` passes Ctrl-C on as a signal to terminate, and kills who is there a second later.
#[test]
#[cfg(target_os = "linux")]
fn a_job_that_is_interrupted_keeps_what_it_has() {
    stopped_job(|_, mpirun| mpirun);
}

/// The times are the machine's, the table of clusters is `docs/synchronised.md`'s.
#[test]
fn costs_are_measured_and_computed() {
    let program = example().with_file_name("synchronised_cost");
    let outcome = job_of(&program, &[], 2, &["--repetitions", "3"], |_, _| ());
    assert!(outcome.success, "{}", outcome.text);
    let rows: Vec<Vec<&str>> = outcome.text.lines().map(|line| line.split_whitespace().collect()).collect();
    // Channels, layers, bytes: 3·C + 2 values a layer behind a header of 8.
    for (channels, layers) in [(64, 1), (256, 1), (1024, 1), (2048, 1), (256, 16)] {
        let bytes = 4 * (8 + layers * (3 * channels + 2));
        let row = [channels, layers, bytes].map(|value: u32| value.to_string());
        assert!(rows.iter().any(|found| found.len() == 6 && found[..3] == row), "{row:?}: {}", outcome.text);
    }
    for row in [
        ["8", "2.54", "1.89", "1.89", "1.77", "1.47"],
        ["64", "5.88", "5.88", "3.78", "3.54", "2.95"],
        ["1024", "25.39", "49.09", "7.95", "7.55", "5.03"],
    ] {
        assert!(rows.iter().any(|found| found[..] == row), "{row:?}: {}", outcome.text);
    }
}

/// Two network namespaces as hosts of a job, joined by a bridge; taken away when dropped.
struct Hosts {
    names: Vec<String>,
    bridge: String,
    agent: PathBuf,
    /// The first three parts of their addresses: others than those of a run at the same time, or of one that was killed and left its
    /// bridge.
    network: String,
}

fn ip(arguments: &str) {
    let run = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs (Debian: iproute2)");
    assert!(run.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&run.stderr));
}

impl Hosts {
    fn new(count: usize) -> Self {
        let id = std::process::id() % 10_000;
        let hosts = Self {
            names: (1..=count).map(|host| format!("wbn{id}h{host}")).collect(),
            bridge: format!("wbn{id}br"),
            agent: std::env::temp_dir().join(format!("wbn{id}-agent")),
            network: format!("10.213.{}", id % 256),
        };
        let network = &hosts.network;
        ip(&format!("link add {} type bridge", hosts.bridge));
        ip(&format!("addr add {network}.254/24 dev {}", hosts.bridge));
        ip(&format!("link set {} up", hosts.bridge));
        let mut script =
            String::from("#!/bin/sh\n# In the place of ssh: the host's address, then a command.\ncase \"$1\" in\n");
        for (host, name) in (1..).zip(&hosts.names) {
            ip(&format!("netns add {name}"));
            ip(&format!("link add {name}o type veth peer name {name}i netns {name}"));
            ip(&format!("link set {name}o master {} up", hosts.bridge));
            ip(&format!("-n {name} addr add {network}.{host}/24 dev {name}i"));
            ip(&format!("-n {name} link set {name}i up"));
            ip(&format!("-n {name} link set lo up"));
            script += &format!("{network}.{host}) namespace={name} ;;\n");
        }
        // A host name of its own: by it Open MPI tells machines apart.
        script += "*) echo \"no host $1\" >&2; exit 1 ;;\nesac\nname=$1\nshift\n\
                   exec ip netns exec \"$namespace\" unshare --uts sh -c \"hostname host-$(echo $name | tr . -); $*\"\n";
        std::fs::write(&hosts.agent, script).expect("the agent can be written");
        let made = Command::new("chmod").arg("+x").arg(&hosts.agent).status().expect("chmod runs");
        assert!(made.success());
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge]).status();
        let _ = std::fs::remove_file(&self.agent);
    }
}

#[test]
#[ignore = "needs root and network namespaces; `cargo xtask test` runs it where they are"]
fn network_namespaces_are_hosts_of_a_job() {
    let hosts = Hosts::new(2);
    let agent = hosts.agent.to_str().expect("a path in UTF-8");
    let network = &hosts.network;
    let names = format!("{network}.1:2,{network}.2:2");
    let subnet = format!("{network}.0/24");
    let options = [
        ["-mca", "plm_rsh_agent", agent],
        ["-mca", "oob_tcp_if_include", &subnet],
        ["-mca", "btl_tcp_if_include", &subnet],
        // Shared memory does not stand between hosts; here it would.
        ["-mca", "btl", "tcp,self"],
    ];
    let options: Vec<&str> = options.into_iter().flatten().chain(["--host", &names]).collect();
    let outcome = job(&options, 4, "--steps 60");
    assert_like_one_process(&outcome, 4);
    for host in 1..=2 {
        let host = format!("host-{}-{host}", network.replace('.', "-"));
        let ranks = outcome.text.lines().filter(|line| line.starts_with("rank ") && line.contains(&host)).count();
        assert_eq!(ranks, 2, "{host}: {}", outcome.text);
    }
}
