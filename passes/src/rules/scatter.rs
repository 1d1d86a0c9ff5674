//! Scatters that leave nothing of what they write into.

use onnx_opt_ir::{Dim, Graph, ValueId};

use super::facts::{becomes, counter, same_shape, shape};
use crate::rewrite::{ErrorClass, FunctionRule, Miss, Rewrite, Rule, Site, ensure, found};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "scatter_everything",
        doc: "ScatterND that writes every element in order gives what it writes.",
        class: ErrorClass::Exact,
        since: 11,
        roots: &["ScatterND"],
        rewrite: scatter_everything,
    })]
}

fn scatter_everything(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let (data, indices, updates) = (site.input(0)?, site.input(1)?, site.input(2)?);
    ensure(node.string("reduction").is_none_or(|name| name == "none"), "it combines old and new")?;
    same_shape(graph, data, updates)?;
    ensure(
        names_all_in_order(graph, indices, shape(graph, data)?)?,
        "some elements stay, or the order changes",
    )?;
    becomes(site, updates)
}

/// Whether these are the indices of the first axes of a tensor, all of them, in order.
fn names_all_in_order(graph: &Graph, indices: ValueId, sizes: &[Dim]) -> Result<bool, Miss> {
    let places = shape(graph, indices)?;
    let (depth, places) = places.split_last().ok_or("the indices are a scalar")?;
    let depth = depth.as_fixed().and_then(|depth| usize::try_from(depth).ok());
    if depth != Some(places.len()) || sizes.get(..places.len()) != Some(places) {
        return Ok(false);
    }
    if let Some(tensor) = graph.constant(indices) {
        let numbers = tensor.to_i64().ok_or("the indices cannot be read")?;
        let sizes: Option<Vec<i64>> = places.iter().map(Dim::as_fixed).collect();
        let sizes = sizes.ok_or(Miss::NoMatch)?;
        let mut expected = vec![0; sizes.len()];
        for index in numbers.chunks(sizes.len().max(1)) {
            if index != expected {
                return Ok(false);
            }
            for (place, size) in expected.iter_mut().zip(&sizes).rev() {
                *place += 1;
                if *place < *size {
                    break;
                }
                *place = 0;
            }
        }
        return Ok(true);
    }
    // Numbers from 0 on of one axis, one below the other.
    let (_, column, _) = found(graph.producer(indices))?;
    let is_column = column.is("Unsqueeze") || column.is("Reshape");
    let numbers = found(column.input(0).filter(|_| is_column && places.len() == 1))?;
    counter(graph, numbers).map(|_| true)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{ElementType, Tensor};

    use crate::testing::{Example, Fixture};

    let written = |shape: &'static [&'static str],
                   indices: fn(&mut Fixture, ValueId, bool) -> Option<ValueId>| {
        Example::new("scatter_everything", move |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.symbolic_input("x", shape), f.symbolic_input("z", shape));
            let z = f.op("Tanh", &[z]);
            let indices = indices(&mut f, x, fires).unwrap_or(x);
            let t = f.op("ScatterND", &[x, indices, z]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    vec![
        written(&["3", "N"], |f, _, fires| {
            let indices = if fires { [0, 1, 2] } else { [0, 2, 1] };
            Some(f.graph.add_constant(Tensor::from_i64(&[3, 1], &indices)?))
        }),
        written(&["2", "2", "N"], |f, _, fires| {
            let indices = [0, 0, 0, 1, 1, 0, 1, if fires { 1 } else { 0 }];
            Some(f.graph.add_constant(Tensor::from_i64(&[2, 2, 2], &indices)?))
        }),
        written(&["N", "3"], |f, x, fires| {
            let sizes = f.op("Shape", &[x]);
            let place = f.graph.add_constant(Tensor::scalar(ElementType::Int64, 0.0)?);
            let size = f.op("Gather", &[sizes, place]);
            let [zero, one] = [0.0, 1.0].map(|number| Tensor::scalar(ElementType::Int64, number));
            let (zero, one) = (f.graph.add_constant(zero?), f.graph.add_constant(one?));
            let range = f.op("Range", &[zero, size, one]);
            let range = if fires { range } else { f.op("Abs", &[range]) };
            let axis = f.integers(&[1]);
            Some(f.op("Unsqueeze", &[range, axis]))
        }),
    ]
}
