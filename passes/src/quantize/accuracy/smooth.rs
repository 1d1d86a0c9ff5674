//! Outliers of activations, moved into weights (SmoothQuant, Xiao et al., 2023).
//!
//! Where a LayerNormalization gives what products take, element j may be divided by s_j: scale and bias of the
//! normalization are divided by it, row j of the weights is multiplied by it. With a_j and w_j the largest magnitudes of
//! both, s_j = a_j^α / w_j^(1−α): at α = 1 all elements have one range, at 0 all rows.

use std::collections::BTreeMap;

use onnx_opt_ir::{Graph, GraphError, NodeId, Tensor, ValueId};

/// The largest magnitude of each element of the last axis, by the name of the value.
pub type Largest = BTreeMap<String, Vec<f32>>;

/// Names of the values whose elements may be scaled.
pub fn smoothable(graph: &Graph) -> Vec<String> {
    places(graph).iter().map(|place| graph.display_name(place.value)).collect()
}

/// Moves outliers of activations into weights, as far as `alpha`, from 0 to 1, says. Returns the number of
/// normalizations that were changed; those of which `largest` says nothing stay.
///
/// # Errors
/// If the graph refuses another constant.
pub fn smooth(graph: &mut Graph, largest: &Largest, alpha: f32) -> Result<usize, GraphError> {
    let mut count = 0;
    for place in places(graph) {
        let Some(activations) = largest.get(&graph.display_name(place.value)) else { continue };
        let Some(scales) = place.scales(graph, activations, alpha) else { continue };
        for (value, is_row) in place.constants(graph) {
            let Some(tensor) = graph.constant(value).cloned() else { continue };
            let Some(mut values) = tensor.to_f32() else { continue };
            for (index, value) in values.iter_mut().enumerate() {
                match is_row {
                    None => *value /= scales[index % scales.len()],
                    Some(inner) => *value *= scales[index / inner % scales.len()],
                }
            }
            if let Some(tensor) = Tensor::from_f32(tensor.shape(), &values) {
                graph.set_constant(value, tensor)?;
            }
        }
        count += 1;
    }
    Ok(count)
}

/// A normalization over the last axis, whose result products alone take.
struct Place {
    normalization: NodeId,
    value: ValueId,
    /// Products, and the distance of two rows of their weights.
    products: Vec<(NodeId, usize)>,
    width: usize,
}

fn places(graph: &Graph) -> Vec<Place> {
    let normalizations = graph.nodes().filter(|(_, node)| node.is("LayerNormalization"));
    normalizations.filter_map(|(id, _)| place(graph, id)).collect()
}

fn place(graph: &Graph, id: NodeId) -> Option<Place> {
    let node = graph.node(id);
    let value = node.output(0)?;
    let vector = |slot: usize| {
        let operand = node.input(slot)?;
        let tensor = graph.constant(operand).filter(|_| graph.is_inner(operand))?;
        (tensor.rank() == 1 && tensor.to_f32().is_some()).then(|| tensor.len())
    };
    let width = vector(1)?;
    let has_bias = node.input(2).is_none() || vector(2) == Some(width);
    if !has_bias || graph.is_output(value) || graph.is_pinned(value) || graph.use_count(value) == 0 {
        return None;
    }
    let product = |user: onnx_opt_ir::graph::Consumer| {
        let product = graph.node(user.node);
        let weights = product.input(1)?;
        let tensor = graph.constant(weights).filter(|_| graph.is_inner(weights))?;
        let &[rows, columns] = tensor.shape() else { return None };
        let taken = product.input(0) == Some(value) && tensor.to_f32().is_some();
        let (length, inner) = match product.op_type() {
            "MatMul" if product.is("MatMul") => (rows, columns),
            "Gemm" if product.is("Gemm") && product.int("transA") != Some(1) => match product.int("transB") {
                Some(1) => (columns, 1),
                _ => (rows, columns),
            },
            _ => return None,
        };
        (taken && length == width).then_some((user.node, inner))
    };
    let products: Option<Vec<(NodeId, usize)>> = graph.consumers(value).map(product).collect();
    Some(Place { normalization: id, value, products: products?, width })
}

impl Place {
    /// What is scaled: parameters of the normalization, and weights with the distance of their rows.
    fn constants(&self, graph: &Graph) -> Vec<(ValueId, Option<usize>)> {
        let node = graph.node(self.normalization);
        let parameters = [node.input(1), node.input(2)].into_iter().flatten().map(|value| (value, None));
        let weight = |&(id, inner): &(NodeId, usize)| Some((graph.node(id).input(1)?, Some(inner)));
        parameters.chain(self.products.iter().filter_map(weight)).collect()
    }

    /// s for each element; 1 where element or row are zero.
    fn scales(&self, graph: &Graph, activations: &[f32], alpha: f32) -> Option<Vec<f32>> {
        if activations.len() != self.width || activations.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut rows = vec![0f32; self.width];
        for &(id, inner) in &self.products {
            let values = graph.constant(graph.node(id).input(1)?)?.to_f32()?;
            for (index, value) in values.iter().enumerate() {
                let row = &mut rows[index / inner % self.width];
                *row = row.max(value.abs());
            }
        }
        let scale = |(&activation, &row): (&f32, &f32)| {
            let scale = activation.powf(alpha) / row.powf(1.0 - alpha);
            if scale.is_finite() && scale > 1e-6 { scale } else { 1.0 }
        };
        Some(activations.iter().zip(&rows).map(scale).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::testing::Fixture;

    /// Two products that take one normalization, or one of them something else too.
    fn network(shared: bool) -> Fixture {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[2, 5, 16]);
        let (scale, bias) = (f.weights(&[16]), f.weights(&[16]));
        let t = f.node(NewNode::new("LayerNormalization", [x, scale, bias]));
        let (first, second) = (f.weights(&[16, 8]), f.weights(&[16, 24]));
        let a = f.op("MatMul", &[t, first]);
        let b = f.op("MatMul", &[t, second]);
        if shared {
            let c = f.op("Relu", &[t]);
            f.output("c", c);
        }
        f.output("a", a);
        f.output("b", b);
        f
    }

    fn constant(f: &Fixture, op_type: &str, slot: usize) -> Vec<f32> {
        let (_, node) = f.graph.nodes().find(|(_, node)| node.is(op_type)).unwrap();
        f.graph.constant(node.input(slot).unwrap()).unwrap().to_f32().unwrap()
    }

    #[test]
    fn outliers_go_into_weights_and_products_stay() {
        let mut f = network(false);
        let names = smoothable(&f.graph);
        let mut activations = vec![1f32; 16];
        activations[3] = 100.0;
        let before = [constant(&f, "LayerNormalization", 1), constant(&f, "MatMul", 1)];
        let largest = Largest::from([(names[0].clone(), activations)]);
        assert_eq!(smooth(&mut f.graph, &largest, 0.5).unwrap(), 1);
        let after = [constant(&f, "LayerNormalization", 1), constant(&f, "MatMul", 1)];
        for place in 0..16 {
            let product = |of: &[Vec<f32>; 2]| of[0][place] * of[1][place * 8];
            assert!((product(&before) - product(&after)).abs() < 1e-5);
        }
        let shrunk = |place: usize| before[0][place] / after[0][place];
        assert!(shrunk(3) > 8.0 && shrunk(3) < 12.0, "the root of 100: {}", shrunk(3));
        assert!((0.9..1.5).contains(&shrunk(4)), "{}", shrunk(4));
    }

    #[test]
    fn what_others_take_too_is_not_scaled() {
        assert!(smoothable(&network(true).graph).is_empty());
    }
}
