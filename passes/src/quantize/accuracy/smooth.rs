//! Outliers of activations, moved into weights (SmoothQuant, Xiao et al., 2023).
//!
//! Element j of what products take may be divided by s_j, where row j of their weights is multiplied by it. With a_j and
//! w_j the largest magnitudes of both, s_j = a_j^α / w_j^(1−α): at α = 1 all elements have one range, at 0 all rows. A
//! LayerNormalization whose result products alone take has its scale and bias divided; else a Mul does it, before them.

use std::collections::BTreeMap;

use onnx_opt_ir::{Graph, GraphError, NewNode, NodeId, Tensor, ValueId};

use crate::quantize::Profile;

/// The largest magnitude of each element of the last axis, by the name of the value.
pub type Largest = BTreeMap<String, Vec<f32>>;

/// How outliers are moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing {
    /// α, from 0 to 1.
    pub alpha: f32,
    /// By what the power of the noise of a place must fall, as far as steps of activations make it.
    pub least_gain: f64,
}

impl Smoothing {
    /// Where noise falls to a half or less.
    pub const WHERE_IT_PAYS: Self = Self { alpha: 0.5, least_gain: 2.0 };

    /// Everywhere.
    pub fn everywhere(alpha: f32) -> Self {
        Self { alpha, least_gain: 0.0 }
    }
}

/// Names of the values whose elements may be scaled.
pub fn smoothable(graph: &Graph, profile: &Profile) -> Vec<String> {
    places(graph, profile).iter().map(|place| graph.display_name(place.value)).collect()
}

/// Moves outliers of activations into weights. Returns the number of values that are divided; those of which `largest`
/// says nothing stay.
///
/// # Errors
/// If the graph refuses another constant or node.
pub fn smooth(
    graph: &mut Graph,
    largest: &Largest,
    smoothing: Smoothing,
    profile: &Profile,
) -> Result<usize, GraphError> {
    let mut count = 0;
    for place in places(graph, profile) {
        let Some(activations) = largest.get(&graph.display_name(place.value)) else { continue };
        let Some(scales) = place.scales(graph, activations, smoothing) else { continue };
        for &Product { node, inner } in &place.products {
            let row = |index: usize| scales[index / inner % scales.len()];
            if let Some(weights) = graph.node(node).input(1) {
                scale_constant(graph, weights, &row)?;
            }
        }
        let divisor = |index: usize| 1.0 / scales[index % scales.len()];
        match place.normalization {
            Some(node) => {
                let node = graph.node(node);
                for parameter in [node.input(1), node.input(2)].into_iter().flatten() {
                    scale_constant(graph, parameter, &divisor)?;
                }
            }
            None => place.divide(graph, &(0..scales.len()).map(divisor).collect::<Vec<_>>())?,
        }
        count += 1;
    }
    Ok(count)
}

fn scale_constant(
    graph: &mut Graph,
    value: ValueId,
    factor: &dyn Fn(usize) -> f32,
) -> Result<(), GraphError> {
    let Some(tensor) = graph.constant(value).cloned() else { return Ok(()) };
    let Some(mut values) = tensor.to_f32() else { return Ok(()) };
    values.iter_mut().enumerate().for_each(|(index, value)| *value *= factor(index));
    match Tensor::from_f32(tensor.shape(), &values) {
        Some(tensor) => graph.set_constant(value, tensor),
        None => Ok(()),
    }
}

/// A value that products take.
struct Place {
    value: ValueId,
    products: Vec<Product>,
    /// Elements of the last axis.
    width: usize,
    /// The LayerNormalization that gives it, where it can take the scales in.
    normalization: Option<NodeId>,
}

/// A product with constant weights of its own, and the distance of two rows of these.
struct Product {
    node: NodeId,
    inner: usize,
}

/// The values that products take and that are floats in any case: what else divides them would break integers up.
fn places(graph: &Graph, profile: &Profile) -> Vec<Place> {
    let mut found: BTreeMap<ValueId, Place> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let Some(value) = node.input(0) else { continue };
        let Some((width, inner)) = rows(graph, id) else { continue };
        let is_float = |op_type: &str| profile.operators().all(|name| name != op_type);
        let Some((producer, from, _)) = graph.producer(value).filter(|(_, from, _)| is_float(from.op_type()))
        else {
            continue;
        };
        let place = found.entry(value).or_insert_with(|| Place {
            value,
            products: Vec::new(),
            width,
            normalization: from.is("LayerNormalization").then_some(producer),
        });
        if place.width == width {
            place.products.push(Product { node: id, inner });
        }
    }
    let mut places: Vec<Place> = found.into_values().collect();
    for place in &mut places {
        place.normalization = place.normalization.filter(|&node| place.is_taken_in_by(graph, node));
    }
    places
}

/// Rows of the weights of a product of floats, and the distance of two of them.
fn rows(graph: &Graph, id: NodeId) -> Option<(usize, usize)> {
    let node = graph.node(id);
    let weights = node.input(1)?;
    let tensor = graph.constant(weights).filter(|_| graph.is_inner(weights))?;
    let &[rows, columns] = tensor.shape() else { return None };
    tensor.to_f32()?;
    match node.op_type() {
        "MatMul" if node.is("MatMul") => Some((rows, columns)),
        "Gemm" if node.is("Gemm") && node.int("transA") != Some(1) => match node.int("transB") {
            Some(1) => Some((columns, 1)),
            _ => Some((rows, columns)),
        },
        _ => None,
    }
}

impl Place {
    /// Whether nothing else takes the result of the normalization, and its parameters are vectors of its own.
    fn is_taken_in_by(&self, graph: &Graph, normalization: NodeId) -> bool {
        let node = graph.node(normalization);
        let is_vector = |operand: ValueId| {
            let fits = |tensor: &Tensor| tensor.shape() == [self.width] && tensor.to_f32().is_some();
            graph.is_inner(operand) && graph.constant(operand).is_some_and(|tensor| fits(tensor))
        };
        let free = !graph.is_output(self.value) && !graph.is_pinned(self.value);
        free && graph.use_count(self.value) == self.products.len()
            && node.input(1).is_some_and(is_vector)
            && node.input(2).is_none_or(is_vector)
    }

    /// Puts a Mul before the products.
    fn divide(&self, graph: &mut Graph, factors: &[f32]) -> Result<(), GraphError> {
        let Some(factors) = Tensor::from_f32(&[factors.len()], factors) else { return Ok(()) };
        let factors = graph.add_constant(factors);
        let first = self.products.iter().map(|product| graph.node(product.node).position()).min();
        let new = NewNode { position: first.unwrap_or(0), ..NewNode::new("Mul", [self.value, factors]) };
        let divided = graph.add_node(new)?;
        if let Some(divided) = graph.node(divided).output(0) {
            for product in &self.products {
                graph.set_input(product.node, 0, Some(divided))?;
            }
        }
        Ok(())
    }

    /// s for each element, 1 where element or row are zero; none where they gain too little.
    fn scales(&self, graph: &Graph, activations: &[f32], smoothing: Smoothing) -> Option<Vec<f32>> {
        if activations.len() != self.width || activations.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut rows = vec![0f32; self.width];
        let mut powers = vec![0f64; self.width];
        for product in &self.products {
            let values = graph.constant(graph.node(product.node).input(1)?)?.to_f32()?;
            for (index, value) in values.iter().enumerate() {
                let place = index / product.inner % self.width;
                rows[place] = rows[place].max(value.abs());
                powers[place] += f64::from(*value).powi(2);
            }
        }
        let scale = |(&activation, &row): (&f32, &f32)| {
            let scale = activation.powf(smoothing.alpha) / row.powf(1.0 - smoothing.alpha);
            if scale.is_finite() && scale > 1e-6 { scale } else { 1.0 }
        };
        let scales: Vec<f32> = activations.iter().zip(&rows).map(scale).collect();
        // Steps are as wide as the largest element is, and their noise meets every row: (max a)²·Σ|w_j|².
        let noise = |divided: &dyn Fn(usize) -> f64| {
            let range = (0..self.width).map(|j| f64::from(activations[j]) / divided(j)).fold(0.0, f64::max);
            range.powi(2) * (0..self.width).map(|j| powers[j] * divided(j).powi(2)).sum::<f64>()
        };
        let (before, after) = (noise(&|_| 1.0), noise(&|j| scales[j].into()));
        (before >= smoothing.least_gain * after).then_some(scales)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::target::Target;
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

    fn profile() -> Profile {
        Target::named("onnxruntime").unwrap().quantization().unwrap()
    }

    /// Smooths where one element in sixteen is so many times as large as the others.
    fn smoothed(f: &mut Fixture, outlier: f32, smoothing: Smoothing) -> usize {
        let names = smoothable(&f.graph, &profile());
        let mut activations = vec![1f32; 16];
        activations[3] = outlier;
        let largest = names.into_iter().map(|name| (name, activations.clone())).collect();
        smooth(&mut f.graph, &largest, smoothing, &profile()).unwrap()
    }

    #[test]
    fn outliers_go_into_weights_and_products_stay() {
        let mut f = network(false);
        let before = [constant(&f, "LayerNormalization", 1), constant(&f, "MatMul", 1)];
        assert_eq!(smoothed(&mut f, 100.0, Smoothing::everywhere(0.5)), 1);
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
    fn what_others_take_too_is_divided_before_the_products_alone() {
        let mut f = network(true);
        let scale = constant(&f, "LayerNormalization", 1);
        let weights = constant(&f, "MatMul", 1);
        assert_eq!(smoothed(&mut f, 100.0, Smoothing::everywhere(0.5)), 1);
        assert_eq!(constant(&f, "LayerNormalization", 1), scale);
        let (factors, scaled) = (constant(&f, "Mul", 1), constant(&f, "MatMul", 1));
        for place in 0..16 {
            assert!((scaled[place * 8] * factors[place] - weights[place * 8]).abs() < 1e-5);
        }
        let takes = |op_type: &str| {
            let node = f.graph.nodes().find(|(_, node)| node.is(op_type)).unwrap().1;
            f.graph.producer(node.input(0).unwrap()).unwrap().1.op_type().to_owned()
        };
        assert_eq!([takes("MatMul"), takes("Relu")], ["Mul", "LayerNormalization"]);
    }

    #[test]
    fn a_place_is_left_where_it_gains_little() {
        assert_eq!(smoothed(&mut network(true), 2.0, Smoothing::WHERE_IT_PAYS), 0);
        assert_eq!(smoothed(&mut network(true), 100.0, Smoothing::WHERE_IT_PAYS), 1);
    }

    #[test]
    fn what_may_be_integers_is_not_divided() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[2, 16]);
        let t = f.op("Relu", &[x]);
        let weights = f.weights(&[16, 8]);
        let y = f.op("MatMul", &[t, weights]);
        assert!(smoothable(&f.with_output(y).graph, &profile()).is_empty());
    }
}
