#!/usr/bin/env python3
"""Optimizes every model of a folder, verified, and checks the results in onnxruntime.

A result must load with onnxruntime's own optimizations off and on, give the original's outputs on every feed
(NAME.feed.npz, NAME.feed2.npz, else random inputs, symbolic sizes 2 and 3) within a thousandth of the output's range,
be no bigger, and stay as it is when optimized again; -O0 must give the original back.

Some originals are ill-conditioned. `own` is by how much their outputs move when float inputs grow by a millionth or
onnxruntime optimizes them; where ten times that is more than a thousandth, it is the limit, and the row has a `~`.

    python scripts/check_models.py FOLDER [--only REGEX] [--binary PATH] [--level 2] [--limit 1e-3] [--extra-args ...]
"""

import argparse
import pathlib
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

import engines
import suite
import tool

SHOWN = ("BatchNormalization", "LayerNormalization", "Gelu")
NUDGE = 1 + 1e-6


@dataclass
class Row:
    """One line of the table."""

    name: str
    before: Counter = field(default_factory=Counter)
    after: Counter = field(default_factory=Counter)
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: float = 0.0
    difference: float = 0.0
    own: float = 0.0
    limit: float = 0.0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


# ------------------------------------------------------------------ models and feeds


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def operators(model: ModelProto) -> Counter:
    """How often each operator occurs, model-local functions included."""
    counts = Counter(node.op_type for node in nodes(model.graph))
    for function in model.functions:
        counts.update(node.op_type for node in nodes(GraphProto(node=function.node)))
    return counts


def external_files(path: pathlib.Path) -> set[pathlib.Path]:
    """The files beside a model that its initializers name."""
    model = onnx.load(path, load_external_data=False)
    return {path.parent / e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}


def size(path: pathlib.Path) -> int:
    return sum(p.stat().st_size for p in (path, *external_files(path)))


def without_location(path: pathlib.Path) -> ModelProto:
    """The model with its external data inside."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return model


def identical(one: pathlib.Path, other: pathlib.Path) -> bool:
    """The same bytes; with external data, which may move, the same model."""
    if external_files(one) or external_files(other):
        return without_location(one) == without_location(other)
    return one.read_bytes() == other.read_bytes()


def random_feed(model: ModelProto, unknown: int) -> engines.Feed:
    """Random values for every graph input that has no initializer; sizes that are not known are `unknown`."""
    generator = np.random.default_rng(unknown)
    initialized = {tensor.name for tensor in model.graph.initializer}
    feed: engines.Feed = {}
    for value in model.graph.input:
        if value.name in initialized:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value if d.dim_value > 0 else unknown for d in value.type.tensor_type.shape.dim]
        if dtype == object:
            feed[value.name] = np.full(shape, "a", object)
        elif np.issubdtype(dtype, np.floating):
            feed[value.name] = generator.uniform(-1, 1, shape).astype(dtype)
        else:
            feed[value.name] = generator.integers(0, 2, shape).astype(dtype)
    return feed


def feeds_of(path: pathlib.Path) -> list[engines.Feed]:
    stored = [p for suffix in ("feed", "feed2") if (p := path.with_suffix(f".{suffix}.npz")).exists()]
    if stored:
        return [dict(np.load(p)) for p in stored]
    model = onnx.load(path, load_external_data=False)
    return [random_feed(model, unknown) for unknown in (2, 3)]


def nudged(feed: engines.Feed) -> engines.Feed:
    """The feed with every float a millionth bigger."""
    return {k: (v * NUDGE).astype(v.dtype) if np.issubdtype(v.dtype, np.floating) else v for k, v in feed.items()}


# ------------------------------------------------------------------ differences


def difference(expected: object, got: object) -> float:
    """Largest difference relative to the range of the expected values; infinite where shape, type or exactness fail."""
    if isinstance(expected, list):
        same = isinstance(got, list) and len(got) == len(expected)
        return max((difference(e, g) for e, g in zip(expected, got)), default=0.0) if same else np.inf
    if expected is None or got is None:
        return 0.0 if expected is got else np.inf
    expected, got = np.asarray(expected), np.asarray(got)
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return np.inf
    if expected.size == 0 or (expected == got).all():
        return 0.0
    if not np.issubdtype(expected.dtype, np.floating):
        return np.inf
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(got), 0, got), equal_nan=True):
        return np.inf
    values, changed = expected[finite], got[finite]
    if values.size == 0:
        return 0.0
    span = values.max() - values.min() or abs(values[0]) or 1.0
    return float(np.abs(values - changed).max() / span)


def worst(expected: list[list], got: list[list]) -> float:
    """The largest difference over feeds and outputs."""
    return max((difference(e, g) for one, other in zip(expected, got) for e, g in zip(one, other)), default=0.0)


def outputs(path: pathlib.Path, feeds: list[engines.Feed], optimized: bool) -> list[list]:
    loaded = engines.session(path, optimized, threads=0)
    return [loaded.run(None, feed) for feed in feeds]


def compare(original: pathlib.Path, result: pathlib.Path, limit: float, row: Row) -> None:
    """Runs both models; says so where the original cannot be run or is random."""
    feeds = feeds_of(original)
    try:
        plain = outputs(original, feeds, optimized=False)
    except Exception as error:
        row.notes.append(f"original does not run: {error}".splitlines()[0][:100])
        return
    # onnxruntime's generators start alike in every session, but what they give depends on the nodes before.
    if suite.RANDOM & row.before.keys():
        row.notes.append("random outputs, not compared")
        engines.session(result, optimized=False)
        return
    own = outputs(original, feeds, optimized=True)
    row.own = worst(plain, own)
    moved = worst(plain, outputs(original, [nudged(feed) for feed in feeds], optimized=False))
    # An infinite one: an integer output flips, or sizes depend on values.
    row.own = max(value for value in (row.own, moved, 0.0) if np.isfinite(value))
    row.limit = max(limit, 10 * row.own)
    for optimized in (False, True):
        state = "on" if optimized else "off"
        try:
            got = outputs(result, feeds, optimized)
        except Exception as error:
            row.failures.append(f"onnxruntime, optimizations {state}: {error}".splitlines()[0][:200])
            continue
        found = min(worst(plain, got), worst(own, got)) if optimized else worst(plain, got)
        row.difference = max(row.difference, found)
        if found > row.limit:
            row.failures.append(f"outputs differ by {found:.2g} with optimizations {state}")


# ------------------------------------------------------------------ one model


def check(path: pathlib.Path, options: argparse.Namespace, row: Row) -> None:
    """Fills the row of one model."""
    row.before, row.bytes_before = operators(onnx.load(path, load_external_data=False)), size(path)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        result, again, untouched = (folder / part / path.name for part in ("result", "again", "untouched"))

        def optimize(model: pathlib.Path, out: pathlib.Path, level: int, *flags: str) -> bool:
            out.parent.mkdir()
            outcome = tool.optimize(options.binary, model, out, f"-O{level}", *flags, *options.extra_args, timeout=options.timeout)
            if level and not flags:
                row.seconds = outcome.seconds
            if outcome.kind:
                row.failures.append(f"-O{level}: {outcome.kind}, {outcome.message}")
            return outcome.kind is None

        if optimize(path, untouched, 0, "--no-verify") and not identical(path, untouched):
            row.failures.append("-O0 changes the model")
        if not optimize(path, result, options.level):
            return
        row.after, row.bytes_after = operators(onnx.load(result, load_external_data=False)), size(result)
        if row.bytes_after > row.bytes_before:
            row.failures.append(f"{row.bytes_after - row.bytes_before:,} bytes bigger")
        if optimize(result, again, options.level, "--no-verify") and not identical(result, again):
            row.failures.append("optimizing again changes the result")
        compare(path, result, options.limit, row)


def show(row: Row) -> None:
    counts = [f"{row.before.total():,}>{row.after.total():,}"] + [f"{row.before[o]}>{row.after[o]}" for o in SHOWN]
    kept = f"{row.bytes_before:,}>{row.bytes_after:,}"
    doubtful = "~" if row.own and row.limit == 10 * row.own else " "
    verdict = "FAILED" if row.failures else "ok"
    cells = [f"{row.name[-44:]:44}", f"{counts[0]:>14}", *(f"{c:>7}" for c in counts[1:]), f"{kept:>23}", f"{row.seconds:7.2f}"]
    print(" ".join([*cells, f"{row.difference:8.1e}{doubtful}", f"{row.own:8.1e}", verdict, *(f"({n})" for n in row.notes)]), flush=True)
    for failure in row.failures:
        print(f"    {' '.join(failure.split())[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", default="", help="regular expression on file names")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1e-3)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run of onnx-opt")
    parser.add_argument("--extra-args", type=shlex.split, default=[], help="more options for onnx-opt, in one string")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if not options.binary.is_file():
        sys.exit(f"no program at {options.binary}: cargo build, or --binary PATH")
    paths = [p for p in sorted(options.folder.glob("*.onnx")) if re.search(options.only, p.name)]
    heads = [f"{'model':44}", f"{'nodes':>14}", f"{'BatchN':>7}", f"{'LayerN':>7}", f"{'Gelu':>7}", f"{'bytes':>23}"]
    print(" ".join([*heads, f"{'seconds':>7}", f"{'differ':>8} ", f"{'own':>8}"]))
    rows = []
    for path in paths:
        row = Row(path.stem)
        try:
            check(path, options, row)
        except Exception as error:
            row.failures.append(f"{type(error).__name__}: {error}")
        rows.append(row)
        show(row)
    failed = sum(bool(row.failures) for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(bool(failed) or not rows)


if __name__ == "__main__":
    main()
