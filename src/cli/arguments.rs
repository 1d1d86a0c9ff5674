//! The arguments, and the help that explains them by example.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use onnx_opt::session::{Effort, Options, Source, Target};

/// Makes an ONNX model smaller and faster and shows that it still computes the same.
#[derive(Debug, Parser)]
#[command(name = "onnx-opt", version)]
pub struct Arguments {
    #[command(flatten)]
    pub optimize: Optimize,
}

/// Options of the main task.
#[derive(Debug, Args)]
pub struct Optimize {
    /// The model; `-` is standard input.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Where the result goes; `-` is standard output [default: MODEL.opt.onnx].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How far to go, 0 to 3.
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub level: u8,
    /// How much to verify: `auto`, a number of runs, or `off`.
    #[arg(long, value_name = "EFFORT", default_value = "auto", value_parser = effort)]
    pub verify: Effort,
    /// The same as `--verify off`.
    #[arg(long, conflicts_with = "verify")]
    pub no_verify: bool,
    /// Put all larger weights into a file beside the model.
    #[arg(long)]
    pub external_data: bool,
    /// Print nothing but errors.
    #[arg(short, long)]
    pub quiet: bool,
}

fn effort(text: &str) -> Result<Effort, String> {
    match text {
        "auto" => Ok(Effort::Auto),
        "off" => Ok(Effort::Off),
        _ => match text.parse() {
            Ok(runs) if runs > 0 => Ok(Effort::Runs(runs)),
            _ => Err("expected auto, off or a number of runs".to_owned()),
        },
    }
}

/// The file of this name, or standard input.
pub fn source(path: &Path) -> Source {
    if path == Path::new("-") { Source::Stdin } else { Source::File(path.to_owned()) }
}

impl Optimize {
    pub fn source(&self) -> Source {
        source(&self.model)
    }

    /// As asked; else `a.opt.onnx` beside `a.onnx`, and standard output for standard input.
    pub fn target(&self, source: &Source) -> Target {
        match (&self.output, source) {
            (Some(path), _) if path == Path::new("-") => Target::Stdout,
            (Some(path), _) => Target::File(path.clone()),
            (None, Source::Stdin) => Target::Stdout,
            (None, Source::File(path)) => {
                let stem = if path.extension() == Some(OsStr::new("onnx")) {
                    path.file_stem()
                } else {
                    path.file_name()
                };
                let mut name = stem.unwrap_or_default().to_owned();
                name.push(".opt.onnx");
                Target::File(path.with_file_name(name))
            }
        }
    }

    pub fn options(&self) -> Options {
        Options {
            level: self.level,
            effort: if self.no_verify { Effort::Off } else { self.verify },
            external_data: self.external_data,
        }
    }
}
