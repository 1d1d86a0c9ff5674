//! What the generated messages know as `prost`: that crate, but for fields of bytes, which are [`Payload`]s, for short
//! strings, which are copied at once, and for lists, which have room for one element first and not for four. Most lists
//! of a node have one. What the schema does not know is noted.
//!
//! [`Payload`]: crate::Payload

use std::cell::Cell;

pub(crate) use ::prost::{DecodeError, Enumeration, Message, Oneof, UnknownEnumValue, alloc};

pub(crate) mod bytes {
    pub(crate) use ::prost::bytes::{Buf, BufMut};

    pub(crate) use crate::Payload as Bytes;
}

/// Adds an element by default and fills it where it stands.
fn grow<T: Default>(
    list: &mut Vec<T>,
    fill: impl FnOnce(&mut T) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(T::default());
    list.last_mut().map_or(Ok(()), fill)
}

thread_local! {
    /// Whether this thread met a field that the schema does not know.
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

/// What `decode` gives, and whether it met fields that the schema does not know.
pub(crate) fn noting_unknown<T>(decode: impl FnOnce() -> T) -> (T, bool) {
    SKIPPED.set(false);
    (decode(), SKIPPED.get())
}

/// Encoding of fields, with the functions that prost has under these names.
pub(crate) mod encoding {
    use ::prost::DecodeError;
    use ::prost::bytes::Buf;
    pub(crate) use ::prost::encoding::*;

    pub(crate) fn skip_field(
        wire_type: WireType,
        tag: u32,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        super::SKIPPED.set(true);
        ::prost::encoding::skip_field(wire_type, tag, buf, context)
    }

    pub(crate) mod message {
        use ::prost::bytes::Buf;
        pub(crate) use ::prost::encoding::message::*;
        use ::prost::encoding::{DecodeContext, WireType};
        use ::prost::{DecodeError, Message};

        pub(crate) fn merge_repeated<M: Message + Default>(
            wire_type: WireType,
            messages: &mut Vec<M>,
            buf: &mut impl Buf,
            context: DecodeContext,
        ) -> Result<(), DecodeError> {
            super::super::grow(messages, |message| merge(wire_type, message, buf, context))
        }
    }

    pub(crate) mod string {
        use ::prost::DecodeError;
        use ::prost::bytes::Buf;
        pub(crate) use ::prost::encoding::string::*;
        use ::prost::encoding::{DecodeContext, WireType};

        /// Names are short and lie in one piece: they are copied at once.
        pub(crate) fn merge(
            wire_type: WireType,
            text: &mut String,
            buf: &mut impl Buf,
            context: DecodeContext,
        ) -> Result<(), DecodeError> {
            if wire_type == WireType::LengthDelimited
                && let Some((&length @ ..0x80, rest)) = buf.chunk().split_first()
                && let Some(short) = rest.get(..usize::from(length))
                && let Ok(short) = str::from_utf8(short)
            {
                short.clone_into(text);
                buf.advance(1 + usize::from(length));
                return Ok(());
            }
            ::prost::encoding::string::merge(wire_type, text, buf, context)
        }

        pub(crate) fn merge_repeated(
            wire_type: WireType,
            texts: &mut Vec<String>,
            buf: &mut impl Buf,
            context: DecodeContext,
        ) -> Result<(), DecodeError> {
            super::super::grow(texts, |text| merge(wire_type, text, buf, context))
        }
    }

    pub(crate) mod bytes {
        use ::prost::DecodeError;
        use ::prost::bytes::{Buf, BufMut, Bytes};
        use ::prost::encoding::{
            self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len,
        };

        use crate::Payload;

        pub(crate) fn encode(tag: u32, value: &Payload, buf: &mut impl BufMut) {
            encode_key(tag, WireType::LengthDelimited, buf);
            encode_varint(value.len() as u64, buf);
            value.put(buf);
        }

        pub(crate) fn encode_repeated(tag: u32, values: &[Payload], buf: &mut impl BufMut) {
            values.iter().for_each(|value| encode(tag, value, buf));
        }

        pub(crate) fn encoded_len(tag: u32, value: &Payload) -> usize {
            key_len(tag) + encoded_len_varint(value.len() as u64) + value.len()
        }

        pub(crate) fn encoded_len_repeated(tag: u32, values: &[Payload]) -> usize {
            values.iter().map(|value| encoded_len(tag, value)).sum()
        }

        pub(crate) fn merge(
            wire_type: WireType,
            value: &mut Payload,
            buf: &mut impl Buf,
            context: DecodeContext,
        ) -> Result<(), DecodeError> {
            let mut bytes = Bytes::new();
            encoding::bytes::merge(wire_type, &mut bytes, buf, context)?;
            *value = bytes.into();
            Ok(())
        }

        pub(crate) fn merge_repeated(
            wire_type: WireType,
            values: &mut Vec<Payload>,
            buf: &mut impl Buf,
            context: DecodeContext,
        ) -> Result<(), DecodeError> {
            super::super::grow(values, |value| merge(wire_type, value, buf, context))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ::prost::bytes::Buf;
    use ::prost::encoding::encode_varint;

    use super::Message;
    use crate::NodeProto;

    /// A node whose name is these bytes.
    fn named(name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![3 << 3 | 2];
        encode_varint(name.len() as u64, &mut bytes);
        bytes.extend(name);
        bytes
    }

    #[test]
    fn short_and_long_strings_in_one_piece_and_in_two() {
        for length in [0, 1, 127, 128, 300] {
            let name = "\u{e4}".repeat(length / 2) + &"x".repeat(length % 2);
            let bytes = named(name.as_bytes());
            for middle in 0..bytes.len() {
                let (one, other) = bytes.split_at(middle);
                let node = NodeProto::decode(one.chain(other)).unwrap();
                assert_eq!(node.name.as_ref(), Some(&name), "{length} at {middle}");
            }
            assert!(NodeProto::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        // The last of several counts.
        let twice = [named(b"first"), named(b"2")].concat();
        assert_eq!(NodeProto::decode(&twice[..]).unwrap().name(), "2");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for name in [&b"\xff"[..], &[b'x'; 200].map(|_| 0xc3)] {
            assert!(NodeProto::decode(&named(name)[..]).is_err());
        }
        // Another type of field under the number of the name.
        assert!(NodeProto::decode(&[3 << 3, 1][..]).is_err());
    }
}
