//! A progress bar, and a clean stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Counts steps, and notices Ctrl-C and the signal to terminate: the first one asks the program to finish with what it has, the second ends it.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// # Errors
    /// Where the system lets nobody listen to Ctrl-C.
    pub fn new(steps: u64) -> Result<Self, ctrlc::Error> {
        let style = ProgressStyle::with_template("{msg:<32} {bar:40} {pos:>6}/{len} steps, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps).with_style(style);
        let stop = Arc::new(AtomicBool::new(false));
        Self::listen(bar, stop)
    }

    /// Shows nothing, and notices Ctrl-C all the same: for a process whose progress another one shows.
    ///
    /// # Errors
    /// As [`Progress::new`].
    pub fn silent() -> Result<Self, ctrlc::Error> {
        Self::listen(ProgressBar::hidden(), Arc::default())
    }

    fn listen(bar: ProgressBar, stop: Arc<AtomicBool>) -> Result<Self, ctrlc::Error> {
        let (shown, asked) = (bar.clone(), Arc::clone(&stop));
        ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            shown.set_message("stopping; again to end at once");
        })?;
        Ok(Self { bar, stop })
    }

    /// For tests: shows nothing and listens to nothing.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), stop: Arc::default() }
    }

    /// What is being done.
    pub fn say(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    pub fn add(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Whether to finish with what there is.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether there is a terminal to show the bar on.
    pub fn is_visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
