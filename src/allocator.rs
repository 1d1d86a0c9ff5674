//! The allocator of the program.

use std::ffi::{c_int, c_long};

/// Graphs are many small allocations; this allocator makes large ones a third faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of the version that the manifest names.
const PURGE_DELAY: c_int = 15;

/// Milliseconds for which memory that was freed is kept for the next pass. The system takes longer to give it again: a
/// twentieth of the time of a large graph.
const KEPT: c_long = 1000;

unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// Lets the allocator keep freed memory for a while, unless the environment (`MIMALLOC_PURGE_DELAY`) says otherwise.
pub fn keep_freed_memory() {
    // SAFETY: sets a number that the allocator reads when it frees; an option that it does not have is ignored.
    unsafe { mi_option_set_default(PURGE_DELAY, KEPT) };
}
