//! What the generated messages know as `prost`: that crate, but for fields of bytes, which are [`Payload`]s, and for
//! lists, which have room for one element first and not for four. Most lists of a node have one.
//!
//! [`Payload`]: crate::Payload

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

/// Encoding of fields, with the functions that prost has under these names.
pub(crate) mod encoding {
    pub(crate) use ::prost::encoding::*;

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
