//! The engines that run operators and models: tract, which is built in, and onnxruntime, which is loaded when asked
//! for. Nothing outside this folder calls a foreign engine.

mod branches;
mod choice;
pub mod known_errors;
mod lowering;
pub mod onnxruntime;
pub mod quantize_kernel;
pub mod tract;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use onnx_opt_ir::engine::EngineError;

pub use choice::{Engine, EngineChoice};
pub use onnxruntime::OrtExecutor;
pub use tract::{TractEval, TractExecutor};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs foreign code; a panic becomes an error and prints nothing.
fn guarded<T>(engine: &'static str, run: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                others(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(EngineError::Failed { engine, reason: format!("panic: {}", in_a_line(text)) })
    })
}

/// What an engine says, fit for a message: it may be a page with shapes, expressions and traces.
fn in_a_line(text: &str) -> String {
    const LONGEST: usize = 240;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let result: Result<(), _> = guarded("test", || panic!("no {}\nand a trace", "way"));
        assert_eq!(result.map_err(|error| error.to_string()), Err("test failed: panic: no way".to_owned()));
    }

    #[test]
    fn a_message_is_a_line() {
        assert_eq!(in_a_line("\n\n  one \ntwo"), "one");
        assert_eq!(in_a_line(""), "no message");
        assert_eq!(in_a_line(&"ü".repeat(1000)).chars().count(), 243);
    }
}
