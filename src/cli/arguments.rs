//! The arguments, and the help that explains them by example.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use onnx_opt::calibrate::CalibrateOptions;
use onnx_opt::interface::{Size, Sizes};
use onnx_opt::opset::Opset;
use onnx_opt::passes::Target;
use onnx_opt::passes::gradient::{GradientOptions, Loss, Wrt};
use onnx_opt::passes::opset::HIGHEST;
use onnx_opt::passes::prune::{self, Criterion, Limits, Norm, Ranking};
use onnx_opt::passes::quantize::accuracy::Rounding;
use onnx_opt::passes::quantize::schemes::{Scheme, SchemeOptions};
use onnx_opt::passes::quantize::{Observer, QuantizeOptions};
use onnx_opt::pruning::{Goal, Pruning, Worth};
use onnx_opt::quantization::Quantization;
use onnx_opt::session::{self, Destination, Effort, Options, Source, Trial};
use onnx_opt::static_quantization::StaticQuantization;
use onnx_opt::verify::EngineChoice;
use regex::Regex;

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

/// What is taken out.
#[derive(Debug, Args)]
struct Prune {
    /// Take out this share of the channels, heads and hidden units, as 0.5: the least important of each group
    #[arg(long = "prune", value_name = "SHARE", value_parser = share, group = "pruned", help_heading = "Pruning")]
    units: Option<f64>,
    /// Take out units until this share of the multiply-accumulates is gone
    #[arg(long = "prune-macs", value_name = "SHARE", value_parser = share, group = "pruned", help_heading = "Pruning")]
    macs: Option<f64>,
    /// Take out units until this share of the bytes of the weights is gone
    #[arg(long = "prune-bytes", value_name = "SHARE", value_parser = share, group = "pruned", help_heading = "Pruning")]
    bytes: Option<f64>,
    /// Take out units until a run takes this share less time in the engine
    #[arg(
        long = "prune-latency",
        value_name = "SHARE",
        value_parser = share,
        group = "pruned",
        help_heading = "Pruning"
    )]
    latency: Option<f64>,
    /// Take out what is one number whatever the (finite) input is, or what nobody weighs: exact, from -O2 on
    #[arg(long = "prune-dead", help_heading = "Pruning")]
    dead: bool,
    /// What units are worth: by their weights (l1, l2), by what samples tell (taylor, fisher, sensitivity, activation,
    /// obs), or nothing (random)
    #[arg(
        long = "prune-by",
        value_name = "IMPORTANCE",
        value_enum,
        default_value = "l2",
        requires = "pruned",
        help_heading = "Pruning"
    )]
    importance: ImportanceName,
    /// Which units are held against each other: those of a group, of groups of one topology, or all
    #[arg(
        long = "prune-among",
        value_name = "UNITS",
        value_enum,
        default_value = "group",
        requires = "pruned",
        help_heading = "Pruning"
    )]
    ranking: RankingName,
    /// Take them out in so many steps, and look at what is left anew after each
    #[arg(
        long = "prune-steps",
        value_name = "N",
        default_value_t = 1,
        requires = "pruned",
        help_heading = "Pruning"
    )]
    steps: usize,
    /// Fit what is left to what there was, layer by layer, on samples
    #[arg(long, requires = "pruned", help_heading = "Pruning")]
    recover: bool,
    /// Leave multiples of so many channels
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pruned", help_heading = "Pruning")]
    round_to: usize,
    /// Leave at least so many channels of each layer
    #[arg(
        long = "prune-floor",
        value_name = "N",
        default_value_t = 1,
        requires = "pruned",
        help_heading = "Pruning"
    )]
    floor: usize,
    /// Let weights and nodes whose names match alone
    #[arg(long = "prune-exclude", value_name = "REGEX", requires = "pruned", help_heading = "Pruning")]
    excluded: Vec<Regex>,
    /// Let alone what changes statistics that run over channels, as in a LayerNormalization
    #[arg(long = "prune-exact", requires = "pruned", help_heading = "Pruning")]
    exact: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ImportanceName {
    L1,
    L2,
    Taylor,
    Fisher,
    Sensitivity,
    Activation,
    Obs,
    Random,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RankingName {
    Group,
    Topology,
    All,
}

impl Prune {
    fn pruning(&self, samples: &[PathBuf], seed: u64) -> Option<Pruning> {
        let goal = match (self.units, self.macs, self.bytes, self.latency) {
            (Some(share), ..) => Goal::Counted(prune::Target::Units(share)),
            (_, Some(share), ..) => Goal::Counted(prune::Target::Macs(share)),
            (.., Some(share), _) => Goal::Counted(prune::Target::Bytes(share)),
            (.., Some(share)) => Goal::Latency(share),
            _ => return None,
        };
        Some(Pruning {
            worth: match self.importance {
                ImportanceName::L1 => Worth::Norm(Norm::L1),
                ImportanceName::L2 => Worth::Norm(Norm::L2),
                ImportanceName::Random => Worth::Norm(Norm::Random(seed)),
                ImportanceName::Taylor => Worth::Measured(Criterion::Taylor),
                ImportanceName::Fisher => Worth::Measured(Criterion::Fisher),
                ImportanceName::Sensitivity => Worth::Measured(Criterion::Sensitivity),
                ImportanceName::Activation => Worth::Measured(Criterion::Activation),
                ImportanceName::Obs => Worth::Measured(Criterion::Reconstruction),
            },
            steps: self.steps,
            recover: self.recover,
            data: samples.to_vec(),
            ranking: match self.ranking {
                RankingName::Group => Ranking::Local,
                RankingName::Topology => Ranking::Isomorphic,
                RankingName::All => Ranking::Global,
            },
            limits: Limits { multiple: self.round_to, floor: self.floor },
            excluded: self.excluded.clone(),
            exact: self.exact,
            ..Pruning::new(goal)
        })
    }
}

/// What is quantized, and how.
#[derive(Debug, Args)]
struct Quantize {
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
    /// How ranges are chosen for int8: min-max, moving-average, percentile, percentile=99.9, entropy or mse
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "mse",
        requires = "scheme",
        help_heading = "Quantization"
    )]
    calibration_method: Observer,
    /// How weights become integers: nearest, hqq, seqmse, gptq or adaround; the last two with --calibrate [default:
    /// nearest]
    #[arg(long, value_name = "WAY", value_parser = rounding, requires = "scheme", help_heading = "Quantization")]
    rounding: Option<Rounding>,
    /// Quantize these nodes alone
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
    /// Leave these nodes as they are
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "scheme",
        help_heading = "Quantization"
    )]
    exclude: Vec<String>,
}

impl Quantize {
    /// An option that says nothing to the scheme, and the schemes that it is for.
    fn idle(&self) -> Option<(&'static str, &'static str)> {
        match self.scheme.as_ref()? {
            SchemeName::Static if self.block_size.is_some() => Some(("--block-size", "schemes of weights")),
            SchemeName::Static if self.rounding.is_some() => Some(("--rounding", "schemes of weights")),
            SchemeName::Other(_) if self.calibration.is_some() => Some(("--calibration", "int8")),
            _ => None,
        }
    }

    fn quantization(&self, samples: &[PathBuf]) -> Option<session::Quantize> {
        let scheme = match self.scheme? {
            SchemeName::Static => return Some(session::Quantize::Static(self.integers(samples))),
            SchemeName::Other(scheme) => scheme,
        };
        let set = |names: &Vec<String>| names.iter().cloned().collect();
        let choice = QuantizeOptions {
            nodes: self.nodes.as_ref().map(set),
            operators: self.operators.as_ref().map(set),
            exclude: set(&self.exclude),
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
        StaticQuantization {
            calibration: self.calibration.clone(),
            observer: self.calibration_method,
            nodes: self.nodes.clone().unwrap_or_default(),
            operators: self.operators.iter().flatten().cloned().collect(),
            exclude: self.exclude.clone(),
            ..StaticQuantization::new(samples.to_vec())
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

fn block_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 4..=65536) => Ok(size),
        _ => Err("expected a number from 4 to 65536".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1, as 0.5".to_owned()),
    }
}

/// What models are compared on.
#[derive(Debug, Args)]
pub struct TrialArguments {
    /// Samples to compare on: .npz, .npy, .pb, or a folder of them; random inputs without
    #[arg(long, value_name = "PATH", help_heading = "Verification")]
    data: Vec<PathBuf>,
    /// Size of a named axis of random inputs, as in `batch=4`; the result keeps the name
    #[arg(long = "size", value_name = "NAME=N", value_parser = size, help_heading = "Verification")]
    sizes: Vec<(String, usize)>,
    /// What random inputs are drawn by
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Verification")]
    seed: u64,
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
    Sizes(Vec<Size>),
    File(PathBuf),
}

/// `NAME=SIZES` or `NAME=FILE`. The name may hold `=` and `:`. Sizes are numbers between `x`, or numbers and names
/// between commas.
fn given(text: &str) -> Result<(String, Given), String> {
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

fn size(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("expected NAME=N")?;
    Ok((name.to_owned(), size.parse().map_err(|_| "expected a size as batch=4".to_owned())?))
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
            sizes: self.sizes.iter().cloned().collect(),
            seed: self.seed,
            engine: choice(self.engine),
            library: self.ort_lib.clone(),
            tolerance: self.tolerance,
            ..Trial::default()
        }
    }
}

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
    #[command(flatten)]
    trial: TrialArguments,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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

/// Models to be timed.
#[derive(Debug, Args)]
pub struct Bench {
    /// Models with the same inputs
    #[arg(required = true, value_name = "MODELS")]
    pub models: Vec<PathBuf>,
    /// The engine that runs them [default: tract, then onnxruntime if its library is known]
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// The library of onnxruntime, as libonnxruntime.so [default: that of ORT_DYLIB_PATH]
    #[arg(long, value_name = "PATH")]
    ort_lib: Option<PathBuf>,
    /// Size of a named axis of the inputs, as in `batch=4`
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    sizes: Vec<(String, usize)>,
    /// What the inputs are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Bench {
    pub fn options(&self) -> CalibrateOptions {
        CalibrateOptions {
            engine: choice(self.engine),
            library: self.ort_lib.clone(),
            seed: self.seed,
            sizes: self.sizes.iter().cloned().collect(),
            ..CalibrateOptions::default()
        }
    }
}

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
    /// The engine that runs the model [default: tract, then onnxruntime if its library is known]
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// The library of onnxruntime, as libonnxruntime.so [default: that of ORT_DYLIB_PATH]
    #[arg(long, value_name = "PATH")]
    ort_lib: Option<PathBuf>,
    /// Size of a named axis of random samples, as in `batch=4`
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    sizes: Vec<(String, usize)>,
    /// What random samples are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
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
        CalibrateOptions {
            engine: choice(self.engine),
            library: self.ort_lib.clone(),
            random: self.random,
            seed: self.seed,
            sizes: self.sizes.iter().cloned().collect(),
            ..CalibrateOptions::default()
        }
    }
}

fn choice(engine: Option<EngineName>) -> EngineChoice {
    match engine {
        None => EngineChoice::Auto,
        Some(EngineName::Tract) => EngineChoice::Tract,
        Some(EngineName::Onnxruntime) => EngineChoice::OnnxRuntime,
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

The file holds histograms: every method may be chosen later. NaN is an error that names the value. Infinities, \
and numbers of 32768 and more that are at least 1024 times as large as all others, as masks hold, are left out.")]
    Calibrate(Box<Calibrate>),
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
        match self.quantize.idle() {
            Some((option, schemes)) => Err(format!("{option} is for {schemes} only")),
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
            pruning: self.prune.pruning(&self.samples, self.trial.seed),
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
    fn an_input_is_a_shape_or_a_file() {
        let shape = |sizes: &[i64]| Given::Sizes(sizes.iter().copied().map(Size::Fixed).collect());
        assert_eq!(given("x=1x3"), Ok(("x".into(), shape(&[1, 3]))));
        assert_eq!(given("a=b:0=2,4"), Ok(("a=b:0".into(), shape(&[2, 4]))));
        assert_eq!(given("x=d/a.npy"), Ok(("x".into(), Given::File("d/a.npy".into()))));
        let named = Given::Sizes(vec![Size::Named("axis".into()), Size::Fixed(128)]);
        assert_eq!(given("ids=axis,128"), Ok(("ids".into(), named)));
        assert!(given("x").is_err() && given("x=1x-3").is_err() && given("x=1,,3").is_err());
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
