//! Arrays that hold many samples, divided into what a model takes at once.
//!
//! An array of 512 images for an input of one is 512 samples, and is read one by one; for an input of an open batch it is
//! read a few at a time. An open size of the first axis is a batch if its name says so, as `N`, `batch` or `batch_size`,
//! or if nobody named it and other axes follow. Other open sizes, as those of sequences, are taken as they come.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use onnx_opt_ir::{Dim, ElementType, Symbol, Tensor, Type};
use zip::{CompressionMethod, ZipArchive};

use super::npy::{Rows, read_shape};
use super::{DataError, DataErrorKind, Input, Named, Sample, arrange, extension, unknown};

/// As many samples as take so many bytes make a batch of open size, but no more than [`MOST_ROWS`].
const FEED_BYTES: usize = 64 << 10;
/// Samples in a batch of open size, at most.
pub const MOST_ROWS: usize = 64;
/// An integer is most often a token, of which a model makes a vector first thing.
const TOKEN_BYTES: usize = 1 << 10;

/// The sets of inputs that a sample divides into, read one after the other.
pub struct Feeds<'a> {
    sample: &'a Sample,
    inputs: &'a [Input],
    /// How each array is divided; empty where the sample is one set.
    arrays: Vec<Array>,
    open: Vec<(String, Reading)>,
    count: usize,
    samples: usize,
    next: usize,
}

/// An array of many samples or one.
struct Array {
    name: String,
    path: PathBuf,
    /// Place in the archive.
    entry: Option<usize>,
    shape: Vec<usize>,
    take: Take,
}

/// What of an array goes into one set.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Take {
    /// All of it into each.
    All,
    /// So many rows.
    Rows(usize),
    /// One row, which is the whole input.
    Row,
}

enum Reading {
    All(Tensor),
    Rows(Rows, Take),
}

impl Sample {
    /// The sets of inputs that this sample divides into. Only shapes are read so far.
    ///
    /// # Errors
    /// If a file cannot be read, or does not fit the inputs.
    pub fn feeds<'a>(&'a self, inputs: &'a [Input]) -> Result<Feeds<'a>, DataError> {
        self.feeds_of(inputs, MOST_ROWS)
    }

    /// [`feeds`](Self::feeds) with no more than so many samples in a batch of open size.
    ///
    /// # Errors
    /// If a file cannot be read, or does not fit the inputs.
    pub fn feeds_of<'a>(&'a self, inputs: &'a [Input], most_rows: usize) -> Result<Feeds<'a>, DataError> {
        let mut feeds = Feeds {
            sample: self,
            inputs,
            arrays: Vec::new(),
            open: Vec::new(),
            count: 1,
            samples: 1,
            next: 0,
        };
        let is_array = |(name, path): &(Option<String>, PathBuf)| {
            name.is_none() && matches!(extension(path), "npz" | "npy")
        };
        if !self.files.iter().all(is_array) {
            return Ok(feeds);
        }
        let mut arrays = Vec::new();
        for (_, path) in &self.files {
            find(path, inputs, self.files.len() == 1, &mut arrays).map_err(|kind| kind.at(path))?;
        }
        (feeds.count, feeds.samples) =
            divide(&mut arrays, inputs, most_rows).map_err(|kind| kind.at(&self.path))?;
        if feeds.count > 1 || arrays.iter().any(|array| array.take != Take::All) {
            feeds.arrays = arrays;
        }
        Ok(feeds)
    }
}

impl Feeds<'_> {
    /// How many sets there are.
    pub fn sets(&self) -> usize {
        self.count
    }

    /// How many samples they hold, several where a set is a batch.
    pub fn samples(&self) -> usize {
        self.samples
    }

    fn read(&mut self) -> Result<Named, DataErrorKind> {
        if self.open.is_empty() {
            for array in &self.arrays {
                let mut rows = Rows::open(reader(&array.path, array.entry)?)?;
                let reading = match array.take {
                    Take::All => Reading::All(rows.all(expected(&array.name, self.inputs))?),
                    take => Reading::Rows(rows, take),
                };
                self.open.push((array.name.clone(), reading));
            }
        }
        let mut found = Named::with_capacity(self.open.len());
        for (name, reading) in &mut self.open {
            let element = expected(name, self.inputs);
            let tensor = match reading {
                Reading::All(tensor) => tensor.clone(),
                Reading::Rows(rows, Take::Rows(count)) => rows.next(*count, element)?,
                Reading::Rows(rows, _) => {
                    let row = rows.next(1, element)?;
                    row.reshaped(&row.shape()[1..]).unwrap_or(row)
                }
            };
            found.push((name.clone(), tensor));
        }
        arrange(found, self.inputs)
    }
}

impl Iterator for Feeds<'_> {
    type Item = Result<Named, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        self.next += 1;
        if self.arrays.is_empty() {
            return Some(self.sample.load(self.inputs));
        }
        let read = self.read().map_err(|kind| kind.at(&self.sample.path));
        if read.is_err() {
            self.next = self.count;
        }
        Some(read)
    }
}

fn expected(name: &str, inputs: &[Input]) -> Option<ElementType> {
    inputs.iter().find(|input| input.name == name)?.ty.as_ref()?.element()
}

/// Adds the arrays of a file.
fn find(path: &Path, inputs: &[Input], alone: bool, arrays: &mut Vec<Array>) -> Result<(), DataErrorKind> {
    let known = |name: &str| inputs.iter().any(|input| input.name == name);
    let mut add = |name: String, entry, shape| match known(&name) {
        true => {
            arrays.push(Array { name, path: path.to_owned(), entry, shape, take: Take::All });
            Ok(())
        }
        false => Err(unknown(&name, inputs)),
    };
    if extension(path) == "npz" {
        let mut archive =
            ZipArchive::new(BufReader::new(File::open(path)?)).map_err(super::NpyError::from)?;
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(super::NpyError::from)?;
            let name = entry.name().strip_suffix(".npy").unwrap_or(entry.name()).to_owned();
            add(name, Some(index), read_shape(entry)?)?;
        }
        return Ok(());
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = match inputs {
        [input] if alone && !known(&stem) => input.name.clone(),
        _ if alone && !known(&stem) => return Err(DataErrorKind::Nameless(inputs.len())),
        _ => stem,
    };
    add(name, None, read_shape(BufReader::new(File::open(path)?))?)
}

/// Decides what of each array goes into one set; gives the number of sets and of samples.
fn divide(arrays: &mut [Array], inputs: &[Input], most_rows: usize) -> Result<(usize, usize), DataErrorKind> {
    // Sets and samples, where an input of fixed sizes decides.
    let mut fixed: Option<(usize, usize)> = None;
    // Arrays with a batch of open size.
    let mut open = Vec::new();
    for (index, array) in arrays.iter_mut().enumerate() {
        let Some(input) = inputs.iter().find(|input| input.name == array.name) else { continue };
        let Some((ty, axes)) = input.ty.as_ref().and_then(|ty| Some((ty, ty.shape()?))) else { continue };
        let fits = |shape: &[usize]| {
            let sizes = shape.iter().map(|&size| Dim::fixed(i64::try_from(size).unwrap_or(i64::MAX)));
            !ty.contradicts(&Type::tensor(ty.element().unwrap_or(ElementType::Float), sizes))
        };
        if fits(&array.shape) {
            if axes.first().is_some_and(|axis| is_batch(axis, axes.len())) {
                open.push(index);
            }
            continue;
        }
        let Some((&rows, inner)) = array.shape.split_first() else { continue };
        let batch = axes.first().and_then(Dim::as_fixed).and_then(|batch| usize::try_from(batch).ok());
        let (take, sets, samples) = match batch {
            _ if fits(inner) && rows > 0 => (Take::Row, rows, rows * batch.unwrap_or(1)),
            Some(batch) if batch > 0 && rows > 0 && fits(&[&[batch], inner].concat()) => {
                if rows % batch != 0 {
                    return Err(DataErrorKind::Batches { name: array.name.clone(), rows, batch });
                }
                (Take::Rows(batch), rows / batch, rows)
            }
            // It does not fit, as will be said when it is read.
            _ => continue,
        };
        match fixed {
            Some((others, _)) if others != sets => return Err(DataErrorKind::Uneven(others, sets)),
            _ => fixed = Some((sets, samples)),
        }
        array.take = take;
    }
    let rows = open.first().map_or(0, |&index| arrays[index].shape[0]);
    let same = open.iter().all(|&index| arrays[index].shape[0] == rows);
    let take = match fixed {
        Some((sets, _)) if same && rows > 0 && rows % sets == 0 => rows / sets,
        // What holds for all sets, of any size but the batch, may belong to all of it.
        None if same
            && rows > 1
            && open.len() == arrays.iter().filter(|array| !array.shape.is_empty()).count() =>
        {
            let bytes: usize = open.iter().map(|&index| row_bytes(&arrays[index], inputs)).sum();
            let most = (FEED_BYTES / bytes.max(1)).clamp(1, most_rows.max(1)).min(rows);
            (1..=most).rev().find(|take| rows % take == 0).unwrap_or(1)
        }
        _ => return Ok(fixed.unwrap_or((1, 1))),
    };
    for index in open {
        arrays[index].take = Take::Rows(take);
    }
    Ok(fixed.unwrap_or((rows / take, rows)))
}

/// Bytes that a row of an array makes a model work on.
fn row_bytes(array: &Array, inputs: &[Input]) -> usize {
    let is_integer = expected(&array.name, inputs).is_some_and(ElementType::is_integer);
    let bytes = if is_integer { TOKEN_BYTES } else { size_of::<f32>() };
    array.shape[1..].iter().product::<usize>().saturating_mul(bytes)
}

/// Whether an axis, the first of so many, counts samples.
fn is_batch(axis: &Dim, rank: usize) -> bool {
    match axis.as_symbol() {
        Some(Symbol::Named(name)) => {
            let name = name.to_ascii_lowercase();
            matches!(&*name, "n" | "b" | "bs") || name.contains("batch") || rank > 1 && is_made_up(&name)
        }
        Some(Symbol::Anonymous(_)) => rank > 1,
        None => false,
    }
}

/// Whether an exporter made a name: `unk__12` of tf2onnx, `p2o.DynamicDimension.0` of Paddle, `s26` of PyTorch.
fn is_made_up(name: &str) -> bool {
    let counted = |rest: &str| !rest.is_empty() && rest.bytes().all(|letter| letter.is_ascii_digit());
    name.starts_with("unk") || name.contains("dynamic") || name.strip_prefix('s').is_some_and(counted)
}

/// The bytes of an array. What is compressed is unpacked into a temporary file without a name.
fn reader(path: &Path, entry: Option<usize>) -> Result<Box<dyn Read>, DataErrorKind> {
    let mut file = File::open(path)?;
    let Some(entry) = entry else { return Ok(Box::new(BufReader::new(file))) };
    let mut archive = ZipArchive::new(BufReader::new(&file)).map_err(super::NpyError::from)?;
    let mut entry = archive.by_index(entry).map_err(super::NpyError::from)?;
    if entry.compression() == CompressionMethod::Stored {
        let (start, length) = (entry.data_start(), entry.size());
        drop(entry);
        file.seek(SeekFrom::Start(start))?;
        return Ok(Box::new(BufReader::new(file.take(length))));
    }
    let mut unpacked = tempfile::tempfile()?;
    std::io::copy(&mut entry, &mut unpacked)?;
    unpacked.seek(SeekFrom::Start(0))?;
    Ok(Box::new(BufReader::new(unpacked)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn input(name: &str, axes: &[Dim]) -> Input {
        let ty = Type::tensor(ElementType::Float, axes.iter().cloned());
        Input { name: name.to_owned(), ty: Some(ty), optional: false }
    }

    fn npy(shape: &[usize]) -> Vec<u8> {
        let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        let count = shape.iter().product::<usize>();
        file.extend((0..count).flat_map(|value| (value as f32).to_le_bytes()));
        file
    }

    fn archive(path: &Path, arrays: &[(&str, &[usize])], method: CompressionMethod) {
        let mut writer = ZipWriter::new(File::create(path).unwrap());
        for (name, shape) in arrays {
            let options = SimpleFileOptions::default().compression_method(method);
            writer.start_file(format!("{name}.npy"), options).unwrap();
            writer.write_all(&npy(shape)).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Shapes of the first set, and the numbers of sets and samples.
    fn fed(arrays: &[(&str, &[usize])], inputs: &[Input]) -> (Vec<Vec<usize>>, usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.npz");
        let results = [CompressionMethod::Stored, CompressionMethod::Deflated].map(|method| {
            archive(&path, arrays, method);
            let samples = super::super::samples(&path, inputs).unwrap();
            let mut feeds = samples[0].feeds(inputs).unwrap();
            let (count, samples) = (feeds.sets(), feeds.samples());
            let first = feeds.next().unwrap().unwrap();
            assert_eq!(feeds.map(Result::unwrap).count() + 1, count);
            (first.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect(), count, samples)
        });
        let [stored, deflated] = results;
        assert_eq!(stored, deflated);
        stored
    }

    fn fixed(sizes: &[i64]) -> Vec<Dim> {
        sizes.iter().map(|&size| Dim::fixed(size)).collect()
    }

    #[test]
    fn rows_are_samples_of_a_fixed_batch() {
        let inputs = [input("x", &fixed(&[1, 3])), input("rate", &[])];
        assert_eq!(fed(&[("x", &[5, 3]), ("rate", &[])], &inputs), (vec![vec![1, 3], vec![]], 5, 5));
        assert_eq!(fed(&[("x", &[1, 3]), ("rate", &[])], &inputs), (vec![vec![1, 3], vec![]], 1, 1));
        assert_eq!(fed(&[("x", &[6, 3])], &[input("x", &fixed(&[2, 3]))]), (vec![vec![2, 3]], 3, 6));
        assert_eq!(fed(&[("x", &[4, 2, 3])], &[input("x", &fixed(&[2, 3]))]), (vec![vec![2, 3]], 4, 8));
    }

    #[test]
    fn an_open_batch_is_read_in_parts() {
        let batch = |name: &str| [Dim::symbol(name), Dim::fixed(4096)];
        let inputs = [input("x", &batch("batch_size"))];
        assert_eq!(fed(&[("x", &[12, 4096])], &inputs), (vec![vec![4, 4096]], 3, 12));
        for made_up in ["unk__7", "p2o.DynamicDimension.0", "s26"] {
            assert_eq!(fed(&[("x", &[12, 4096])], &[input("x", &batch(made_up))]).1, 3, "{made_up}");
        }
        // A sequence is not a batch.
        let inputs = [input("x", &batch("T"))];
        assert_eq!(fed(&[("x", &[12, 4096])], &inputs), (vec![vec![12, 4096]], 1, 1));
        // Nor is what another input does not share.
        let inputs = [input("x", &batch("N")), input("y", &fixed(&[3]))];
        assert_eq!(fed(&[("x", &[12, 4096]), ("y", &[3])], &inputs).1, 1);
        let inputs = [input("x", &batch("N")), input("y", &fixed(&[1, 3]))];
        let found = fed(&[("x", &[12, 4096]), ("y", &[6, 3])], &inputs);
        assert_eq!(found, (vec![vec![2, 4096], vec![1, 3]], 6, 6));
    }

    #[test]
    fn batches_are_no_larger_than_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, npy(&[12, 2])).unwrap();
        let inputs = [input("x", &[Dim::symbol("batch"), Dim::fixed(2)])];
        let samples = super::super::samples(&path, &inputs).unwrap();
        let sets = |most| samples[0].feeds_of(&inputs, most).unwrap().sets();
        assert_eq!([1, 5, 12, 64].map(sets), [12, 3, 1, 1]);
    }

    #[test]
    fn rows_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, npy(&[3, 2])).unwrap();
        let inputs = [input("x", &fixed(&[1, 2]))];
        let samples = super::super::samples(&path, &inputs).unwrap();
        let sets: Vec<Named> = samples[0].feeds(&inputs).unwrap().map(Result::unwrap).collect();
        let values: Vec<Vec<f32>> = sets.iter().map(|set| set[0].1.to_f32().unwrap()).collect();
        assert_eq!(values, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.npz");
        let error = |arrays: &[(&str, &[usize])], inputs: &[Input]| {
            archive(&path, arrays, CompressionMethod::Stored);
            let samples = super::super::samples(&path, inputs).unwrap();
            let mut feeds = match samples[0].feeds(inputs) {
                Ok(feeds) => feeds,
                Err(error) => return error.kind,
            };
            feeds.next().unwrap().unwrap_err().kind
        };
        let x = || input("x", &fixed(&[2, 3]));
        assert!(matches!(error(&[("x", &[5, 3])], &[x()]), DataErrorKind::Batches { rows: 5, batch: 2, .. }));
        assert!(matches!(error(&[("x", &[4, 7])], &[x()]), DataErrorKind::Type { .. }));
        assert!(matches!(error(&[("y", &[2, 3])], &[x()]), DataErrorKind::Unknown { .. }));
        let pair = [x(), input("y", &fixed(&[1]))];
        assert!(matches!(error(&[("x", &[4, 3]), ("y", &[3])], &pair), DataErrorKind::Uneven(2, 3)));
        assert!(matches!(error(&[("x", &[2, 3])], &pair), DataErrorKind::Missing(_)));
    }
}
