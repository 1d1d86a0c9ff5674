//! The arguments, and the help that explains them by example.

mod bench;
mod calibrate;
mod compare;
mod gradient;
mod prune;
mod quantize;
mod run;
mod sensitivity;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use onnx_opt::interface::Sizes;
use onnx_opt::opset::Opset;
use onnx_opt::passes::Target;
use onnx_opt::passes::opset::HIGHEST;
use onnx_opt::session::{Destination, Effort, Options, Source};

pub use bench::Bench;
pub use calibrate::Calibrate;
pub use compare::Compared;
pub use gradient::Differentiated;
use prune::Prune;
use quantize::Quantize;
use run::{Given, TrialArguments, given};
pub use sensitivity::Sensitive;

const EXAMPLES: &str = "\
Examples:
  onnx-opt resnet.onnx                       writes resnet.opt.onnx and says what changed
  onnx-opt resnet.onnx -o small.onnx -O1     only rewrites that give the same bits
  onnx-opt bert.onnx --skip gelu_erf         without one rule (see `onnx-opt rules`)
  onnx-opt bert.onnx --target tensorrt       for one runtime alone
  onnx-opt bert.onnx --input ids=1,128       fixes the sizes of an input in the result
  onnx-opt bert.onnx --size batch=4 --seed 7 steers the random inputs that it is compared on
  onnx-opt net.onnx --data samples/          compares on inputs of yours
  onnx-opt net.onnx --explain                where rules applied, and where not and why
  onnx-opt net.onnx --json -o out.onnx       the report as JSON
  cat net.onnx | onnx-opt - > out.onnx       as part of a pipe
  onnx-opt net.onnx --prune 0.5              takes half of all channels, heads and hidden units out
  onnx-opt net.onnx --quantize int8 --calibrate samples/
                                             computes with 8-bit integers
  onnx-opt bert.onnx --quantize int8-weights weights of 8 bits, a quarter of the size
  onnx-opt inspect net.onnx                  what a model holds and costs
  onnx-opt diff a.onnx b.onnx                what two models do not share
  onnx-opt grad net.onnx                     a model of the gradients
  onnx-opt calibrate net.onnx --data x.npz   what its values are, for quantization
  onnx-opt sensitivity net.onnx --calibrate x.npz
                                             what integers cost in each node
  onnx-opt ./inspect                         a model that is named like a command

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the result was not accepted (and not written).";

const MANUAL: &str = "\
Levels:
  -O0  nothing is changed: the file comes out byte for byte
  -O1  rewrites whose results have the same bits
  -O2  also those that compute the same real number and round it otherwise (the default)
  -O3  the same as -O2, with --opset auto; where the order of rules decides what comes out, the one that costs \
least

  Rules that only approximate apply where --only names them. Names, order, types and sizes of inputs \
and outputs stay unless --input changes them.

Targets:
  A profile says what a runtime has and what is slow there; rules that make models slower there are \
left out unless --only names them. `onnx`, the default, stands for all: standard operators, and \
nothing that onnxruntime is slow at. A file of yours holds what theirs do:

    name = \"mine\"
    highest_opset = 17
    avoid = [\"gelu_erf\"]                  # rules and passes
    contrib = [\"com.microsoft:BiasGelu\"]  # operators outside the standard that may be emitted
    only_up_to = { RoiAlign = 15 }         # operators that it lacks the later versions of
    [costs]                                # beside an elementwise operator's 1; inf: there is none
    HardSwish = inf

Pruning:
  --prune takes channels, heads and hidden units out wherever they are coupled, after the passes and \
before them again. What is left is held against the original with the same slices set to zero; how far \
its outputs are from those of the original is measured and told. `onnx-opt prune --groups` says what \
can go and what cannot.

Verification:
  Original and result run on the same inputs in a process of its own, with limits on time and memory. \
`auto` gives up on what would take longer than seconds or what no engine can run, says so, and writes \
the result. With a number of runs, a result that cannot be verified is not written. When a result \
differs, the rules and passes that cause it are found, named and left out. Differences are relative to \
the range of each output: at most 1e-3, or 1e-2 for 16 bits and fewer; integers must be equal.

Environment:
  ORT_DYLIB_PATH  the library of onnxruntime, for what the built-in engine, tract, cannot run
  NO_COLOR        no colours

";

/// Makes an ONNX model smaller and faster and shows that it still computes the same.
#[derive(Debug, Parser)]
#[command(
    name = "onnx-opt",
    version,
    after_help = EXAMPLES,
    after_long_help = format!("{MANUAL}{EXAMPLES}"),
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
#[command(group = ArgGroup::new("told").multiple(true).args(["units", "macs", "bytes", "latency", "scheme"]))]
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
    /// Declare the type and shape of each inner value, as far as they are known
    #[arg(long)]
    pub value_info: bool,

    /// How far to go: 0 nothing, 1 the same bits, 2 also other rounding, 3 also a later operator set
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, help_heading = "Rewriting",
          value_parser = clap::value_parser!(u8).range(0..=3))]
    pub level: u8,
    /// Leave out these passes and rules
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Rewriting")]
    pub skip: Vec<String>,
    /// Apply these passes and rules only, approximate ones too
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Rewriting")]
    pub only: Vec<String>,
    /// Fix or name the sizes of an input, in the result too: `x=1x3x224x224`, `ids=batch,128`; or give it a file to
    /// compare on (.npy, .npz, .pb)
    #[arg(long = "input", value_name = "NAME=SIZES|FILE", value_parser = given, help_heading = "Rewriting")]
    inputs: Vec<(String, Given)>,
    /// The operator set of the result: `keep` that of the model, raise it to a number, or `auto`, just as far as a
    /// rule needs that makes the model smaller [default: keep, from -O3 on auto]
    #[arg(long, value_name = "VERSION", value_parser = opset, help_heading = "Rewriting")]
    opset: Option<Opset>,
    /// Where the result will run: onnx, onnxruntime, onnxruntime-arm, tensorrt, openvino, qnn, tract, or a profile of
    /// yours
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "onnx", value_parser = target, help_heading = "Rewriting")]
    pub target: Target,
    /// Print the graph to standard error after this pass
    #[arg(long, value_name = "PASS", help_heading = "Rewriting")]
    pub print_after: Option<String>,

    /// Samples that tell which values tensors take, and what units and weights are worth: .npz, .npy, .pb, or a folder of
    /// them; random ones without, where they are needed
    #[arg(
        long = "calibrate",
        value_name = "PATH",
        requires = "told",
        help_heading = "Pruning and quantization"
    )]
    samples: Vec<PathBuf>,
    #[command(flatten)]
    prune: Prune,
    #[command(flatten)]
    quantize: Quantize,

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

fn opset(text: &str) -> Result<Opset, String> {
    match (text, text.parse()) {
        ("keep", _) => Ok(Opset::Keep),
        ("auto", _) => Ok(Opset::Auto),
        (_, Ok(version)) if (1..=HIGHEST).contains(&version) => Ok(Opset::To(version)),
        _ => Err(format!("expected keep, auto or a number from 1 to {HIGHEST}")),
    }
}

/// The profile of a runtime.
fn target(text: &str) -> Result<Target, String> {
    if let Some(target) = Target::named(text) {
        return Ok(target);
    }
    if Path::new(text).extension() != Some(OsStr::new("toml")) {
        let names: Vec<&str> = Target::names().collect();
        return Err(format!("expected one of {} or a file that ends in .toml", names.join(", ")));
    }
    let profile = std::fs::read_to_string(text).map_err(|error| error.to_string())?;
    Target::parse(&profile).map_err(|error| error.to_string())
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
    /// Print also what each pass and rule did
    #[arg(short, long, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: bool,
    /// Print also where each rule applied, and where it nearly did and why not
    #[arg(long, conflicts_with = "quiet", help_heading = "Output")]
    pub explain: bool,
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
    /// Show what of a model could be pruned, and what not and why
    #[command(after_help = "\
Examples:
  onnx-opt prune net.onnx --groups               groups of channels that go together, and barriers
  onnx-opt prune net.onnx --json | jq '.groups[].units'
  onnx-opt net.onnx --prune 0.5 -o small.onnx    takes half of every group out")]
    Prune {
        /// The model; `-` is standard input
        model: PathBuf,
        /// Show the groups (which is all that there is to show)
        #[arg(long)]
        groups: bool,
        /// The level that the model is optimized by before
        #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
        level: u8,
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
    Verify(Compared),
    /// Time models with the same inputs, side by side, on one thread
    Bench(Bench),
    /// Write a model that computes gradients
    #[command(after_help = "\
Examples:
  onnx-opt grad net.onnx                                     by all weights, of the sum of the outputs
  onnx-opt grad net.onnx --wrt inputs -o saliency.onnx       by the inputs
  onnx-opt grad net.onnx --wrt fc.weight,fc.bias --loss mse  by these, of the distance to `OUTPUT.target`
  onnx-opt grad net.onnx --loss kl --temperature 2           of the divergence from logits `OUTPUT.teacher`
  onnx-opt grad net.onnx --loss cross-entropy                of classes `OUTPUT.label`, along axis 1

The result has the inputs of the model, those that the loss needs, and the outputs `loss` and `NAME.grad` \
for each value. It consists of standard operators, of opset 18 or that of the model if it is later.")]
    Grad(Differentiated),
    /// Find what the values of a model are on samples, for its quantization
    #[command(after_help = "\
Examples:
  onnx-opt calibrate net.onnx --data samples/ -o cal.json    all values of floats
  onnx-opt calibrate net.onnx --data x.npz                   an array of many rows is many samples
  onnx-opt calibrate --inspect cal.json --calibration-method entropy
                                                             ranges, one value a line
  onnx-opt calibrate --merge a.json b.json -o all.json       what shards of the data gave
  onnx-opt calibrate net.onnx --random 16                    for a first try without data

Methods:
  min-max          from the smallest to the largest number
  moving-average   of the smallest and largest number of each sample, at a rate of 0.01
  percentile=99.9  without the outermost numbers at either end [default: 99.999]
  entropy          the limit that loses the least information, over 2048 bins
  mse              the limits of least squared error
  lp-norm=2.4      of least error to a power, the larger the less is cut off [default: 3]

The file holds histograms: every method may be chosen later. NaN is an error that names the value. Infinities, \
and numbers of 32768 and more that are at least 1024 times as large as all others, as masks hold, are left out.")]
    Calibrate(Box<Calibrate>),
    /// Show what integers cost in each node, the worst first
    #[command(after_help = "\
Examples:
  onnx-opt sensitivity net.onnx --calibrate samples/
  onnx-opt sensitivity net.onnx --calibrate samples/ --json | jq -r '.nodes[:3][].node'
  onnx-opt net.onnx --quantize int8 --calibrate samples/ --min-sqnr 20
                                             leaves the worst on floats, as far as needed

Calibrates once, then runs the model with each node alone on integers, up to eight nodes at a time, on at most 16 \
samples: about as long as so many runs of the model as there are nodes, on each of them. After --time seconds no \
further node is begun with. Decibels are signal over error of the worst output, over all those samples; times are \
what the profile of the target says of a thread.")]
    Sensitivity(Box<Sensitive>),
    /// List the rewrite rules, or show one
    #[command(after_help = "\
Examples:
  onnx-opt rules                      name, class, first opset, algebra
  onnx-opt rules gelu_erf             one rule
  onnx-opt rules --json | jq '.[] | select(.class == \"exact\") | .name'")]
    Rules {
        /// The rule to show
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the passes of a level in their order
    #[command(after_help = "\
Example:
  onnx-opt passes -O1")]
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
                | Command::Prune { json, .. }
                | Command::Grad(Differentiated { json, .. })
                | Command::Verify(Compared { json, .. })
                | Command::Rules { json, .. }
                | Command::Passes { json, .. },
            ) => *json,
            Some(Command::Calibrate(calibrate)) => calibrate.json,
            Some(Command::Bench(bench)) => bench.json,
            Some(Command::Sensitivity(sensitive)) => sensitive.json,
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

/// As asked; else a name with this ending beside the source, and standard output for standard input.
fn destination(asked: Option<&Path>, source: &Source, ending: &str) -> Destination {
    match (asked, source) {
        (Some(path), _) if path == Path::new("-") => Destination::Stdout,
        (Some(path), _) => Destination::File(path.to_owned()),
        (None, Source::Stdin) => Destination::Stdout,
        (None, Source::File(path)) => {
            let bare = path.extension() == Some(OsStr::new("onnx"));
            let mut name =
                if bare { path.file_stem() } else { path.file_name() }.unwrap_or_default().to_owned();
            name.push(ending);
            Destination::File(path.with_file_name(name))
        }
    }
}

impl Optimize {
    pub fn source(&self) -> Source {
        source(self.model.as_deref().unwrap_or(Path::new("-")))
    }

    /// As asked; else `a.opt.onnx` beside `a.onnx`, and standard output for standard input.
    pub fn destination(&self, source: &Source) -> Destination {
        destination(self.output.as_deref(), source, ".opt.onnx")
    }

    /// What is wrong with options that only make sense together.
    ///
    /// # Errors
    /// If an option has no effect with another one that is given.
    pub fn check(&self) -> Result<(), String> {
        if let Some((option, schemes)) = self.quantize.idle() {
            return Err(format!("{option} is for {schemes} only"));
        }
        match self.quantize.starved(&self.samples) {
            Some(option) => Err(format!("{option} measures on samples: give them with --calibrate")),
            None => Ok(()),
        }
    }

    pub fn options(&self) -> Options {
        let mut options = Options {
            level: self.level,
            effort: if self.no_verify { Effort::Off } else { self.verify },
            trial: self.trial.trial(),
            sizes: Sizes::new(),
            external_data: self.external_data,
            value_info: self.value_info,
            opset: self.opset,
            skip: self.skip.iter().cloned().collect(),
            only: self.only.iter().cloned().collect(),
            target: self.target.clone(),
            prune_dead: self.prune.dead,
            pruning: self.prune.pruning(&self.samples, self.trial.run.seed),
            quantization: self.quantize.quantization(&self.samples),
            print_after: self.print_after.clone(),
            explain: self.say.explain,
        };
        for (name, given) in self.inputs.iter().cloned() {
            match given {
                Given::Sizes(sizes) => drop(options.sizes.insert(name, sizes)),
                Given::File(file) => drop(options.trial.files.insert(name, file)),
            }
        }
        options
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
    fn the_result_lies_beside_the_model() {
        let destination = |model: &str| {
            let arguments = optimize(&[model]);
            arguments.destination(&arguments.source())
        };
        assert_eq!(destination("a/net.onnx"), Destination::File("a/net.opt.onnx".into()));
        assert_eq!(destination("net.v2"), Destination::File("net.v2.opt.onnx".into()));
        assert_eq!(destination("-"), Destination::Stdout);
    }
}
