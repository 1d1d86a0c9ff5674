//! Tensors to and from `TensorProto`.

use bytes::Bytes;
use onnx_opt_proto::TensorProto;
use thiserror::Error;

use super::{Data, Tensor, element_count};
use crate::types::ElementType;

/// Why a tensor message is not a tensor.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TensorError {
    /// The element type code is not in the schema.
    #[error("unknown element type {0}")]
    UnknownElementType(i32),
    /// An axis is negative.
    #[error("negative size {0}")]
    NegativeSize(i64),
    /// The shape has more elements than memory can hold.
    #[error("the shape has more elements than memory can hold")]
    TooLarge,
    /// Elements and shape do not fit.
    #[error("the shape needs {expected} {}, the file holds {found}", if *.expected == 1 { "unit" } else { "units" })]
    Length {
        /// Bytes (raw data) or elements (typed data and strings) that the shape needs.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// The element type has no raw form.
    #[error("{0} has no raw form")]
    NoRawForm(ElementType),
    /// The data is in another file.
    #[error("its data is in another file that was not loaded")]
    External,
    /// The tensor is a part of a larger one.
    #[error("segmented tensors are not supported")]
    Segmented,
}

impl Tensor {
    /// A tensor from its message. External data must have been resolved: the caller passes its bytes.
    ///
    /// # Errors
    /// When the element type is unknown, the shape is impossible, or the data does not fit the shape.
    pub fn from_proto(mut proto: TensorProto, external: Option<Bytes>) -> Result<Self, TensorError> {
        let code = proto.data_type.unwrap_or(0);
        let element = ElementType::from_code(code).ok_or(TensorError::UnknownElementType(code))?;
        if proto.segment.is_some() {
            return Err(TensorError::Segmented);
        }
        let shape = proto
            .dims
            .iter()
            .map(|&size| usize::try_from(size).map_err(|_| TensorError::NegativeSize(size)))
            .collect::<Result<Vec<_>, _>>()?;
        let count = element_count(&shape).ok_or(TensorError::TooLarge)?;

        if let Some(raw) = external {
            proto.external_data.clear();
            proto.data_location = None;
            proto.raw_data = Some(raw);
        } else if proto.data_location == Some(onnx_opt_proto::tensor_proto::DataLocation::External as i32) {
            return Err(TensorError::External);
        }

        if element == ElementType::String {
            let strings: Vec<Bytes> = std::mem::take(&mut proto.string_data);
            let mut tensor = Self::from_strings(&shape, strings)?;
            tensor.origin = keep_origin(proto);
            return Ok(tensor);
        }
        if let Some(raw) = proto.raw_data.take() {
            let mut tensor = Self::from_raw(element, &shape, raw)?;
            tensor.origin = keep_origin(proto);
            return Ok(tensor);
        }
        let found = typed_len(element, &proto);
        let expected = match element {
            ElementType::Complex64 | ElementType::Complex128 => {
                count.checked_mul(2).ok_or(TensorError::TooLarge)?
            }
            _ if element.bits() < 8 => element.raw_len(count).ok_or(TensorError::TooLarge)?,
            _ => count,
        };
        if found != expected {
            return Err(TensorError::Length { expected, found });
        }
        Ok(Self {
            element,
            shape: shape.as_slice().into(),
            data: Data::Typed(Default::default()),
            origin: Some(Box::new(proto)),
        })
    }

    /// The message of this tensor, without a name unless it was read with one.
    pub fn to_proto(&self) -> TensorProto {
        let mut proto = match self.origin() {
            Some(origin) => origin.clone(),
            None => TensorProto {
                dims: self.shape().iter().map(|&size| size as i64).collect(),
                data_type: Some(self.element().code()),
                ..TensorProto::default()
            },
        };
        match &self.data {
            Data::Raw(raw) => proto.raw_data = Some(raw.clone()),
            Data::Strings(strings) => {
                proto.string_data = strings.iter().map(|string| string.to_vec().into()).collect()
            }
            Data::Typed(_) => {}
        }
        proto
    }
}

/// The message less its data, if it says more than dimensions and element type. A name alone is not kept: values are
/// named by the graph, and [`Tensor::to_proto`] of an attribute names it again.
fn keep_origin(proto: TensorProto) -> Option<Box<TensorProto>> {
    let plain =
        TensorProto { dims: proto.dims.clone(), data_type: proto.data_type, ..TensorProto::default() };
    if proto == plain { None } else { Some(Box::new(proto)) }
}

fn typed_len(element: ElementType, proto: &TensorProto) -> usize {
    match element {
        ElementType::Float | ElementType::Complex64 => proto.float_data.len(),
        ElementType::Double | ElementType::Complex128 => proto.double_data.len(),
        ElementType::Int64 => proto.int64_data.len(),
        ElementType::Uint32 | ElementType::Uint64 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    }
}

/// Typed fields as little-endian bytes. `None` for strings.
pub(super) fn typed_to_raw(element: ElementType, proto: &TensorProto) -> Option<Bytes> {
    let raw: Vec<u8> = match element {
        ElementType::String => return None,
        ElementType::Float | ElementType::Complex64 => {
            proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
        ElementType::Double | ElementType::Complex128 => {
            proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
        ElementType::Int64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::Uint64 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::Uint32 => {
            proto.uint64_data.iter().flat_map(|&value| (value as u32).to_le_bytes()).collect()
        }
        ElementType::Int32 => proto.int32_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::Int16 | ElementType::Uint16 | ElementType::Float16 | ElementType::Bfloat16 => {
            proto.int32_data.iter().flat_map(|&value| (value as u16).to_le_bytes()).collect()
        }
        // One byte an entry: 8-bit types, and packed smaller ones.
        _ => proto.int32_data.iter().map(|&value| value as u8).collect(),
    };
    Some(raw.into())
}
