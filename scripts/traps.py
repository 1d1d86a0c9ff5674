#!/usr/bin/env python3
"""Runs models that optimizers are known to break through onnx-opt (trap_book/).

Every result must load, pass the checker where the original does, keep the interface, give what the original gives in
onnxruntime or, failing that, in the reference evaluator, on inputs of two sizes, and not change when it is optimized
again. Some have more to hold: two draws stay two draws, weights stay small.

    python scripts/traps.py [--only REGEX] [--binary PATH] [--levels 1,2,3] [--extra-args ...]
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
from patterns import difference
from trap_book.book import TRAPS, Trap, TrapModel

THEMES = ("structure", "values", "shapes", "idioms")
SECONDS = 60


def outputs_of(path: pathlib.Path, feeds: list[engines.Feed]) -> tuple[str, list[list[np.ndarray]]]:
    """The outputs of the first engine that runs the model, and its name."""
    for name in ("onnxruntime", "reference"):
        try:
            return name, engines.ENGINES[name](path, feeds)
        except Exception as error:
            said = error
    raise said


def interface(model: onnx.ModelProto) -> list:
    """What a caller knows of a model. Before IR version 4 initializers are listed as inputs but are none."""
    constants = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    return [[v.SerializeToString() for v in model.graph.input if v.name not in constants], [v.SerializeToString() for v in model.graph.output]]


def save(built: TrapModel, model: onnx.ModelProto, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "original.onnx"
    external = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if built.data_is_missing else {}
    onnx.save(model, path, **external)
    return path


def valid(path: pathlib.Path) -> str | None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return None


def examine(trap: Trap, level: int, options: argparse.Namespace) -> str | None:
    """What is wrong with the result, or None."""
    built = trap.model()
    model = built.model(built.outputs)
    built.change(model)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        original, result, again = save(built, model, folder), folder / "result.onnx", folder / "again.onnx"
        data, elsewhere = folder / "weights.bin", folder / "elsewhere.bin"
        if built.data_is_missing:
            data.rename(elsewhere)
        for source, target in ((original, result), (result, again)):
            flags = [f"-O{level}", "--no-verify", *options.extra_args]
            outcome = tool.optimize(options.binary, source, target, *flags, timeout=SECONDS)
            if built.data_is_missing and outcome.kind == "refused" and data.name in outcome.message:
                return None
            if outcome.kind:
                return f"{outcome.kind}: {outcome.message}"
        if built.data_is_missing:
            elsewhere.rename(data)
        if result.read_bytes() != again.read_bytes():
            return "optimizing the result changes it"
        complaint = valid(result)
        if complaint and valid(original) is None:
            return f"the checker says: {complaint}"
        optimized = onnx.load(result)
        if interface(optimized) != interface(onnx.load(original)):
            return "another interface"
        feeds = built.feeds()
        overridden = {t.name for t in model.graph.initializer if model.ir_version >= 4} & {v.name for v in model.graph.input}
        if overridden:
            feeds += [{k: v for k, v in feed.items() if k not in overridden} for feed in feeds]
        try:
            engine, before = outputs_of(original, feeds)
        except Exception as error:
            raise ValueError(f"{trap.name} runs nowhere") from error
        try:
            after = engines.ENGINES[engine](result, feeds)
        except Exception as error:
            return f"{engine}: {' '.join(str(error).split())[:300]}"
        complaint = None if trap.random else difference(before, after)
        return complaint or built.judge(optimized, after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on names of traps")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--levels", default="1,2,3")
    parser.add_argument("--extra-args", type=shlex.split, default=[], help="more options for onnx-opt, in one string")
    options = parser.parse_args()
    for theme in THEMES:
        importlib.import_module(f"trap_book.{theme}")
    chosen = [trap for trap in TRAPS.values() if re.search(options.only, trap.name)]
    levels = [int(level) for level in options.levels.split(",")]

    with concurrent.futures.ThreadPoolExecutor(2) as pool, np.errstate(all="ignore"):
        jobs = {(t.name, level): pool.submit(examine, t, level, options) for t in chosen for level in levels}
        right = 0
        for trap in chosen:
            complaints = {level: jobs[trap.name, level].result() for level in levels}
            right += not any(complaints.values())
            for level, complaint in complaints.items():
                if complaint:
                    print(f"{trap.name:36} -O{level} {complaint}")
    print(f"{len(chosen)} traps, {right} right")
    sys.exit(right < len(chosen))


if __name__ == "__main__":
    main()
