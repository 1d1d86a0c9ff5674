//! Work that threads share.

use std::num::NonZero;
use std::sync::LazyLock;
use std::thread;

/// How many threads run at once. The system is asked once: the answer comes from several of its files.
pub fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *PROCESSORS
}

/// What two pieces of work make: on two threads if `apart`, else one after the other.
///
/// # Panics
/// As they do.
pub fn both<A: Send, B>(apart: bool, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    if !apart || processors() == 1 {
        return (first(), second());
    }
    thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        (first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second)
    })
}

/// Drops something large on another thread, for which nobody waits.
pub fn drop_aside(thing: impl Send + 'static) {
    if processors() > 1 {
        // Where the system gives no thread it is dropped here, with the closure.
        let _ = thread::Builder::new().spawn(move || drop(thing));
    }
}

/// What `work` makes of each number below `count`, in order, on as many threads as there are processors, of which this
/// one is the first.
///
/// # Panics
/// As `work` does.
pub fn side_by_side<T: Send>(count: usize, work: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let part = count.div_ceil(processors()).max(1);
    let results = |start: usize| (start..count.min(start + part)).map(work).collect::<Vec<T>>();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (part..count).step_by(part).map(|start| scope.spawn(move || results(start))).collect();
        let mut all = results(0);
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

/// Calls `work` with each row of `length` elements, the last of which may be shorter, and its number, on as many threads
/// as there are processors, of which this one is the first. Where `work` allocates nothing, neither do they.
///
/// # Panics
/// As `work` does, and without a length.
pub fn rows_side_by_side<T: Send>(
    elements: &mut [T],
    length: usize,
    work: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let part = elements.len().div_ceil(length).div_ceil(processors()).max(1);
    let rows = |(place, rows): (usize, &mut [T])| {
        rows.chunks_mut(length).enumerate().for_each(|(row, elements)| work(place * part + row, elements));
    };
    thread::scope(|scope| {
        let mut parts = elements.chunks_mut(part * length).enumerate();
        let first = parts.next();
        parts.for_each(|part| drop(scope.spawn(move || rows(part))));
        first.into_iter().for_each(rows);
    });
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

    #[test]
    fn two_pieces_give_their_own() {
        for apart in [false, true] {
            let mut count = 0;
            let found = both(apart, || "first", || std::mem::replace(&mut count, 1));
            assert_eq!((found, count), (("first", 0), 1));
        }
    }

    #[test]
    fn what_is_dropped_aside_is_dropped() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        drop_aside(sender);
        assert!(receiver.recv().is_err());
    }

    #[test]
    fn rows_know_their_number() {
        for count in [0, 1, 2, 3, 7, 21, 100] {
            let mut elements = vec![0; count];
            rows_side_by_side(&mut elements, 3, &|row, elements| {
                elements.iter_mut().enumerate().for_each(|(place, element)| *element = 3 * row + place);
            });
            assert!(elements.into_iter().eq(0..count), "{count}");
        }
    }
}
