//! Every tensor of a model, wherever the schema lets one hide.

use std::convert::Infallible;

use crate::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// Calls `visit` on every tensor of `model`: initializers and attributes of the graph, of subgraphs, of functions and
/// of training information; sparse tensors as their values and indices.
pub fn for_each_tensor(model: &mut ModelProto, visit: &mut impl FnMut(&mut TensorProto)) {
    let Ok(()) = try_for_each_tensor(model, &mut |tensor| {
        visit(tensor);
        Ok::<(), Infallible>(())
    });
}

/// Like [`for_each_tensor`], and stops at the first error.
///
/// # Errors
/// The first error of `visit`.
pub fn try_for_each_tensor<E>(
    model: &mut ModelProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    let training =
        model.training_info.iter_mut().flat_map(|info| [&mut info.initialization, &mut info.algorithm]);
    for graph in [&mut model.graph].into_iter().chain(training).flatten() {
        in_graph(graph, visit)?;
    }
    for function in &mut model.functions {
        in_attributes(&mut function.attribute_proto, visit)?;
        in_nodes(&mut function.node, visit)?;
    }
    Ok(())
}

fn in_graph<E>(
    graph: &mut GraphProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    in_sparse(&mut graph.sparse_initializer, visit)?;
    in_nodes(&mut graph.node, visit)
}

fn in_nodes<E>(
    nodes: &mut [NodeProto],
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    nodes.iter_mut().try_for_each(|node| in_attributes(&mut node.attribute, visit))
}

fn in_attributes<E>(
    attributes: &mut [AttributeProto],
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    for attribute in attributes {
        attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        in_sparse(
            attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors),
            visit,
        )?;
        for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
            in_graph(graph, visit)?;
        }
    }
    Ok(())
}

fn in_sparse<'a, E>(
    tensors: impl IntoIterator<Item = &'a mut SparseTensorProto>,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    let parts = tensors.into_iter().flat_map(|sparse| [&mut sparse.values, &mut sparse.indices]);
    parts.flatten().try_for_each(visit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FunctionProto, TrainingInfoProto};

    fn tensor(name: &str) -> TensorProto {
        TensorProto { name: Some(name.into()), ..Default::default() }
    }

    fn sparse(name: &str) -> SparseTensorProto {
        let part = |part: &str| Some(tensor(&format!("{name}.{part}")));
        SparseTensorProto { values: part("values"), indices: part("indices"), ..Default::default() }
    }

    /// A graph with tensors in every place, nested once more if `inner` is given.
    fn graph(name: &str, inner: Option<GraphProto>) -> GraphProto {
        let attribute = AttributeProto {
            t: Some(Box::new(tensor(&format!("{name}.t")))),
            tensors: vec![tensor(&format!("{name}.tensors"))],
            sparse_tensor: Some(Box::new(sparse(&format!("{name}.sparse")))),
            sparse_tensors: vec![sparse(&format!("{name}.sparses"))],
            g: inner.clone().map(Box::new),
            graphs: inner.into_iter().collect(),
            ..Default::default()
        };
        GraphProto {
            node: vec![NodeProto { attribute: vec![attribute], ..Default::default() }],
            initializer: vec![tensor(&format!("{name}.initializer"))],
            sparse_initializer: vec![sparse(&format!("{name}.sparse_initializer"))],
            ..Default::default()
        }
    }

    fn model() -> ModelProto {
        let default = AttributeProto { t: Some(Box::new(tensor("default"))), ..Default::default() };
        let function = FunctionProto {
            attribute_proto: vec![default],
            node: graph("function", None).node,
            ..Default::default()
        };
        let training = TrainingInfoProto {
            initialization: Some(graph("initialization", None)),
            algorithm: Some(graph("algorithm", None)),
            ..Default::default()
        };
        ModelProto {
            graph: Some(graph("main", Some(graph("body", None)))),
            functions: vec![function],
            training_info: vec![training],
            ..Default::default()
        }
    }

    #[test]
    fn finds_each_tensor_once() {
        let mut names = Vec::new();
        for_each_tensor(&mut model(), &mut |tensor| names.push(tensor.name().to_owned()));
        // Nine in a graph; the body stands in `g` and in `graphs`; a function has no initializers.
        let count = |graph: &str| names.iter().filter(|name| name.starts_with(graph)).count();
        assert_eq!(["main", "body", "function", "default", "init", "algo"].map(count), [9, 18, 6, 1, 9, 9]);
        assert_eq!(names.len(), 52);
    }

    #[test]
    fn stops_at_an_error() {
        let mut seen = 0;
        let result = try_for_each_tensor(&mut model(), &mut |tensor| {
            seen += 1;
            if tensor.name() == "body.t" { Err(seen) } else { Ok(()) }
        });
        assert_eq!(result, Err(seen));
    }
}
