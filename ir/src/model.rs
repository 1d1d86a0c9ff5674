//! A model: its main graph and what surrounds it.

use onnx_opt_proto::ModelProto;

use crate::graph::Graph;

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// Everything else: versions, producer, metadata, functions, training info, device configurations. Its own graph
    /// field is empty.
    pub rest: ModelProto,
    /// What the import had to say that is no error.
    pub notes: Vec<String>,
}

impl Model {
    /// Version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.rest.ir_version()
    }
}
