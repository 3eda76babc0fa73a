//! Spans for subscribers of `tracing`, with the feature of that name; without it, nothing of this is left.
//!
//! Levels: `DEBUG` for what happens once (planning, binding, creating a pipeline), `TRACE` for what happens every training step
//! (recording). Nothing is formatted or allocated here for a recording.

use crate::{BatchNormDescriptor, Error, Plan, Shape};

/// A span that ends with its scope.
#[must_use]
pub(crate) struct Entered {
    #[cfg(feature = "tracing")]
    span: tracing::span::EnteredSpan,
}

#[cfg(feature = "tracing")]
impl Entered {
    fn new(span: tracing::Span) -> Self {
        Self { span: span.entered() }
    }
}

#[cfg(feature = "tracing")]
const TARGET: &str = "wgpu_batch_norm";

/// Planning a shape; what came of it is told by [`Entered::planned`].
pub(crate) fn planning(descriptor: &BatchNormDescriptor, shape: &Shape) -> Entered {
    #[cfg(feature = "tracing")]
    return Entered::new(tracing::debug_span!(
        target: TARGET,
        "plan",
        label = descriptor.label.as_deref(),
        shape = ?shape.dimensions(),
        element = ?descriptor.element,
        strategy = tracing::field::Empty,
        windows = tracing::field::Empty,
        workspace = tracing::field::Empty,
        error = tracing::field::Empty,
    ));
    #[cfg(not(feature = "tracing"))]
    {
        let _ = (descriptor, shape);
        Entered {}
    }
}

impl Entered {
    /// Adds the result of planning to its span.
    pub(crate) fn planned(&self, result: &Result<Plan, Error>) {
        #[cfg(feature = "tracing")]
        match result {
            Ok(plan) => {
                if let Some(strategy) = plan.strategy(crate::Operation::Training) {
                    self.span.record("strategy", tracing::field::display(strategy));
                }
                self.span.record("windows", plan.window_count());
                self.span.record("workspace", plan.workspace_size());
            }
            Err(error) => {
                self.span.record("error", tracing::field::display(error));
            }
        }
        #[cfg(not(feature = "tracing"))]
        let _ = (self, result);
    }
}

/// Binding a plan to buffers, as dispatches of which several lists may share some.
pub(crate) fn binding(step: &str, plan: &Plan, dispatches: usize) -> Entered {
    #[cfg(feature = "tracing")]
    return Entered::new(tracing::debug_span!(target: TARGET, "bind", step, shape = ?plan.dimensions(), dispatches));
    #[cfg(not(feature = "tracing"))]
    {
        let _ = (step, plan, dispatches);
        Entered {}
    }
}

/// Compiling a kernel that no step has needed before.
pub(crate) fn creating_pipeline(variant: crate::shader::Variant) -> Entered {
    #[cfg(feature = "tracing")]
    return Entered::new(tracing::debug_span!(target: TARGET, "create_pipeline", kernel = variant.name()));
    #[cfg(not(feature = "tracing"))]
    {
        let _ = variant;
        Entered {}
    }
}

/// Recording a step.
pub(crate) fn recording(step: &str, dispatches: usize) -> Entered {
    #[cfg(feature = "tracing")]
    return Entered::new(tracing::trace_span!(target: TARGET, "record", step, dispatches));
    #[cfg(not(feature = "tracing"))]
    {
        let _ = (step, dispatches);
        Entered {}
    }
}
