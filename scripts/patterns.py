#!/usr/bin/env python3
"""Says which of 150 patterns onnx-opt brings down to the fewest nodes.

Every pattern stands in several spellings (pattern_book/); it counts as minimal where all of them are. Results must
pass the checker and give what the original gives in onnxruntime, both unoptimized, on random inputs of two sizes.
Constant nodes are not counted.

    python scripts/patterns.py [--only REGEX] [--binary PATH] [--extra-args ...] [--at-least N] [--failing]
"""

import argparse
import concurrent.futures
import importlib
import pathlib
import re
import shlex
import sys
import tempfile

import numpy as np
import onnx

import engines
import tool
from pattern_book.builder import PATTERNS, Model, Pattern

THEMES = ("cleanup", "layout", "windows", "products", "idioms")
SECONDS = 60


def nodes_of(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and of the bodies in it, but Constant."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return sum(node.op_type != "Constant" for node in graph.node) + sum(map(nodes_of, bodies))


def operators(model: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in model.graph.node if node.op_type != "Constant")


def outputs_of(path: pathlib.Path, feeds: list[engines.Feed]) -> list[list]:
    """What onnxruntime gives, or, for operators that it has not, the reference evaluator."""
    try:
        return engines.run_onnxruntime(path, feeds)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        return engines.run_reference(path, feeds)


def difference(expected: list[list], given: list[list]) -> str | None:
    """What sets the outputs apart, relative to the range of each."""
    for run, (before, after) in enumerate(zip(expected, given)):
        for one, other in zip(before, after):
            one, other = np.asarray(one), np.asarray(other)
            if one.shape != other.shape or one.dtype != other.dtype:
                return f"run {run}: {other.dtype}{other.shape} instead of {one.dtype}{one.shape}"
            if one.dtype.kind in "OSU":
                if not np.array_equal(one, other):
                    return f"run {run}: other strings"
                continue
            tolerance = 2e-3 if one.dtype == np.float16 else 1e-5
            wide, other = one.astype(np.float64), other.astype(np.float64)
            largest = np.abs(wide[np.isfinite(wide)]).max(initial=1e-3)
            if not np.allclose(wide, other, rtol=0, atol=tolerance * largest, equal_nan=True):
                return f"run {run}: {np.nanmax(np.abs(wide - other)):.3g} apart at values up to {largest:.3g}"
    return None


def examine(pattern: Pattern, spelling: str, options: argparse.Namespace) -> tuple[int, int, str, str]:
    """Nodes before and after, what is left, what is wrong."""
    try:
        built: Model = pattern.model(spelling)
        model = built.model(built.outputs)
    except Exception as error:
        raise ValueError(f"{pattern.name}, {spelling}: no valid model") from error
    before = nodes_of(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        original, result = pathlib.Path(folder, "original.onnx"), pathlib.Path(folder, "result.onnx")
        onnx.save(model, original)
        flags = ["-O2", *pattern.flags, "--no-verify", *options.extra_args]
        if "-O3" in flags:
            flags.remove("-O2")
        outcome = tool.optimize(options.binary, original, result, *flags, timeout=SECONDS)
        if outcome.kind:
            return before, before, "", f"{outcome.kind}: {outcome.message}"
        optimized = onnx.load(result)
        after = nodes_of(optimized.graph)
        try:
            onnx.checker.check_model(optimized, full_check=True)
            feeds = built.feeds()
            wrong = difference(outputs_of(original, feeds), outputs_of(result, feeds))
        except Exception as error:
            wrong = " ".join(str(error).split())[:300]
        return before, after, operators(optimized), wrong or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on names of patterns")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--extra-args", type=shlex.split, default=[], help="more options for onnx-opt, in one string")
    parser.add_argument("--at-least", type=int, default=0, help="fail where fewer patterns are minimal")
    parser.add_argument("--failing", action="store_true", help="print only what is not minimal or not right")
    options = parser.parse_args()
    for theme in THEMES:
        importlib.import_module(f"pattern_book.{theme}")
    chosen = [p for p in PATTERNS.values() if re.search(options.only, p.name)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = {(p.name, s): pool.submit(examine, p, s, options) for p in chosen for s in p.spellings}
        minimal = right = 0
        print(f"{'pattern':30} {'spelling':26} before after ideal right")
        for pattern in chosen:
            results = {s: jobs[pattern.name, s].result() for s in pattern.spellings}
            small = all(after <= pattern.ideal for _, after, _, _ in results.values())
            good = not any(wrong for *_, wrong in results.values())
            minimal += small and good
            right += good
            for spelling, (before, after, left, wrong) in results.items():
                if options.failing and after <= pattern.ideal and not wrong:
                    continue
                note = wrong or (left if after > pattern.ideal else "")
                print(f"{pattern.name:30} {spelling:26} {before:6} {after:5} {pattern.ideal:5} {'no' if wrong else 'yes':5} {note}".rstrip())
    print(f"{minimal} of {len(chosen)} minimal, {right} right")
    sys.exit(minimal < options.at_least or right < len(chosen))


if __name__ == "__main__":
    main()
