//! The operations under Burn's autodiff: one node a batch norm.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use crate::ops::{BackwardInputs, BatchNormOps, InputGradients, Inputs, Optional, Statistics, Trained};
use crate::settings::{Activation, Settings};

/// The step of a graph. Its parents are x, γ, β and, if there is one, z.
#[derive(Debug)]
struct Node;

/// What backward needs of forward. x, γ, β and z are left to Burn's checkpointing, which may compute them again.
#[derive(Clone, Debug)]
struct State<B: Backend> {
    input: NodeId,
    residual: Option<NodeId>,
    gamma: NodeId,
    beta: NodeId,
    statistics: Statistics<B>,
    output: Option<FloatTensor<B>>,
    settings: Settings,
}

impl<B: BatchNormOps, const N: usize> Backward<B, N> for Node {
    type State = State<B>;

    fn backward(self, ops: Ops<State<B>, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let state = ops.state;
        let output_gradient = grads.consume::<B>(&ops.node);
        let mut fetch = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let companion = match (state.output, state.residual) {
            (Some(output), _) => Optional::Present(output),
            (None, Some(residual)) => Optional::Present(fetch(residual)),
            (None, None) => Optional::Absent,
        };
        let residual = ops.parents.get(3).cloned().flatten();
        let fused = state.settings.activation != Activation::Identity;
        if let (Some(node), false) = (&residual, fused) {
            grads.register::<B>(node.id, output_gradient.clone());
        }
        let inputs = BackwardInputs {
            input: fetch(state.input),
            output_gradient,
            gamma: fetch(state.gamma),
            beta: fetch(state.beta),
            statistics: state.statistics,
            companion,
        };
        let gradients = B::wgpu_batch_norm_backward(inputs, state.settings, residual.is_some() && fused);
        let results = [gradients.input, gradients.gamma, gradients.beta];
        for (node, gradient) in ops.parents.iter().take(3).zip(results) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
        if let (Some(node), Optional::Present(gradient)) = (residual, gradients.residual) {
            grads.register::<B>(node.id, gradient);
        }
    }
}

/// Forward and what it leaves besides y.
type Run<B, Extra> = fn(Inputs<B>, Settings) -> (FloatTensor<B>, Statistics<B>, Extra);

/// Runs forward and, where a parent is tracked, registers the node.
fn forward<B: BatchNormOps, C: CheckpointStrategy, Extra, const N: usize>(
    nodes: [NodeGuard; N],
    inputs: Inputs<Autodiff<B, C>>,
    settings: Settings,
    run: Run<B, Extra>,
) -> (FloatTensor<Autodiff<B, C>>, Extra) {
    match Node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            // Only where z is read again does it have to be kept.
            let reads_residual =
                !settings.activation.follows_from_output() && settings.activation != Activation::Identity;
            let residual = match &inputs.residual {
                Optional::Present(residual) if reads_residual => Some(prep.checkpoint(residual)),
                _ => None,
            };
            let input = prep.checkpoint(&inputs.input);
            let gamma = prep.checkpoint(&inputs.gamma);
            let beta = prep.checkpoint(&inputs.beta);
            let (output, statistics, extra) = run(inner(inputs), settings.clone());
            let kept = settings.activation.follows_from_output().then(|| output.clone());
            let state = State { input, residual, gamma, beta, statistics, output: kept, settings };
            (prep.finish(state, output), extra)
        }
        OpsKind::UnTracked(prep) => {
            let (output, _, extra) = run(inner(inputs), settings);
            (prep.finish(output), extra)
        }
    }
}

/// The tensors without their nodes.
fn inner<B: Backend, C: CheckpointStrategy>(inputs: Inputs<Autodiff<B, C>>) -> Inputs<B> {
    Inputs {
        input: inputs.input.into_primitive(),
        residual: match inputs.residual {
            Optional::Present(residual) => Optional::Present(residual.into_primitive()),
            Optional::Absent => Optional::Absent,
        },
        gamma: inputs.gamma.into_primitive(),
        beta: inputs.beta.into_primitive(),
        running_mean: inputs.running_mean.into_primitive(),
        running_variance: inputs.running_variance.into_primitive(),
    }
}

fn with_parents<B: BatchNormOps, C: CheckpointStrategy, Extra>(
    inputs: Inputs<Autodiff<B, C>>,
    settings: Settings,
    run: Run<B, Extra>,
) -> (FloatTensor<Autodiff<B, C>>, Extra) {
    let [input, gamma, beta] = [inputs.input.node(), inputs.gamma.node(), inputs.beta.node()];
    match &inputs.residual {
        Optional::Present(residual) => {
            let nodes = [input, gamma, beta, residual.node()];
            forward(nodes, inputs, settings, run)
        }
        Optional::Absent => forward([input, gamma, beta], inputs, settings, run),
    }
}

impl<B: BatchNormOps, C: CheckpointStrategy> BatchNormOps for Autodiff<B, C> {
    fn wgpu_batch_norm_training(inputs: Inputs<Self>, settings: Settings) -> Trained<Self> {
        let run: Run<B, [FloatTensor<B>; 3]> = |inputs, settings| {
            let trained = B::wgpu_batch_norm_training(inputs, settings);
            let extra = [trained.running_mean, trained.running_variance, trained.saved.clone()];
            let statistics = match trained.moments {
                Optional::Present(moments) => Statistics::Ranks { saved: trained.saved, moments },
                Optional::Absent => Statistics::Batch(trained.saved),
            };
            (trained.output, statistics, extra)
        };
        let (output, extra) = with_parents(inputs, settings, run);
        let [running_mean, running_variance, saved] = extra.map(FloatTensor::<Self>::new);
        // The moments are backward's alone.
        Trained { output, running_mean, running_variance, saved, moments: Optional::Absent }
    }

    fn wgpu_batch_norm_inference(inputs: Inputs<Self>, settings: Settings) -> FloatTensor<Self> {
        let run: Run<B, ()> = |inputs, settings| {
            let statistics =
                Statistics::Running { mean: inputs.running_mean.clone(), variance: inputs.running_variance.clone() };
            (B::wgpu_batch_norm_inference(inputs, settings), statistics, ())
        };
        with_parents(inputs, settings, run).0
    }

    /// Second derivatives are not served, as they are not of Burn's own batch norm.
    fn wgpu_batch_norm_backward(_: BackwardInputs<Self>, _: Settings, _: bool) -> InputGradients<Self> {
        panic!("the backward of batch norm cannot be differentiated");
    }
}
