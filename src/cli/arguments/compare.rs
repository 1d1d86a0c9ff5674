//! Two models on the same inputs.

use std::path::PathBuf;

use clap::Args;
use onnx_opt::interface::Size;
use onnx_opt::session::Trial;

use super::run::{Given, TrialArguments, given};
use super::runs;

/// Two models on inputs of the user's choice.
#[derive(Debug, Args)]
pub struct Compared {
    /// The first model
    pub a: PathBuf,
    /// The second model
    pub b: PathBuf,
    /// So many sets of inputs
    #[arg(long, value_name = "N", value_parser = runs)]
    pub runs: Option<usize>,
    /// Shape of a random input, as in `x=1x3x224x224`, or a file with it (.npy, .npz, .pb)
    #[arg(long = "input", value_name = "NAME=SHAPE|FILE", value_parser = shape_or_file)]
    inputs: Vec<(String, ShapeOrFile)>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    trial: TrialArguments,
}

#[derive(Clone, Debug, PartialEq)]
enum ShapeOrFile {
    Shape(Vec<usize>),
    File(PathBuf),
}

fn shape_or_file(text: &str) -> Result<(String, ShapeOrFile), String> {
    let (name, given) = given(text)?;
    let number = |size: Size| match size {
        Size::Fixed(size) => usize::try_from(size).map_err(|error| error.to_string()),
        Size::Named(_) => Err("random inputs have sizes that are numbers".to_owned()),
    };
    let given = match given {
        Given::Sizes(sizes) => ShapeOrFile::Shape(sizes.into_iter().map(number).collect::<Result<_, _>>()?),
        Given::File(file) => ShapeOrFile::File(file),
    };
    Ok((name, given))
}

impl Compared {
    pub fn trial(&self) -> Trial {
        let mut trial = self.trial.trial();
        for (name, given) in self.inputs.iter().cloned() {
            match given {
                ShapeOrFile::Shape(shape) => drop(trial.shapes.insert(name, shape)),
                ShapeOrFile::File(file) => drop(trial.files.insert(name, file)),
            }
        }
        trial
    }
}
