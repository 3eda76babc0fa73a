//! A driver's compiler that refuses a shader. Mesa's OpenGL driver takes other sources in the place of those it is given, from a folder
//! that a variable of the environment names: so one of the library's own shaders is given to its compiler cut off in the middle. For
//! Vulkan drivers no such way was found; wgpu validates what they are given, so that they have little reason to refuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use crate::common::on_every_target;
use crate::common::support::{self, Gpu};
use wgpu_batch_norm::{
    BatchNorm, BatchNormDescriptor, Convention, Error, InferenceBuffers, Plan, Shape, TrainingBuffers, wgpu,
};

/// Which of the machine's adapters the process is for.
const ADAPTER: &str = "WGPU_BATCH_NORM_COMPILER_OF_ADAPTER";

#[test]
fn what_a_driver_does_not_compile_is_an_error_and_everything_else_goes_on() {
    on_every_target(|target| {
        let info = &target.gpu.info;
        // Plans make no difference.
        if target.plan > 0 {
            return;
        }
        if info.backend != wgpu::Backend::Gl || !info.driver_info.contains("Mesa") {
            println!("{target}: no way to give its compiler something else");
            return;
        }
        let adapter = support::open_all(None).iter().position(|gpu| gpu.info == *info).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shaders-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let run = |test, variable: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", test, "--ignored", "--nocapture"]);
            child.env("MESA_SHADER_CACHE_DISABLE", "true").env(variable, &folder);
            child.env(ADAPTER, adapter.to_string()).output().unwrap()
        };
        let dumped = run("on_every_adapter::compiler::in_a_process_that_compiles_training", "MESA_SHADER_DUMP_PATH");
        assert_ended_well(&dumped, "compiled");
        assert!(cut_off_compute_shaders(&folder) > 0, "Mesa wrote no compute shader");
        let replaced = run("on_every_adapter::compiler::in_a_process_whose_compiler_fails", "MESA_SHADER_READ_PATH");
        assert_ended_well(&replaced, "failed and went on");
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

fn assert_ended_well(output: &Output, said: &str) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success() && out.contains(said), "{out}\n{err}");
}

/// Leaves half of each of the library's; how many there are. wgpu has some of its own, without which it opens no device.
fn cut_off_compute_shaders(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let of_compute = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("CS_");
    let shaders = files.filter(of_compute).map(|path| (std::fs::read_to_string(&path).unwrap(), path));
    let mut cut = 0;
    for (source, path) in shaders {
        if source.contains("normalizer") {
            std::fs::write(path, &source[..source.len() / 2]).unwrap();
            cut += 1;
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    cut
}

struct Setting {
    gpu: Gpu,
    bn: BatchNorm,
    plan: Plan,
    values: Vec<f32>,
    input: wgpu::Buffer,
    output: wgpu::Buffer,
    workspace: wgpu::Buffer,
}

impl Setting {
    fn new() -> Self {
        let adapter: usize = std::env::var(ADAPTER).expect("started by the test above").parse().unwrap();
        let gpu = support::open_all(None).swap_remove(adapter);
        let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
        let bn = BatchNorm::new(&gpu.device, &BatchNormDescriptor { channels: 8, convention, ..Default::default() });
        let bn = bn.unwrap();
        let plan = bn.plan(&Shape::new(&[4, 8, 16]).unwrap()).unwrap();
        let values: Vec<f32> = (0..512).map(|index| (index as f32 * 0.37).sin()).collect();
        let (input, output) = (gpu.upload("input", &values), gpu.zeroed("output", plan.tensor_size()));
        let workspace = gpu.zeroed("workspace", plan.workspace_size());
        Self { gpu, bn, plan, values, input, output, workspace }
    }

    fn train(&self) -> Result<(), Error> {
        let tensor = ..self.plan.tensor_size();
        let workspace = self.workspace.slice(..self.plan.workspace_size());
        let buffers = TrainingBuffers::new(self.input.slice(tensor), self.output.slice(tensor), workspace);
        let step = self.bn.bind_training(&self.plan, &buffers)?;
        self.gpu.submit(|pass| step.record(pass));
        self.gpu.wait();
        Ok(())
    }
}

#[test]
#[ignore = "the test above starts a process for it"]
fn in_a_process_that_compiles_training() {
    let setting = Setting::new();
    setting.train().unwrap();
    println!("{}: compiled", setting.gpu);
}

#[test]
#[ignore = "the test above starts a process for it, with shaders that are cut off"]
fn in_a_process_whose_compiler_fails() {
    let setting = Setting::new();
    let uncaptured = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&uncaptured);
    setting.gpu.device.on_uncaptured_error(Arc::new(move |error| log.lock().unwrap().push(error.to_string())));
    for _ in 0..2 {
        let refused = setting.train();
        assert!(matches!(&refused, Err(Error::Device { object: "a pipeline", .. })), "{refused:?}");
        // What it does compile serves, before and after.
        let gpu = &setting.gpu;
        let (mean, variance) = (gpu.upload("mean", &[0.0_f32; 8]), gpu.upload("variance", &[0.25_f32; 8]));
        let tensor = ..setting.plan.tensor_size();
        let running = ..setting.plan.running_size();
        let (input, output) = (setting.input.slice(tensor), setting.output.slice(tensor));
        let buffers = InferenceBuffers::new(input, output, mean.slice(running), variance.slice(running));
        let step = setting.bn.bind_inference(&setting.plan, &buffers).unwrap();
        gpu.submit(|pass| step.record(pass));
        let doubled: Vec<f32> = setting.values.iter().map(|value| 2.0 * value).collect();
        assert_eq!(gpu.read::<f32>(&setting.output, doubled.len()), doubled);
    }
    let uncaptured = uncaptured.lock().unwrap();
    assert!(uncaptured.is_empty(), "{uncaptured:?}");
    println!("{}: failed and went on", setting.gpu);
}
