//! The arguments, and the help that explains them by example.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use onnx_opt::session::{Effort, Options, Source, Target, Trial};
use onnx_opt::verify::EngineChoice;

const EXAMPLES: &str = "\
Examples:
  onnx-opt resnet.onnx                     writes resnet.opt.onnx and says what changed
  onnx-opt resnet.onnx -o small.onnx -O1   only rewrites that give the same bits
  onnx-opt bert.onnx --skip gelu_erf       without one rule (see `onnx-opt rules`)
  onnx-opt net.onnx --json -q -o out.onnx  the report as JSON
  cat net.onnx | onnx-opt - > out.onnx     as part of a pipe
  onnx-opt inspect net.onnx                what a model holds and costs
  onnx-opt diff a.onnx b.onnx              what two models do not share
  onnx-opt ./inspect                       a model that is named like a command

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the result was not accepted (and not written).";

/// Makes an ONNX model smaller and faster and shows that it still computes the same.
#[derive(Debug, Parser)]
#[command(
    name = "onnx-opt",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub optimize: Optimize,
}

/// Options of the main task.
#[derive(Debug, Args)]
pub struct Optimize {
    /// The model; `-` is standard input
    #[arg(value_name = "MODEL", required = true)]
    pub model: Option<PathBuf>,
    /// Where the result goes; `-` is standard output [default: MODEL.opt.onnx, or `-` for `-`]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Put all larger weights into a file of their own beside the model
    #[arg(long)]
    pub external_data: bool,

    /// How far to go: 0 nothing, 1 the same bits, 2 also other rounding, 3 all
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, help_heading = "Rewriting",
          value_parser = clap::value_parser!(u8).range(0..=3))]
    pub level: u8,
    /// Leave out these passes and rules
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Rewriting")]
    pub skip: Vec<String>,
    /// Apply these passes and rules only, approximate ones too
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Rewriting")]
    pub only: Vec<String>,
    /// The operator set: `keep` is as it is
    #[arg(long, value_name = "VERSION", default_value = "keep", value_parser = ["keep"], help_heading = "Rewriting")]
    pub opset: String,
    /// Print the graph to standard error after this pass
    #[arg(long, value_name = "PASS", help_heading = "Rewriting")]
    pub print_after: Option<String>,

    /// How much to verify: `auto`, a number of runs, or `off`
    #[arg(long, value_name = "EFFORT", default_value = "auto", value_parser = effort, help_heading = "Verification")]
    pub verify: Effort,
    /// The same as `--verify off`
    #[arg(long, conflicts_with = "verify", help_heading = "Verification")]
    pub no_verify: bool,
    #[command(flatten)]
    pub trial: TrialArguments,

    #[command(flatten)]
    pub say: Say,
}

/// What models are compared on.
#[derive(Debug, Args)]
pub struct TrialArguments {
    /// An input: its shape, as in `x=1x3x224x224`, or a file (.npy, .npz, .pb)
    #[arg(long = "input", value_name = "NAME=SHAPE|FILE", value_parser = given, help_heading = "Verification")]
    inputs: Vec<(String, Given)>,
    /// Samples to compare on: .npz, .npy, .pb, or a folder of them; random inputs without
    #[arg(long, value_name = "PATH", help_heading = "Verification")]
    data: Vec<PathBuf>,
    /// Largest difference relative to the range of an output [default: by element type]
    #[arg(long, value_name = "NUMBER", value_parser = tolerance, help_heading = "Verification")]
    tolerance: Option<f64>,
    /// The engine that runs the models [default: tract, then onnxruntime if its library is known]
    #[arg(long, value_enum, help_heading = "Verification")]
    engine: Option<EngineName>,
    /// The library of onnxruntime, as libonnxruntime.so [default: that of ORT_DYLIB_PATH]
    #[arg(long, value_name = "PATH", help_heading = "Verification")]
    ort_lib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Tract,
    Onnxruntime,
}

/// What is given for an input.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    Shape(Vec<usize>),
    File(PathBuf),
}

/// `NAME=SHAPE` or `NAME=FILE`. A name may hold `=` and `:`, a shape never does.
fn given(text: &str) -> Result<(String, Given), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=SHAPE or NAME=FILE")?;
    let sizes: Result<Vec<usize>, _> = value.split(['x', ',']).map(|size| size.trim().parse()).collect();
    let given = match sizes {
        Ok(sizes) => Given::Shape(sizes),
        Err(_) if Path::new(value).extension().is_some() => Given::File(value.into()),
        Err(_) => return Err("expected a shape as 1x3x224x224, or a file".to_owned()),
    };
    Ok((name.to_owned(), given))
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number >= 0.0 => Ok(number),
        _ => Err("expected a number of zero or more".to_owned()),
    }
}

impl TrialArguments {
    pub fn trial(&self) -> Trial {
        let mut trial = Trial {
            data: self.data.clone(),
            engine: match self.engine {
                None => EngineChoice::Auto,
                Some(EngineName::Tract) => EngineChoice::Tract,
                Some(EngineName::Onnxruntime) => EngineChoice::OnnxRuntime,
            },
            library: self.ort_lib.clone(),
            tolerance: self.tolerance,
            ..Trial::default()
        };
        for (name, given) in self.inputs.iter().cloned() {
            match given {
                Given::Shape(shape) => drop(trial.shapes.insert(name, shape)),
                Given::File(file) => drop(trial.files.insert(name, file)),
            }
        }
        trial
    }
}

/// How much to say.
#[derive(Debug, Args)]
pub struct Say {
    /// Print the report, or the error, as JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print nothing but errors (and JSON, where asked for)
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// Print also what each pass and rule did, and why near matches were declined
    #[arg(short, long, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: bool,
}

/// Everything but the main task.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a model holds and costs
    #[command(after_help = "\
Examples:
  onnx-opt inspect net.onnx
  onnx-opt inspect net.onnx --text | less    the whole graph, one node a line
  onnx-opt inspect net.onnx --json | jq .summary.macs.count")]
    Inspect {
        /// The model; `-` is standard input
        model: PathBuf,
        /// Print JSON
        #[arg(long, conflicts_with = "text")]
        json: bool,
        /// Print the graph, one node a line
        #[arg(long)]
        text: bool,
    },
    /// Show what two models do not share: operators, nodes, weights
    #[command(after_help = "\
Example:
  onnx-opt diff net.onnx net.opt.onnx")]
    Diff {
        /// The first model
        a: PathBuf,
        /// The second model
        b: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run two models on the same inputs and show how far their outputs differ
    #[command(after_help = "\
Examples:
  onnx-opt verify net.onnx net.opt.onnx                       on random inputs
  onnx-opt verify a.onnx b.onnx --runs 8 --input x=4x3x32x32  of this shape
  onnx-opt verify a.onnx b.onnx --data samples/               on data of yours

Exit codes: 0 they agree, 3 they do not, or nobody can tell.")]
    Verify {
        /// The first model
        a: PathBuf,
        /// The second model
        b: PathBuf,
        /// So many sets of inputs
        #[arg(long, value_name = "N", value_parser = runs)]
        runs: Option<usize>,
        #[command(flatten)]
        trial: TrialArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the rewrite rules, or show one
    Rules {
        /// The rule to show
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the passes of a level in their order
    Passes {
        /// The level
        #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
        level: u8,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell
    #[command(after_help = "\
Example:
  onnx-opt completions bash > ~/.local/share/bash-completion/completions/onnx-opt")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Arguments {
    /// Whether errors are to be JSON.
    pub fn json(&self) -> bool {
        match &self.command {
            None => self.optimize.say.json,
            Some(
                Command::Inspect { json, .. }
                | Command::Diff { json, .. }
                | Command::Verify { json, .. }
                | Command::Rules { json, .. }
                | Command::Passes { json, .. },
            ) => *json,
            Some(Command::Completions { .. }) => false,
        }
    }
}

fn effort(text: &str) -> Result<Effort, String> {
    match text {
        "auto" => Ok(Effort::Auto),
        "off" => Ok(Effort::Off),
        _ => runs(text).map(Effort::Runs).map_err(|_| "expected auto, off or a number of runs".to_owned()),
    }
}

fn runs(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&runs| runs > 0).ok_or_else(|| "expected a number of runs".to_owned())
}

/// The file of this name, or standard input.
pub fn source(path: &Path) -> Source {
    if path == Path::new("-") { Source::Stdin } else { Source::File(path.to_owned()) }
}

impl Optimize {
    pub fn source(&self) -> Source {
        source(self.model.as_deref().unwrap_or(Path::new("-")))
    }

    /// As asked; else `a.opt.onnx` beside `a.onnx`, and standard output for standard input.
    pub fn target(&self, source: &Source) -> Target {
        match (&self.output, source) {
            (Some(path), _) if path == Path::new("-") => Target::Stdout,
            (Some(path), _) => Target::File(path.clone()),
            (None, Source::Stdin) => Target::Stdout,
            (None, Source::File(path)) => {
                let bare = path.extension() == Some(OsStr::new("onnx"));
                let mut name =
                    if bare { path.file_stem() } else { path.file_name() }.unwrap_or_default().to_owned();
                name.push(".opt.onnx");
                Target::File(path.with_file_name(name))
            }
        }
    }

    pub fn options(&self) -> Options {
        Options {
            level: self.level,
            effort: if self.no_verify { Effort::Off } else { self.verify },
            trial: self.trial.trial(),
            external_data: self.external_data,
            skip: self.skip.iter().cloned().collect(),
            only: self.only.iter().cloned().collect(),
            print_after: self.print_after.clone(),
            explain: self.say.verbose,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory;

    use super::*;

    fn optimize(arguments: &[&str]) -> Optimize {
        Arguments::try_parse_from([&["onnx-opt"], arguments].concat()).unwrap().optimize
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn levels_are_written_either_way() {
        for (arguments, level) in [(&["-O0", "m"][..], 0), (&["m", "-O", "3"], 3), (&["m"], 2)] {
            assert_eq!(optimize(arguments).level, level);
        }
        assert!(Arguments::try_parse_from(["onnx-opt", "m", "-O4"]).is_err());
    }

    #[test]
    fn an_input_is_a_shape_or_a_file() {
        let shape = |sizes: &[usize]| Given::Shape(sizes.to_vec());
        assert_eq!(given("x=1x3"), Ok(("x".into(), shape(&[1, 3]))));
        assert_eq!(given("a=b:0=2,4"), Ok(("a=b:0".into(), shape(&[2, 4]))));
        assert_eq!(given("x=d/a.npy"), Ok(("x".into(), Given::File("d/a.npy".into()))));
        assert!(given("x").is_err() && given("x=1x-3").is_err());
    }

    #[test]
    fn the_result_lies_beside_the_model() {
        let target = |model: &str| {
            let arguments = optimize(&[model]);
            arguments.target(&arguments.source())
        };
        assert_eq!(target("a/net.onnx"), Target::File("a/net.opt.onnx".into()));
        assert_eq!(target("net.v2"), Target::File("net.v2.opt.onnx".into()));
        assert_eq!(target("-"), Target::Stdout);
    }
}
