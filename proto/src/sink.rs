//! Where the encoder writes: whole blocks, gathered of small pieces or taken out of large ones.

use std::io;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

use crate::drain::{Block, Drain};

/// Bytes of a block. Every write but the last ends where a block does: the system keeps such pieces of a file in large
/// pages, which takes half the time.
const BLOCK: usize = 256 * 1024;

/// A `BufMut` over a drain. A `BufMut` cannot fail: the drain keeps the first error for [`finish`](Self::finish).
pub(crate) struct Sink<'a> {
    drain: Box<dyn Drain + 'a>,
    /// A block, of which so many bytes are gathered.
    buffer: Vec<u8>,
    gathered: usize,
    drained: u64,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(drain: Box<dyn Drain + 'a>) -> Self {
        Self { drain, buffer: vec![0; BLOCK], gathered: 0, drained: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn position(&self) -> u64 {
        self.drained + self.gathered as u64
    }

    /// Writes what is left; returns the number of bytes, or the first error.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let bytes = self.position();
        if self.gathered > 0 {
            self.drain_gathered_and(Bytes::new());
        }
        self.drain.finish().map(|()| bytes)
    }

    /// Gives away what was gathered and `more` behind it.
    fn drain_gathered_and(&mut self, more: Bytes) {
        self.drained += (self.gathered + more.len()) as u64;
        let (buffer, gathered) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.gathered));
        self.buffer = self.drain.take(Block { buffer, gathered, more });
        self.buffer.resize(BLOCK, 0);
    }

    /// Room in the block, of which there is some.
    fn room(&mut self) -> &mut [u8] {
        if self.gathered == BLOCK {
            self.drain_gathered_and(Bytes::new());
        }
        &mut self.buffer[self.gathered..]
    }

    /// Takes what lies together and may be kept until it is written.
    fn put_piece(&mut self, mut piece: Bytes) {
        if piece.len() > self.room().len() {
            // What was gathered begins a block, and the last that the piece fills ends within it.
            let over = (self.gathered + piece.len()) % BLOCK;
            let blocks = piece.split_to(piece.len() - over);
            self.drain_gathered_and(blocks);
        }
        self.buffer[self.gathered..][..piece.len()].copy_from_slice(&piece);
        self.gathered += piece.len();
    }
}

// SAFETY: `chunk_mut` hands out initialized bytes of the buffer, and `advance_mut` only counts them.
unsafe impl BufMut for Sink<'_> {
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
            return self.put_piece(source.copy_to_bytes(source.remaining()));
        }
        while source.has_remaining() {
            let left = source.remaining();
            let room = self.room();
            let count = room.len().min(left);
            source.copy_to_slice(&mut room[..count]);
            self.gathered += count;
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room();
            let (here, after) = rest.split_at(room.len().min(rest.len()));
            room[..here.len()].copy_from_slice(here);
            self.gathered += here.len();
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{IoSlice, Write};

    use super::*;
    use crate::drain::Direct;

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
        let mut sink = Sink::new(Box::new(Direct::new(&mut out)));
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
        let mut sink = Sink::new(Box::new(Direct::new(&mut lengths)));
        for size in [7, BLOCK / 2, BLOCK / 2, 5 * BLOCK, 1, 9] {
            sink.put(Bytes::from(vec![0; size]));
        }
        let written = sink.finish().unwrap() as usize;
        assert_eq!(lengths.0, [BLOCK, 5 * BLOCK, written % BLOCK]);
    }

    #[test]
    fn remembers_the_first_error() {
        let mut sink = Sink::new(Box::new(Direct::new(Disk(BLOCK + 5))));
        sink.put_slice(&[0; BLOCK]);
        sink.put_slice(&[0; 10 * BLOCK]);
        sink.put_slice(&[0; 3]);
        assert_eq!(sink.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
