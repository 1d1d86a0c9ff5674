//! Sequences and optional values whose members are known.

use onnx_opt_ir::{Attributes, ElementType, Graph, Node, Tensor, Type, ValueId};

use super::facts::{axis, becomes, shape, with_axes};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    let rule = |name, doc, roots, rewrite| -> Box<dyn Rule> {
        Box::new(FunctionRule { name, doc, class: ErrorClass::Exact, since: 11, roots, rewrite })
    };
    vec![
        rule("sequence_member", "A member of a sequence whose members are known.", &["SequenceAt"], member),
        rule(
            "sequence_part",
            "A member of a tensor that SplitToSequence takes apart is a Gather or Slice of it.",
            &["SequenceAt"],
            part,
        ),
        rule("sequence_length", "The length of a sequence, if it is known.", &["SequenceLength"], length),
        rule(
            "sequence_concat",
            "ConcatFromSequence of a sequence whose members are known is a Concat of them.",
            &["ConcatFromSequence"],
            concat,
        ),
        rule(
            "sequence_concat_back",
            "ConcatFromSequence of what SplitToSequence took apart.",
            &["ConcatFromSequence"],
            concat_back,
        ),
        rule(
            "optional_element",
            "The element of an optional value that has one.",
            &["OptionalGetElement"],
            |site| becomes(site, found(element(site.graph, site.node())?)?),
        ),
        rule(
            "optional_presence",
            "Whether an optional value has an element, if that is known.",
            &["OptionalHasElement"],
            |site| {
                let presence = u8::from(element(site.graph, site.node())?.is_some());
                constant(site, Tensor::scalar(ElementType::Bool, presence.into()))
            },
        ),
    ]
}

/// Longer sequences are not looked through.
const LENGTH: usize = 256;

/// The members of a sequence, and how many operators build it.
fn members(graph: &Graph, sequence: ValueId) -> Result<(Vec<ValueId>, usize), Miss> {
    let mut steps = Vec::new();
    let mut value = sequence;
    let mut members = loop {
        let (_, node, _) = found(graph.producer(value))?;
        if node.is("SequenceConstruct") {
            break found(node.inputs().iter().copied().collect::<Option<Vec<ValueId>>>())?;
        }
        if node.is("SequenceEmpty") {
            break Vec::new();
        }
        if !(node.is("SequenceInsert") || node.is("SequenceErase")) || steps.len() == LENGTH {
            return Err(Miss::NoMatch);
        }
        steps.push(node);
        value = found(node.input(0))?;
    };
    let count = steps.len() + 1;
    for node in steps.into_iter().rev() {
        let inserts = node.is("SequenceInsert");
        let place = match node.input(if inserts { 2 } else { 1 }) {
            Some(place) => position(graph, place, members.len())?,
            None if inserts => members.len(),
            None => members.len().checked_sub(1).ok_or("nothing can be erased")?,
        };
        if inserts {
            ensure(place <= members.len(), "a position is out of range")?;
            members.insert(place, found(node.input(1))?);
        } else {
            ensure(place < members.len(), "a position is out of range")?;
            members.remove(place);
        }
    }
    Ok((members, count))
}

/// A position in a sequence of this length, counted from the front.
fn position(graph: &Graph, place: ValueId, length: usize) -> Result<usize, Miss> {
    let number = graph.constant(place).and_then(|place| place.single_i64());
    let number = number.ok_or("a position is not constant")?;
    let counted = if number < 0 { number.checked_add(length as i64) } else { Some(number) };
    counted.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| "a position is out of range".into())
}

fn member(site: &Site<'_>) -> Rewrite {
    let (members, _) = members(site.graph, site.input(0)?)?;
    let place = position(site.graph, site.input(1)?, members.len())?;
    becomes(site, *members.get(place).ok_or("a position is out of range")?)
}

fn constant(site: &Site<'_>, tensor: Option<Tensor>) -> Rewrite {
    let mut patch = Patch::new();
    let new = patch.constant(found(tensor)?);
    finish(site, patch, new)
}

/// The node that takes a tensor apart, the tensor, and the axis.
fn taken_apart(graph: &Graph, sequence: ValueId) -> Result<(&Node, ValueId, usize), Miss> {
    let (_, split) = found(graph.producer_of(sequence, "SplitToSequence"))?;
    let x = found(split.input(0))?;
    let along = axis(split.int("axis").unwrap_or(0), shape(graph, x)?.len())?;
    Ok((split, x, along))
}

/// Whether the parts have no axis where they were taken apart.
fn drops_axis(split: &Node) -> bool {
    split.input(1).is_none() && split.int("keepdims") == Some(0)
}

fn part(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let (split, x, along) = taken_apart(graph, site.input(0)?)?;
    let size = shape(graph, x)?[along].as_fixed();
    let mut patch = Patch::new();
    if split.input(1).is_none() {
        let place = site.input(1)?;
        let index = if drops_axis(split) {
            ensure(graph.rank(place) == Some(0), "the position is no scalar")?;
            place.into()
        } else {
            let place = graph.constant(place).and_then(|place| place.single_i64());
            patch.constant(Tensor::vector_i64(&[place.ok_or("a position is not constant")?]))
        };
        let attributes = Attributes::from_pairs([("axis", (along as i64).into())]);
        let new = patch.node("Gather", [x.into(), index], attributes);
        return finish(site, patch, new);
    }
    let sizes = part_sizes(graph, split, size)?;
    let place = position(graph, site.input(1)?, sizes.len())?;
    let part = *sizes.get(place).ok_or("a position is out of range")?;
    let start: i64 = sizes[..place].iter().sum();
    let bounds =
        [start, start + part, along as i64].map(|bound| patch.constant(Tensor::vector_i64(&[bound])));
    let new = patch.node("Slice", [&[x.into()][..], &bounds].concat(), Attributes::new());
    finish(site, patch, new)
}

/// The sizes of the parts of an axis of this size.
fn part_sizes(graph: &Graph, split: &Node, size: Option<i64>) -> Result<Vec<i64>, Miss> {
    let size = size.ok_or("the size of the axis is not known")?;
    let Some(operand) = split.input(1) else {
        ensure(size <= LENGTH as i64, "there are too many parts")?;
        return Ok(vec![1; usize::try_from(size).unwrap_or(0)]);
    };
    let given = graph.constant(operand).ok_or("the sizes are not constant")?;
    let sizes = given.to_i64().ok_or("the sizes cannot be read")?;
    let (0, &[part]) = (given.rank(), sizes.as_slice()) else {
        let fits = sizes.len() <= LENGTH && sizes.iter().all(|part| (0..=size).contains(part));
        ensure(fits && sizes.iter().sum::<i64>() == size, "the sizes do not add up")?;
        return Ok(sizes);
    };
    ensure(part > 0 && size / part < LENGTH as i64, "there are too many parts")?;
    let whole = usize::try_from(size / part).unwrap_or(0);
    let rest = (size % part > 0).then_some(size % part);
    Ok(std::iter::repeat_n(part, whole).chain(rest).collect())
}

fn length(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let count = match members(graph, site.input(0)?) {
        Ok((members, _)) => members.len(),
        Err(Miss::NoMatch) => {
            let (split, x, along) = taken_apart(graph, site.input(0)?)?;
            let size = shape(graph, x)?[along].as_fixed();
            match (split.input(1), size) {
                (None, Some(size)) => usize::try_from(size).map_err(|_| Miss::NoMatch)?,
                _ => part_sizes(graph, split, size)?.len(),
            }
        }
        Err(miss) => return Err(miss),
    };
    constant(site, Tensor::scalar(ElementType::Int64, count as f64))
}

fn concat(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let (members, count) = members(graph, site.input(0)?)?;
    let along = found(node.int("axis"))?;
    ensure(!members.is_empty(), "there are no members")?;
    let stacks = node.int("new_axis").unwrap_or(0) != 0;
    let mut patch = Patch::new();
    let mut operands: Vec<Operand> = members.iter().map(|&member| member.into()).collect();
    if stacks {
        // Each member needs an operator of its own.
        let goes = graph.is_inner(site.input(0)?);
        ensure(goes && count >= members.len(), "there would be more operators")?;
        operands = members.iter().map(|&x| with_axes(site, &mut patch, "Unsqueeze", x, &[along])).collect();
    }
    let new = match operands.as_slice() {
        &[operand] => operand,
        _ => patch.node("Concat", operands, Attributes::from_pairs([("axis", along.into())])),
    };
    finish(site, patch, new)
}

fn concat_back(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let (split, x, along) = taken_apart(graph, site.input(0)?)?;
    let rank = shape(graph, x)?.len();
    let stacks = node.int("new_axis").unwrap_or(0) != 0;
    ensure(stacks == drops_axis(split), "an axis comes or goes")?;
    ensure(axis(found(node.int("axis"))?, rank)? == along, "the axes differ")?;
    // Nothing can be joined of no parts.
    ensure(shape(graph, x)?[along].proves_positive(), "there may be no part")?;
    becomes(site, x)
}

/// What an optional value holds, or `None` if it is known to hold nothing.
fn element(graph: &Graph, node: &Node) -> Result<Option<ValueId>, Miss> {
    let Some(value) = node.input(0) else { return Ok(None) };
    if let Some(Type::Tensor(_) | Type::Sequence(_)) = graph.ty(value) {
        return Ok(Some(value));
    }
    let (_, optional) = found(graph.producer_of(value, "Optional"))?;
    Ok(optional.input(0))
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{Dim, NewNode};

    use crate::testing::{Example, Fixture};

    let place = |f: &mut Fixture, place: f64| {
        let place = Tensor::scalar(ElementType::Int64, place);
        place.map(|place| f.graph.add_constant(place))
    };
    // Two members, joined one by one.
    let inserted = move |f: &mut Fixture| {
        let (x, z) = (f.symbolic_input("x", &["N", "4"]), f.symbolic_input("z", &["N", "4"]));
        let empty = f.op("SequenceEmpty", &[]);
        let one = f.op("SequenceInsert", &[empty, x]);
        let first = place(f, -1.0);
        let inputs = vec![Some(one), Some(z), first];
        f.node(NewNode { inputs, ..NewNode::new("SequenceInsert", []) })
    };
    let constructed = |f: &mut Fixture| {
        let (x, z) = (f.symbolic_input("x", &["N", "4"]), f.symbolic_input("z", &["M", "4"]));
        f.op("SequenceConstruct", &[x, z, x])
    };
    let unknown = |f: &mut Fixture| {
        let member = Type::tensor(ElementType::Float, [Dim::symbol("N"), Dim::fixed(4)]);
        f.graph.add_input("s", Type::Sequence(Some(Box::new(member))))
    };
    let at = move |f: &mut Fixture, sequence: ValueId, index: f64| {
        let inputs = vec![Some(sequence), place(f, index)];
        let t = f.node(NewNode { inputs, ..NewNode::new("SequenceAt", []) });
        f.op("Neg", &[t])
    };
    let split = move |f: &mut Fixture, size: &str, sizes: Option<ValueId>, keepdims: i64| {
        let x = f.symbolic_input("x", &["2", size]);
        let inputs = [Some(x), sizes].into_iter().take_while(Option::is_some).collect();
        let node = NewNode { inputs, ..NewNode::new("SplitToSequence", []) };
        f.node(node.with("axis", 1).with("keepdims", keepdims))
    };
    let part = move |sizes: &'static [i64], keepdims: i64, index: f64, size: [&'static str; 2]| {
        Example::new("sequence_part", move |fires| {
            let mut f = Fixture::new(13);
            let sizes = (!sizes.is_empty()).then(|| f.integers(sizes));
            let sequence = if fires || sizes.is_some() {
                split(&mut f, size[usize::from(!fires)], sizes, keepdims)
            } else {
                unknown(&mut f)
            };
            let y = at(&mut f, sequence, index);
            f.with_output(y)
        })
    };
    let joined = |f: &mut Fixture, sequence: ValueId, axis: i64, new_axis: i64| {
        let node = NewNode::new("ConcatFromSequence", [sequence]).with("axis", axis);
        f.node(node.with("new_axis", new_axis))
    };
    vec![
        Example::new("sequence_member", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = constructed(&mut f);
            let y = at(&mut f, sequence, if fires { -2.0 } else { 3.0 });
            f.with_output(y)
        }),
        Example::new("sequence_member", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = if fires { inserted(&mut f) } else { unknown(&mut f) };
            let y = at(&mut f, sequence, 1.0);
            f.with_output(y)
        }),
        part(&[], 0, -1.0, ["N", "N"]),
        part(&[], 1, 1.0, ["N", "N"]),
        part(&[2, 3, 1], 1, 1.0, ["6", "N"]),
        Example::new("sequence_length", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = if fires { constructed(&mut f) } else { unknown(&mut f) };
            let y = f.op("SequenceLength", &[sequence]);
            let y = f.op("Neg", &[y]);
            f.with_output(y)
        }),
        Example::new("sequence_length", move |fires| {
            let mut f = Fixture::new(13);
            let sizes = place(&mut f, 2.0);
            let sequence = split(&mut f, if fires { "5" } else { "N" }, sizes, 1);
            let y = f.op("SequenceLength", &[sequence]);
            let y = f.op("Neg", &[y]);
            f.with_output(y)
        }),
        Example::new("sequence_concat", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = if fires { constructed(&mut f) } else { unknown(&mut f) };
            let y = joined(&mut f, sequence, 0, 0);
            f.with_output(y)
        }),
        Example::new("sequence_concat", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = inserted(&mut f);
            if !fires {
                let y = f.op("SequenceLength", &[sequence]);
                f.output("length", y);
            }
            let y = joined(&mut f, sequence, -1, 1);
            f.with_output(y)
        }),
        Example::new("sequence_concat_back", move |fires| {
            let mut f = Fixture::new(13);
            let sizes = f.integers(&[1, 4]);
            let sequence = split(&mut f, "5", Some(sizes), 0);
            let y = joined(&mut f, sequence, if fires { -1 } else { 0 }, 0);
            let y = f.op("Neg", &[y]);
            f.with_output(y)
        }),
        Example::new("sequence_concat_back", move |fires| {
            let mut f = Fixture::new(13);
            let sequence = split(&mut f, "5", None, i64::from(!fires));
            let y = joined(&mut f, sequence, 1, 1);
            let y = f.op("Neg", &[y]);
            f.with_output(y)
        }),
        optional("optional_element"),
        optional("optional_presence"),
    ]
}

/// An element of an optional value, or whether there is one.
#[cfg(any(test, feature = "testing"))]
fn optional(rule: &'static str) -> crate::testing::Example {
    use onnx_opt_ir::Dim;

    use crate::testing::{Example, Fixture};

    Example::new(rule, move |fires| {
        let mut f = Fixture::new(18);
        let value = if fires {
            let x = f.input("x", &[2]);
            f.op("Optional", &[x])
        } else {
            let inner = Type::tensor(ElementType::Float, [Dim::fixed(2)]);
            f.graph.add_input("o", Type::Optional(Some(Box::new(inner))))
        };
        let (op_type, then) = match rule {
            "optional_element" => ("OptionalGetElement", "Neg"),
            _ => ("OptionalHasElement", "Not"),
        };
        let t = f.op(op_type, &[value]);
        let y = f.op(then, &[t]);
        f.with_output(y)
    })
}
