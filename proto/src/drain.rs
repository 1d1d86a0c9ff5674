//! Where blocks go that were encoded: to a writer, or to their places in a file where several threads encode one message.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Who writes blocks of a message.
pub(crate) trait Drain {
    /// How many blocks from this one on are its own to write, at most so many. Of the next one another has taken care if
    /// there are none.
    fn claim(&mut self, block: u64, most: u64) -> u64;

    /// Writes what stands at `position`, the begin of a block.
    fn write(&mut self, position: u64, pieces: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Nothing comes any more.
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes all blocks one after the other.
pub(crate) struct Direct<W>(pub(crate) W);

impl<W: Write> Drain for Direct<W> {
    fn claim(&mut self, _block: u64, most: u64) -> u64 {
        most
    }

    fn write(&mut self, _position: u64, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        write_all(&mut self.0, pieces)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file that several threads write, each of which encodes the whole message, and makes and writes the blocks that it is
/// the first to reach: what it made is still in the cache of its processor then.
pub(crate) struct Shared<'a> {
    file: Mutex<&'a File>,
    /// Blocks that are claimed; those before a claimed one are.
    claimed: AtomicU64,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file: Mutex::new(file), claimed: AtomicU64::new(0) }
    }
}

impl Drain for &Shared<'_> {
    fn claim(&mut self, block: u64, most: u64) -> u64 {
        let count = most.min(1);
        let claim = self.claimed.compare_exchange(block, block + count, Ordering::Relaxed, Ordering::Relaxed);
        claim.map_or(0, |_| count)
    }

    fn write(&mut self, position: u64, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        // A file is written by one at a time, whoever locks it.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(position))?;
        write_all(&mut *file, pieces)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
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

    use super::*;

    #[test]
    fn a_block_is_claimed_once() {
        let file = tempfile::tempfile().unwrap();
        let shared = Shared::new(&file);
        let (mut one, mut other) = (&shared, &shared);
        assert_eq!([one.claim(0, 1), other.claim(0, 1), other.claim(1, 0), other.claim(1, 9)], [1, 0, 0, 1]);
        assert_eq!([one.claim(1, 1), one.claim(2, 1), other.claim(2, 1), other.claim(3, 1)], [0, 1, 0, 1]);
    }

    #[test]
    fn pieces_are_written_whatever_the_writer_takes_at_once() {
        struct Few(Vec<u8>);
        impl Write for Few {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(2);
                self.0.extend(&bytes[..count]);
                Ok(count)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut few = Direct(Few(Vec::new()));
        few.write(0, &mut [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defgh")]).unwrap();
        assert_eq!(few.0.0, b"abcdefgh");
    }
}
