//! Attention of heads that lie side by side, as the products around it give and take them: what Transposes would turn, the
//! operator turns itself, and the past that a Concat would put before keys and values it takes as it is.

use onnx_opt_ir::{Attributes, Graph, NodeId, Tensor, ValueId};

use super::facts::{only_use, shape};
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

rules! {
    /// Attention between Transposes of heads and places = Attention of heads side by side.
    attention_of_heads [exact, since 23, shared]: Transpose(y){perm: ints perm}
        => do |site| { attention_of_heads_at(site, y, perm.as_deref()) };

    /// Attention of Concat(past, k) and Concat(past, v) = Attention of k and v with a past, which gives both as a whole.
    attention_with_past [exact, since 23, shared]: Attention(q, k, v, ..rest) => do |site| { attention_with_past_at(site) };
}

/// Heads and places change places.
pub(super) const TURNED: [i64; 4] = [0, 2, 1, 3];

/// Heads side by side, in `[batch, places, heads, size]`.
pub(super) struct Heads {
    x: ValueId,
    /// How many.
    pub count: i64,
    /// How wide each is.
    pub size: i64,
}

impl Heads {
    /// Those of a value of that shape.
    ///
    /// # Errors
    /// If it has another one, or the last two sizes are not known.
    pub(super) fn of(graph: &Graph, x: ValueId) -> Result<Self, Miss> {
        let [_, _, count, size] = shape(graph, x)? else { return Err(Miss::NoMatch) };
        let sizes = count.as_fixed().zip(size.as_fixed());
        let (count, size) = sizes.filter(|&(count, size)| count > 0 && size > 0).ok_or("heads vary")?;
        Ok(Self { x, count, size })
    }

    /// Those that a Transpose brought into `[batch, heads, places, size]`.
    ///
    /// # Errors
    /// If no Transpose did, or they vary.
    pub(super) fn turned(graph: &Graph, value: ValueId) -> Result<Self, Miss> {
        let (_, transpose) = found(graph.producer_of(value, "Transpose"))?;
        found((transpose.ints("perm") == Some(&TURNED)).then_some(()))?;
        Self::of(graph, found(transpose.input(0))?)
    }

    /// As `[batch, places, heads·size]`.
    pub(super) fn wide(&self, patch: &mut Patch) -> Operand {
        let sizes = patch.constant(Tensor::vector_i64(&[0, 0, self.count * self.size]));
        patch.node("Reshape", [self.x.into(), sizes], Attributes::new())
    }
}

/// `y`, of `[batch, places, heads·size]`, as `[batch, places, heads, size]`.
pub(super) fn apart(patch: &mut Patch, y: Operand, heads: i64, size: i64) -> Operand {
    let sizes = patch.constant(Tensor::vector_i64(&[0, 0, heads, size]));
    patch.node("Reshape", [y, sizes], Attributes::new())
}

/// Keys or values behind those of the past, along the places of `[batch, heads, places, size]`.
#[derive(Clone, Copy)]
pub(super) struct Appended {
    /// All of them.
    pub whole: ValueId,
    /// Those of the past.
    pub past: ValueId,
    /// The others.
    pub new: ValueId,
}

impl Appended {
    /// Keys and values, both behind as many of the past, of which nothing is computed but by `users`: what reads them
    /// otherwise could be what an operand of attention is made of.
    ///
    /// # Errors
    /// If they are none.
    pub(super) fn pair(graph: &Graph, k: ValueId, v: ValueId, users: &[NodeId]) -> Result<[Self; 2], Miss> {
        let pair = [Self::of(graph, k)?, Self::of(graph, v)?];
        let mut consumers = pair.iter().flat_map(|appended| graph.consumers(appended.whole));
        ensure(k != v && consumers.all(|user| users.contains(&user.node)), "what is cached has other users")?;
        let length = |appended: &Self| graph.shape(appended.past).and_then(|shape| shape.get(2)).cloned();
        let [keys, values] = pair.each_ref().map(length);
        ensure(keys.is_some() && keys == values, "the past of keys and values may differ in length")?;
        Ok(pair)
    }

    fn of(graph: &Graph, whole: ValueId) -> Result<Self, Miss> {
        let (_, concat) = found(graph.producer_of(whole, "Concat"))?;
        found(matches!(concat.int("axis"), Some(2 | -2)).then_some(()))?;
        let &[Some(past), Some(new)] = concat.inputs() else { return Err(Miss::NoMatch) };
        found((graph.rank(past) == Some(4)).then_some(()))?;
        Ok(Self { whole, past, new })
    }
}

fn attention_of_heads_at(site: &Site<'_>, y: ValueId, perm: Option<&[i64]>) -> Rewrite {
    let graph = site.graph;
    found((perm == Some(&TURNED)).then_some(()))?;
    let (_, attention) = found(graph.producer_of(y, "Attention"))?;
    found((attention.output(0) == Some(y)).then_some(()))?;
    only_use(graph, y)?;
    let heads = |index: usize| Heads::turned(graph, found(attention.input(index))?);
    let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
    ensure(k.count == v.count, "keys and values differ in heads")?;

    let mut patch = Patch::new();
    let mut operands = [&q, &k, &v].map(|heads| heads.wide(&mut patch)).to_vec();
    operands.extend(attention.inputs().iter().skip(3).map(|&operand| Operand::from(operand)));
    let mut attributes = attention.attributes().clone();
    attributes.set("q_num_heads", q.count);
    attributes.set("kv_num_heads", k.count);
    let results = patch.node_with("Attention", operands, attributes, attention.outputs().len());
    let new = apart(&mut patch, results[0], q.count, v.size);
    patch.replace(site.output()?, new);
    for (&old, &new) in attention.outputs().iter().zip(&results).skip(1) {
        if let Some(old) = old {
            patch.replace(old, new);
        }
    }
    Ok(patch)
}

fn attention_with_past_at(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let [keys, values] = Appended::pair(graph, site.input(1)?, site.input(2)?, &[site.root])?;
    let has = |operands: &[Option<ValueId>], from: usize| operands.iter().skip(from).any(Option::is_some);
    ensure(!has(node.inputs(), 4) && !has(node.outputs(), 1), "it has a past already")?;
    // Runtimes disagree about where the diagonal then begins.
    ensure(node.int("is_causal") == Some(0), "it is causal")?;

    let mut patch = Patch::new();
    let operands = [site.input(0)?, keys.new, values.new].map(Operand::from);
    let rest = [node.input(3).into(), keys.past.into(), values.past.into()];
    let operands = operands.into_iter().chain(rest);
    let results = patch.node_with("Attention", operands, node.attributes().clone(), 3);
    for (old, &new) in [site.output()?, keys.whole, values.whole].into_iter().zip(&results) {
        patch.replace(old, new);
    }
    Ok(patch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn turned(f: &mut Fixture, x: ValueId, perm: [i64; 4]) -> ValueId {
        f.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
    }
    fn concat(f: &mut Fixture, past: ValueId, new: ValueId, axis: i64) -> ValueId {
        f.node(NewNode::new("Concat", [past, new]).with("axis", axis))
    }

    vec![
        // As exporters write it, around Reshapes; keys turned the other way.
        Example::new("attention_of_heads", |fires| {
            let mut f = Fixture::new(23);
            let sizes = f.integers(&[0, 0, 3, 8]);
            let [q, k, v] = [("q", "queries"), ("k", "keys"), ("v", "keys")].map(|(name, places)| {
                let x = f.symbolic_input(name, &["batch", places, "24"]);
                f.op("Reshape", &[x, sizes])
            });
            let q = turned(&mut f, q, TURNED);
            let k = turned(&mut f, k, if fires { TURNED } else { [0, 2, 3, 1] });
            let k = if fires { k } else { turned(&mut f, k, [0, 1, 3, 2]) };
            let v = turned(&mut f, v, TURNED);
            let y = f.op("Attention", &[q, k, v]);
            let y = turned(&mut f, y, TURNED);
            let sizes = f.integers(&[0, 0, 24]);
            let y = f.op("Reshape", &[y, sizes]);
            f.with_output(y)
        }),
        // Fewer heads of keys, other sizes of values, a mask; the result by heads is used too.
        Example::new("attention_of_heads", |fires| {
            let mut f = Fixture::new(23);
            let shapes = [("q", [2, 5, 4, 8]), ("k", [2, 7, 2, 8]), ("v", [2, 7, 2, 6])];
            let [q, k, v] = shapes.map(|(name, shape)| {
                let x = f.input(name, &shape);
                turned(&mut f, x, TURNED)
            });
            let mask = f.input("mask", &[5, 7]);
            let y = f.op("Attention", &[q, k, v, mask]);
            let z = turned(&mut f, y, TURNED);
            if !fires {
                f.output("y_by_heads", y);
            }
            f.with_output(z)
        }),
        // What is cached leaves the graph; a mask is made of it.
        Example::new("attention_with_past", |fires| {
            let mut f = Fixture::new(23);
            let q = f.symbolic_input("q", &["batch", "2", "4", "8"]);
            let [k, v] = ["k", "v"].map(|name| {
                let x = f.symbolic_input(name, &["batch", "2", "4", "8"]);
                let past = f.symbolic_input(&format!("past_{name}"), &["batch", "2", "3", "8"]);
                let all = concat(&mut f, past, x, 2);
                f.output(&format!("present_{name}"), all);
                all
            });
            let mask = if fires {
                f.symbolic_input("mask", &["batch", "1", "4", "7"])
            } else {
                let k = turned(&mut f, k, [0, 1, 3, 2]);
                f.op("MatMul", &[q, k])
            };
            let y = f.op("Attention", &[q, k, v, mask]);
            f.with_output(y)
        }),
        // Without a mask; keys alone have a past, and values as many as both.
        Example::new("attention_with_past", |fires| {
            let mut f = Fixture::new(23);
            let [q, k, past_k, past_v] =
                ["q", "k", "past_k", "past_v"].map(|name| f.input(name, &[2, 2, 3, 8]));
            let v = f.input("v", &[2, 2, if fires { 3 } else { 6 }, 8]);
            let k = concat(&mut f, past_k, k, -2);
            let v = if fires { concat(&mut f, past_v, v, 2) } else { v };
            let y = f.op("Attention", &[q, k, v]);
            f.with_output(y)
        }),
    ]
}
