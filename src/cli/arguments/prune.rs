//! What is taken out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use onnx_opt::passes::prune::{self, Criterion, Limits, Multiple, Norm, Ranking};
use onnx_opt::pruning::{Goal, Pruning, Worth};
use regex::Regex;

/// What is taken out.
#[derive(Debug, Args)]
pub(super) struct Prune {
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
    pub dead: bool,
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
    /// Leave multiples of so many channels; else of 16, 8 or 4 where layers are wide and the target is met so
    #[arg(long, value_name = "N", requires = "pruned", help_heading = "Pruning")]
    round_to: Option<usize>,
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
    /// As the session takes it, if anything is to be pruned. Random importance is drawn by `seed`.
    pub fn pruning(&self, samples: &[PathBuf], seed: u64) -> Option<Pruning> {
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
            limits: Limits {
                multiple: self.round_to.map_or(Multiple::Kernels, Multiple::Of),
                floor: self.floor,
            },
            excluded: self.excluded.clone(),
            exact: self.exact,
            ..Pruning::new(goal)
        })
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1, as 0.5".to_owned()),
    }
}
