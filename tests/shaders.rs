//! Every shader variant parses, validates and translates, and its Rust side tells the same story.
//!
//! naga's validator is what wgpu runs; SPIR-V, MSL and HLSL are what Vulkan, Metal and DX12 are given.

#[path = "shaders/budget.rs"]
mod budget;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use naga::back::hlsl::ShaderModel::{V5_1, V6_0};
use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_batch_norm::shader::Variant;

/// The constants of a variant's pipelines: every activation, companion, gradient mode and 16-bit type that it has a use for. Each value
/// once, not their product: they do not meet in one expression.
fn constants(source: &str) -> impl Iterator<Item = Vec<(&'static str, f64)>> + use<> {
    // 256 is the largest workgroup that the crate asks for.
    let values: [(&str, &[f64]); 9] = [
        ("WORKGROUP_SIZE", &[256.0]),
        ("ACTIVATION", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ("COMPANION", &[0.0, 1.0, 2.0]),
        ("INPUT_GRADIENT", &[1.0, 2.0]),
        ("RESIDUAL_GRADIENT", &[0.0, 1.0, 2.0]),
        ("BRAIN_FLOAT", &[0.0, 1.0]),
        ("KEEPS_IN_STEP", &[1.0, 0.0]),
        ("STORES_IN_TURN", &[1.0, 0.0]),
        ("SPAN", &[8.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
    ];
    let declared: Vec<_> =
        values.into_iter().filter(|(name, _)| source.contains(&format!("override {name}:"))).collect();
    let most = declared.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
    (0..most).map(move |index| declared.iter().map(|(name, values)| (*name, values[index % values.len()])).collect())
}

/// The modules of a variant's pipelines.
fn pipelines(variant: Variant) -> impl Iterator<Item = (naga::Module, ModuleInfo)> {
    let source = variant.source();
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)));
    // What a device without any of wgpu's features takes, but where 64-bit integers are the point.
    let capabilities = if variant.double_words { Capabilities::SHADER_INT64 } else { Capabilities::empty() };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)));
    // How a tensor is loaded does not depend on them.
    let most = if variant.double_words { 1 } else { usize::MAX };
    constants(&source).take(most).map(move |values| {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (module, info) = pipeline_constants::process_overrides(&module, &info, None, &values)
            .unwrap_or_else(|error| panic!("{}: {error}", variant.name()));
        (module.into_owned(), info.into_owned())
    })
}

/// What wgpu has naga write for a Vulkan driver, and the environment that it is for.
struct Vulkan {
    options: spv::Options<'static>,
    environment: &'static str,
}

/// A module of the crate on a driver with `robustBufferAccess2`, as most are: nothing is checked but indices of arrays that
/// are no buffers.
fn trusted() -> Vulkan {
    let bounds_check_policies = BoundsCheckPolicies { index: BoundsCheckPolicy::Restrict, ..Default::default() };
    let zero_initialize_workgroup_memory = spv::ZeroInitializeWorkgroupMemoryMode::None;
    let options = spv::Options {
        lang_version: (1, 6),
        bounds_check_policies,
        zero_initialize_workgroup_memory,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    Vulkan { options, environment: "vulkan1.3" }
}

/// A module that is given every check, on a driver without it. Vulkan 1.1 is the oldest that any driver under test has.
fn checked() -> Vulkan {
    let restrict = BoundsCheckPolicy::Restrict;
    let bounds_check_policies = BoundsCheckPolicies { index: restrict, buffer: restrict, ..Default::default() };
    let options = spv::Options { lang_version: (1, 3), bounds_check_policies, ..Default::default() };
    Vulkan { options, environment: "vulkan1.1" }
}

impl Vulkan {
    /// Of a pipeline of a variant: checks do not depend on constants, so the first one stands for all.
    fn of_pipeline(index: usize) -> impl Iterator<Item = Self> {
        [trusted()].into_iter().chain((index == 0).then(checked))
    }

    fn write(&self, name: &str, module: &naga::Module, info: &ModuleInfo) -> Vec<u32> {
        spv::write_vec(module, info, &self.options, None).unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"))
    }
}

fn translate(variant: Variant, index: usize, module: &naga::Module, info: &ModuleInfo) {
    let name = &variant.name();
    for vulkan in Vulkan::of_pipeline(index) {
        vulkan.write(name, module, info);
    }
    // The first of either with 64-bit integers.
    let lang_version = if variant.double_words { (2, 3) } else { msl::Options::default().lang_version };
    let msl_options = msl::Options { fake_missing_bindings: true, lang_version, ..Default::default() };
    msl::write_string(module, info, &msl_options, &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
    let models: &[_] = if variant.double_words { &[V6_0] } else { &[V5_1, V6_0] };
    for &shader_model in models {
        let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(module, info, None)
            .unwrap_or_else(|e| panic!("{name}: HLSL {shader_model:?}: {e}"));
    }
}

#[test]
fn variants_have_names_of_their_own() {
    let mut names = std::collections::HashSet::new();
    for variant in Variant::all() {
        assert!(names.insert(variant.name()), "two variants are called {}", variant.name());
    }
}

/// Checks every pipeline of every variant, by its number among those of the variant, on all cores.
fn for_every_pipeline(check: impl Fn(Variant, usize, &naga::Module, &ModuleInfo) + Sync) {
    let variants: Vec<_> = Variant::all().collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (check, variants) = (&check, &variants);
    let pipelines: usize = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|first| {
                let part = variants.iter().skip(first).step_by(threads);
                scope.spawn(move || {
                    let mut count = 0;
                    for variant in part {
                        for (index, (module, info)) in pipelines(*variant).enumerate() {
                            check(*variant, index, &module, &info);
                            count += 1;
                        }
                    }
                    count
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().expect("a variant fails")).sum()
    });
    assert!(pipelines >= variants.len(), "{pipelines} pipelines of {} variants", variants.len());
    println!("{} variants, {pipelines} pipelines", variants.len());
}

#[test]
fn every_variant_translates_to_spirv_msl_and_hlsl() {
    for_every_pipeline(translate);
}

/// naga's validator reads WGSL's rules; this one reads SPIR-V's, in what naga writes.
#[test]
#[ignore = "needs spirv-val; `cargo xtask test` gets it and runs this in a step of its own"]
fn spirv_val_accepts_every_variant() {
    let program = std::env::var_os("WGPU_BATCH_NORM_SPIRV_VAL").unwrap_or_else(|| "spirv-val".into());
    for_every_pipeline(|variant, index, module, info| {
        let name = &variant.name();
        for vulkan in Vulkan::of_pipeline(index) {
            let words = vulkan.write(name, module, info);
            // Its rules include those of the environment.
            let mut child = Command::new(&program)
                .args(["--target-env", vulkan.environment, "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            child.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            assert!(output.status.success() && said.is_empty(), "{name}, {}: {said}", vulkan.environment);
        }
    });
}

/// What browsers compile with: it refuses barriers that naga accepts, where control flow is not uniform by the WGSL
/// specification's analysis.
#[test]
#[ignore = "needs Node.js and Dawn; `cargo xtask test` gets the latter and runs this in a step of its own"]
fn tint_accepts_every_variant() {
    let package =
        std::env::var_os("WGPU_BATCH_NORM_TINT").expect("WGPU_BATCH_NORM_TINT names the npm package `webgpu`");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tint/check.mjs");
    let mut child = Command::new("node")
        .arg(script)
        .arg(package)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node: {error}"));
    let input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || -> std::io::Result<(usize, usize)> {
        let mut input = BufWriter::new(input);
        let (mut modules, mut pipelines) = (0, 0);
        // 64-bit integers are naga's, not WGSL's, and no browser has them.
        for variant in Variant::all().filter(|variant| !variant.double_words) {
            let code = variant.source();
            let constants: Vec<_> = constants(&code)
                .map(|values| {
                    serde_json::Map::from_iter(values.into_iter().map(|(name, value)| (name.into(), value.into())))
                })
                .collect();
            modules += 1;
            pipelines += constants.len();
            let line = serde_json::json!({ "name": variant.name(), "code": code, "pipelines": constants });
            writeln!(input, "{line}")?;
        }
        Ok((modules, pipelines))
    });
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let written = writer.join().unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let (modules, pipelines) = written.unwrap();
    assert_eq!(said.trim(), format!("Tint: {modules} modules, {pipelines} pipelines, 0 bad"));
    println!("{}", said.trim());
}
