//! Where the encoder writes: whole blocks, gathered of small pieces or taken out of large ones.

use std::io::{self, IoSlice};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

use crate::drain::Drain;

/// Bytes of a block. Every write but the last ends where a block does: the system keeps such pieces of a file in large
/// pages, which takes half the time.
const BLOCK: usize = 256 * 1024;

/// A `BufMut` over a drain. What the drain does not write itself is counted, not made. A `BufMut` cannot fail: the sink
/// keeps the first error for [`finish`](Self::finish), and writes nothing behind it.
pub(crate) struct Sink<D> {
    drain: D,
    result: io::Result<()>,
    /// A block, of which so many bytes are gathered.
    buffer: Vec<u8>,
    gathered: usize,
    /// Blocks before it.
    before: u64,
    /// Whether the drain writes it.
    is_own: bool,
}

impl<D: Drain> Sink<D> {
    pub(crate) fn new(mut drain: D) -> Self {
        let is_own = drain.claim(0, 1) > 0;
        Self { drain, result: Ok(()), buffer: vec![0; BLOCK], gathered: 0, before: 0, is_own }
    }

    /// Bytes taken so far.
    pub(crate) fn position(&self) -> u64 {
        self.before * BLOCK as u64 + self.gathered as u64
    }

    /// Writes what is left; returns the number of bytes, or the first error.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let bytes = self.position();
        self.write(&[]);
        self.result.and_then(|()| self.drain.finish()).map(|()| bytes)
    }

    /// Writes what was gathered and `more` behind it, if it is to be written.
    fn write(&mut self, more: &[u8]) {
        if self.is_own && self.result.is_ok() {
            let pieces = &mut [IoSlice::new(&self.buffer[..self.gathered]), IoSlice::new(more)];
            self.result = self.drain.write(self.before * BLOCK as u64, pieces);
        }
    }

    /// Goes on behind so many blocks.
    fn advance_blocks(&mut self, count: u64) {
        self.before += count;
        self.gathered = 0;
        self.is_own = self.drain.claim(self.before, 1) > 0;
    }

    /// Room in the block, of which there is some.
    fn room(&mut self) -> &mut [u8] {
        if self.gathered == BLOCK {
            self.write(&[]);
            self.advance_blocks(1);
        }
        &mut self.buffer[self.gathered..]
    }

    /// Takes what lies together.
    fn put_piece(&mut self, mut piece: &[u8]) {
        loop {
            let room = self.room().len();
            if piece.len() <= room {
                break;
            }
            // What was gathered begins a block, which the piece fills, and perhaps more behind it.
            let most = if self.is_own { (piece.len() - room) / BLOCK } else { 0 };
            let more = self.drain.claim(self.before + 1, most as u64);
            let (blocks, rest) = piece.split_at(room + more as usize * BLOCK);
            self.write(blocks);
            self.advance_blocks(1 + more);
            piece = rest;
        }
        self.put_slice(piece);
    }
}

// SAFETY: `chunk_mut` hands out initialized bytes of the buffer, and `advance_mut` only counts them.
unsafe impl<D: Drain> BufMut for Sink<D> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= BLOCK - self.gathered, "advanced past the chunk");
        self.gathered += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.room().into()
    }

    fn put<T: Buf>(&mut self, mut source: T) {
        if source.chunk().len() == source.remaining() {
            return self.put_piece(source.chunk());
        }
        while source.has_remaining() {
            let left = source.remaining();
            let count = self.room().len().min(left);
            match self.is_own {
                true => source.copy_to_slice(&mut self.buffer[self.gathered..][..count]),
                false => source.advance(count),
            }
            self.gathered += count;
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.room().len().min(rest.len());
            let (here, after) = rest.split_at(count);
            if self.is_own {
                self.buffer[self.gathered..][..count].copy_from_slice(here);
            }
            self.gathered += count;
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::thread;

    use bytes::Bytes;

    use super::*;
    use crate::drain::{Direct, Shared};

    /// A writer with room for so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn keeps_order_across_sizes() {
        let mut out = Vec::new();
        let mut expected = Vec::new();
        let mut sink = Sink::new(Direct(&mut out));
        for (index, size) in [1, BLOCK - 1, 3, BLOCK, BLOCK + 1, 0, 5].into_iter().enumerate() {
            let piece = vec![index as u8; size];
            sink.put(&piece[..]);
            sink.put_bytes(9, size);
            expected.extend(&piece);
            expected.extend(vec![9; size]);
            assert_eq!(sink.position(), expected.len() as u64);
        }
        assert_eq!(sink.finish().unwrap(), expected.len() as u64);
        assert_eq!(out, expected);
    }

    /// Lengths of the writes, of pieces together.
    struct Lengths(Vec<usize>);

    impl Write for Lengths {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }

        fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            self.write(&vec![0; pieces.iter().map(|piece| piece.len()).sum()])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_end_where_blocks_do() {
        let mut lengths = Lengths(Vec::new());
        let mut sink = Sink::new(Direct(&mut lengths));
        for size in [7, BLOCK / 2, BLOCK / 2, 5 * BLOCK, 1, 9] {
            sink.put(Bytes::from(vec![0; size]));
        }
        let written = sink.finish().unwrap() as usize;
        assert_eq!(lengths.0, [BLOCK, 5 * BLOCK, written % BLOCK]);
    }

    #[test]
    fn remembers_the_first_error() {
        let mut sink = Sink::new(Direct(Disk(BLOCK + 5)));
        sink.put_slice(&[0; BLOCK]);
        sink.put_slice(&[0; 10 * BLOCK]);
        sink.put_slice(&[0; 3]);
        assert_eq!(sink.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    /// Takes the same pieces in two threads.
    fn shared(file: &File, pieces: &[Vec<u8>]) -> [io::Result<u64>; 2] {
        let shared = Shared::new(file);
        let write = || {
            let mut sink = Sink::new(&shared);
            for piece in pieces {
                sink.put(Bytes::copy_from_slice(piece));
                // Not together.
                sink.put(Buf::chain(&piece[..], &b"end"[..]));
                sink.put_slice(piece);
            }
            sink.finish()
        };
        thread::scope(|scope| {
            let other = scope.spawn(write);
            [write(), other.join().unwrap()]
        })
    }

    #[test]
    fn two_threads_write_a_file_together() {
        let sizes = [1, BLOCK - 2, 3 * BLOCK, 0, BLOCK / 3, BLOCK / 3, 5 * BLOCK + 1, 7];
        let pieces: Vec<Vec<u8>> =
            sizes.into_iter().zip(1u8..).map(|(size, number)| vec![number; size]).collect();
        let expected: Vec<u8> =
            pieces.iter().flat_map(|piece| [&piece[..], &piece[..], b"end", &piece[..]].concat()).collect();
        for _ in 0..20 {
            let mut file = tempfile::tempfile().unwrap();
            let lengths = shared(&file, &pieces).map(Result::unwrap);
            assert_eq!(lengths, [expected.len() as u64; 2]);
            let mut written = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut written).unwrap();
            assert!(written == expected);
        }
    }

    #[test]
    fn what_a_thread_cannot_write_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "as it was").unwrap();
        let results = shared(&File::open(&path).unwrap(), &[vec![1; 5 * BLOCK]]);
        assert!(results.iter().any(Result::is_err));
        assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
    }
}
