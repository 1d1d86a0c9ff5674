//! Data of users: samples of named tensors, from `.npz` and `.npy` files, ONNX `.pb` tensors and folders of them.
//!
//! A sample is one set of inputs. [`samples`] finds them without reading them, so that a calibration may stream over
//! more than memory holds; [`Sample::load`] reads one and holds it against the inputs of a model, and [`Sample::feeds`]
//! divides one that holds many.

mod feeds;
mod npy;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::tensor::TensorError;
use onnx_opt_ir::{ElementType, Graph, Tensor, Type};
use onnx_opt_proto::TensorProto;
use prost::Message;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use feeds::{Feeds, MOST_ROWS};
pub use npy::{NpyError, read_npy, read_npz};

pub use onnx_opt_ir::engine::Named;

/// Data that cannot be used.
#[derive(Debug, Error)]
#[error("{}: {kind}", path.display())]
pub struct DataError {
    /// The file or folder.
    pub path: PathBuf,
    /// The cause.
    pub kind: DataErrorKind,
}

/// Why data cannot be used.
#[derive(Debug, Error)]
pub enum DataErrorKind {
    /// The system refused.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// An array cannot be read.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// A file of another kind.
    #[error("is no data: .npz, .npy, .pb or a folder of them is")]
    Kind,
    /// A folder without data.
    #[error("holds no data: .npz, .npy or .pb files, or test_data_set_* folders")]
    Empty,
    /// An ONNX tensor that cannot be read.
    #[error("is not an ONNX tensor: {0}")]
    Proto(#[from] prost::DecodeError),
    /// An ONNX tensor that is malformed.
    #[error("is not an ONNX tensor: {0}")]
    Tensor(#[from] TensorError),
    /// No input goes by the name.
    #[error("there is no input `{name}` (the inputs are {inputs})")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        inputs: String,
    },
    /// An array without a name for a model with several inputs.
    #[error("an array without a name needs a model of one input, this one has {0}")]
    Nameless(usize),
    /// An input is not given.
    #[error("there is nothing for input `{0}`")]
    Missing(String),
    /// Rows that do not make whole batches.
    #[error("input `{name}` has {rows} rows, which do not make batches of {batch}")]
    Batches {
        /// The input.
        name: String,
        /// Rows of the data.
        rows: usize,
        /// Rows of the model's batch.
        batch: usize,
    },
    /// Inputs with different numbers of samples.
    #[error("there are {0} samples for one input and {1} for another")]
    Uneven(usize, usize),
    /// An input of another type.
    #[error("input `{name}` is {expected}, not {found}")]
    Type {
        /// The input.
        name: String,
        /// Type of the input.
        expected: String,
        /// Type of the data.
        found: String,
    },
}

impl DataErrorKind {
    fn at(self, path: &Path) -> DataError {
        DataError { path: path.to_owned(), kind: self }
    }
}

/// An input of a model that callers give.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its type, if the model says.
    pub ty: Option<Type>,
    /// Whether the model has a value of its own for it.
    pub optional: bool,
}

/// The inputs of a model, those left out that are constants.
pub fn inputs(graph: &Graph) -> Vec<Input> {
    graph
        .inputs()
        .iter()
        .filter_map(|input| match graph.value(input.value).producer() {
            Producer::Input { default } => Some(Input {
                name: graph.display_name(input.value),
                ty: graph.ty(input.value).cloned(),
                optional: default.is_some(),
            }),
            _ => None,
        })
        .collect()
}

/// One set of inputs, not read yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Where it lies, for messages.
    pub path: PathBuf,
    /// The files that make it, each with the name of its input where the path does not say it.
    files: Vec<(Option<String>, PathBuf)>,
}

/// The first sets of inputs of some samples, at most `limit`.
///
/// # Errors
/// If a sample that it comes to cannot be used.
pub fn sets(samples: &[Sample], inputs: &[Input], limit: usize) -> Result<Vec<Named>, DataError> {
    let mut found = Vec::new();
    for sample in samples {
        if found.len() == limit {
            break;
        }
        for set in sample.feeds(inputs)?.take(limit - found.len()) {
            found.push(set?);
        }
    }
    Ok(found)
}

/// The samples at a path for these inputs, in order of their names.
///
/// A `.npz`, `.npy` or `.pb` file is one sample. In a folder, each `.npz` file and each folder is one; `.npy` files
/// together are one, each for the input it is named after, but each is one where there is one input and none is named
/// after it; `input_0.pb`, `input_1.pb` ... are one, as in the `test_data_set_*` folders of ONNX.
///
/// # Errors
/// If there is no data.
pub fn samples(path: &Path, inputs: &[Input]) -> Result<Vec<Sample>, DataError> {
    if !fs::metadata(path).map_err(|error| DataErrorKind::from(error).at(path))?.is_dir() {
        return match extension(path) {
            "npz" | "npy" | "pb" => Ok(vec![Sample::of(path.to_owned(), [path.to_owned()])]),
            _ => Err(DataErrorKind::Kind.at(path)),
        };
    }
    let found = folder(path, inputs)?;
    if found.is_empty() { Err(DataErrorKind::Empty.at(path)) } else { Ok(found) }
}

/// The samples of a folder and, one below the other, of the folders in it.
fn folder(path: &Path, inputs: &[Input]) -> Result<Vec<Sample>, DataError> {
    let mut entries = fs::read_dir(path)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(|error| DataErrorKind::from(error).at(path))?;
    entries.sort_by_key(|path| natural(path));
    let (mut samples, mut parts) = (Vec::new(), Vec::new());
    for entry in entries {
        let stem = entry.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match extension(&entry) {
            // Folders by link are left alone: they could lead in circles.
            _ if fs::symlink_metadata(&entry).is_ok_and(|entry| entry.is_dir()) => {
                samples.extend(folder(&entry, inputs)?)
            }
            "npz" => samples.push(Sample::of(entry.clone(), [entry])),
            "npy" => parts.push(entry),
            "pb" if stem.starts_with("input_") => parts.push(entry),
            _ => {}
        }
    }
    let alone = |part: &PathBuf| {
        extension(part) == "npy"
            && !inputs.iter().any(|input| part.file_stem() == Some(OsStr::new(&input.name)))
    };
    if inputs.len() == 1 && parts.iter().all(alone) {
        let parts = parts.into_iter().map(|part| Sample::of(part.clone(), [part]));
        samples.splice(0..0, parts);
    } else if !parts.is_empty() {
        samples.insert(0, Sample::of(path.to_owned(), parts));
    }
    Ok(samples)
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// A key that puts `input_10` behind `input_9`: runs of digits compare by length first.
fn natural(path: &Path) -> Vec<(usize, String)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut key: Vec<(usize, String)> = Vec::new();
    let mut was_digit = None;
    for letter in name.chars() {
        let digit = letter.is_ascii_digit();
        match key.last_mut() {
            Some((length, run)) if was_digit == Some(digit) => {
                run.push(letter);
                *length += usize::from(digit);
            }
            _ => key.push((usize::from(digit), letter.to_string())),
        }
        was_digit = Some(digit);
    }
    key
}

impl Sample {
    fn of(path: PathBuf, files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { path, files: files.into_iter().map(|file| (None, file)).collect() }
    }

    /// A sample of one file for each input.
    pub fn of_inputs(files: &BTreeMap<String, PathBuf>) -> Self {
        let path = files.values().next().cloned().unwrap_or_default();
        Self { path, files: files.iter().map(|(name, file)| (Some(name.clone()), file.clone())).collect() }
    }

    /// Reads the tensors, one for each input in the order of the inputs; those of optional inputs may be missing.
    /// Numbers are converted to the input's type where that loses no more than rounding.
    ///
    /// # Errors
    /// If a file cannot be read, or does not fit the inputs.
    pub fn load(&self, inputs: &[Input]) -> Result<Named, DataError> {
        let mut found = Named::new();
        for (name, file) in &self.files {
            let tensors = match name {
                Some(name) => read_input(file, name, inputs),
                None => read(file, inputs, self.files.len() == 1),
            };
            found.extend(tensors.map_err(|kind| kind.at(file))?);
        }
        arrange(found, inputs).map_err(|kind| kind.at(&self.path))
    }
}

/// The tensor of one file for the input of this name: the only one, or that of the name.
fn read_input(path: &Path, name: &str, inputs: &[Input]) -> Result<Named, DataErrorKind> {
    let input = inputs.iter().find(|input| input.name == name).ok_or_else(|| unknown(name, inputs))?;
    let mut found = read(path, std::slice::from_ref(input), true)?;
    let place = found.iter().position(|(found, _)| found == name);
    match (place, found.len()) {
        (Some(place), _) => Ok(vec![found.swap_remove(place)]),
        (None, 1) => Ok(found.into_iter().map(|(_, tensor)| (name.to_owned(), tensor)).collect()),
        (None, _) => Err(DataErrorKind::Missing(name.to_owned())),
    }
}

fn unknown(name: &str, inputs: &[Input]) -> DataErrorKind {
    let names: Vec<String> = inputs.iter().map(|input| format!("`{}`", input.name)).collect();
    DataErrorKind::Unknown { name: name.to_owned(), inputs: names.join(", ") }
}

/// The tensors of one file. `alone` tells that it is the whole sample, so that its name may say nothing.
fn read(path: &Path, inputs: &[Input], alone: bool) -> Result<Named, DataErrorKind> {
    let expected = |name: &str| inputs.iter().find(|input| input.name == name)?.ty.as_ref()?.element();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let only = || match inputs {
        [input] => Ok(input.name.clone()),
        _ => Err(DataErrorKind::Nameless(inputs.len())),
    };
    match extension(path) {
        "npz" => Ok(read_npz(BufReader::new(File::open(path)?), &expected)?),
        "npy" => {
            let known = inputs.iter().any(|input| input.name == stem);
            let name = if alone && !known { only()? } else { stem };
            let tensor = read_npy(BufReader::new(File::open(path)?), expected(&name))?;
            Ok(vec![(name, tensor)])
        }
        _ => {
            let mut proto = TensorProto::decode(&*fs::read(path)?)?;
            let name = proto.name.take().unwrap_or_default();
            let place = stem.strip_prefix("input_").and_then(|digits| digits.parse::<usize>().ok());
            let name = match (inputs.iter().any(|input| input.name == name), place) {
                (true, _) => name,
                (false, Some(place)) => {
                    inputs.get(place).ok_or(DataErrorKind::Nameless(inputs.len()))?.name.clone()
                }
                (false, None) => only()?,
            };
            Ok(vec![(name, Tensor::from_proto(proto, None)?)])
        }
    }
}

/// Tensors in the order of the inputs, of the types of the inputs.
///
/// # Errors
/// If a tensor belongs to no input, an input has no tensor, or types differ.
pub fn arrange(mut found: Named, inputs: &[Input]) -> Result<Named, DataErrorKind> {
    if let Some((name, _)) = found.iter().find(|(name, _)| !inputs.iter().any(|input| input.name == *name)) {
        return Err(unknown(name, inputs));
    }
    let mut arranged = Named::with_capacity(inputs.len());
    for input in inputs {
        match found.iter().position(|(name, _)| *name == input.name) {
            Some(place) => {
                let (name, tensor) = found.swap_remove(place);
                let tensor = fit(tensor, input)?;
                arranged.push((name, tensor));
            }
            None if input.optional => {}
            None => return Err(DataErrorKind::Missing(input.name.clone())),
        }
    }
    Ok(arranged)
}

/// The tensor as the input wants it.
fn fit(tensor: Tensor, input: &Input) -> Result<Tensor, DataErrorKind> {
    let Some(ty) = &input.ty else { return Ok(tensor) };
    let found = tensor.ty();
    let converted = match ty.element() {
        Some(element) if element != tensor.element() => convert(&tensor, element),
        _ => Some(tensor),
    };
    converted.filter(|tensor| !ty.contradicts(&tensor.ty())).ok_or_else(|| DataErrorKind::Type {
        name: input.name.clone(),
        expected: ty.to_string(),
        found: found.to_string(),
    })
}

/// Floats to floats rounded, integers to what holds them exactly.
fn convert(tensor: &Tensor, element: ElementType) -> Option<Tensor> {
    let from = tensor.element();
    if from.is_float() && element.is_float() {
        return Tensor::from_f64(element, tensor.shape(), &tensor.to_f64()?);
    }
    let values = tensor.to_i64()?;
    if element.is_integer() || element == ElementType::Bool {
        return Tensor::from_integers(element, tensor.shape(), &values);
    }
    let converted = Tensor::from_f64(element, tensor.shape(), &tensor.to_f64()?)?;
    let same = (0..values.len()).all(|index| converted.f64_at(index) == Some(values[index] as f64));
    same.then_some(converted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::Dim;

    use super::*;

    fn input(name: &str, element: ElementType, sizes: &[i64]) -> Input {
        let ty = Type::tensor(element, sizes.iter().map(|&size| Dim::fixed(size)));
        Input { name: name.to_owned(), ty: Some(ty), optional: false }
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    #[test]
    fn an_archive_fits_its_model_and_no_other() {
        let [sample] = &samples(&fixture("decorated.feed.npz"), &[]).unwrap()[..] else {
            panic!("one sample")
        };
        let named = sample.load(&[input("x", ElementType::Float, &[1, 4])]).unwrap();
        assert_eq!(named[0].1.shape(), [1, 4]);
        let kind = |inputs: &[Input]| sample.load(inputs).unwrap_err().kind;
        assert!(matches!(kind(&[input("x", ElementType::Float, &[1, 5])]), DataErrorKind::Type { .. }));
        assert!(matches!(kind(&[input("y", ElementType::Float, &[1, 4])]), DataErrorKind::Unknown { .. }));
        let two = [input("x", ElementType::Float, &[1, 4]), input("y", ElementType::Float, &[1])];
        assert!(matches!(kind(&two), DataErrorKind::Missing(name) if name == "y"));
    }

    #[test]
    fn numbers_are_converted_where_nothing_is_lost() {
        let ints = Tensor::vector_i64(&[1, 300]);
        let fits = |element| fit(ints.clone(), &input("x", element, &[2])).is_ok();
        assert!(fits(ElementType::Int32) && fits(ElementType::Float));
        assert!(!fits(ElementType::Int8) && !fits(ElementType::String));
        let floats = Tensor::from_f64(ElementType::Double, &[1], &[0.1]).unwrap();
        assert!(fit(floats.clone(), &input("x", ElementType::Float, &[1])).is_ok());
        assert!(fit(floats, &input("x", ElementType::Int64, &[1])).is_err());
    }

    #[test]
    fn folders_hold_samples_in_natural_order() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for set in ["test_data_set_10", "test_data_set_9"] {
            fs::create_dir(place(set)).unwrap();
            let tensor = TensorProto {
                dims: vec![1],
                data_type: Some(ElementType::Float.code()),
                float_data: vec![2.0],
                ..TensorProto::default()
            };
            for file in ["input_0.pb", "output_0.pb"] {
                fs::write(place(set).join(file), tensor.encode_to_vec()).unwrap();
            }
        }
        let found = samples(folder.path(), &[]).unwrap();
        let names: Vec<_> = found.iter().map(|sample| sample.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["test_data_set_9", "test_data_set_10"]);
        let named = found[0].load(&[input("x", ElementType::Float, &[1])]).unwrap();
        assert_eq!((&*named[0].0, named[0].1.single_f64()), ("x", Some(2.0)));

        for file in ["b.npy", "a.npy"] {
            fs::write(place(file), "").unwrap();
        }
        let count = |names: &[&str]| {
            let inputs: Vec<Input> = names.iter().map(|name| input(name, ElementType::Float, &[1])).collect();
            samples(folder.path(), &inputs).unwrap().len()
        };
        assert_eq!((count(&["x"]), count(&["a"]), count(&["a", "b"])), (4, 3, 3));

        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(samples(empty.path(), &[]).unwrap_err().kind, DataErrorKind::Empty));
    }
}
