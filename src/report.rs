//! What a model holds and costs, and what was done to it.

use std::collections::BTreeMap;

use onnx_opt_ir::graph::{Form, Producer};
use onnx_opt_ir::{Graph, Model};
use serde::Serialize;

/// One stage of the work.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Wall-clock time in seconds.
    pub seconds: f64,
}

/// What a model holds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Nodes by operator, bodies included; operators outside the default domain with their domain before a colon.
    pub operators: BTreeMap<String, usize>,
    /// Elements of all constants.
    pub parameters: u64,
    /// Size of the file and of its external data, in bytes.
    pub bytes: u64,
}

impl Summary {
    /// The summary of a model whose files take `bytes`.
    pub fn of(model: &Model, bytes: u64) -> Self {
        let mut summary = Self { operators: BTreeMap::new(), parameters: 0, bytes };
        summary.add(&model.graph);
        summary
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.operators.values().sum()
    }

    fn add(&mut self, graph: &Graph) {
        for (_, value) in graph.values() {
            let tensor = match value.producer() {
                Producer::Constant(constant) => {
                    if let Form::Node { .. } = constant.form {
                        *self.operators.entry("Constant".to_owned()).or_default() += 1;
                    }
                    &constant.tensor
                }
                Producer::Input { default: Some(tensor) } => tensor,
                _ => continue,
            };
            self.parameters += tensor.len() as u64;
        }
        for (_, node) in graph.nodes() {
            let name = match node.domain() {
                "" => node.op_type().to_owned(),
                domain => format!("{domain}:{}", node.op_type()),
            };
            *self.operators.entry(name).or_default() += 1;
            node.bodies().for_each(|body| self.add(body));
        }
    }
}

/// What was done to a model.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it came from.
    pub input: String,
    /// Where it went.
    pub output: String,
    /// Level of optimization.
    pub level: u8,
    /// As it was.
    pub before: Summary,
    /// As it is.
    pub after: Summary,
    /// Time by stage.
    pub stages: Vec<Stage>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}
