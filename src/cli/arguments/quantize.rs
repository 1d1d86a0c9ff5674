//! What is quantized, and how.

use std::path::PathBuf;

use clap::Args;
use onnx_opt::passes::quantize::accuracy::{Equalization, Rounding, Smoothing};
use onnx_opt::passes::quantize::schemes::{Scheme, SchemeOptions};
use onnx_opt::passes::quantize::{Observer, QuantizeOptions};
use onnx_opt::quantization::Quantization;
use onnx_opt::session;
use onnx_opt::static_quantization::StaticQuantization;

/// What is quantized, and how.
#[derive(Debug, Args)]
pub(super) struct Quantize {
    /// Compute with 8-bit integers where the target is faster so, by scales that --calibrate finds: int8; or compress the
    /// weights or compute with fewer bits: int8-weights, int4-weights, int8-dynamic, fp16, bf16, codebook4,
    /// codebook8, nf4 or pow2
    #[arg(long = "quantize", value_name = "SCHEME", value_parser = scheme, help_heading = "Quantization")]
    scheme: Option<SchemeName>,
    /// Give each block of so many weights a scale of its own [default: by scheme]
    #[arg(long, value_name = "N", value_parser = block_size, requires = "scheme", help_heading = "Quantization")]
    block_size: Option<usize>,
    /// What `onnx-opt calibrate` found, for int8; samples of --calibrate are only compared on then
    #[arg(long, value_name = "FILE", requires = "scheme", help_heading = "Quantization")]
    calibration: Option<PathBuf>,
    /// How ranges are chosen for int8: min-max, moving-average, percentile, percentile=99.9, entropy, mse or lp-norm=2.4
    /// [default: each by that of mse, lp-norm=3 and min-max by which products change least on the samples]
    #[arg(long, value_name = "METHOD", requires = "scheme", help_heading = "Quantization")]
    calibration_method: Option<Observer>,
    /// How weights become integers: nearest, hqq (not for int8), seqmse, gptq or adaround; the last two with --calibrate
    /// [default: adaround for int8 with --calibrate, else nearest]
    #[arg(long, value_name = "WAY", value_parser = rounding, requires = "scheme", help_heading = "Quantization")]
    rounding: Option<Rounding>,
    /// Quantize these nodes alone: names, or regular expressions
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "scheme",
        help_heading = "Quantization"
    )]
    nodes: Option<Vec<String>>,
    /// Quantize nodes of these operators alone
    #[arg(
        long = "ops",
        value_name = "OPERATORS",
        value_delimiter = ',',
        requires = "scheme",
        help_heading = "Quantization"
    )]
    operators: Option<Vec<String>>,
    /// Leave these nodes as they are: names, or regular expressions
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "scheme",
        help_heading = "Quantization"
    )]
    exclude: Vec<String>,
    /// Give weights one scale each for int8, where they would have one for each channel
    #[arg(long, requires = "scheme", help_heading = "Quantization")]
    per_tensor: bool,
    /// Bring channels between products to about the same range before int8 (cross-layer equalization), everywhere, or
    /// nowhere: off; exact, and what --per-tensor needs [default: with --calibrate, where noise falls to a sixteenth by it,
    /// and nowhere with --per-tensor]
    #[arg(
        long,
        value_name = "WHERE",
        value_parser = equalization,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "everywhere",
        requires = "scheme",
        conflicts_with = "calibration",
        help_heading = "Quantization"
    )]
    equalize: Option<Equalize>,
    /// Move outliers of activations into the weights of products before int8, everywhere and as far as ALPHA says, from 0
    /// to 1 (SmoothQuant), or nowhere: off [default: by 0.5 with --calibrate, where noise falls to a half by it]
    #[arg(
        long,
        value_name = "ALPHA",
        value_parser = smoothing,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0.5",
        requires = "scheme",
        conflicts_with = "calibration",
        help_heading = "Quantization"
    )]
    smooth_quant: Option<Smooth>,
    /// Let biases take back what int8 shifts the mean of each channel by on the samples
    #[arg(long, requires = "scheme", help_heading = "Quantization")]
    bias_correction: bool,
    /// Leave nodes on floats until every output has so many decibels of signal over error on the samples (16 of them at
    /// most): first those that cost most for the time that they save, as `onnx-opt sensitivity` measures it
    #[arg(long, value_name = "DB", value_parser = decibels, requires = "scheme", help_heading = "Quantization")]
    min_sqnr: Option<f64>,
}

impl Quantize {
    /// An option that says nothing to the scheme, and the schemes that it is for.
    pub fn idle(&self) -> Option<(&'static str, &'static str)> {
        let first =
            |options: &[(&'static str, bool)]| options.iter().find(|(_, given)| *given).map(|of| of.0);
        match self.scheme.as_ref()? {
            SchemeName::Static => {
                let weights = [
                    ("--block-size", self.block_size.is_some()),
                    ("--rounding hqq", self.rounding == Some(Rounding::Hqq)),
                ];
                Some((first(&weights)?, "schemes of weights"))
            }
            SchemeName::Other(_) => {
                let integers = [
                    ("--calibration", self.calibration.is_some()),
                    ("--per-tensor", self.per_tensor),
                    ("--equalize", self.equalize.is_some()),
                    ("--smooth-quant", self.smooth_quant.is_some()),
                    ("--bias-correction", self.bias_correction),
                    ("--min-sqnr", self.min_sqnr.is_some()),
                ];
                Some((first(&integers)?, "int8"))
            }
        }
    }

    /// An option that measures on samples, where a calibration is given and there are none.
    pub fn starved(&self, samples: &[PathBuf]) -> Option<&'static str> {
        let measures = [
            ("--bias-correction", self.bias_correction),
            ("--min-sqnr", self.min_sqnr.is_some()),
            ("--rounding", self.rounding.is_some_and(Rounding::needs_moments)),
        ];
        let starved = self.calibration.is_some() && samples.is_empty();
        measures.into_iter().find(|(_, given)| *given && starved).map(|(name, _)| name)
    }

    /// As the session takes it, if anything is to be quantized.
    pub fn quantization(&self, samples: &[PathBuf]) -> Option<session::Quantize> {
        let scheme = match self.scheme? {
            SchemeName::Static => return Some(session::Quantize::Static(self.integers(samples))),
            SchemeName::Other(scheme) => scheme,
        };
        let set = |names: &Vec<String>| names.iter().cloned().collect();
        let choice = QuantizeOptions {
            nodes: self.nodes.as_ref().map(set),
            operators: self.operators.as_ref().map(set),
            exclude: set(&self.exclude),
            ..QuantizeOptions::default()
        };
        let options = SchemeOptions {
            choice,
            block_size: self.block_size,
            rounding: self.rounding.unwrap_or_default(),
        };
        let samples = samples.to_vec();
        Some(session::Quantize::Scheme(Quantization { scheme, options, samples }))
    }

    fn integers(&self, samples: &[PathBuf]) -> StaticQuantization {
        let mut usual = StaticQuantization::new(samples.to_vec());
        if self.calibration.is_some() {
            // Its ranges are those of the model as it is.
            (usual.equalization, usual.smoothing) = (None, None);
        }
        StaticQuantization {
            calibration: self.calibration.clone(),
            observer: self.calibration_method,
            nodes: self.nodes.clone().unwrap_or_default(),
            operators: self.operators.iter().flatten().cloned().collect(),
            exclude: self.exclude.clone(),
            per_tensor: self.per_tensor,
            equalization: self.equalize.map_or(usual.equalization, |Equalize(wanted)| wanted),
            smoothing: self.smooth_quant.map_or(usual.smoothing, |Smooth(wanted)| wanted),
            bias_correction: self.bias_correction,
            min_sqnr: self.min_sqnr,
            rounding: self.rounding.unwrap_or(usual.rounding),
            ..usual
        }
    }
}

/// A scheme as users name it.
#[derive(Clone, Copy, Debug)]
enum SchemeName {
    /// Calibrated scales.
    Static,
    Other(Scheme),
}

fn scheme(text: &str) -> Result<SchemeName, String> {
    let others = Scheme::NAMES.map(|(name, scheme)| (name, SchemeName::Other(scheme)));
    let known: Vec<(&str, SchemeName)> = [("int8", SchemeName::Static)].into_iter().chain(others).collect();
    by_name(text, &known)
}

fn rounding(text: &str) -> Result<Rounding, String> {
    by_name(text, &Rounding::NAMES)
}

fn by_name<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// What is said of channels of several ranges.
#[derive(Clone, Copy, Debug)]
struct Equalize(Option<Equalization>);

fn equalization(text: &str) -> Result<Equalize, String> {
    by_name(text, &[("everywhere", Equalize(Some(Equalization::EVERYWHERE))), ("off", Equalize(None))])
}

/// What is said of outliers.
#[derive(Clone, Copy, Debug)]
struct Smooth(Option<Smoothing>);

fn smoothing(text: &str) -> Result<Smooth, String> {
    match text.parse() {
        _ if text == "off" => Ok(Smooth(None)),
        Ok(alpha) if (0.0..=1.0).contains(&alpha) => Ok(Smooth(Some(Smoothing::everywhere(alpha)))),
        _ => Err("expected a number from 0 to 1, or off".to_owned()),
    }
}

fn decibels(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| number.is_finite()).ok_or_else(|| "expected a number of decibels".to_owned())
}

fn block_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 4..=65536) => Ok(size),
        _ => Err("expected a number from 4 to 65536".to_owned()),
    }
}
