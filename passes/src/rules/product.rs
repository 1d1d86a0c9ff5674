//! Products of a value and a function of it, as activations are written in elementwise arithmetic: 0.5·x·(1 + erf(…)),
//! x·σ(1.702·x), x·clip(x + 3, 0, 6)/6. Constants may stand anywhere among the factors.

use onnx_opt_ir::{Graph, NodeId, ValueId};

use super::support::scalar;

/// Operators looked through for constant factors, at most.
const SCALES: usize = 3;
/// Operators of a polynomial on one path, at most.
const DEPTH: usize = 8;

/// Coefficients of a polynomial, the constant one first.
pub(super) type Polynomial = [f64; 4];

/// A value read as `factor`·`value`.
#[derive(Clone, Debug)]
pub(super) struct Scaled {
    /// The constant factor.
    pub factor: f64,
    /// What it multiplies.
    pub value: ValueId,
    /// The operators between.
    pub nodes: Vec<NodeId>,
}

/// A value read as `factor`·`x`·`gate`.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// The constant factor.
    pub factor: f64,
    /// The value that passes the gate.
    pub x: ValueId,
    /// What multiplies it.
    pub gate: ValueId,
    /// The operators between, those of `gate` not among them.
    pub nodes: Vec<NodeId>,
}

/// The ways to read a value as a constant times another one, itself first.
pub(super) fn scaled(graph: &Graph, value: ValueId) -> Vec<Scaled> {
    let mut ways = vec![Scaled { factor: 1.0, value, nodes: Vec::new() }];
    let mut way = ways[0].clone();
    for _ in 0..SCALES {
        let Some((id, node, 0)) = graph.producer(way.value) else { break };
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { break };
        let step = if node.is("Mul") {
            scalar(graph, b, a).map(|c| (c, a)).or_else(|| scalar(graph, a, b).map(|c| (c, b)))
        } else if node.is("Div") {
            scalar(graph, b, a).map(|c| (c.recip(), a))
        } else {
            None
        };
        let Some((factor, value)) = step else { break };
        way.nodes.push(id);
        way = Scaled { factor: way.factor * factor, value, nodes: way.nodes };
        ways.push(way.clone());
    }
    ways
}

/// The ways to read a value as a product of two that are not constant.
pub(super) fn products(graph: &Graph, value: ValueId) -> Vec<Product> {
    let mut ways = Vec::new();
    for outer in scaled(graph, value) {
        let Some((id, node)) = graph.producer_of(outer.value, "Mul") else { continue };
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { continue };
        if graph.constant(a).is_some() || graph.constant(b).is_some() {
            continue;
        }
        for (x, gate) in [(a, b), (b, a)] {
            for x in scaled(graph, x) {
                for gate in scaled(graph, gate) {
                    let mut nodes = outer.nodes.clone();
                    nodes.push(id);
                    nodes.extend(x.nodes.iter().chain(&gate.nodes));
                    let factor = outer.factor * x.factor * gate.factor;
                    ways.push(Product { factor, x: x.value, gate: gate.value, nodes });
                }
            }
        }
    }
    ways
}

/// A value as a polynomial in `x` of degree three at most; its operators are added to `nodes`.
pub(super) fn polynomial(
    graph: &Graph,
    value: ValueId,
    x: ValueId,
    nodes: &mut Vec<NodeId>,
) -> Option<Polynomial> {
    expand(graph, value, x, nodes, DEPTH)
}

fn expand(
    graph: &Graph,
    value: ValueId,
    x: ValueId,
    nodes: &mut Vec<NodeId>,
    depth: usize,
) -> Option<Polynomial> {
    if value == x {
        return Some([0.0, 1.0, 0.0, 0.0]);
    }
    if let Some(constant) = scalar(graph, value, x) {
        return Some([constant, 0.0, 0.0, 0.0]);
    }
    let depth = depth.checked_sub(1)?;
    let (id, node, _) = graph.producer(value)?;
    if !["Add", "Sub", "Mul", "Div", "Neg", "Pow"].iter().any(|op_type| node.is(op_type)) {
        return None;
    }
    let a = expand(graph, node.input(0)?, x, nodes, depth)?;
    let result = if node.is("Neg") {
        a.map(|coefficient| -coefficient)
    } else {
        let b = expand(graph, node.input(1)?, x, nodes, depth)?;
        match node.op_type() {
            "Add" => std::array::from_fn(|degree| a[degree] + b[degree]),
            "Sub" => std::array::from_fn(|degree| a[degree] - b[degree]),
            "Mul" => multiply(&a, &b)?,
            "Div" => {
                let divisor = constant(&b)?;
                a.map(|coefficient| coefficient / divisor)
            }
            _ => power(&a, constant(&b)?)?,
        }
    };
    if !nodes.contains(&id) {
        nodes.push(id);
    }
    Some(result)
}

fn constant(polynomial: &Polynomial) -> Option<f64> {
    polynomial[1..].iter().all(|&coefficient| coefficient == 0.0).then_some(polynomial[0])
}

fn power(base: &Polynomial, exponent: f64) -> Option<Polynomial> {
    if exponent == 2.0 {
        multiply(base, base)
    } else if exponent == 3.0 {
        multiply(base, &multiply(base, base)?)
    } else {
        None
    }
}

fn multiply(a: &Polynomial, b: &Polynomial) -> Option<Polynomial> {
    let mut product = Polynomial::default();
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            match product.get_mut(i + j) {
                Some(coefficient) => *coefficient += x * y,
                None if x * y == 0.0 => {}
                None => return None,
            }
        }
    }
    Some(product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn cubes_in_any_spelling() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let (three, c, two) = (f.scalar(3.0), f.scalar(0.25), f.scalar(2.0));
        let cube = f.op("Pow", &[x, three]);
        let t = f.op("Mul", &[cube, c]);
        let t = f.op("Add", &[x, t]);
        let a = f.op("Div", &[t, two]);
        let square = f.op("Mul", &[x, x]);
        let t = f.op("Mul", &[c, square]);
        let one = f.scalar(1.0);
        let t = f.op("Add", &[one, t]);
        let half = f.scalar(0.5);
        let t = f.op("Mul", &[t, half]);
        let b = f.op("Mul", &[x, t]);
        for value in [a, b] {
            let mut nodes = Vec::new();
            assert_eq!(polynomial(&f.graph, value, x, &mut nodes), Some([0.0, 0.5, 0.0, 0.125]));
            assert!(nodes.len() >= 4);
        }
        let fourth = f.op("Mul", &[cube, x]);
        assert_eq!(polynomial(&f.graph, fourth, x, &mut Vec::new()), None);
    }

    #[test]
    fn a_scalar_of_higher_rank_is_no_scalar() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let two = f.floats(&[1, 1], &[2.0]);
        let t = f.op("Mul", &[x, two]);
        assert_eq!(scaled(&f.graph, t).len(), 1);
        assert_eq!(polynomial(&f.graph, t, x, &mut Vec::new()), None);
    }

    #[test]
    fn factors_stand_anywhere() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let (half, four) = (f.scalar(0.5), f.scalar(4.0));
        let gate = f.op("Tanh", &[x]);
        let scaled_gate = f.op("Div", &[gate, four]);
        let t = f.op("Mul", &[scaled_gate, x]);
        let y = f.op("Mul", &[half, t]);
        let found = products(&f.graph, y);
        let way = found.iter().find(|way| way.x == x && way.gate == gate);
        assert!(way.is_some_and(|way| way.factor == 0.125 && way.nodes.len() == 3));
    }
}
