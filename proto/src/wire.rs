//! The wire format of protocol buffers, walked without decoding: what the schema does not know, and where a file ends
//! too early.

use crate::ReadErrorKind;

/// Fields of a message: number, wire type, and the index of the message type if the field is one.
type Fields = &'static [(u32, u8, Option<usize>)];

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// Levels of nesting that are looked into; the decoder refuses deeper ones.
const DEPTH: u32 = 100;

/// One field as it stands in the bytes.
struct Field<'a> {
    number: u32,
    wire: u8,
    /// The content of a length-delimited field, otherwise empty.
    content: &'a [u8],
}

/// Why the bytes do not go on as a field.
enum Stop {
    /// No tag, or no such wire type.
    Malformed,
    /// The bytes end before the field does.
    Short { number: u32, wire: u8, needed: u64, available: u64 },
}

/// Takes a base-128 number off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = bytes.get(index + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Takes a field off the front.
fn field<'a>(bytes: &mut &'a [u8], depth: u32) -> Result<Field<'a>, Stop> {
    let tag = varint(bytes).ok_or(Stop::Malformed)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Stop::Malformed)?;
    let wire = (tag & 7) as u8;
    let short =
        |needed: u64, available: usize| Stop::Short { number, wire, needed, available: available as u64 };
    let length = match wire {
        0 => {
            let available = bytes.len();
            varint(bytes).ok_or_else(|| short(available as u64 + 1, available))?;
            0
        }
        1 => 8,
        2 => {
            let available = bytes.len();
            varint(bytes).ok_or_else(|| short(available as u64 + 1, available))?
        }
        3 => {
            let inner = depth.checked_sub(1).ok_or(Stop::Malformed)?;
            while field(bytes, inner)?.wire != 4 {}
            0
        }
        4 => 0,
        5 => 4,
        _ => return Err(Stop::Malformed),
    };
    let split = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    let (content, rest) = split.ok_or_else(|| short(length, bytes.len()))?;
    *bytes = rest;
    Ok(Field { number, wire, content: if wire == 2 { content } else { &[] } })
}

/// The entry of field `number` in message type `message`.
fn known(message: usize, number: u32) -> Option<(u8, Option<usize>)> {
    let fields = MESSAGES.get(message)?;
    fields.iter().find(|entry| entry.0 == number).map(|&(_, wire, child)| (wire, child))
}

/// Bytes of a serialized `ModelProto`, tags included, that belong to fields the schema does not know.
pub(crate) fn unknown_bytes(model: &[u8]) -> u64 {
    unknown_in(model, MODEL, DEPTH)
}

fn unknown_in(mut bytes: &[u8], message: usize, depth: u32) -> u64 {
    let mut unknown = 0;
    while !bytes.is_empty() {
        let before = bytes.len();
        let Ok(field) = field(&mut bytes, depth) else { break };
        unknown += match (known(message, field.number), depth.checked_sub(1)) {
            (None, _) => (before - bytes.len()) as u64,
            (Some((_, Some(child))), Some(depth)) => unknown_in(field.content, child, depth),
            _ => 0,
        };
    }
    unknown
}

/// How many nodes and initializers the graph of a serialized `ModelProto` has, as far as its bytes can be followed;
/// `None` where there is no graph.
pub(crate) fn graph_lengths(mut model: &[u8]) -> Option<(usize, usize)> {
    const GRAPH: u32 = 7;
    const NODE: u32 = 1;
    const INITIALIZER: u32 = 5;
    let mut lengths = None;
    while let Ok(Field { number, wire, mut content }) = field(&mut model, DEPTH) {
        if (number, wire) != (GRAPH, 2) {
            continue;
        }
        let (nodes, initializers) = lengths.get_or_insert((0, 0));
        while let Ok(inner) = field(&mut content, DEPTH) {
            *nodes += usize::from(inner.number == NODE);
            *initializers += usize::from(inner.number == INITIALIZER);
        }
    }
    lengths
}

/// Whether the bytes are the beginning of a `ModelProto` and end inside one of its fields.
pub(crate) fn truncation(mut bytes: &[u8]) -> Option<ReadErrorKind> {
    let expected = |number, wire| known(MODEL, number).is_some_and(|(known, _)| known == wire);
    let mut complete = 0;
    while !bytes.is_empty() {
        match field(&mut bytes, DEPTH) {
            Ok(field) if expected(field.number, field.wire) => complete += 1,
            Err(Stop::Short { number, wire, needed, available })
                if complete > 0 && expected(number, wire) =>
            {
                return Some(ReadErrorKind::Truncated { field: number, needed, available });
            }
            _ => return None,
        }
    }
    None
}
