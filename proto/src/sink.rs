//! Where the encoder writes: small pieces are gathered, large ones go straight through.

use std::io::{self, Write};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

/// Bytes gathered before a write.
const CAPACITY: usize = 64 * 1024;

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
        Self { writer, gathered: Vec::with_capacity(CAPACITY), written: 0, error: None }
    }

    /// Bytes taken so far.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Writes what is left; returns the number of bytes, or the first error.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.write_gathered();
        match self.error {
            Some(error) => Err(error),
            None => self.writer.flush().map(|()| self.written),
        }
    }

    fn write_gathered(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        self.write(&gathered);
        self.gathered = gathered;
        self.gathered.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.writer.write_all(bytes).err();
        }
        self.written += bytes.len() as u64;
    }

    fn room(&self) -> usize {
        self.gathered.capacity() - self.gathered.len()
    }
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
            self.write_gathered();
        }
        self.gathered.spare_capacity_mut().into()
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if bytes.len() > self.room() {
            self.write_gathered();
        }
        if bytes.len() > self.room() {
            self.write(bytes);
        } else {
            self.gathered.extend_from_slice(bytes);
        }
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
        for (index, size) in [1, CAPACITY - 1, 3, CAPACITY, CAPACITY + 1, 0, 5].into_iter().enumerate() {
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

    #[test]
    fn remembers_the_first_error() {
        let mut sink = Sink::new(Disk(CAPACITY + 5));
        sink.put_slice(&[0; CAPACITY]);
        sink.put_slice(&[0; 10 * CAPACITY]);
        sink.put_slice(&[0; 3]);
        assert_eq!(sink.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
