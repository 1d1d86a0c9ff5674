//! A line on the terminal that says what takes so long.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use onnx_opt::ir::{self, Model};
use onnx_opt::session::Listener;

use super::output::Stream;

/// Work that takes less time than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A spinner that appears when the work takes its time, on a terminal only, and goes when dropped.
pub struct Progress {
    bar: ProgressBar,
    /// What is being done.
    stage: Cell<&'static str>,
    /// Dropped at the end, which wakes the thread that waits to show the bar.
    waiting: RefCell<Option<Sender<()>>>,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let waiting = (!quiet && io::stderr().is_terminal()).then(|| {
            let (sender, receiver) = mpsc::channel::<()>();
            let bar = bar.clone();
            thread::spawn(move || {
                if receiver.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            });
            sender
        });
        Self { bar, stage: Cell::new(""), waiting: RefCell::new(waiting) }
    }
}

impl Listener for Progress {
    fn stage(&self, name: &'static str) {
        self.stage.set(name);
        self.bar.set_message(name);
    }

    fn progress(&self, done: usize, all: usize) {
        self.bar.set_message(format!("{}, {done} of {all}", self.stage.get()));
    }

    fn after_pass(&self, pass: &str, model: &Model) {
        let text = format!("// after {pass}\n{}\n", ir::print(model));
        // Whoever closed standard error does not want it.
        let _ = self.bar.suspend(|| Stream::Err.print(&text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.waiting.take();
        self.bar.finish_and_clear();
    }
}
