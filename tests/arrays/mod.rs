//! Array files for tests.

use std::fs;
use std::path::Path;

/// A file of 32-bit floats in the format of NumPy, which repeats `values` as often as it takes.
pub fn write_npy(path: &Path, shape: &[usize], values: &[f32]) {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    let count = shape.iter().product();
    file.extend(values.iter().cycle().take(count).flat_map(|value| value.to_le_bytes()));
    fs::write(path, file).unwrap();
}
