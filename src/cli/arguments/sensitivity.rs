//! What integers cost in each node: of which model, on what.

use std::path::PathBuf;

use clap::Args;
use onnx_opt::passes::Target;
use onnx_opt::passes::quantize::Observer;
use onnx_opt::static_quantization::StaticQuantization;

use super::run::RunArguments;
use super::target;

/// What integers cost in each node: of which model, on what.
#[derive(Debug, Args)]
pub struct Sensitive {
    /// The model; `-` is standard input
    pub model: PathBuf,
    /// Samples: .npz, .npy, .pb, or a folder of them; random ones without, which say little about real ones
    #[arg(long = "calibrate", value_name = "PATH")]
    samples: Vec<PathBuf>,
    /// How ranges are chosen [default: each by that of mse, lp-norm=3 and min-max by which products change least]
    #[arg(long, value_name = "METHOD")]
    calibration_method: Option<Observer>,
    /// Give weights one scale each, where they would have one for each channel
    #[arg(long)]
    per_tensor: bool,
    /// Seconds after which no further node is begun with
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub time: u64,
    #[command(flatten)]
    pub run: RunArguments,
    /// Level at which the model is optimized before
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub level: u8,
    /// Runtime that the model would be quantized for, or a file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "onnx", value_parser = target)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Sensitive {
    pub fn quantization(&self) -> StaticQuantization {
        StaticQuantization {
            observer: self.calibration_method,
            per_tensor: self.per_tensor,
            ..StaticQuantization::new(self.samples.clone())
        }
    }
}
