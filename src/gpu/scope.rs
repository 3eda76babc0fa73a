//! Creating wgpu objects without letting an error reach the application's handler.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::Error;

/// Runs `create` in error scopes of every kind and turns what they catch into [`Error::Device`].
///
/// On native backends the scopes answer at once. In a browser they answer later; what they catch then is dropped, since
/// nothing here may wait.
pub(super) fn scoped<T>(
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
        Some(error) => Err(Error::Device { object, message: error.to_string() }),
        None => created,
    }
}

fn ready(future: impl Future<Output = Option<wgpu::Error>>) -> Option<wgpu::Error> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(error) => error,
        Poll::Pending => None,
    }
}
