//! Work in a process of its own, with limits on time and memory: engines may hang, run out of memory or abort on a
//! model.
//!
//! The program starts itself with an argument that [`serve`], the first call of its `main`, recognizes. The child reads
//! its task from standard input, tells on standard output how far it is, and answers in a file.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use onnx_opt_proto::temporary_folder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Argument with which a program is started as the child.
const SUBCOMMAND: &str = "__child";

/// What begins the lines that tell how far the work is. Engines may print, too.
const TELLS: &str = "onnx-opt: ";

/// Whether this program can be its own child.
static SERVES: AtomicBool = AtomicBool::new(false);

/// Something to be done in a process of its own.
pub(crate) trait Task: Serialize + DeserializeOwned {
    /// What tells it from others.
    const NAME: &'static str;
    /// What comes of it.
    type Answer: Serialize + DeserializeOwned;

    /// Does it. `tell` says how much of how much is done; it fails when nobody listens any more.
    fn perform(self, tell: &Tell) -> anyhow::Result<Self::Answer>;
}

/// Says how much of how much is done.
pub(crate) type Tell = dyn Fn(usize, usize) -> anyhow::Result<()> + Sync;

/// What a child may take.
pub(crate) struct Limits {
    /// Bytes of address space, 0 for no limit.
    pub memory: u64,
    /// Time for all of it.
    pub time: Option<Duration>,
    /// Time without a word.
    pub silence: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ChildError {
    /// Nobody called [`serve`].
    #[error("no program is known that runs models in a process of its own")]
    NoProgram,
    /// The system refused.
    #[error("cannot run models in a process of their own: {0}")]
    Io(#[from] std::io::Error),
    /// A limit on time.
    #[error("no result within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It ended without an answer.
    #[error("the engine crashed or ran out of memory ({0})")]
    Crashed(ExitStatus),
}

/// Milliseconds for which the allocator of the child keeps what was freed. Pages that the system gives anew are made
/// zero first, which took half of the time of a calibration.
const KEEPS_MEMORY: &str = "1000";

/// What the child is given.
#[derive(Serialize, Deserialize)]
struct Order<T> {
    answer: PathBuf,
    memory: u64,
    /// Seconds of processor time, 0 for no limit.
    seconds: u64,
    task: T,
}

/// The exit code of the child, if this process was started as one: to be called first in `main`, which then returns it.
/// It also tells that this program may be started as a child.
pub fn serve() -> Option<ExitCode> {
    SERVES.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != SUBCOMMAND) {
        return None;
    }
    let name = arguments.next().unwrap_or_default();
    let done = match name.to_str() {
        Some(crate::verify::Request::NAME) => answer::<crate::verify::Request>(),
        Some(crate::calibrate::Work::NAME) => answer::<crate::calibrate::Work>(),
        Some(crate::latency::Timing::NAME) => answer::<crate::latency::Timing>(),
        Some(crate::calibrate::Summing::NAME) => answer::<crate::calibrate::Summing>(),
        _ => Err(anyhow::anyhow!("there is no such task")),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Reads the order from standard input and writes the answer to the file that it names.
fn answer<T: Task>() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let order: Order<T> = serde_json::from_str(&text)?;
    limit(order.memory, order.seconds);
    let tell = |done: usize, all: usize| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{TELLS}{done} {all}")?;
        Ok(out.flush()?)
    };
    let found = order.task.perform(&tell)?;
    Ok(std::fs::write(&order.answer, serde_json::to_vec(&found)?)?)
}

/// Limits memory and time of this process.
fn limit(memory: u64, seconds: u64) {
    #[cfg(unix)]
    {
        let set = |resource, value: u64| {
            let bound = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: the call reads one structure that lives here. Where it fails, the parent's clock remains.
            unsafe { libc::setrlimit(resource, &bound) };
        };
        if memory > 0 {
            set(libc::RLIMIT_AS, memory);
        }
        if seconds > 0 {
            // Several threads count together; the parent's clock is the finer limit.
            set(libc::RLIMIT_CPU, seconds.saturating_mul(8).saturating_add(8));
        }
    }
    #[cfg(not(unix))]
    let _ = (memory, seconds);
}

/// Does a task in a process of its own: `program`, or the running one where it serves. `hear` is told how far it is.
///
/// # Errors
/// If no process can be started, or it gives no answer within the limits.
pub(crate) fn perform<T: Task>(
    task: &T,
    limits: &Limits,
    program: Option<&Path>,
    hear: &dyn Fn(usize, usize),
) -> Result<T::Answer, ChildError> {
    let own = || SERVES.load(Ordering::Relaxed).then(std::env::current_exe)?.ok();
    let program = program.map(Path::to_owned).or_else(own).ok_or(ChildError::NoProgram)?;
    let folder = temporary_folder()?;
    let answer = folder.path().join("answer.json");
    let seconds = limits.time.map_or(0, |time| time.as_secs().max(1));
    let order = Order { answer: answer.clone(), memory: limits.memory, seconds, task };
    let order = serde_json::to_vec(&order).map_err(std::io::Error::from)?;
    let mut child = Command::new(program)
        .args([SUBCOMMAND, T::NAME])
        // Engines take and give back the same large buffers in each run.
        .env("MIMALLOC_PURGE_DELAY", KEEPS_MEMORY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = lines(&mut child);
    if let Some(mut input) = child.stdin.take() {
        // A child that ended early closed its end; its exit says why.
        let _ = input.write_all(&order);
    }
    let status = match wait(&mut child, &lines, limits, hear) {
        Ok(status) => status,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    let text = std::fs::read(&answer).ok().filter(|_| status.success());
    text.and_then(|text| serde_json::from_slice(&text).ok()).ok_or(ChildError::Crashed(status))
}

/// How much of how much is done, as the child tells it. The other end closes when the child's does.
fn lines(child: &mut Child) -> Receiver<(usize, usize)> {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let told = line.strip_prefix(TELLS).and_then(|told| told.split_once(' '));
                let told = told.and_then(|(done, all)| Some((done.parse().ok()?, all.trim().parse().ok()?)));
                if told.is_some_and(|told| sender.send(told).is_err()) {
                    break;
                }
            }
        });
    }
    receiver
}

fn wait(
    child: &mut Child,
    lines: &Receiver<(usize, usize)>,
    limits: &Limits,
    hear: &dyn Fn(usize, usize),
) -> Result<ExitStatus, ChildError> {
    const STEP: Duration = Duration::from_millis(3);
    const LONG: Duration = Duration::from_secs(1);
    let begin = Instant::now();
    let mut last = begin;
    let mut talks = true;
    loop {
        if let Some(status) = child.try_wait()? {
            // What it told last is on the way still.
            while let Ok((done, all)) = lines.recv_timeout(LONG) {
                hear(done, all);
            }
            return Ok(status);
        }
        let passed = |limit: Option<Duration>, since: Instant| limit.filter(|&limit| since.elapsed() > limit);
        if let Some(limit) = passed(limits.time, begin).or_else(|| passed(limits.silence, last)) {
            return Err(ChildError::TimedOut(limit));
        }
        let rest = limits.time.map_or(LONG, |time| time.saturating_sub(begin.elapsed()).min(LONG));
        match lines.recv_timeout(if talks { rest.max(STEP) } else { STEP }) {
            Ok((done, all)) => {
                last = Instant::now();
                hear(done, all);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // It is about to end.
            Err(RecvTimeoutError::Disconnected) if talks => talks = false,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(STEP),
        }
    }
}
