//! What to differentiate, and by what.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use onnx_opt::passes::gradient::{GradientOptions, Loss, Wrt};
use onnx_opt::session::{Destination, Source};

use super::destination;

/// What to differentiate, and by what.
#[derive(Debug, Args)]
pub struct Differentiated {
    /// The model; `-` is standard input
    pub model: PathBuf,
    /// Where the result goes; `-` is standard output [default: MODEL.grad.onnx, or `-` for `-`]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// By what: `weights`, `inputs`, or names of values between commas
    #[arg(long, value_name = "weights|inputs|NAMES", default_value = "weights", value_delimiter = ',')]
    wrt: Vec<String>,
    /// What: the sum of the outputs, or their distance from inputs that the result has beside those of the model
    #[arg(long, value_enum, default_value_t = LossName::Sum)]
    loss: LossName,
    /// The temperature of the loss `kl`
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = temperature)]
    temperature: f64,
    /// Outputs that the loss is of [default: all of floating-point numbers]
    #[arg(long = "of", value_name = "NAMES", value_delimiter = ',')]
    outputs: Vec<String>,
    /// Print the report, or the error, as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors (and JSON, where asked for)
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LossName {
    Sum,
    Kl,
    Mse,
    CrossEntropy,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("expected a number above zero".to_owned()),
    }
}

impl Differentiated {
    /// As asked; else `a.grad.onnx` beside `a.onnx`, and standard output for standard input.
    pub fn destination(&self, source: &Source) -> Destination {
        destination(self.output.as_deref(), source, ".grad.onnx")
    }

    pub fn options(&self) -> GradientOptions {
        let wrt = match self.wrt.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["weights"] => Wrt::Weights,
            ["inputs"] => Wrt::Inputs,
            _ => Wrt::Named(self.wrt.clone()),
        };
        let loss = match self.loss {
            LossName::Sum => Loss::Sum,
            LossName::Kl => Loss::Kl { temperature: self.temperature },
            LossName::Mse => Loss::MeanSquaredError,
            LossName::CrossEntropy => Loss::CrossEntropy,
        };
        GradientOptions { wrt, loss, outputs: self.outputs.clone() }
    }
}
