//! Models for the tests of this crate.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost::encoding::encode_varint;

use crate::tensor_proto::DataType;
use crate::wire::{MESSAGES, MODEL};
use crate::{GraphProto, ModelProto, NodeProto, TensorProto};

/// A float tensor of `count` elements in `raw_data`.
pub(crate) fn tensor(name: &str, count: usize) -> TensorProto {
    let raw: Vec<u8> = (0..count).flat_map(|index| (index as f32).to_le_bytes()).collect();
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Float.into()),
        dims: vec![count as i64],
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

/// A model with one node and these initializers.
pub(crate) fn model(initializer: Vec<TensorProto>) -> ModelProto {
    let node = NodeProto {
        op_type: Some("Identity".into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("test".into()),
        graph: Some(GraphProto { node: vec![node], initializer, ..Default::default() }),
        ..Default::default()
    }
}

/// Any small model: every field of the schema may be there, be there with its default, or not be there.
pub(crate) fn any_model() -> impl Strategy<Value = ModelProto> {
    vec(any::<u8>(), 0..400).prop_map(|choices| {
        let mut bytes = Vec::new();
        message(&mut choices.iter().copied(), MODEL, 6, &mut bytes);
        let mut model = ModelProto::decode(Bytes::from(bytes)).unwrap();
        model.ir_version.get_or_insert(0);
        model.graph.get_or_insert_default();
        model
    })
}

/// Writes fields of a message type as `choices` tell, until they run out.
fn message(choices: &mut impl Iterator<Item = u8>, kind: usize, depth: u32, out: &mut Vec<u8>) {
    for _ in 0..choices.next().unwrap_or(0) % 6 {
        let Some(choice) = choices.next() else { return };
        let (number, wire, child) = MESSAGES[kind][usize::from(choice) % MESSAGES[kind].len()];
        if child.is_some() && depth == 0 {
            continue;
        }
        encode_varint(u64::from(number << 3) | u64::from(wire), out);
        let size = choices.next().unwrap_or(0);
        match (wire, child) {
            (0, _) => encode_varint(u64::from(size) << (size % 56), out),
            (1, _) => out.extend([size; 8]),
            (5, _) => out.extend([size; 4]),
            (_, None) => {
                let text = vec![b'a' + size % 26; usize::from(size % 4)];
                encode_varint(text.len() as u64, out);
                out.extend(text);
            }
            (_, Some(child)) => {
                let mut inner = Vec::new();
                message(choices, child, depth - 1, &mut inner);
                encode_varint(inner.len() as u64, out);
                out.extend(inner);
            }
        }
    }
}
