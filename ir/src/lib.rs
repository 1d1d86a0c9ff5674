//! The graph of an ONNX model: values, types, operators, import, export and inference.

pub mod attributes;
pub mod check;
pub mod dim;
pub mod engine;
pub mod equation;
pub mod export;
mod functions;
pub mod graph;
pub mod import;
pub mod infer;
pub mod load;
pub mod model;
pub mod print;
#[cfg(any(test, feature = "testing"))]
pub mod random;
pub mod regular;
pub mod schema;
pub mod tensor;
pub mod types;
mod types_proto;

pub use attributes::{Attribute, AttributeValue, Attributes};
pub use check::{CheckError, check, check_graph};
pub use dim::{Dim, Symbol};
pub use export::{export, export_node};
pub use functions::FunctionOperator;
pub use graph::{Context, Graph, GraphError, NewNode, Node, NodeId, ValueId};
pub use import::{ImportError, import};
pub use load::{LoadError, load};
pub use model::Model;
pub use print::print;
pub use tensor::{Payload, Recipe, Tensor};
pub use types::{ElementType, Shape, TensorType, Type};
