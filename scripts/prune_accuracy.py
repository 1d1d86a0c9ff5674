#!/usr/bin/env python3
"""Accuracy against multiply-accumulates of pruned models, on labelled tasks.

A task is a model, a file of labelled images (`images`, `labels`, and what images are divided by, `scale`), and one of
unlabelled samples to measure and recover on. Nothing that is counted here is seen by onnx-opt.

    python scripts/prune_accuracy.py --task net.onnx labelled.npz samples.npz [--task ...]

Prints a table for each task: accuracy by what units are worth, at shares of the MACs that are gone, as pruned and after
`--recover`; then the time of a run in onnxruntime and tract by share. Fails if a share of MACs is missed by more than
3 %, if the best importance by gradients is below L2 by more than chance, or if recovery is worth nothing at one half.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

import engines
import tool

BY = ["l1", "l2", "taylor", "fisher", "sensitivity", "activation", "obs", "random"]
GRADIENTS = ["taylor", "fisher", "sensitivity"]
SHARES = [0.3, 0.5, 0.7]
BATCH = 50
# Images of a run that is timed.
TIMED = 16


def accuracy(model: pathlib.Path, data: dict) -> float:
    session = engines.session(model, optimized=True)
    name = session.get_inputs()[0].name
    images, right = data["images"], 0
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH].astype(np.float32) / data["scale"]
        right += (session.run(None, {name: part})[0].argmax(1) == data["labels"][start : start + BATCH]).sum()
    return float(right / len(images))


def prune(binary: pathlib.Path, model: pathlib.Path, out: pathlib.Path, *flags: str) -> dict:
    """The part of the report on pruning; raises where there is no result."""
    command = [binary, model, "-o", out, "--json", *flags]
    done = subprocess.run(command, capture_output=True, timeout=1800)
    report = json.loads(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {report.get('error')}")
    return report["pruning"]


def library() -> pathlib.Path:
    """That of the onnxruntime package."""
    return next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))


def times(binary: pathlib.Path, models: list[pathlib.Path], engine: str) -> list[float]:
    command = [binary, "bench", *models, "--engine", engine, "--ort-lib", library(), "--size", f"batch={TIMED}", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=600, check=True)
    return [model["seconds"] for model in json.loads(done.stdout)["models"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs=3, action="append", required=True, metavar=("MODEL", "LABELLED", "SAMPLES"), type=pathlib.Path)
    parser.add_argument("--by", nargs="+", default=BY, choices=BY)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--flags", nargs="*", default=[], help="more for onnx-opt")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    wrong = []
    for task in arguments.task:
        with tempfile.TemporaryDirectory() as place:
            wrong += table(arguments, *task, pathlib.Path(place))
    for words in wrong:
        print(f"wrong: {words}")
    return 1 if wrong else 0


def table(arguments, model: pathlib.Path, labelled: pathlib.Path, samples: pathlib.Path, folder: pathlib.Path) -> list[str]:
    data = dict(np.load(labelled))
    cells = [(by, share, recover) for by in arguments.by for share in arguments.shares for recover in (False, True)]

    def cell(key) -> tuple[float, float]:
        by, share, recover = key
        out = folder / f"{by}.{share}.{recover}.onnx"
        flags = ["--prune-macs", str(share), "--prune-by", by, "--calibrate", samples, "--prune-steps", str(arguments.steps)]
        report = prune(arguments.binary, model, out, *flags, *(["--recover"] if recover else []), "--no-verify", *arguments.flags)
        return accuracy(out, data), 1 - report["after"]["macs"] / report["before"]["macs"]

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        found = dict(zip(cells, pool.map(cell, cells)))
    whole = accuracy(model, data)
    print(f"{model.name}: accuracy {whole:.3f}; of so many MACs gone, as pruned and recovered")
    print(f"{'':12}" + "".join(f"{share:>9.0%}{'':7}" for share in arguments.shares))
    for by in arguments.by:
        row = (f"{found[by, share, False][0]:9.3f} {found[by, share, True][0]:.3f} " for share in arguments.shares)
        print(f"{by:12}" + "".join(row))
    wrong = [
        f"{model.name} by {by}: {gone:.3f} of the MACs are gone, not {share}"
        for (by, share, _), (_, gone) in found.items()
        if abs(gone - share) > 0.03
    ]
    # Two standard errors of a difference between shares of so many images.
    images = len(data["images"])
    for share in arguments.shares if "l2" in arguments.by else []:
        for recover in (False, True):
            best = max((found[by, share, recover][0] for by in GRADIENTS if by in arguments.by), default=1)
            plain = found["l2", share, recover][0]
            if best < plain - 2 * np.sqrt(2 * plain * (1 - plain) / images):
                wrong.append(f"{model.name} at {share}: by gradients {best:.3f}, by l2 {plain:.3f}")
    if 0.5 in arguments.shares:
        gains = [found[by, 0.5, True][0] - found[by, 0.5, False][0] for by in arguments.by]
        print(f"recovery at 50 %: {min(gains):+.3f} to {max(gains):+.3f}, on average {np.mean(gains):+.3f}")
        if np.mean(gains) <= 0:
            wrong.append(f"{model.name}: recovery is worth nothing at one half")
    models = [folder / f"{share}.onnx" for share in [0.0, *arguments.shares]]
    for share, out in zip([0.0, *arguments.shares], models):
        flags = ["--prune-macs", str(share)] if share else []
        tool.optimize(arguments.binary, model, out, *flags, "--no-verify", timeout=600)
    for engine in ("onnxruntime", "tract"):
        seconds = times(arguments.binary, models, engine)
        print(f"time in {engine}: " + ", ".join(f"{second / seconds[0]:.2f}" for second in seconds))
        if any(later > 1.05 * earlier for earlier, later in zip(seconds, seconds[1:])):
            wrong.append(f"{model.name}: the time in {engine} does not fall")
    print(flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
