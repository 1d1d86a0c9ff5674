//! What a calibration found, in memory and as a file.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use onnx_opt_ir::{ElementType, Model, export};
use onnx_opt_passes::quantize::{Observer, Range, Ranges, Statistics};
use onnx_opt_passes::threads::side_by_side;
use onnx_opt_proto::{encode, for_each_tensor, temporary_file_in};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the values of a model are on samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of the model whose values these are, as [`model_hash`] gives it.
    pub model: String,
    /// The engines that ran it.
    pub engines: Vec<String>,
    /// How many samples.
    pub samples: u64,
    /// Whether samples were random.
    pub random: bool,
    /// What was observed, by the name of the value.
    pub values: BTreeMap<String, Statistics>,
}

/// What a file begins with.
const FORMAT: &str = "onnx-opt calibration";
/// Changes when older programs would misread a file.
const VERSION: u64 = 1;

/// A calibration with what tells the file from others.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: String,
    version: u64,
    #[serde(flatten)]
    content: T,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("{}: {kind}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The cause.
    pub kind: FileErrorKind,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileErrorKind {
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not such a file.
    #[error("is no calibration: {0}")]
    Format(String),
    /// A later program wrote it.
    #[error("has version {0} of calibrations, this program reads {VERSION}")]
    Version(u64),
    /// Statistics that no tensor has.
    #[error("has impossible statistics of value `{0}`")]
    Unsound(String),
}

/// Calibrations that do not belong together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MergeError {
    /// Of different models.
    #[error("they are of different models ({0} and {1})")]
    Models(String, String),
    /// Of different values.
    #[error("only one of them observed value `{0}`")]
    Values(String),
}

impl Calibration {
    /// The ranges that an observer chooses for integers of a type, symmetric about zero or not, by name. Values that had
    /// no finite elements have none.
    pub fn ranges(&self, observer: Observer, element: ElementType, symmetric: bool) -> Ranges {
        let values: Vec<(&String, &Statistics)> = self.values.iter().collect();
        let range = |place: usize| -> Option<(String, Range)> {
            let (name, statistics) = values[place];
            Some((name.clone(), observer.range(statistics, element, symmetric)?))
        };
        side_by_side(values.len(), &range).into_iter().flatten().collect()
    }

    /// How many elements values have in a sample, on average, by name.
    pub fn elements(&self) -> BTreeMap<String, f64> {
        let average = |statistics: &Statistics| statistics.elements() as f64 / self.samples.max(1) as f64;
        self.values.iter().map(|(name, statistics)| (name.clone(), average(statistics))).collect()
    }

    /// Appends the samples of another calibration of the same values of the same model.
    ///
    /// # Errors
    /// If it is of another model, or of other values. Then nothing is changed.
    pub fn merge(&mut self, later: &Self) -> Result<(), MergeError> {
        if self.model != later.model {
            return Err(MergeError::Models(self.model.clone(), later.model.clone()));
        }
        let other = |a: &Self, b: &Self| a.values.keys().find(|name| !b.values.contains_key(*name)).cloned();
        if let Some(name) = other(self, later).or_else(|| other(later, self)) {
            return Err(MergeError::Values(name));
        }
        for (name, statistics) in &later.values {
            self.values.entry(name.clone()).or_default().merge(statistics);
        }
        for engine in &later.engines {
            if !self.engines.contains(engine) {
                self.engines.push(engine.clone());
            }
        }
        self.samples = self.samples.saturating_add(later.samples);
        self.random |= later.random;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no calibration of this version.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let at = |kind| FileError { path: path.to_owned(), kind };
        let file = std::fs::File::open(path).map_err(|error| at(error.into()))?;
        let value: serde_json::Value =
            serde_json::from_reader(BufReader::new(file)).map_err(|error| at(format_error(&error)))?;
        if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
            return Err(at(FileErrorKind::Format(format!("it does not say that it is an {FORMAT}"))));
        }
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => return Err(at(FileErrorKind::Version(version))),
            None => return Err(at(FileErrorKind::Format("it has no version".to_owned()))),
        }
        let read: Envelope<Self> = serde_json::from_value(value).map_err(|error| at(format_error(&error)))?;
        match read.content.values.iter().find(|(_, statistics)| !statistics.is_sound()) {
            Some((name, _)) => Err(at(FileErrorKind::Unsound(name.clone()))),
            None => Ok(read.content),
        }
    }

    /// Writes a file, which appears under its name only when it is complete.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let write = || -> io::Result<()> {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let mut file = temporary_file_in(folder.unwrap_or(Path::new(".")))?;
            let mut writer = BufWriter::new(&mut file);
            let envelope = Envelope { format: FORMAT.to_owned(), version: VERSION, content: self };
            serde_json::to_writer(&mut writer, &envelope)?;
            writer.write_all(b"\n")?;
            writer.flush()?;
            drop(writer);
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|error| FileError { path: path.to_owned(), kind: error.into() })
    }
}

fn format_error(error: &serde_json::Error) -> FileErrorKind {
    match error.is_io() {
        true => FileErrorKind::Io(io::Error::other(error.to_string())),
        false => FileErrorKind::Format(error.to_string()),
    }
}

/// A hash of all that a model is, weights too, in hexadecimal: in the manner of FNV-1a, over words of eight bytes.
pub fn model_hash(model: &Model) -> String {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    let mut rest = export(model);
    for_each_tensor(&mut rest, &mut |tensor| {
        if let Some(data) = tensor.raw_data.take() {
            hash.mix(&data);
        }
    });
    hash.mix(&encode(&rest));
    format!("{:016x}", hash.0)
}

struct Hash(u64);

impl Hash {
    fn mix(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        for word in words.iter().chain([&last, &(bytes.len() as u64).to_le_bytes()]) {
            // The upper bits of a product depend on all bits below: they come down for the next word.
            self.0 = (self.0 ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(samples: &[(f32, f32)]) -> Calibration {
        let mut values: BTreeMap<String, Statistics> = BTreeMap::new();
        for &(x, y) in samples {
            values.entry("x".into()).or_default().observe(&[x, 0.0]).unwrap();
            values.entry("y".into()).or_default().observe(&[y, x * y]).unwrap();
        }
        let engines = vec!["tract".to_owned()];
        Calibration { model: "m".into(), engines, samples: samples.len() as u64, random: false, values }
    }

    #[test]
    fn only_what_belongs_together_is_merged() {
        let mut first = observed(&[(1.0, 2.0)]);
        let before = first.clone();
        let other_model = Calibration { model: "n".into(), ..observed(&[(1.0, 1.0)]) };
        assert_eq!(first.merge(&other_model), Err(MergeError::Models("m".into(), "n".into())));
        let mut fewer = observed(&[(1.0, 1.0)]);
        fewer.values.remove("y");
        assert_eq!(first.merge(&fewer), Err(MergeError::Values("y".into())));
        assert_eq!(first, before);
        assert_eq!(fewer.merge(&before), Err(MergeError::Values("y".into())));
        let other_engine =
            Calibration { engines: vec!["onnxruntime".into()], random: true, ..before.clone() };
        first.merge(&other_engine).unwrap();
        assert_eq!((first.samples, first.random, first.engines.len()), (2, true, 2));
    }

    #[test]
    fn a_file_with_impossible_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        observed(&[(1.0, 2.0)]).write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let broken = text.replacen("\"exponent\":1", "\"exponent\":4000", 1);
        assert_ne!(text, broken);
        std::fs::write(&path, broken).unwrap();
        let error = Calibration::read(&path).unwrap_err();
        assert!(matches!(error.kind, FileErrorKind::Unsound(_)), "{error}");
        let nowhere = folder.path().join("no/c.json");
        assert!(matches!(observed(&[]).write(&nowhere).unwrap_err().kind, FileErrorKind::Io(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Writing, reading and merging shards gives what observing all at once does.
        #[test]
        fn files_of_shards_are_the_whole(
            samples in prop::collection::vec((-1e3f32..1e3, prop::num::f32::NORMAL), 2..30),
            cut in 1usize..29,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let cut = cut.min(samples.len() - 1);
            let [first, second] = [&samples[..cut], &samples[cut..]].map(|shard| {
                let path = folder.path().join(shard.len().to_string());
                let written = observed(shard);
                written.write(&path).unwrap();
                let read = Calibration::read(&path).unwrap();
                assert_eq!(read, written);
                read
            });
            let (mut merged, whole) = (first, observed(&samples));
            merged.merge(&second).unwrap();
            for observer in [Observer::MinMax, Observer::Percentile(95.0), Observer::Entropy] {
                let ranges = |found: &Calibration| found.ranges(observer, ElementType::Uint8, false);
                prop_assert_eq!(ranges(&merged), ranges(&whole));
            }
        }
    }
}
