//! Moves weights out of a model to a file of external data.

use bytes::BufMut;

use crate::drain::Drain;
use crate::sink::Sink;
use crate::tensor_proto::{DataLocation, DataType};
use crate::{ModelProto, Payload, StringStringEntryProto, TensorProto, for_each_tensor};

/// Tensors of this size start on a page, so that they can be mapped alone.
const PAGE_ALIGNED: usize = 1 << 20;

/// Writes every tensor of at least `threshold` bytes to `data` and leaves in the model a reference to it in a file
/// named `location`, relative to the model. Texts stay. Tensors that are external already are not touched.
pub(crate) fn spill<D: Drain>(model: &mut ModelProto, threshold: u64, location: &str, data: &mut Sink<D>) {
    for_each_tensor(model, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            return;
        }
        let Some(bytes) = raw_bytes(tensor) else { return };
        if bytes.is_empty() || (bytes.len() as u64) < threshold {
            return;
        }
        let alignment = if bytes.len() >= PAGE_ALIGNED { 4096 } else { 64 };
        let padding = data.position().next_multiple_of(alignment) - data.position();
        data.put_bytes(0, padding as usize);
        let (offset, length) = (data.position(), bytes.len());
        bytes.put(data);

        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
        tensor.data_location = Some(DataLocation::External.into());
        tensor.raw_data = None;
        tensor.float_data = Vec::new();
        tensor.int32_data = Vec::new();
        tensor.int64_data = Vec::new();
        tensor.double_data = Vec::new();
        tensor.uint64_data = Vec::new();
    });
}

/// The elements in the layout of `raw_data`; nothing for those that stay: texts, 6-bit floats of `int32_data`, and
/// element types that are not known.
fn raw_bytes(tensor: &TensorProto) -> Option<Payload> {
    if let Some(raw) = &tensor.raw_data {
        return Some(raw.clone());
    }
    let words = &tensor.int32_data;
    let bytes = match DataType::try_from(tensor.data_type()).ok()? {
        DataType::Float | DataType::Complex64 => {
            little_endian(&tensor.float_data, |value| value.to_le_bytes())
        }
        DataType::Double | DataType::Complex128 => {
            little_endian(&tensor.double_data, |value| value.to_le_bytes())
        }
        DataType::Int64 => little_endian(&tensor.int64_data, |value| value.to_le_bytes()),
        DataType::Uint64 => little_endian(&tensor.uint64_data, |value| value.to_le_bytes()),
        DataType::Uint32 => little_endian(&tensor.uint64_data, |value| (value as u32).to_le_bytes()),
        DataType::Int32 => little_endian(words, |value| value.to_le_bytes()),
        DataType::Int16 | DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => {
            little_endian(words, |value| (value as u16).to_le_bytes())
        }
        DataType::Bool
        | DataType::Int8
        | DataType::Uint8
        | DataType::Float8e4m3fn
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2
        | DataType::Float8e5m2fnuz
        | DataType::Float8e8m0
        | DataType::Int4
        | DataType::Uint4
        | DataType::Float4e2m1
        | DataType::Int2
        | DataType::Uint2 => little_endian(words, |value| [value as u8]),
        DataType::Undefined | DataType::String | DataType::Float6e2m3 | DataType::Float6e3m2 => return None,
    };
    Some(bytes.into())
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn typed(data_type: DataType) -> TensorProto {
        TensorProto {
            data_type: Some(data_type.into()),
            float_data: vec![1.5],
            double_data: vec![-2.0],
            int32_data: vec![-2, 0x1234],
            int64_data: vec![-3],
            uint64_data: vec![7],
            ..Default::default()
        }
    }

    #[test]
    fn typed_data_becomes_raw() {
        let raw = |data_type| raw_bytes(&typed(data_type)).map(|raw| raw.to_vec());
        assert_eq!(raw(DataType::Float), Some(1.5f32.to_le_bytes().to_vec()));
        assert_eq!(raw(DataType::Double), Some((-2f64).to_le_bytes().to_vec()));
        assert_eq!(raw(DataType::Int64), Some((-3i64).to_le_bytes().to_vec()));
        assert_eq!(raw(DataType::Uint64), Some(7u64.to_le_bytes().to_vec()));
        assert_eq!(raw(DataType::Uint32), Some(7u32.to_le_bytes().to_vec()));
        assert_eq!(raw(DataType::Int32), Some(vec![0xfe, 0xff, 0xff, 0xff, 0x34, 0x12, 0, 0]));
        assert_eq!(raw(DataType::Float16), Some(vec![0xfe, 0xff, 0x34, 0x12]));
        assert_eq!(raw(DataType::Int8), Some(vec![0xfe, 0x34]));
        assert_eq!(raw(DataType::String), None);
        assert_eq!(raw(DataType::Float6e2m3), None);
        let six_bits =
            TensorProto { raw_data: Some(Bytes::from_static(b"abc").into()), ..typed(DataType::Float6e2m3) };
        assert_eq!(raw_bytes(&six_bits), Some(Bytes::from_static(b"abc").into()));
        assert_eq!(raw_bytes(&TensorProto { data_type: Some(99), ..Default::default() }), None);
    }
}
