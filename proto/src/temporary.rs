//! Temporary files and folders: all of this program's are made here, so that whoever ends it finds all of them.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tempfile::{Builder, NamedTempFile, TempDir};

/// Whether no more are made.
static CLOSED: Mutex<bool> = Mutex::new(false);

/// Names of the temporary files of this process begin so: what a signal left behind can be told from those of others.
#[must_use]
pub fn temporary_prefix() -> String {
    format!(".onnx-opt-{}-", std::process::id())
}

/// A new file in `folder`, with the permissions that any new file gets; removed when dropped.
///
/// # Errors
/// If the system refuses, or after [`make_no_more_temporaries`].
pub fn temporary_file_in(folder: &Path) -> io::Result<NamedTempFile> {
    make(|builder| {
        builder.suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(folder)
    })
}

/// A new folder in the system's folder of temporary files; removed with all that it holds when dropped.
///
/// # Errors
/// If the system refuses, or after [`make_no_more_temporaries`].
pub fn temporary_folder() -> io::Result<TempDir> {
    make(|builder| builder.tempdir())
}

/// From when this returns, none are made, by any thread: those that are there can be removed for good.
pub fn make_no_more_temporaries() {
    *CLOSED.lock().unwrap_or_else(PoisonError::into_inner) = true;
}

/// Makes one under the lock, so that it is there before the last look, or not at all.
fn make<T>(with: impl FnOnce(&mut Builder<'_, '_>) -> io::Result<T>) -> io::Result<T> {
    let closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
    match *closed {
        true => Err(io::Error::new(io::ErrorKind::Interrupted, "the program is ending")),
        false => with(Builder::new().prefix(&temporary_prefix())),
    }
}
