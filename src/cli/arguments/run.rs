//! What runs models, and on which inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use onnx_opt::calibrate::CalibrateOptions;
use onnx_opt::interface::Size;
use onnx_opt::session::Trial;
use onnx_opt::verify::EngineChoice;

/// What runs models, and what random inputs are.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Size of a named axis of random inputs, as in `batch=4`; the model keeps the name
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    sizes: Vec<(String, usize)>,
    /// What random inputs are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The engine that runs models [default: tract, then onnxruntime if its library is known]
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// The library of onnxruntime, as libonnxruntime.so [default: that of ORT_DYLIB_PATH]
    #[arg(long, value_name = "PATH")]
    ort_lib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Tract,
    Onnxruntime,
}

impl RunArguments {
    fn engine(&self) -> EngineChoice {
        match self.engine {
            None => EngineChoice::Auto,
            Some(EngineName::Tract) => EngineChoice::Tract,
            Some(EngineName::Onnxruntime) => EngineChoice::OnnxRuntime,
        }
    }

    fn sizes(&self) -> BTreeMap<String, usize> {
        self.sizes.iter().cloned().collect()
    }

    /// How to run a model to measure something of it.
    pub fn options(&self) -> CalibrateOptions {
        CalibrateOptions {
            engine: self.engine(),
            library: self.ort_lib.clone(),
            seed: self.seed,
            sizes: self.sizes(),
            ..CalibrateOptions::default()
        }
    }
}

fn size(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("expected NAME=N")?;
    Ok((name.to_owned(), size.parse().map_err(|_| "expected a size as batch=4".to_owned())?))
}

/// What models are compared on.
#[derive(Debug, Args)]
pub struct TrialArguments {
    /// Samples to compare on: .npz, .npy, .pb, or a folder of them; random inputs without
    #[arg(long, value_name = "PATH", help_heading = "Verification")]
    data: Vec<PathBuf>,
    /// Largest difference relative to the range of an output [default: by element type]
    #[arg(long, value_name = "NUMBER", value_parser = tolerance, help_heading = "Verification")]
    tolerance: Option<f64>,
    #[command(flatten, next_help_heading = "Verification")]
    pub run: RunArguments,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number >= 0.0 => Ok(number),
        _ => Err("expected a number of zero or more".to_owned()),
    }
}

impl TrialArguments {
    pub fn trial(&self) -> Trial {
        Trial {
            data: self.data.clone(),
            sizes: self.run.sizes(),
            seed: self.run.seed,
            engine: self.run.engine(),
            library: self.run.ort_lib.clone(),
            tolerance: self.tolerance,
            ..Trial::default()
        }
    }
}

/// What is given for an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Sizes(Vec<Size>),
    File(PathBuf),
}

/// `NAME=SIZES` or `NAME=FILE`. The name may hold `=` and `:`. Sizes are numbers between `x`, or numbers and names
/// between commas.
pub(super) fn given(text: &str) -> Result<(String, Given), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=SIZES or NAME=FILE")?;
    let numbers: Option<Vec<i64>> = value.split(['x', ',']).map(|size| number(size.trim())).collect();
    let given = match numbers {
        Some(sizes) => Given::Sizes(sizes.into_iter().map(Size::Fixed).collect()),
        None if Path::new(value).extension().is_some() => Given::File(value.into()),
        None => {
            let sizes = value.split(',').map(|size| match (number(size.trim()), size.trim()) {
                (Some(number), _) => Some(Size::Fixed(number)),
                (None, name) => is_name(name).then(|| Size::Named(name.to_owned())),
            });
            let sizes: Option<Vec<Size>> = sizes.collect();
            Given::Sizes(sizes.ok_or("expected sizes as 1x3x224x224 or batch,128, or a file")?)
        }
    };
    Ok((name.to_owned(), given))
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|&number| number >= 0)
}

fn is_name(text: &str) -> bool {
    let starts = text.starts_with(|first: char| first.is_alphabetic() || first == '_');
    starts && text.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_input_is_a_shape_or_a_file() {
        let shape = |sizes: &[i64]| Given::Sizes(sizes.iter().copied().map(Size::Fixed).collect());
        assert_eq!(given("x=1x3"), Ok(("x".into(), shape(&[1, 3]))));
        assert_eq!(given("a=b:0=2,4"), Ok(("a=b:0".into(), shape(&[2, 4]))));
        assert_eq!(given("x=d/a.npy"), Ok(("x".into(), Given::File("d/a.npy".into()))));
        let named = Given::Sizes(vec![Size::Named("axis".into()), Size::Fixed(128)]);
        assert_eq!(given("ids=axis,128"), Ok(("ids".into(), named)));
        assert!(given("x").is_err() && given("x=1x-3").is_err() && given("x=1,,3").is_err());
    }
}
