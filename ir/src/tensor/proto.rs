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
    #[error("its shape needs {expected} {unit}, the file holds {found}")]
    Length {
        /// What is counted: bytes of raw data, entries of a typed field, strings.
        unit: &'static str,
        /// As many as the shape needs.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// The element type has no raw form.
    #[error("elements of type {0} cannot be in `raw_data`")]
    NoRawForm(ElementType),
    /// The data is in a field for other element types.
    #[error(
        "elements of type {element} belong in `{expected}` or `raw_data`, the file has them in `{found}`"
    )]
    WrongField {
        /// The element type.
        element: ElementType,
        /// The typed field for it.
        expected: &'static str,
        /// The field that is filled.
        found: &'static str,
    },
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
            proto.raw_data = Some(raw.into());
        } else if proto.data_location == Some(onnx_opt_proto::tensor_proto::DataLocation::External as i32) {
            return Err(TensorError::External);
        }

        if element == ElementType::String {
            if proto.raw_data.as_ref().is_some_and(|raw| !raw.is_empty()) {
                return Err(TensorError::NoRawForm(element));
            }
            let strings = std::mem::take(&mut proto.string_data).into_iter().map(Bytes::from).collect();
            let mut tensor = Self::from_strings(&shape, strings)?;
            tensor.origin = keep_origin(proto);
            return Ok(tensor);
        }
        if let Some(raw) = proto.raw_data.take() {
            let mut tensor = Self::from_payload(element, &shape, raw)?;
            tensor.origin = keep_origin(proto);
            return Ok(tensor);
        }
        let (field, found) = typed_field(element, &proto);
        let expected = match element {
            ElementType::Complex64 | ElementType::Complex128 => {
                count.checked_mul(2).ok_or(TensorError::TooLarge)?
            }
            _ if element.bits() < 8 => element.raw_len(count).ok_or(TensorError::TooLarge)?,
            _ => count,
        };
        if found == 0
            && let Some(other) = filled_field(&proto)
        {
            return Err(TensorError::WrongField { element, expected: field, found: other });
        }
        if found != expected {
            return Err(TensorError::Length { unit: "entries", expected, found });
        }
        Ok(Self {
            element,
            shape: shape.as_slice().into(),
            data: Data::Typed(Default::default()),
            origin: Some(Box::new(proto)),
            magnitudes: Default::default(),
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

/// The field that holds elements of this type if `raw_data` does not, and the number of its entries.
fn typed_field(element: ElementType, proto: &TensorProto) -> (&'static str, usize) {
    match element {
        ElementType::Float | ElementType::Complex64 => ("float_data", proto.float_data.len()),
        ElementType::Double | ElementType::Complex128 => ("double_data", proto.double_data.len()),
        ElementType::Int64 => ("int64_data", proto.int64_data.len()),
        ElementType::Uint32 | ElementType::Uint64 => ("uint64_data", proto.uint64_data.len()),
        _ => ("int32_data", proto.int32_data.len()),
    }
}

/// A field that has entries, if one does.
fn filled_field(proto: &TensorProto) -> Option<&'static str> {
    let fields = [
        ("float_data", proto.float_data.len()),
        ("int32_data", proto.int32_data.len()),
        ("int64_data", proto.int64_data.len()),
        ("double_data", proto.double_data.len()),
        ("uint64_data", proto.uint64_data.len()),
        ("string_data", proto.string_data.len()),
    ];
    fields.into_iter().find(|(_, entries)| *entries > 0).map(|(name, _)| name)
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
