//! Peers: batch norms of others, as manifests describe them, checked and timed as ours are, on the same buffers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wgpu::util::DeviceExt;
use wgpu_batch_norm::Layout;

use crate::buffers::Buffers;
use crate::operations::Operation;
use crate::shapes::Dims;
use crate::support::Gpu;

/// The operations that a manifest may have.
const OPERATIONS: [Operation; 3] = [Operation::Training, Operation::Inference, Operation::Backward];

/// The buffers of ours that a manifest may name.
const OURS: [&str; 12] = [
    "x",
    "dy",
    "y",
    "dx",
    "gamma",
    "beta",
    "running_mean",
    "running_variance",
    "frozen_mean",
    "frozen_variance",
    "dgamma",
    "dbeta",
];

/// What a peer does on one shape of f32, channels first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    shape: Dims,
    /// Bytes of buffers of its own, which hold what they hold from one operation to the next.
    #[serde(default)]
    scratch: BTreeMap<String, u64>,
    #[serde(default)]
    uniforms: BTreeMap<String, Vec<Word>>,
    /// By the operation's name, in the order in which they run.
    operations: BTreeMap<String, Vec<Dispatch>>,
}

/// Four bytes of a uniform buffer.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    U32(u32),
    I32(i32),
    F32(f32),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dispatch {
    /// A file beside the manifest.
    wgsl: PathBuf,
    entry_point: String,
    workgroups: [u32; 3],
    /// The name of a buffer of ours, of scratch or of a uniform for every binding of group 0.
    bindings: BTreeMap<u32, String>,
}

/// A manifest and the folder that it lies in.
pub struct Peer {
    folder: PathBuf,
    manifest: Manifest,
}

/// The buffers of a peer's own that stand beside one set of ours.
pub struct Own<'a>(BTreeMap<&'a str, wgpu::Buffer>);

/// An operation of a peer, bound to a set of buffers.
pub struct BoundPeer(Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>);

/// Every manifest of the folders, each a file that ends in `.json`.
pub fn load(folders: &[PathBuf]) -> Result<Vec<Peer>, String> {
    let mut peers = Vec::new();
    for folder in folders {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = fs::read_dir(folder).map_err(failed)?;
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        if paths.is_empty() {
            return Err(format!("{}: no manifest, a file that ends in .json", folder.display()));
        }
        for path in paths {
            let failed = |message: String| format!("{}: {message}", path.display());
            let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            peers.push(Peer { folder: folder.clone(), manifest: Manifest::parse(&text).map_err(failed)? });
        }
    }
    Ok(peers)
}

impl Manifest {
    fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let own = || manifest.scratch.keys().chain(manifest.uniforms.keys());
        if let Some(name) = own().find(|name| OURS.contains(&name.as_str())) {
            return Err(format!("`{name}` is a buffer of ours"));
        }
        for (name, dispatches) in &manifest.operations {
            if !OPERATIONS.iter().any(|operation| operation.name() == name) {
                let known = OPERATIONS.map(Operation::name).join(", ");
                return Err(format!("`{name}` is none of the operations {known}"));
            }
            for binding in dispatches.iter().flat_map(|dispatch| dispatch.bindings.values()) {
                if !OURS.contains(&binding.as_str()) && !own().any(|name| name == binding) {
                    return Err(format!("`{binding}` is neither scratch nor a uniform nor one of {}", OURS.join(", ")));
                }
            }
        }
        Ok(manifest)
    }
}

impl Peer {
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Whether it is made for a shape.
    pub fn serves(&self, dims: Dims, layout: Layout) -> bool {
        self.manifest.shape == dims && layout == Layout::ChannelsFirst
    }

    pub fn has(&self, operation: Operation) -> bool {
        self.manifest.operations.contains_key(operation.name())
    }

    /// Makes the buffers of its own.
    pub fn own(&self, gpu: &Gpu) -> Own<'_> {
        let scratch = self.manifest.scratch.iter();
        let scratch = scratch.map(|(name, size)| (name.as_str(), gpu.zeroed("scratch", *size)));
        let uniforms = self.manifest.uniforms.iter().map(|(name, words)| {
            let contents: Vec<u8> = words.iter().flat_map(|word| word.bytes()).collect();
            let usage = wgpu::BufferUsages::UNIFORM;
            let descriptor = wgpu::util::BufferInitDescriptor { label: Some("uniform"), contents: &contents, usage };
            (name.as_str(), gpu.device.create_buffer_init(&descriptor))
        });
        Own(scratch.chain(uniforms).collect())
    }

    /// Binds an operation that it has to every set of buffers.
    pub fn bind(
        &self,
        gpu: &Gpu,
        operation: Operation,
        sets: &[Buffers],
        owns: &[Own<'_>],
    ) -> Result<Vec<BoundPeer>, String> {
        let dispatches = self.manifest.operations.get(operation.name()).map_or(&[][..], Vec::as_slice);
        let compiled = dispatches.iter().map(|dispatch| dispatch.compile(gpu, &self.folder));
        let pipelines = compiled.collect::<Result<Vec<_>, String>>()?;
        let bind = |(set, own): (&Buffers, &Own<'_>)| {
            let each = dispatches.iter().zip(&pipelines);
            BoundPeer(each.map(|(dispatch, pipeline)| dispatch.bind(gpu, pipeline, set, own)).collect())
        };
        Ok(sets.iter().zip(owns).map(bind).collect())
    }
}

impl Word {
    const fn bytes(self) -> [u8; 4] {
        match self {
            Self::U32(value) => value.to_le_bytes(),
            Self::I32(value) => value.to_le_bytes(),
            Self::F32(value) => value.to_le_bytes(),
        }
    }
}

impl Dispatch {
    fn compile(&self, gpu: &Gpu, folder: &Path) -> Result<wgpu::ComputePipeline, String> {
        let path = folder.join(&self.wgsl);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let module = create_module(gpu, text);
        Ok(gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some(&self.entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        }))
    }

    fn bind(
        &self,
        gpu: &Gpu,
        pipeline: &wgpu::ComputePipeline,
        set: &Buffers,
        own: &Own<'_>,
    ) -> (wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3]) {
        let entries: Vec<_> = self
            .bindings
            .iter()
            .filter_map(|(binding, name)| {
                let buffer = ours(name, set).or_else(|| own.0.get(name.as_str()))?;
                Some(wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            })
            .collect();
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        (pipeline.clone(), bind_group, self.workgroups)
    }
}

/// Without the loop and division checks that ours do without, so that a peer pays for none.
#[allow(
    unsafe_code,
    reason = "wgpu compiles a module without its loop and division checks only through an unsafe call"
)]
fn create_module(gpu: &Gpu, text: String) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(Cow::Owned(text)) };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        int_div_checks: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: whoever names the folder answers for what lies in it, as for a program: that loops end and nothing is divided
    // by zero. Memory accesses stay checked; workgroup memory is not cleared, which is no matter of this call.
    unsafe { gpu.device.create_shader_module_trusted(descriptor, checks) }
}

/// A buffer of ours by its name in manifests.
fn ours<'a>(name: &str, set: &'a Buffers) -> Option<&'a wgpu::Buffer> {
    Some(match name {
        "x" => &set.input,
        "dy" => &set.output_gradient,
        "y" | "dx" => &set.output,
        "gamma" => &set.gamma,
        "beta" => &set.beta,
        "running_mean" => &set.running_mean,
        "running_variance" => &set.running_variance,
        "frozen_mean" => &set.frozen_mean,
        "frozen_variance" => &set.frozen_variance,
        "dgamma" => &set.gamma_gradient,
        "dbeta" => &set.beta_gradient,
        _ => return None,
    })
}

impl BoundPeer {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for (pipeline, bind_group, [x, y, z]) in &self.0 {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }

    pub const fn dispatch_count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest of one dispatch.
    fn manifest(operation: &str, scratch: &str, binding: &str) -> String {
        format!(
            r#"{{
                "name": "peer", "shape": [2, 3, 4, 5], "scratch": {{ "{scratch}": 12 }},
                "uniforms": {{ "sizes": [{{ "u32": 3 }}, {{ "f32": 1e-5 }}] }},
                "operations": {{ "{operation}": [{{
                    "wgsl": "a.wgsl", "entry_point": "main", "workgroups": [3, 1, 1],
                    "bindings": {{ "0": "x", "7": "{binding}" }}
                }}] }}
            }}"#
        )
    }

    #[test]
    fn a_manifest_says_what_runs_on_what() {
        let manifest = Manifest::parse(&manifest("training", "saved", "saved")).unwrap();
        let dispatch = &manifest.operations["training"][0];
        assert_eq!((manifest.shape, dispatch.workgroups), ([2, 3, 4, 5], [3, 1, 1]));
        assert_eq!((dispatch.bindings[&7].as_str(), manifest.scratch["saved"]), ("saved", 12));
        let bytes: Vec<u8> = manifest.uniforms["sizes"].iter().flat_map(|word| word.bytes()).collect();
        assert_eq!(bytes, [3_u32.to_le_bytes(), 1e-5_f32.to_le_bytes()].concat());
        let peer = Peer { folder: PathBuf::new(), manifest };
        assert!(peer.has(Operation::Training) && !peer.has(Operation::Inference));
        assert!(peer.serves([2, 3, 4, 5], Layout::ChannelsFirst) && !peer.serves([2, 3, 4, 5], Layout::ChannelsLast));
        assert!(!peer.serves([2, 3, 5, 4], Layout::ChannelsFirst));
    }

    #[test]
    fn a_manifest_names_what_there_is() {
        let refused =
            |operation, scratch, binding| Manifest::parse(&manifest(operation, scratch, binding)).unwrap_err();
        assert!(refused("sideways", "saved", "x").contains("`sideways` is none of the operations"));
        assert!(refused("training", "saved", "z").contains("`z` is neither"));
        assert!(refused("training", "dy", "x").contains("`dy` is a buffer of ours"));
        assert!(Manifest::parse("{}").is_err());
        assert!(OURS.iter().all(|name| Manifest::parse(&manifest("backward", "saved", name)).is_ok()));
    }
}
