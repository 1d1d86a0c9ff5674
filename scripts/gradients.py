#!/usr/bin/env python3
"""Holds gradients against differences, operator by operator and of whole models.

The cases are those of the backend test suite of the onnx package that have floating-point inputs and an operator that
`onnx-opt grad` knows, and fixtures, differentiated by their weights: a convolutional network, a transformer block ... Differences are central, in double
precision, by the reference evaluator; gradients are those of the loss `mse`, run in onnxruntime and, by `onnx-opt
verify` against a model that holds the differences, in tract. Where a function has a corner at the point, any value
between the slopes of its sides is right.

    python scripts/gradients.py [--only REGEX] [--binary PATH] [--verbose]
"""

import argparse
import collections
import concurrent.futures
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import engines
import suite
import tool

TOLERANCE = 1e-3
# So many elements of each value are moved, so many values of a whole model, and elements of each.
MOVED, WEIGHTS, MOVED_WEIGHTS = 16, 12, 3
STEP = 1e-5
FIXTURES = {
    "digits_cnn": "weights",
    "gelu_opset20": "inputs",
    "mobile_activations": "weights",
    "pad_conv": "weights",
    "residual_block": "weights",
    "transformer_block": "weights",
}
# Operands that are single precision whatever the operator computes in.
ALWAYS_SINGLE = {("Resize", 2)}
# Operators that compute in single precision unless an attribute says otherwise.
STASHES = ("GroupNormalization", "LayerNormalization")
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


# Cases that the reference evaluator computes otherwise than the standard says, or that single precision cannot tell.
EXCUSED = {
    "node/test_l1normalization_axis_last": "its norm of order 1 adds elements with their signs",
    # 1 - y² of a tanh that is 1 but for the last digits.
    "node/test_rnn_seq_length": "there is next to no slope",
    "node/test_simple_rnn_bidirectional": "there is next to no slope",
}


class Erf(OpRun):
    """The reference evaluator's own is of single precision."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype),)


class Gelu(OpRun):
    """The same of what is computed by it."""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / np.sqrt(2))),)


@dataclass
class Verdict:
    name: str
    operators: list[str]
    # pass, refused, wrong, unknown (nobody can take differences)
    kind: str
    words: str = ""
    error: float = 0.0
    tract: str = ""


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every single-precision value in double precision."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    kept = {node.input[i] for node in graph.node for op, i in ALWAYS_SINGLE if node.op_type == op and len(node.input) > i}
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == FLOAT and value.name not in kept:
            value.type.tensor_type.elem_type = DOUBLE
    for node in graph.node:
        if node.op_type in STASHES and not any(a.name == "stash_type" for a in node.attribute):
            node.attribute.append(helper.make_attribute("stash_type", DOUBLE))
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = DOUBLE
            if attribute.name == "stash_type" and attribute.i == FLOAT:
                attribute.i = DOUBLE
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == FLOAT and node.output[0] not in kept:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
    return model


def widened(feed: dict) -> dict:
    return {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in feed.items()}


class Slopes:
    """The slopes of a function of arrays along single elements, on both sides."""

    def __init__(self, function, values: dict[str, np.ndarray], moved: int):
        self.middle = function(values)
        self.sides: dict[str, dict[int, tuple[float, float]]] = {}
        for name, value in values.items():
            if value.dtype != np.float64 or value.size == 0:
                continue
            places = np.unique(np.linspace(0, value.size - 1, min(moved, value.size)).astype(int))
            sides = {int(place): self.slopes(function, values, name, int(place)) for place in places}
            # At the border of where the function is defined there is no slope.
            self.sides[name] = {place: pair for place, pair in sides.items() if np.isfinite(pair).all()}

    def slopes(self, function, values, name, place) -> tuple[float, float]:
        ends = []
        for step in (STEP, -STEP):
            value = values[name].copy()
            value.flat[place] += step
            ends.append((function(values | {name: value}) - self.middle) / step)
        return ends[0], ends[1]

    def nearest(self, name: str, gradient: np.ndarray) -> np.ndarray:
        """The gradient where it is between the slopes, else what is nearest to it: their mean where both agree."""
        right = gradient.astype(np.float64).copy()
        largest = max((abs(s) for pair in self.sides[name].values() for s in pair), default=0.0)
        for place, (a, b) in self.sides[name].items():
            corner = abs(a - b) > 1e-2 * max(abs(a), abs(b), 1e-2 * largest)
            low, high = (min(a, b), max(a, b)) if corner else ((a + b) / 2,) * 2
            right.flat[place] = np.clip(right.flat[place], low, high)
        return right

    def error(self, name: str, gradient: np.ndarray) -> float:
        """The largest error relative to a slope, or to a hundredth of the largest one where that is more. Slopes below
        1e-4 of a loss of about 1 drown in the rounding of single precision."""
        right = self.nearest(name, gradient)
        places = list(self.sides[name])
        expected, got = right.flat[places], gradient.astype(np.float64).flat[places]
        if not np.isfinite(got).all():
            return np.inf
        scale = np.maximum(np.abs(expected), max(1e-2 * np.abs(expected).max(initial=0), 1e-4))
        return float((np.abs(got - expected) / scale).max(initial=0))


def grad(binary: pathlib.Path, model: pathlib.Path, out: pathlib.Path, *flags: str) -> dict:
    """The report of `onnx-opt grad`; its error where it has one."""
    done = subprocess.run([binary, "grad", model, "-o", out, "--json", *flags], capture_output=True, timeout=120)
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.decode()}")
    return json.loads(done.stdout)


def loss_of(model: onnx.ModelProto, feed: dict, targets: dict[str, np.ndarray]):
    """The mean squared distance of the outputs from the targets, as a function of inputs and weights by name."""
    wide = doubled(model)
    weights = {t.name: t for t in wide.graph.initializer}
    fixed = widened(feed)

    def function(values: dict[str, np.ndarray]) -> float:
        changed = onnx.ModelProto.FromString(wide.SerializeToString()) if any(n in weights for n in values) else wide
        for tensor in changed.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
        evaluator = evaluate(changed) if changed is not wide else plain()
        inputs = fixed | {name: value for name, value in values.items() if name in fixed}
        outputs = dict(zip([o.name for o in wide.graph.output], evaluator.run(None, inputs)))
        return float(sum(np.mean((outputs[name] - target.astype(np.float64)) ** 2) for name, target in targets.items()))

    plain = functools.cache(lambda: evaluate(wide))
    return function, weights


def evaluate(model: onnx.ModelProto) -> ReferenceEvaluator:
    return ReferenceEvaluator(model, new_ops=[Erf, Gelu])


def in_tract(binary: pathlib.Path, model: pathlib.Path, feed: dict, outputs: dict, folder: pathlib.Path) -> str:
    """Whether tract computes these outputs: `ok`, or what it says."""
    gradients = onnx.load(model)
    constants = [numpy_helper.from_array(value, name + ".right") for name, value in outputs.items()]
    nodes = [helper.make_node("Identity", [name + ".right"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "right", gradients.graph.input, gradients.graph.output, constants)
    right = folder / "right.onnx"
    onnx.save(helper.make_model(graph, opset_imports=gradients.opset_import, ir_version=gradients.ir_version), right)
    np.savez(folder / "feed.npz", **feed)
    command = [binary, "verify", model, right, "--data", folder / "feed.npz", "--engine", "tract", "--tolerance", str(TOLERANCE)]
    done = subprocess.run([*command, "--json"], capture_output=True, timeout=300)
    report = json.loads(done.stdout)
    if "error" in report:
        return f"lacks: {report['error']}"
    status = report["status"] if isinstance(report["status"], str) else str(report["status"])
    reason = str(report.get("reason", ""))
    if done.returncode == 0:
        return "ok"
    return f"wrong: {reason}" if "fail" in status.lower() else f"lacks: {reason or status}"


def check(name: str, model: onnx.ModelProto, feed: dict, wrt: str, binary: pathlib.Path) -> Verdict:
    operators = sorted({node.op_type for node in model.graph.node})
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        folder = pathlib.Path(place)
        onnx.save(model, folder / "model.onnx")
        report = grad(binary, folder / "model.onnx", folder / "grad.onnx", "--wrt", wrt, "--loss", "mse")
        if "error" in report:
            return Verdict(name, operators, "refused", report["error"].split("model.onnx: ")[-1])
        try:
            outputs = dict(zip([o.name for o in model.graph.output], ReferenceEvaluator(model).run(None, feed)))
        except Exception as error:
            return Verdict(name, operators, "unknown", f"the reference evaluator fails: {str(error)[:100]}")
        generator = np.random.default_rng(1)
        targets = {n[: -len(".target")]: None for n in report["added_inputs"]}
        for output in targets:
            if not outputs[output].size or not np.isfinite(outputs[output]).all():
                return Verdict(name, operators, "unknown", "an output is empty or not finite")
            targets[output] = (outputs[output] + generator.uniform(-1, 1, outputs[output].shape)).astype(outputs[output].dtype)
        function, weights = loss_of(model, feed, targets)
        names = [g["of"] for g in report["gradients"]]
        whole = wrt == "weights"
        if whole and len(names) > WEIGHTS:
            names = [names[i] for i in np.linspace(0, len(names) - 1, WEIGHTS).astype(int)]
        known = {n: numpy_helper.to_array(t) for n, t in weights.items()} | widened(feed)
        try:
            slopes = Slopes(function, {n: known[n] for n in names if n in known}, MOVED_WEIGHTS if whole else MOVED)
        except Exception as error:
            return Verdict(name, operators, "unknown", f"no double precision: {str(error)[:100]}")
        inputs = feed | {f"{n}.target": np.asarray(t) for n, t in targets.items()}
        try:
            session = engines.session(folder / "grad.onnx", optimized=True)
            got = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs)))
        except Exception as error:
            return Verdict(name, operators, "unknown", f"onnxruntime lacks it: {str(error)[:100]}")
        gradient = {g["of"]: g["output"] for g in report["gradients"]}
        errors = {n: slopes.error(n, got[gradient[n]]) for n in slopes.sides}
        if not errors:
            return Verdict(name, operators, "unknown", "there is nothing to move")
        worst = max(errors, key=errors.__getitem__)
        if name in EXCUSED:
            return Verdict(name, operators, "unknown", EXCUSED[name])
        if errors[worst] > TOLERANCE:
            return Verdict(name, operators, "wrong", f"{worst}: {errors[worst]:.2e}", errors[worst])
        # The differences where they were taken, what onnxruntime says elsewhere.
        right = dict(got)
        for n in slopes.sides:
            right[gradient[n]] = slopes.nearest(n, got[gradient[n]]).astype(got[gradient[n]].dtype)
        tract = in_tract(binary, folder / "grad.onnx", inputs, right, folder)
        kind = "wrong" if tract.startswith("wrong") else "pass"
        return Verdict(name, operators, kind, tract if kind == "wrong" else "", errors[worst], tract)


def cases():
    """Single operators, then whole models, each with inputs and what to differentiate by."""
    for case in suite.load():
        if not case.name.startswith("node/") or not case.data_sets or case.name.endswith("_expanded"):
            continue
        model, feed = onnx.load_from_string(case.content), case.data_sets[0][0]
        if len(model.graph.node) != 1 or not all(isinstance(v, np.ndarray) for v in feed.values()):
            continue
        if any(v.dtype == np.float32 and v.size for v in feed.values()):
            yield case.name, model, feed, "inputs"
    for fixture, wrt in FIXTURES.items():
        path = tool.ROOT / "fixtures" / f"{fixture}.onnx"
        feed = dict(np.load(path.with_suffix(".feed.npz")))
        yield f"fixture/{fixture}", onnx.load(path), feed, wrt


def guarded(case, binary) -> Verdict:
    try:
        return check(*case, binary)
    except Exception as error:
        return Verdict(case[0], sorted({n.op_type for n in case[1].graph.node}), "wrong", f"{type(error).__name__}: {str(error)[:200]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names match")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--verbose", action="store_true", help="also what is refused and what nobody can tell")
    arguments = parser.parse_args()
    os.environ.pop("ORT_DYLIB_PATH", None)
    chosen = [case for case in cases() if re.search(arguments.only, case[0])]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda case: guarded(case, arguments.binary), chosen))
    for verdict in verdicts:
        if verdict.kind == "wrong" or (arguments.verbose and verdict.kind != "pass"):
            print(f"{verdict.kind:8} {verdict.name}: {verdict.words}")
        elif arguments.verbose and verdict.tract != "ok":
            print(f"{'tract':8} {verdict.name}: {verdict.tract}")
    passed = [v for v in verdicts if v.kind == "pass"]
    held = sorted({v.operators[0] for v in passed if len(v.operators) == 1})
    print(f"operators held against differences: {len(held)}: {' '.join(held)}")
    kinds = collections.Counter(v.kind for v in verdicts)
    print(f"{len([v for v in passed if v.tract == 'ok'])} of {len(passed)} also in tract; {kinds['refused']} refused, {kinds['unknown']} without differences")
    print(f"largest relative error: {max((v.error for v in passed), default=0):.1e}")
    print(f"{kinds['pass']} passed, {kinds['wrong']} failed")
    return 1 if kinds["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
