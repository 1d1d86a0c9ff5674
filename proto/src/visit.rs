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
