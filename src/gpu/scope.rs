//! Creating wgpu objects without letting an error reach the application's handler.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::Error;

/// Runs `create` in error scopes of every kind and turns what they catch into [`Error::Device`] or [`Error::OutOfMemory`].
///
/// Scopes catch everything but the loss of a device, of which wgpu tells a callback of the application's. Objects of a lost
/// device come into being all the same, and are of no use.
///
/// On native backends the scopes answer at once. In a browser they answer later; what they catch then is dropped, since
/// nothing here may wait.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    object: &'static str,
    create: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let created = create();
    let caught = [ready(memory.pop()), ready(internal.pop()), ready(validation.pop())];
    match caught.into_iter().flatten().next() {
        Some(error) => Err(refusal(object, &error)),
        None => created,
    }
}

/// Writes to a buffer through a queue of the caller's, within [`scoped`], which catches what is wrong with the buffer.
///
/// Of a lost device `Queue::write_buffer` says nothing. This way there is no memory to write to.
pub(crate) fn write(queue: &wgpu::Queue, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else { return Ok(()) };
    let mut view = queue.write_buffer_with(buffer, offset, size).ok_or(Error::DeviceLost)?;
    view.copy_from_slice(bytes);
    Ok(())
}

fn refusal(object: &'static str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { object },
        error => Error::Device { object, message: error.to_string() },
    }
}

fn ready(future: impl Future<Output = Option<wgpu::Error>>) -> Option<wgpu::Error> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(error) => error,
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::kernels::ShaderChecks;
    use super::super::module;
    use super::*;

    /// A device of the noop backend and what reached its error handler.
    fn noop() -> (wgpu::Device, Arc<Mutex<Vec<String>>>) {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::NOOP,
            backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
        let (device, _) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
        let uncaptured = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&uncaptured);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| log.lock().unwrap().push(error.to_string())));
        (device, uncaptured)
    }

    fn buffer(device: &wgpu::Device, size: u64) -> Result<wgpu::Buffer, Error> {
        scoped(device, "a buffer", || {
            let usage = wgpu::BufferUsages::STORAGE;
            Ok(device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false }))
        })
    }

    #[test]
    fn each_kind_of_refusal_is_an_error_of_its_own() {
        // No backend runs out of memory at will, so these are made by hand.
        let source = || Box::<dyn std::error::Error + Send + Sync>::from("source");
        let memory = wgpu::Error::OutOfMemory { source: source() };
        assert_eq!(refusal("a buffer", &memory), Error::OutOfMemory { object: "a buffer" });
        let description = || "why".to_owned();
        for error in [
            wgpu::Error::Validation { source: source(), description: description() },
            wgpu::Error::Internal { source: source(), description: description() },
        ] {
            let refused = refusal("a buffer", &error);
            assert!(matches!(refused, Error::Device { object: "a buffer", message } if message.contains("why")));
        }
    }

    #[test]
    fn a_refused_buffer_is_an_error_and_the_next_is_created() {
        let (device, uncaptured) = noop();
        let refused = buffer(&device, 1 << 62);
        assert!(matches!(refused, Err(Error::Device { object: "a buffer", .. })), "{refused:?}");
        assert_eq!(buffer(&device, 16).map(|buffer| buffer.size()), Ok(16));
        assert!(uncaptured.lock().unwrap().is_empty());
    }

    #[test]
    fn what_the_shader_compiler_refuses_is_an_error_and_the_next_shader_compiles() {
        let (device, uncaptured) = noop();
        let compile = |source: &str, checks| {
            scoped(&device, "a pipeline", || {
                let module = module::create(&device, "test", source.into(), checks);
                Ok(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: None,
                    layout: None,
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: wgpu::PipelineCompilationOptions::default(),
                    cache: None,
                }))
            })
        };
        let right = "@compute @workgroup_size(1) fn main() {}";
        let syntax = "@compute @workgroup_size(1) fn main() {";
        let types = "@compute @workgroup_size(1) fn main() { let x: f32 = 1u; }";
        let entry = "@compute @workgroup_size(1) fn other() {}";
        for checks in [ShaderChecks::Trusted, ShaderChecks::Checked] {
            for wrong in [syntax, types, entry] {
                let refused = compile(wrong, checks);
                assert!(matches!(&refused, Err(Error::Device { object: "a pipeline", .. })), "{wrong}: {refused:?}");
                assert!(compile(right, checks).is_ok());
            }
        }
        assert!(uncaptured.lock().unwrap().is_empty());
    }

    #[test]
    fn scopes_of_the_caller_see_nothing_and_stay_in_order() {
        let (device, uncaptured) = noop();
        let outer = device.push_error_scope(wgpu::ErrorFilter::Validation);
        assert!(buffer(&device, 1 << 62).is_err());
        assert_eq!(ready(outer.pop()).map(|error| error.to_string()), None);
        assert!(uncaptured.lock().unwrap().is_empty());
    }
}
