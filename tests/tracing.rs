//! The spans of the feature `tracing`: which there are, what they say, and that recording allocates nothing for them.
//!
//! Runs on wgpu's noop backend.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use wgpu_batch_norm::{BatchNorm, BatchNormDescriptor, Error, Shape, TrainingBuffers, wgpu};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be had without it")]
// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by each test for as long as it runs.
///
/// `tracing` keeps for a whole process who cares for a span. With one subscriber alive, whichever thread meets a span first
/// decides, by what that thread has subscribed: a test without a subscriber would silence the span for the test beside it.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every span as a line: level, name, fields, and those that are recorded later.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: tracing::Subscriber + for<'a> registry::LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        let mut line = format!("{} {} {}", metadata.target(), metadata.level(), metadata.name());
        attributes.record(&mut Fields(&mut line));
        self.0.lock().unwrap().push(line);
    }

    fn on_record(&self, _: &tracing::Id, values: &tracing::span::Record<'_>, _: Context<'_, S>) {
        let mut line = "later".to_owned();
        values.record(&mut Fields(&mut line));
        self.0.lock().unwrap().push(line);
    }
}

/// Is told of every span and does nothing about it.
struct Idle;

impl tracing::Subscriber for Idle {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

fn noop() -> (wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap()
}

fn batch_norm(device: &wgpu::Device) -> BatchNorm {
    let descriptor = BatchNormDescriptor { channels: 64, label: Some("stem".into()), ..Default::default() };
    BatchNorm::new(device, &descriptor).unwrap()
}

fn bind(bn: &BatchNorm, device: &wgpu::Device) -> wgpu_batch_norm::TrainingStep {
    let plan = bn.plan(&Shape::new(&[8, 64, 6]).unwrap()).unwrap();
    let [x, y, workspace] = [plan.tensor_size(), plan.tensor_size(), plan.workspace_size()].map(|size| {
        let usage = wgpu::BufferUsages::STORAGE;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    });
    bn.bind_training(&plan, &TrainingBuffers::new(x.slice(..), y.slice(..), workspace.slice(..))).unwrap()
}

#[test]
fn spans_say_what_is_planned_bound_compiled_and_recorded() {
    let _alone = one_at_a_time();
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let (device, queue) = noop();
    let bn = batch_norm(&device);
    lines.take();

    let plan = bn.plan(&Shape::new(&[8, 64, 6]).unwrap()).unwrap();
    let strategy = plan.strategy(wgpu_batch_norm::Operation::Training).unwrap();
    let workspace = plan.workspace_size();
    let expected = [
        "wgpu_batch_norm DEBUG plan label=\"stem\" shape=[8, 64, 6] element=F32".to_owned(),
        format!("later strategy={strategy}"),
        "later windows=1".to_owned(),
        format!("later workspace={workspace}"),
    ];
    assert_eq!(lines.take(), expected);

    let own = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| line.starts_with("wgpu_batch_norm ")).collect()
    };
    let step = bind(&bn, &device);
    let bound = own(lines.take());
    let count = step.dispatch_count();
    let bind_line = format!(
        "wgpu_batch_norm DEBUG bind step=\"stem: wgpu_batch_norm::training\" shape=[8, 64, 6] dispatches={count}"
    );
    assert_eq!(bound[1], bind_line);
    let compiled =
        bound.iter().filter(|line| line.starts_with("wgpu_batch_norm DEBUG create_pipeline kernel=")).count();
    assert_eq!(compiled, count, "{bound:?}");
    // What is compiled is not compiled again.
    bind(&bn, &device);
    let again = own(lines.take());
    assert!(again.contains(&bind_line) && !again.iter().any(|line| line.contains("create_pipeline")), "{again:?}");

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    lines.take();
    step.record_into(&mut encoder);
    let record_line =
        format!("wgpu_batch_norm TRACE record step=\"stem: wgpu_batch_norm::training\" dispatches={count}");
    assert_eq!(own(lines.take()), [record_line]);
    queue.submit([encoder.finish()]);
}

#[test]
fn a_refused_plan_says_why() {
    let _alone = one_at_a_time();
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let (device, _queue) = noop();
    let bn = batch_norm(&device);
    lines.take();
    let refused = bn.plan(&Shape::new(&[8, 63, 6]).unwrap()).unwrap_err();
    assert!(matches!(refused, Error::ChannelMismatch { .. }), "{refused:?}");
    assert_eq!(lines.take()[1], format!("later error={refused}"));
}

#[test]
fn spans_of_recording_allocate_nothing() {
    let _alone = one_at_a_time();
    let (device, queue) = noop();
    let step = bind(&batch_norm(&device), &device);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut count = |subscribed: bool| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let record = |pass: &mut wgpu::ComputePass<'_>| {
            // wgpu's own lists of commands grow now and then; the smallest count is the library's.
            let counts = (0..64).map(|_| {
                let before = ALLOCATIONS.with(Cell::get);
                step.record(pass);
                ALLOCATIONS.with(Cell::get) - before
            });
            counts.min()
        };
        if subscribed { tracing::subscriber::with_default(Idle, || record(&mut pass)) } else { record(&mut pass) }
    };
    assert_eq!((count(false), count(true)), (Some(0), Some(0)));
    queue.submit([encoder.finish()]);
}
