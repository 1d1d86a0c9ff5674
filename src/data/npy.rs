//! NumPy's array files: `.npy`, and `.npz`, which is a zip of them.

use std::io::{Cursor, Read, Seek};

use bytes::Bytes;
use onnx_opt_ir::{ElementType, Tensor};
use thiserror::Error;
use zip::ZipArchive;

/// Why an array cannot be read.
#[derive(Debug, Error)]
pub enum NpyError {
    /// The system or the zip reader refused.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// The archive is damaged.
    #[error("is not a .npz archive: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// No array file.
    #[error("is not a .npy array: {0}")]
    Header(&'static str),
    /// An element type with no counterpart.
    #[error("holds elements of type {0:?}, which no tensor has")]
    Type(String),
    /// Too little or too much data.
    #[error("holds {found} bytes of elements, its shape needs {needed}")]
    Length {
        /// Bytes there.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
}

/// The arrays of a `.npz` archive by name, in its order. `expected` gives the element type of the input of a name,
/// for element types that NumPy does not know.
///
/// # Errors
/// If the archive or an array in it is malformed.
pub fn read_npz(
    reader: impl Read + Seek,
    expected: &dyn Fn(&str) -> Option<ElementType>,
) -> Result<Vec<(String, Tensor)>, NpyError> {
    let mut archive = ZipArchive::new(reader)?;
    let mut arrays = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name().strip_suffix(".npy").unwrap_or(entry.name()).to_owned();
        let tensor = read_npy(&mut entry, expected(&name))?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// A `.npy` array.
///
/// # Errors
/// If it is malformed, or of a type that no tensor has.
pub fn read_npy(mut reader: impl Read, expected: Option<ElementType>) -> Result<Tensor, NpyError> {
    let header = Header::read(&mut reader)?;
    let needed = header.byte_len().ok_or(NpyError::Header("its shape is too large"))?;
    // One byte more than needed shows whether there is too much; memory is taken only for what is there.
    let mut data = Vec::new();
    reader.take(needed as u64 + 1).read_to_end(&mut data)?;
    if data.len() != needed {
        return Err(NpyError::Length { found: data.len(), needed });
    }
    header.tensor(data, expected)
}

/// The shape of a `.npy` array.
///
/// # Errors
/// If its header is malformed.
pub(super) fn read_shape(mut reader: impl Read) -> Result<Vec<usize>, NpyError> {
    Ok(Header::read(&mut reader)?.shape)
}

/// A `.npy` array, read a few rows at a time, so that it takes no more memory than those.
pub(super) struct Rows {
    /// Of what is left.
    header: Header,
    reader: Box<dyn Read>,
}

impl Rows {
    /// Reads the header.
    pub fn open(mut reader: Box<dyn Read>) -> Result<Self, NpyError> {
        let mut header = Header::read(&mut reader)?;
        if header.fortran_order && header.shape.len() > 1 {
            // Its rows do not lie together.
            let needed = header.byte_len().ok_or(NpyError::Header("its shape is too large"))?;
            let mut data = Vec::new();
            reader.take(needed as u64).read_to_end(&mut data)?;
            if data.len() != needed {
                return Err(NpyError::Length { found: data.len(), needed });
            }
            reader = Box::new(Cursor::new(row_major(&data, &header.shape, header.width)));
        }
        header.fortran_order = false;
        Ok(Self { header, reader })
    }

    /// All of an array of any number of axes.
    pub fn all(&mut self, expected: Option<ElementType>) -> Result<Tensor, NpyError> {
        self.take(self.header.clone(), expected)
    }

    /// The next so many rows.
    pub fn next(&mut self, rows: usize, expected: Option<ElementType>) -> Result<Tensor, NpyError> {
        let mut header = self.header.clone();
        match (header.shape.first_mut(), self.header.shape.first_mut()) {
            (Some(taken), Some(left)) if rows <= *left => (*taken, *left) = (rows, *left - rows),
            _ => return Err(NpyError::Header("it has fewer rows")),
        }
        self.take(header, expected)
    }

    /// What a header says comes next.
    fn take(&mut self, header: Header, expected: Option<ElementType>) -> Result<Tensor, NpyError> {
        let needed = header.byte_len().ok_or(NpyError::Header("its shape is too large"))?;
        let mut data = Vec::new();
        self.reader.by_ref().take(needed as u64).read_to_end(&mut data)?;
        if data.len() != needed {
            return Err(NpyError::Length { found: data.len(), needed });
        }
        header.tensor(data, expected)
    }
}

/// What the header of an array says.
#[derive(Clone)]
struct Header {
    big_endian: bool,
    /// The letter of NumPy's type string.
    kind: char,
    /// Bytes of an element.
    width: usize,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(|_| NpyError::Header("it is too short"))?;
        let [magic @ .., major, _minor] = start;
        if magic != *b"\x93NUMPY" {
            return Err(NpyError::Header("the first bytes are others"));
        }
        let mut length = [0; 4];
        let width = if major == 1 { 2 } else { 4 };
        reader.read_exact(&mut length[..width])?;
        let mut header = Vec::new();
        reader.by_ref().take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut header)?;
        Self::parse(&String::from_utf8_lossy(&header))
    }

    fn parse(text: &str) -> Result<Self, NpyError> {
        let after = |key: &str| {
            let place = text.find(&format!("'{key}':"))?;
            text.get(place + key.len() + 3..).map(str::trim_start)
        };
        let description = after("descr").ok_or(NpyError::Header("no element type"))?;
        let description = description
            .strip_prefix('\'')
            .and_then(|rest| rest.split('\'').next())
            .ok_or_else(|| NpyError::Type("a record".to_owned()))?;
        let unknown = || NpyError::Type(description.to_owned());
        let big_endian = description.starts_with('>');
        let bare = description.trim_start_matches(['<', '>', '|', '=']);
        let kind = bare.chars().next().ok_or_else(unknown)?;
        let count: usize =
            bare.get(kind.len_utf8()..).and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?;
        let width = if kind == 'U' { count.checked_mul(4).ok_or_else(unknown)? } else { count };

        let fortran_order = after("fortran_order").is_some_and(|rest| rest.starts_with("True"));
        let shape = after("shape")
            .and_then(|rest| rest.strip_prefix('(')?.split(')').next())
            .ok_or(NpyError::Header("no shape"))?;
        let shape = shape
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(|size| size.parse().map_err(|_| NpyError::Header("a size is no number")))
            .collect::<Result<_, _>>()?;
        Ok(Self { big_endian, kind, width, fortran_order, shape })
    }

    fn byte_len(&self) -> Option<usize> {
        onnx_opt_ir::tensor::element_count(&self.shape)?.checked_mul(self.width)
    }

    fn element(&self, expected: Option<ElementType>) -> Option<ElementType> {
        use ElementType::*;
        Some(match (self.kind, self.width) {
            ('b', 1) => Bool,
            ('i', 1) => Int8,
            ('i', 2) => Int16,
            ('i', 4) => Int32,
            ('i', 8) => Int64,
            ('u', 1) => Uint8,
            ('u', 2) => Uint16,
            ('u', 4) => Uint32,
            ('u', 8) => Uint64,
            ('f', 2) => Float16,
            ('f', 4) => Float,
            ('f', 8) => Double,
            ('c', 8) => Complex64,
            ('c', 16) => Complex128,
            ('U' | 'S', _) => String,
            // Types of other packages are saved as mere bytes, one element in at least one byte.
            ('V', width) => {
                expected.filter(|element| element.bits().div_ceil(8) == width && *element != String)?
            }
            _ => return None,
        })
    }

    fn tensor(self, mut data: Vec<u8>, expected: Option<ElementType>) -> Result<Tensor, NpyError> {
        let element =
            self.element(expected).ok_or_else(|| NpyError::Type(format!("{}{}", self.kind, self.width)))?;
        if self.big_endian && self.width > 0 {
            let part = match self.kind {
                'U' => 4,
                'c' => self.width / 2,
                'S' | 'V' => 1,
                _ => self.width,
            };
            data.chunks_exact_mut(part).for_each(<[u8]>::reverse);
        }
        if self.fortran_order {
            data = row_major(&data, &self.shape, self.width);
        }
        let misfit = |_| NpyError::Header("its elements do not fit its shape");
        if element == ElementType::String {
            return Tensor::from_strings(&self.shape, self.strings(&data)).map_err(misfit);
        }
        if element.bits() < 8 {
            data = pack(&data, element.bits());
        }
        Tensor::from_raw(element, &self.shape, data.into()).map_err(misfit)
    }

    /// Strings of fixed width, padded with zeros.
    fn strings(&self, data: &[u8]) -> Vec<Bytes> {
        let count = self.shape.iter().product();
        if self.width == 0 {
            return vec![Bytes::new(); count];
        }
        let string = |field: &[u8]| -> Bytes {
            let text: Vec<u8> = if self.kind == 'U' {
                let code = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let letters =
                    field.chunks_exact(4).map(|bytes| char::from_u32(code(bytes)).unwrap_or('\u{fffd}'));
                letters.collect::<String>().trim_end_matches('\0').into()
            } else {
                field.to_vec()
            };
            let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            Bytes::copy_from_slice(&text[..end])
        };
        data.chunks_exact(self.width).map(string).collect()
    }
}

/// Elements in column-major order put in row-major order.
fn row_major(data: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..shape.iter().product() {
        let offset = shape.iter().zip(&index).rev().fold(0, |offset, (size, index)| offset * size + index);
        out.extend_from_slice(&data[offset * width..(offset + 1) * width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Elements of one byte each put together, the first in the low bits.
fn pack(data: &[u8], bits: usize) -> Vec<u8> {
    let mut packed = vec![0; (data.len() * bits).div_ceil(8)];
    for (index, &byte) in data.iter().enumerate() {
        for bit in 0..bits {
            let place = index * bits + bit;
            packed[place / 8] |= (byte >> bit & 1) << (place % 8);
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// An array file as NumPy writes it.
    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(data);
        file
    }

    #[test]
    fn numbers_of_either_byte_order_and_axis_order() {
        let little: Vec<u8> = [1i16, 2, 3, 4, 5, 6].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = read_npy(&npy("<i2", false, "(2, 3)", &little)[..], None).unwrap();
        assert_eq!((tensor.shape(), tensor.to_i64().unwrap()), (&[2, 3][..], vec![1, 2, 3, 4, 5, 6]));
        let columns = read_npy(&npy("<i2", true, "(2, 3)", &little)[..], None).unwrap();
        assert_eq!(columns.to_i64().unwrap(), [1, 3, 5, 2, 4, 6]);
        let big: Vec<u8> = 1.5f64.to_be_bytes().to_vec();
        assert_eq!(read_npy(&npy(">f8", false, "()", &big)[..], None).unwrap().single_f64(), Some(1.5));
    }

    #[test]
    fn strings_lose_their_padding_only() {
        let text: Vec<u8> = ['ü', '\0', 'a', 'b'].iter().flat_map(|&c| (c as u32).to_le_bytes()).collect();
        let tensor = read_npy(&npy("<U2", false, "(2,)", &text)[..], None).unwrap();
        assert_eq!(tensor.strings().unwrap(), ["ü", "ab"]);
    }

    #[test]
    fn foreign_types_are_read_as_the_input_says() {
        let file = npy("|V1", false, "(3,)", &[1, 2, 15]);
        let tensor = read_npy(&file[..], Some(ElementType::Int4)).unwrap();
        assert_eq!(tensor.to_i64().unwrap(), [1, 2, -1]);
        assert!(matches!(read_npy(&file[..], Some(ElementType::Float)), Err(NpyError::Type(_))));
    }

    #[test]
    fn rows_are_read_as_they_are_asked_for() {
        let data: Vec<u8> = (0..12).collect();
        // Of a(i, j, k) at i + 3j + 6k in the other order.
        for (fortran, expected) in [(false, [4, 5, 6, 7]), (true, [1, 7, 4, 10])] {
            let file = npy("|u1", fortran, "(3, 2, 2)", &data);
            let mut rows = Rows::open(Box::new(Cursor::new(file))).unwrap();
            assert_eq!(rows.next(1, None).unwrap().shape(), [1, 2, 2]);
            let second = rows.next(1, None).unwrap().to_i64().unwrap();
            assert_eq!(second, expected);
            assert!(rows.next(2, None).is_err());
            assert_eq!(rows.next(1, None).unwrap().len(), 4);
            assert!(rows.next(1, None).is_err());
        }
        let short = npy("<f4", false, "(2,)", &[0; 4]);
        let mut rows = Rows::open(Box::new(Cursor::new(short))).unwrap();
        assert!(rows.next(1, None).is_ok() && matches!(rows.next(1, None), Err(NpyError::Length { .. })));
    }

    #[test]
    fn damage_is_an_error() {
        let good = npy("<f4", false, "(2,)", &[0; 8]);
        for cut in 0..good.len() {
            assert!(read_npy(&good[..cut], None).is_err(), "{cut} bytes");
        }
        let huge = npy("<f4", false, "(9223372036854775807, 4)", &[]);
        assert!(matches!(read_npy(&huge[..], None), Err(NpyError::Header(_))));
        assert!(matches!(read_npy(&npy("|O", false, "(1,)", &[0])[..], None), Err(NpyError::Type(_))));
        assert!(matches!(
            read_npy(&npy("<f4", false, "(1,)", &[0; 5])[..], None),
            Err(NpyError::Length { .. })
        ));
    }
}
