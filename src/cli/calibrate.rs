//! What the values of a model are on samples: found, merged, shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onnx_opt::calibrate::{CalibrateError, Calibration, calibrate, float_values};
use onnx_opt::ir::ElementType;
use onnx_opt::passes::quantize::Observer;
use onnx_opt::session::{self, Error, Listener};
use serde::Serialize;

use super::arguments::{Calibrate, source};
use super::format::{count, numbers};
use super::interrupt;
use super::output::{NOTE, Stream};
use super::progress::Progress;

/// Calibrates a model, merges calibrations or shows one.
pub fn run(arguments: &Calibrate) -> Result<(), Error> {
    if let Some(file) = &arguments.inspect {
        let shown = Shown::of(file, &Calibration::read(file)?, arguments.calibration_method);
        return match arguments.json {
            true => Stream::Out.print_json(&shown),
            false => Stream::Out.print(&(shown.table() + &shown.summary())),
        };
    }
    let (calibration, file) = match &arguments.merge[..] {
        [] => found(arguments)?,
        files => merged(files, arguments)?,
    };
    calibration.write(&file)?;
    let shown = Shown::of(&file, &calibration, arguments.calibration_method);
    match arguments.json {
        true => Stream::Out.print_json(&shown),
        false if arguments.quiet => Ok(()),
        false => Stream::Out.print(&shown.summary()),
    }
}

fn merged(files: &[PathBuf], arguments: &Calibrate) -> Result<(Calibration, PathBuf), Error> {
    let mut total: Option<Calibration> = None;
    for file in files {
        let next = Calibration::read(file)?;
        match &mut total {
            Some(total) => total
                .merge(&next)
                .map_err(|source| Error::Merge { file: file.display().to_string(), source })?,
            None => total = Some(next),
        }
    }
    // The arguments hold at least one file to merge, and a name for the result.
    let file = arguments.output.clone().unwrap_or_default();
    total.map(|total| (total, file)).ok_or(Error::Told)
}

fn found(arguments: &Calibrate) -> Result<(Calibration, PathBuf), Error> {
    let model = arguments.model.as_deref().unwrap_or(Path::new("-"));
    let source = source(model);
    interrupt::clean_up_in(PathBuf::new());
    let progress = Progress::new(arguments.quiet || arguments.json);
    progress.stage("optimize");
    let loaded = match arguments.as_is {
        true => session::load(&source)?.model,
        false => session::float_model(&source, arguments.level, &arguments.target)?,
    };
    let failed = |error: CalibrateError| Error::Calibrate { file: source.name(), source: error };
    let mut names: BTreeSet<String> = match arguments.values.is_empty() {
        true => float_values(&loaded.graph),
        false => arguments.values.iter().cloned().collect(),
    };
    names.retain(|name| !arguments.skip_values.contains(name));
    let options = arguments.options();
    let calibration = calibrate(&loaded, &names, &arguments.data, &options, &progress).map_err(failed)?;
    let beside = || {
        let mut name = model.file_stem().unwrap_or_default().to_owned();
        name.push(".calibration.json");
        model.with_file_name(name)
    };
    Ok((calibration, arguments.output.clone().unwrap_or_else(beside)))
}

/// A calibration as it is told.
#[derive(Serialize)]
struct Shown {
    file: String,
    model: String,
    engines: Vec<String>,
    samples: u64,
    random: bool,
    observer: String,
    values: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Value {
    elements: u64,
    zeros: u64,
    infinities: u64,
    marks: u64,
    /// Smallest and largest of all that count.
    ends: Option<(f32, f32)>,
    /// What the observer makes of them.
    range: Option<(f32, f32)>,
}

impl Shown {
    fn of(file: &Path, calibration: &Calibration, observer: Observer) -> Self {
        let ranges = calibration.ranges(observer, ElementType::Uint8, false);
        let value = |(name, statistics): (&String, &onnx_opt::passes::quantize::Statistics)| {
            let value = Value {
                elements: statistics.elements(),
                zeros: statistics.zeros(),
                infinities: statistics.infinities(),
                marks: statistics.marks(),
                ends: statistics.ends(),
                range: ranges.get(name).map(|range| (range.low, range.high)),
            };
            (name.clone(), value)
        };
        Self {
            file: file.display().to_string(),
            model: calibration.model.clone(),
            engines: calibration.engines.clone(),
            samples: calibration.samples,
            random: calibration.random,
            observer: observer.to_string(),
            values: calibration.values.iter().map(value).collect(),
        }
    }

    fn table(&self) -> String {
        let number = |end: f32| if end == 0.0 { "0".to_owned() } else { format!("{end:.4}") };
        let ends = |ends: Option<(f32, f32)>| match ends {
            Some((low, high)) => [number(low), number(high)],
            None => ["-".to_owned(), "-".to_owned()],
        };
        let rows = self.values.iter().map(|(name, value)| {
            let [low, high] = ends(value.ends);
            let [range_low, range_high] = ends(value.range);
            let zeros = value.zeros as f64 / value.elements.max(1) as f64 * 100.0;
            let left_out = match value.infinities + value.marks {
                0 => String::new(),
                left_out => count(left_out),
            };
            vec![
                name.clone(),
                count(value.elements),
                low,
                high,
                range_low,
                range_high,
                format!("{zeros:.0} %"),
                left_out,
            ]
        });
        let low = format!("{}: low", self.observer);
        let header = ["value", "elements", "smallest", "largest", &low, "high", "zeros", "left out"];
        numbers(Some(&header), rows.collect())
    }

    fn summary(&self) -> String {
        let Self { file, model, engines, samples, random, values, .. } = self;
        let mut text = format!(
            " {file}: {} values on {samples} sample{}, run by {}, of model {model}\n",
            values.len(),
            if *samples == 1 { "" } else { "s" },
            engines.join(" and ")
        );
        let mut note = |words: String| text += &format!(" {}\n", Stream::Out.paint(NOTE, &words));
        if *random {
            note("warning: samples were random; ranges of real ones are others".to_owned());
        }
        let left_out = values.iter().filter(|(_, value)| value.infinities + value.marks > 0);
        let left_out: Vec<&str> = left_out.map(|(name, _)| name.as_str()).collect();
        if !left_out.is_empty() {
            let names = left_out.join(", ");
            note(format!("infinities and marks like those of masks were left out: {names}"));
        }
        let empty = values.iter().filter(|(_, value)| value.ends.is_none());
        let empty: Vec<&str> = empty.map(|(name, _)| name.as_str()).collect();
        if !empty.is_empty() {
            note(format!("no finite numbers were seen: {}", empty.join(", ")));
        }
        text
    }
}
