//! What is to be observed, on what.

use std::path::PathBuf;

use clap::Args;
use onnx_opt::calibrate::CalibrateOptions;
use onnx_opt::passes::Target;
use onnx_opt::passes::quantize::Observer;

use super::run::RunArguments;
use super::target;

/// What is to be observed, on what.
#[derive(Debug, Args)]
pub struct Calibrate {
    /// The model; `-` is standard input
    #[arg(required_unless_present_any = ["merge", "inspect"], conflicts_with_all = ["merge", "inspect"])]
    pub model: Option<PathBuf>,
    /// Samples: .npz, .npy, .pb, or a folder of them
    #[arg(long, value_name = "PATH", conflicts_with_all = ["merge", "inspect"])]
    pub data: Vec<PathBuf>,
    /// So many random samples instead, which say little about real ones
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, conflicts_with_all = ["data", "merge", "inspect"])]
    random: usize,
    /// Where the result goes [default: MODEL.calibration.json]
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["model", "inspect"])]
    pub output: Option<PathBuf>,
    /// Merge these calibrations, in this order
    #[arg(long, value_name = "FILES", num_args = 1.., conflicts_with = "inspect")]
    pub merge: Vec<PathBuf>,
    /// Show this calibration
    #[arg(long, value_name = "FILE")]
    pub inspect: Option<PathBuf>,
    /// How the ranges that are shown are chosen
    #[arg(long, value_name = "METHOD", default_value = "mse")]
    pub calibration_method: Observer,
    /// Observe these values only
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub values: Vec<String>,
    /// Do not observe these values
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub skip_values: Vec<String>,
    #[command(flatten)]
    run: RunArguments,
    /// Level at which the model will be optimized when it is quantized
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub level: u8,
    /// Runtime that the model will be quantized for, or a file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "onnx", value_parser = target)]
    pub target: Target,
    /// Observe the model as the file has it, not as its quantization finds it
    #[arg(long)]
    pub as_is: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl Calibrate {
    pub fn options(&self) -> CalibrateOptions {
        CalibrateOptions { random: self.random, ..self.run.options() }
    }
}
