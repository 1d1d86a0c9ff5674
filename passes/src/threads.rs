//! Work that threads share.

use std::num::NonZero;
use std::thread;

/// What `work` makes of each number below `count`, in order, on as many threads as there are processors.
///
/// # Panics
/// As `work` does.
pub fn side_by_side<T: Send>(count: usize, work: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let part = count.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts = (0..count).step_by(part).map(|start| start..count.min(start + part));
        let threads: Vec<_> =
            parts.map(|part| scope.spawn(move || part.map(work).collect::<Vec<T>>())).collect();
        let results = threads.into_iter().map(thread::ScopedJoinHandle::join);
        results.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for count in [0, 1, 2, 100] {
            let found = side_by_side(count, &|place| place * place);
            assert!(found.into_iter().eq((0..count).map(|place| place * place)), "{count}");
        }
    }
}
