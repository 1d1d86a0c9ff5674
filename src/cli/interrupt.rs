//! Ctrl-C and requests to end: temporary files go before the program does.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use onnx_opt::proto::{make_no_more_temporaries, temporary_prefix};
use onnx_opt::session::Destination;

/// Whether a signal ends the program.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Lets a signal that is ending the program do so: without its temporary files, the work fails meanwhile, which is
/// nothing to tell.
pub fn give_way() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// [`clean_up_in`] the folder where a model is going to be.
pub fn clean_up_beside(destination: &Destination) {
    clean_up_in(match destination {
        Destination::File(path) => path.parent().map(Path::to_owned).unwrap_or_default(),
        Destination::Stdout => PathBuf::new(),
    });
}

/// Removes what this program would leave in `folder` and in the system's folder of temporary files when a signal
/// ends it from now on. Best effort: where signals cannot be caught, nothing is done.
#[cfg(unix)]
pub fn clean_up_in(folder: PathBuf) {
    use std::mem::MaybeUninit;
    use std::ptr;

    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialized by the first call; the others read it, or write to locals that outlive them.
    let signals = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        let mut signals = signals.assume_init();
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            // Whoever started the program with a signal ignored wants it to go on.
            if libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction != libc::SIG_IGN
            {
                libc::sigaddset(&mut signals, signal);
            }
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, &signals, ptr::null_mut()) != 0 {
            return;
        }
        signals
    };
    // Blocked in all threads from here on, the signals come to this one alone; children start with none blocked.
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to locals.
        if unsafe { libc::sigwait(&signals, &mut signal) } == 0 {
            ENDING.store(true, Ordering::SeqCst);
            make_no_more_temporaries();
            let own = || remove_own(&folder) | remove_own(&std::env::temp_dir());
            (0..ATTEMPTS).any(|_| !own());
            // SAFETY: ends the process without running anything else.
            unsafe { libc::_exit(128 + signal) };
        }
    });
}

/// Removes what this program would leave behind when a signal ends it.
#[cfg(not(unix))]
pub fn clean_up_in(_: PathBuf) {}

/// The work goes on meanwhile: it may put a file into a folder that is being removed.
#[cfg(unix)]
const ATTEMPTS: usize = 100;

/// Removes the temporary files and folders of this process, which their names tell. Tells whether there were any.
#[cfg(unix)]
fn remove_own(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let prefix = temporary_prefix();
    let mut found = false;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found = true;
            // The program ends anyway.
            let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
        }
    }
    found
}
