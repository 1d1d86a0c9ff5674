//! Where the encoder writes: whole blocks, gathered of small pieces or taken out of large ones.

use std::io::{self, IoSlice, Write};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

/// Bytes of a block. Every write but the last ends where a block does: the system keeps such pieces of a file in large
/// pages, which takes half the time.
const BLOCK: usize = 256 * 1024;

/// A `BufMut` over a writer. A `BufMut` cannot fail, so the first error is kept for [`finish`](Self::finish) and the
/// rest is thrown away.
pub(crate) struct Sink<W> {
    writer: W,
    gathered: Vec<u8>,
    written: u64,
    error: Option<io::Error>,
}

impl<W: Write> Sink<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, gathered: Vec::with_capacity(BLOCK), written: 0, error: None }
    }

    /// Bytes taken so far.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Writes what is left; returns the number of bytes, or the first error.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.write_gathered_and(&[]);
        match self.error {
            Some(error) => Err(error),
            None => self.writer.flush().map(|()| self.written),
        }
    }

    /// Writes what was gathered and `more` behind it.
    fn write_gathered_and(&mut self, more: &[u8]) {
        let mut pieces = [IoSlice::new(&self.gathered), IoSlice::new(more)];
        if self.error.is_none() {
            self.error = write_all(&mut self.writer, &mut pieces).err();
        }
        self.written += (self.gathered.len() + more.len()) as u64;
        self.gathered.clear();
    }

    fn room(&self) -> usize {
        BLOCK - self.gathered.len()
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

// SAFETY: `chunk_mut` hands out the spare capacity of a `Vec` and `advance_mut` takes it into its length, no more.
unsafe impl<W: Write> BufMut for Sink<W> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.room(), "advanced past the chunk");
        // SAFETY: the caller has filled `count` bytes of the spare capacity, which holds them.
        unsafe { self.gathered.set_len(self.gathered.len() + count) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.room() == 0 {
            self.write_gathered_and(&[]);
        }
        let room = self.room();
        (&mut self.gathered.spare_capacity_mut()[..room]).into()
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if bytes.len() > self.room() {
            // What was gathered begins a block, and the last that `bytes` fills ends within them.
            let (blocks, over) = bytes.split_at(bytes.len() - (self.gathered.len() + bytes.len()) % BLOCK);
            self.write_gathered_and(blocks);
            rest = over;
        }
        self.gathered.extend_from_slice(rest);
    }

    fn put<T: Buf>(&mut self, mut source: T) {
        while source.has_remaining() {
            let chunk = source.chunk();
            let length = chunk.len();
            self.put_slice(chunk);
            source.advance(length);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
        let mut sink = Sink::new(&mut out);
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
        let mut sink = Sink::new(&mut lengths);
        for size in [7, BLOCK / 2, BLOCK / 2, 5 * BLOCK, 1, 9] {
            sink.put_slice(&vec![0; size]);
        }
        let written = sink.finish().unwrap() as usize;
        assert_eq!(lengths.0, [BLOCK, 5 * BLOCK, written % BLOCK]);
    }

    #[test]
    fn remembers_the_first_error() {
        let mut sink = Sink::new(Disk(BLOCK + 5));
        sink.put_slice(&[0; BLOCK]);
        sink.put_slice(&[0; 10 * BLOCK]);
        sink.put_slice(&[0; 3]);
        assert_eq!(sink.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
