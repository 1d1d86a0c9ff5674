//! Models to be timed.

use std::path::PathBuf;

use clap::Args;

use super::run::RunArguments;

/// Models to be timed.
#[derive(Debug, Args)]
pub struct Bench {
    /// Models with the same inputs
    #[arg(required = true, value_name = "MODELS")]
    pub models: Vec<PathBuf>,
    #[command(flatten)]
    pub run: RunArguments,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
