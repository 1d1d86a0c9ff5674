//! Models of losses and gradients.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{ElementType, Graph, Model, ValueId, check};
use rustc_hash::FxHashSet;

use super::loss::Loss;
use super::writer::Writer;
use super::{GradientError, LOWEST_OPSET, backward};
use crate::dead_code::DeadCode;
use crate::opset::raise;
use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;

/// What to differentiate by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrt {
    /// Every floating-point constant with axes that has a gradient, and every input with a default.
    Weights,
    /// Every floating-point input without a default.
    Inputs,
    /// These values, whatever they are.
    Named(Vec<String>),
}

/// What to differentiate, and by what.
#[derive(Clone, Debug)]
pub struct GradientOptions {
    /// By what.
    pub wrt: Wrt,
    /// What.
    pub loss: Loss,
    /// Names of the outputs that the loss is of; empty for all that are floats.
    pub outputs: Vec<String>,
}

/// One of the values that a model was differentiated by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Name of the output that holds its gradient.
    pub gradient: String,
    /// Whether nothing leads from it to the loss, so that its gradient is all zeros.
    pub is_zero: bool,
}

/// What a model of gradients has.
#[derive(Clone, Debug)]
pub struct Differentiated {
    /// Name of the output that holds the loss.
    pub loss: String,
    /// Names of the inputs that the loss needs beside those of the model.
    pub companions: Vec<String>,
    /// One for each output after the loss.
    pub parameters: Vec<Parameter>,
}

/// Makes of a model one with the same inputs, and those that the loss needs, whose outputs are the loss and the
/// gradients of what was asked for, each under the name of its value with `.grad` behind. Functions give way to their
/// bodies, and the operator set is raised to [`LOWEST_OPSET`] if it is lower.
///
/// # Errors
/// If there is no gradient, or not what was asked for; the model is then unchanged.
pub fn differentiate(model: &mut Model, options: &GradientOptions) -> Result<Differentiated, GradientError> {
    let mut work = model.clone();
    work.inline_functions(&mut |_, _| {});
    if work.graph.opset() < LOWEST_OPSET {
        raise(&mut work, LOWEST_OPSET)?;
    }
    let graph = &mut work.graph;
    let wrt = asked(graph, &options.wrt)?;
    let mut names = Names::of(graph);
    let (loss, companions) = write_loss(graph, options, &mut names)?;
    let seed = {
        let mut writer = Writer::new(graph);
        writer.number(loss, 1.0).map_err(GradientError::writing)?
    };
    let found = backward(graph, &[(loss, seed)], &wrt)?;
    graph.drop_outputs();
    let mut result = Differentiated { loss: names.fresh("loss"), companions, parameters: Vec::new() };
    let writing = GradientError::writing;
    let mut outputs = vec![(result.loss.clone(), loss)];
    for (&value, gradient) in wrt.iter().zip(found) {
        let constant = matches!(graph.value(value).producer(), Producer::Constant(_));
        if gradient.is_none() && constant && options.wrt == Wrt::Weights {
            continue;
        }
        let name = graph.display_name(value);
        let output = names.fresh(&format!("{name}.grad"));
        let is_zero = gradient.is_none();
        let mut writer = Writer::new(graph);
        let gradient = match gradient {
            Some(gradient) => gradient,
            None => writer.zeros(value, value).map_err(writing)?,
        };
        outputs.push((output.clone(), gradient));
        result.parameters.push(Parameter { name, gradient: output, is_zero });
    }
    if result.parameters.is_empty() {
        return Err(GradientError::NothingAsked("weight that its outputs depend on"));
    }
    let mut taken = FxHashSet::default();
    for (name, value) in outputs {
        // Under a name of its own, or as a copy: inputs, constants and what has gone out already keep theirs.
        let named = graph.value(value).name().is_some() || graph.producer(value).is_none();
        let value = if named || !taken.insert(value) {
            Writer::new(graph).op("Identity", &[value]).map_err(writing)?
        } else {
            value
        };
        graph.add_output(&name, value).map_err(|error| writing(error.into()))?;
    }
    DeadCode.run(graph, &PassContext::default(), &mut Statistics::default());
    graph.sort().map_err(|_| GradientError::Cycle)?;
    check(&work)?;
    *model = work;
    Ok(result)
}

/// The values to differentiate by.
fn asked(graph: &Graph, wrt: &Wrt) -> Result<Vec<ValueId>, GradientError> {
    let is_float = |value: ValueId| graph.element(value).is_some_and(ElementType::is_float);
    let has_default = |value: ValueId| match graph.value(value).producer() {
        Producer::Input { default } => default.is_some(),
        _ => false,
    };
    let inputs = || graph.inputs().iter().map(|input| input.value).filter(|&value| is_float(value));
    match wrt {
        Wrt::Inputs => {
            let found: Vec<ValueId> = inputs().filter(|&value| !has_default(value)).collect();
            if found.is_empty() { Err(GradientError::NothingAsked("input")) } else { Ok(found) }
        }
        Wrt::Weights => {
            let mut found: Vec<ValueId> = inputs().filter(|&value| has_default(value)).collect();
            found.extend(graph.values().map(|(id, _)| id).filter(|&id| {
                let constant = matches!(graph.value(id).producer(), Producer::Constant(_));
                constant && is_float(id) && graph.rank(id) != Some(0) && graph.value(id).name().is_some()
            }));
            if found.is_empty() { Err(GradientError::NothingAsked("weight")) } else { Ok(found) }
        }
        Wrt::Named(names) => names
            .iter()
            .map(|name| match graph.value_by_name(name) {
                None => Err(GradientError::NoSuchValue(name.clone())),
                Some(value) if graph.element(value).is_some_and(|element| !element.is_float()) => {
                    Err(GradientError::NotFloat(name.clone()))
                }
                Some(value) => Ok(value),
            })
            .collect(),
    }
}

/// Writes the loss and gives it, with the names of the inputs that it needs.
fn write_loss(
    graph: &mut Graph,
    options: &GradientOptions,
    names: &mut Names,
) -> Result<(ValueId, Vec<String>), GradientError> {
    let loss = options.loss;
    let outputs = outputs(graph, &options.outputs)?;
    if loss == Loss::CrossEntropy && outputs.len() > 1 {
        let all: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        let words = format!("cross-entropy is of one output; choose of {}", all.join(", "));
        return Err(GradientError::Loss(words));
    }
    let mut companions = Vec::new();
    let mut parts = Vec::new();
    for (name, value) in outputs {
        let companion = match loss.companion() {
            None => None,
            Some(kind) => {
                let (Some(element), Some(shape)) = (graph.element(value), graph.shape(value)) else {
                    let words = format!("the loss needs to know the rank of output `{name}`");
                    return Err(GradientError::Loss(words));
                };
                let least = if loss == Loss::CrossEntropy { 2 } else { 1 };
                if shape.len() < least && loss != Loss::MeanSquaredError {
                    let words = format!("output `{name}` has {} axes, the loss needs {least}", shape.len());
                    return Err(GradientError::Loss(words));
                }
                let ty = loss.companion_type(element, shape);
                let name = names.fresh(&format!("{name}.{kind}"));
                companions.push(name.clone());
                Some(graph.add_input(&name, ty))
            }
        };
        let part = loss.write(&mut Writer::new(graph), value, companion);
        parts.push(part.map_err(GradientError::writing)?);
    }
    // Outputs may differ in type: the loss is of that of the first.
    let mut writer = Writer::new(graph);
    let mut same = Vec::new();
    for &part in &parts {
        let part = match writer.graph.element(part) == writer.graph.element(parts[0]) {
            true => Ok(part),
            false => writer.op("CastLike", &[part, parts[0]]),
        };
        same.push(part.map_err(GradientError::writing)?);
    }
    Ok((writer.total(&same).map_err(GradientError::writing)?, companions))
}

/// Names and values of the outputs that the loss is of.
fn outputs(graph: &Graph, chosen: &[String]) -> Result<Vec<(String, ValueId)>, GradientError> {
    let all: Vec<(String, ValueId)> =
        graph.outputs().iter().map(|output| (graph.display_name(output.value), output.value)).collect();
    if let Some(unknown) = chosen.iter().find(|name| !all.iter().any(|(known, _)| known == *name)) {
        return Err(GradientError::NoSuchOutput(unknown.clone()));
    }
    let is_float = |value: ValueId| graph.element(value).is_some_and(ElementType::is_float);
    if let Some((name, _)) = all.iter().find(|(name, value)| chosen.contains(name) && !is_float(*value)) {
        return Err(GradientError::NotFloat(name.clone()));
    }
    let wanted = all
        .into_iter()
        .filter(|(name, value)| chosen.contains(name) || (chosen.is_empty() && is_float(*value)))
        .collect::<Vec<_>>();
    if wanted.is_empty() {
        return Err(GradientError::NothingAsked("output"));
    }
    Ok(wanted)
}

/// Names that are taken.
struct Names(FxHashSet<String>);

impl Names {
    fn of(graph: &Graph) -> Self {
        Self(graph.values().filter_map(|(_, value)| value.name().map(str::to_owned)).collect())
    }

    /// The name, or what makes it one of its own.
    fn fresh(&mut self, name: &str) -> String {
        let mut fresh = name.to_owned();
        let mut count = 1;
        while !self.0.insert(fresh.clone()) {
            fresh = format!("{name}_{count}");
            count += 1;
        }
        fresh
    }
}
