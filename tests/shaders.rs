//! Every shader variant parses, validates and translates, and its Rust side tells the same story.
//!
//! naga's validator is what wgpu runs; SPIR-V, MSL and HLSL are what Vulkan, Metal and DX12 are given.

use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_batch_norm::shader::Variant;

fn parse(variant: Variant) -> (naga::Module, ModuleInfo) {
    let source = variant.source();
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)));
    // Overrides are resolved per pipeline; 256 is the largest size the crate asks for.
    let constants = if variant.source().contains("override WORKGROUP_SIZE") {
        [("WORKGROUP_SIZE".to_owned(), 256.0)].into_iter().collect()
    } else {
        Default::default()
    };
    let (module, info) = pipeline_constants::process_overrides(&module, &info, None, &constants)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.name()));
    (module.into_owned(), info.into_owned())
}

#[test]
fn every_variant_translates_to_spirv_msl_and_hlsl() {
    let mut names = std::collections::HashSet::new();
    for variant in Variant::all() {
        let name = variant.name();
        assert!(names.insert(name.clone()), "two variants are called {name}");
        let (module, info) = parse(variant);
        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
        let msl_options = msl::Options { fake_missing_bindings: true, ..Default::default() };
        msl::write_string(&module, &info, &msl_options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
        for shader_model in [hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0] {
            let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{name}: HLSL {shader_model:?}: {e}"));
        }
    }
    println!("{} variants", names.len());
}
