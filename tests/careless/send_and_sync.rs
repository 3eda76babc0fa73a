//! Every public type goes from thread to thread and may be shared between them, but for a collective of MPI, which only goes.

use std::collections::BTreeSet;
use std::path::Path;

use wgpu_batch_norm::*;

/// Types by the path that they are declared at, without their parameters.
fn checked() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    macro_rules! check {
        (of $($bound:ident)*: $($type:ty),*) => {{
            const fn holds<T: $($bound +)*>() {}
            $({
                holds::<$type>();
                let name = std::any::type_name::<$type>();
                names.insert(name.split('<').next().unwrap_or(name).to_owned());
            })*
        }};
        ($($type:ty),* $(,)?) => {
            check!(of Send Sync: $($type),*)
        };
    }
    check!(Activation, ActivationSource, ActivationCost, BatchNormDescriptor, ElementType, Error);
    check!(Convention, Momentum, EmptyBatchPolicy, NonFinitePolicy, OneSamplePolicy, RunningVariance, SegmentRunning);
    check!(Layout, Problem, Segmentation, SequenceAxes, Shape);
    check!(ChannelGradientSums, ChannelHealth, ChannelMoments, ChannelRenormalization, ChannelStatistics);
    check!(Plan, DeviceProfile, AdapterClass, Strategies, Strategy, Family, Operation);
    check!(plan::Access, plan::Elementwise, plan::Fusion, plan::Kernel, plan::Normalizer, plan::Reduction, plan::Role);
    check!(plan::Storage, plan::Trips, plan::Walk, shader::Variant);
    check!(BatchNorm, Kernels, KernelsDescriptor, ShaderChecks, Step, TrainingStep);
    check!(TrainingBuffers<'static>, InferenceBuffers<'static>, BackwardBuffers<'static>, FoldBuffers<'static>);
    check!(FrozenBackwardBuffers<'static>, OutputBackwardBuffers<'static>, AccumulateBuffers<'static>);
    check!(PopulationBuffers<'static>, PartBuffers<'static>, ConcludeBuffers<'static>, ValidBuffers<'static>);
    check!(ValidSource<'static>, Renormalization<'static>, RunningStatistics<'static>, Gradient<'static>);
    check!(ActivationState<'static>);
    check!(BatchNormLayer, BatchNormLayerDescriptor, LayerBackward, LayerForward, LayerMode, LayerParameter<'static>);
    check!(LayerState, RunningState, StateTensor);
    check!(exchange::Exchange, exchange::ExchangeItem<'static>, exchange::ExchangeError, exchange::Fetch);
    check!(exchange::MessageLayout, exchange::ThreadCollective, exchange::GatherWith<fn()>);
    check!(reference::BatchNorm, reference::Plan, reference::TrainingBuffers<'static, f32>);
    check!(reference::BackwardBuffers<'static, f32>, reference::FrozenBackwardBuffers<'static, f32>);
    check!(reference::InferenceBuffers<'static, f32>, reference::OutputBackwardBuffers<'static, f32>);
    check!(reference::FoldBuffers<'static, f32>, reference::Renormalization<'static>);
    check!(reference::RunningStatistics<'static, f32>, reference::Gradient<'static, f32>);
    check!(reference::ActivationState<'static, f32>);
    #[cfg(feature = "mpi")]
    {
        check!(exchange::MpiError);
        check!(of Send: exchange::MpiCollective);
    }
    names
}

/// Types that the sources of a folder declare as public, by their paths. What is public there is public in the crate: the lint
/// `unreachable_pub` sees to it.
fn declared(folder: &Path, module: &str, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let within = if ["lib", "mod"].contains(&stem) { module.to_owned() } else { format!("{module}::{stem}") };
        if path.is_dir() {
            if stem != "mpi" || cfg!(feature = "mpi") {
                declared(&path, &within, names);
            }
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum ")) {
                let name = name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
                names.insert(format!("{within}::{name}"));
            }
        }
    }
}

#[test]
fn every_public_type_is_send_and_sync() {
    let mut expected = BTreeSet::new();
    declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "wgpu_batch_norm", &mut expected);
    assert!(expected.len() > 70, "{expected:?}");
    let checked = checked();
    let missing: Vec<_> = expected.difference(&checked).collect();
    assert!(missing.is_empty(), "not asserted of: {missing:?}");
    let unknown: Vec<_> = checked.difference(&expected).collect();
    assert!(unknown.is_empty(), "declared elsewhere: {unknown:?}");
}
