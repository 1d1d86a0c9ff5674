//! The bytes of a field: there already, or made where they are needed.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes};

/// The bytes of a field of a message.
///
/// Mostly they are a slice of the file that was read. Bytes that follow from others by a [`Recipe`] need not be there:
/// [`bytes`](Self::bytes) makes them once and keeps them, writing the message makes them for as long as that takes.
#[derive(Clone)]
pub struct Payload(Content);

#[derive(Clone)]
enum Content {
    Ready(Bytes),
    Deferred(Arc<Deferred>),
}

struct Deferred {
    length: usize,
    recipe: Box<dyn Recipe>,
    made: OnceLock<Bytes>,
}

/// How bytes are made: elements of so many bytes that [`WIDEST`] is a multiple of them.
pub trait Recipe: Send + Sync {
    /// Puts the bytes that begin at `start` into `part`, as many as it has room for: the same ones each time. No element
    /// is cut.
    fn fill(&self, start: usize, part: &mut [u8]);
}

/// Bytes of the widest element of a tensor.
pub const WIDEST: usize = 16;

impl Payload {
    /// Bytes that `recipe` makes, `length` of them.
    pub fn deferred(length: usize, recipe: impl Recipe + 'static) -> Self {
        let made = OnceLock::new();
        Self(Content::Deferred(Arc::new(Deferred { length, recipe: Box::new(recipe), made })))
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Content::Ready(bytes) => bytes.len(),
            Content::Deferred(deferred) => deferred.length,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes are still to be made.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.ready().is_err()
    }

    /// The bytes. Deferred ones are made, and kept.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match &self.0 {
            Content::Ready(bytes) => bytes,
            Content::Deferred(deferred) => deferred.made.get_or_init(|| deferred.make()),
        }
    }

    /// The bytes for one use: deferred ones are made, and gone when the caller drops them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.ready() {
            Ok(bytes) => bytes.clone(),
            Err(deferred) => deferred.make(),
        }
    }

    /// Puts the bytes that begin at `start` into `part`, as many as it has room for, without those around them. No element
    /// may be cut.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn fill(&self, start: usize, part: &mut [u8]) {
        match self.ready() {
            Ok(bytes) => part.copy_from_slice(&bytes[start..start + part.len()]),
            Err(deferred) => deferred.recipe.fill(start, part),
        }
    }

    /// Appends the bytes to `buffer`.
    pub(crate) fn put(&self, buffer: &mut impl BufMut) {
        match self.ready() {
            Ok(bytes) => buffer.put(bytes.clone()),
            Err(deferred) => buffer.put(Reader::new(deferred)),
        }
    }

    /// `length` bytes that begin at `start`: borrowed where they are there, or else made in `room`. No element may be cut.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn part<'a>(&'a self, start: usize, length: usize, room: &'a mut Vec<u8>) -> &'a [u8] {
        match self.ready() {
            Ok(bytes) => &bytes[start..start + length],
            Err(deferred) => {
                room.resize(length, 0);
                deferred.recipe.fill(start, room);
                room
            }
        }
    }

    /// The bytes, or how they are made.
    fn ready(&self) -> Result<&Bytes, &Deferred> {
        match &self.0 {
            Content::Ready(bytes) => Ok(bytes),
            Content::Deferred(deferred) => deferred.made.get().ok_or(deferred),
        }
    }
}

impl Deferred {
    fn make(&self) -> Bytes {
        let mut made = vec![0; self.length];
        self.recipe.fill(0, &mut made);
        made.into()
    }
}

/// Deferred bytes while they are written: few of them at a time, or many where the reader has room for them.
struct Reader<'a> {
    deferred: &'a Deferred,
    /// Where it is read on.
    position: usize,
    /// Bytes from the last multiple of [`WIDEST`] before that place on, once they were asked for.
    few: OnceCell<[u8; FEW]>,
}

/// Bytes that a [`Reader`] makes at a time, a multiple of [`WIDEST`].
const FEW: usize = 1024;

impl<'a> Reader<'a> {
    fn new(deferred: &'a Deferred) -> Self {
        Self { deferred, position: 0, few: OnceCell::new() }
    }

    fn make_few(&self) -> [u8; FEW] {
        let mut few = [0; FEW];
        let start = self.position / WIDEST * WIDEST;
        let count = (self.deferred.length - start).min(FEW);
        self.deferred.recipe.fill(start, &mut few[..count]);
        few
    }

    /// Copies to the begin of `out`, and gives the rest of it.
    fn copy<'o>(&mut self, out: &'o mut [u8], count: usize) -> &'o mut [u8] {
        let (here, rest) = out.split_at_mut(count.min(out.len()));
        if !here.is_empty() {
            here.copy_from_slice(&self.chunk()[..here.len()]);
            self.advance(here.len());
        }
        rest
    }
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.deferred.length - self.position
    }

    fn chunk(&self) -> &[u8] {
        let within = self.position % WIDEST;
        &self.few.get_or_init(|| self.make_few())[within..FEW.min(within + self.remaining())]
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advanced past the end");
        self.position += count;
        self.few.take();
    }

    fn copy_to_slice(&mut self, out: &mut [u8]) {
        // To where an element begins, whole ones, and the part of one.
        let out = self.copy(out, self.position.next_multiple_of(WIDEST) - self.position);
        let whole = if out.len() == self.remaining() { out.len() } else { out.len() / WIDEST * WIDEST };
        let (here, rest) = out.split_at_mut(whole);
        self.deferred.recipe.fill(self.position, here);
        self.advance(whole);
        self.copy(rest, WIDEST);
    }
}

impl Default for Payload {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Ready(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Payload> for Bytes {
    fn from(payload: Payload) -> Self {
        match payload.0 {
            Content::Ready(bytes) => bytes,
            Content::Deferred(_) => payload.bytes().clone(),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.0, &other.0) {
            (Content::Deferred(a), Content::Deferred(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        is_same || self.len() == other.len() && self.bytes() == other.bytes()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ready() {
            Ok(bytes) => bytes.fmt(f),
            Err(deferred) => write!(f, "{} bytes to be made", deferred.length),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use ::prost::Message as _;

    use super::*;
    use crate::drain::Direct;
    use crate::sink::Sink;
    use crate::{ModelProto, TensorProto, encode, samples};

    /// Numbers of four bytes that count up, and how often they were asked for.
    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl Recipe for Counting {
        fn fill(&self, start: usize, part: &mut [u8]) {
            assert!(start.is_multiple_of(4) && part.len().is_multiple_of(4), "an element was cut");
            self.0.fetch_add(1, Ordering::Relaxed);
            for (index, element) in (start as u32 / 4..).zip(part.as_chunks_mut().0) {
                *element = index.to_le_bytes();
            }
        }
    }

    fn numbers(count: u32) -> Vec<u8> {
        (0..count).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn bytes_are_kept_where_they_are_borrowed() {
        let counting = Counting::default();
        let payload = Payload::deferred(40, counting.clone());
        assert_eq!((payload.len(), payload.is_deferred()), (40, true));
        assert_eq!([payload.to_bytes(), payload.to_bytes()], [numbers(10), numbers(10)]);
        assert_eq!((counting.0.load(Ordering::Relaxed), payload.is_deferred()), (2, true));
        let (mut part, mut room) = ([0; 8], vec![1; 99]);
        payload.fill(12, &mut part);
        assert_eq!(part, numbers(5)[12..]);
        assert_eq!(payload.part(12, 8, &mut room), part);
        assert_eq!([payload.bytes(), payload.clone().bytes()], [&numbers(10)[..]; 2]);
        assert_eq!((counting.0.load(Ordering::Relaxed), payload.is_deferred()), (5, false));
        payload.fill(0, &mut part);
        assert_eq!(payload.part(0, 8, &mut room), part);
        assert_eq!((part, counting.0.load(Ordering::Relaxed)), ([0, 0, 0, 0, 1, 0, 0, 0], 5));
    }

    #[test]
    fn deferred_bytes_equal_those_that_are_there() {
        let payload = |count: usize| Payload::deferred(4 * count, Counting::default());
        let ready = Payload::from(numbers(3));
        assert!(payload(3) == ready && payload(3) == payload(3) && payload(2) != ready);
        assert_eq!(format!("{:?}", payload(3)), "12 bytes to be made");
    }

    /// A model that holds these bytes behind others.
    fn model(before: usize, raw: Payload) -> ModelProto {
        let before = TensorProto { raw_data: Some(vec![7; before].into()), ..TensorProto::default() };
        let mut model = samples::model(vec![before]);
        let graph = model.graph.get_or_insert_default();
        graph.initializer.push(TensorProto { raw_data: Some(raw), ..TensorProto::default() });
        model
    }

    #[test]
    fn a_file_does_not_show_what_was_deferred() {
        // The room that is left in a block ends before, within and behind an element.
        for before in (0..70).map(|over| 256 * 1024 - 100 + over) {
            let count = 100_000;
            let deferred = model(before, Payload::deferred(4 * count, Counting::default()));
            let expected = encode(&model(before, numbers(count as u32).into()));
            let mut streamed = Vec::new();
            let mut sink = Sink::new(Direct(&mut streamed));
            deferred.encode(&mut sink).unwrap();
            sink.finish().unwrap();
            assert!(streamed == expected, "{before}");
            assert_eq!(deferred.encoded_len(), expected.len());
        }
    }
}
