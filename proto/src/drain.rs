//! Where blocks go that were encoded: to a writer at once, or to a file by another thread.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use bytes::Bytes;

/// What one write takes.
pub(crate) struct Block {
    /// A buffer that begins with small pieces together.
    pub(crate) buffer: Vec<u8>,
    /// How many bytes of it they take.
    pub(crate) gathered: usize,
    /// A large piece behind them.
    pub(crate) more: Bytes,
}

/// Who writes blocks.
pub(crate) trait Drain {
    /// Takes a block, and gives a buffer to gather the next one in; an empty one, if none is free.
    fn take(&mut self, block: Block) -> Vec<u8>;

    /// Waits for all blocks; the first error, behind which nothing was written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes each block before the next one is encoded.
pub(crate) struct Direct<W> {
    writer: W,
    result: io::Result<()>,
}

impl<W: Write> Direct<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, result: Ok(()) }
    }
}

impl<W: Write> Drain for Direct<W> {
    fn take(&mut self, Block { buffer, gathered, more }: Block) -> Vec<u8> {
        if self.result.is_ok() {
            self.result =
                write_all(&mut self.writer, &mut [IoSlice::new(&buffer[..gathered]), IoSlice::new(&more)]);
        }
        buffer
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.result.and_then(|()| self.writer.flush())
    }
}

/// Blocks that wait while one is written.
const WAITING: usize = 1;

/// Writes to `file` while the next blocks are encoded, and made where they are deferred; where the system gives no thread,
/// before.
pub(crate) fn beside<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    file: &'env File,
) -> Box<dyn Drain + 'scope> {
    let (blocks, taken) = sync_channel(WAITING);
    let (empty, buffers) = channel();
    let write = move || {
        let mut direct = Box::new(Direct::new(file));
        for block in taken {
            // Nobody waits for a buffer behind the last block.
            let _ = empty.send(direct.take(block));
        }
        direct.finish()
    };
    match thread::Builder::new().spawn_scoped(scope, write) {
        Ok(thread) => Box::new(Beside { blocks, buffers, thread }),
        Err(_) => Box::new(Direct::new(file)),
    }
}

struct Beside<'scope> {
    blocks: SyncSender<Block>,
    buffers: Receiver<Vec<u8>>,
    thread: ScopedJoinHandle<'scope, io::Result<()>>,
}

impl Drain for Beside<'_> {
    fn take(&mut self, block: Block) -> Vec<u8> {
        // It fails only where the thread is gone, which `finish` tells.
        let _ = self.blocks.send(block);
        self.buffers.try_recv().unwrap_or_default()
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        drop(self.blocks);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes has stopped")))
    }
}

/// All bytes of `pieces`, however many of them the writer takes at once.
fn write_all(writer: &mut impl Write, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match writer.write_vectored(pieces) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut pieces, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Seek};

    use super::*;

    fn block(number: u8) -> Block {
        Block { buffer: vec![number; 10], gathered: 7, more: vec![number + 100; usize::from(number)].into() }
    }

    #[test]
    fn a_thread_writes_all_blocks_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let expected: Vec<u8> =
            (0..50).flat_map(|number| [vec![number; 7], block(number).more.into()].concat()).collect();
        thread::scope(|scope| {
            let mut drain = beside(scope, &file);
            for number in 0..50 {
                drain.take(block(number));
            }
            drain.finish().unwrap();
        });
        let mut written = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut written).unwrap();
        assert_eq!(written, expected);
    }

    #[test]
    fn what_a_thread_cannot_write_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "as it was").unwrap();
        let file = File::open(&path).unwrap();
        let result = thread::scope(|scope| {
            let mut drain = beside(scope, &file);
            (0..50).for_each(|number| drop(drain.take(block(number))));
            drain.finish()
        });
        assert!(result.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
    }
}
