#!/usr/bin/env python3
"""Runs the backend test suite of the onnx package through onnx-opt.

A case counts where its own model gives the expected outputs in onnxruntime or, failing that, in the reference
evaluator (these verdicts are kept in target/conformance). Its optimized model must pass the checker as the original does,
keep the interface, and give the expected outputs in the same engine within the suite's own tolerance. Optimizing
again must change nothing, and -O0 must give back the same bytes. Cases without a baseline, as those that draw random
numbers, are held to all but the outputs. --constant-inputs turns the inputs into initializers first, so that whole
models fold.

    python scripts/conformance.py [--only REGEX] [--binary PATH] [--level 2] [--constant-inputs] [--extra-args ...]
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy
import onnx
from onnx import ModelProto

import suite
import tool

FOLDER = tool.TARGET / "conformance"
OPTIMIZE_SECONDS = 10
STAGE_SECONDS = 120
NO_BASELINE = "none"
KINDS = {
    "wrong": "wrong",
    "invalid": "invalid",
    "panic": "panics",
    "timeout": "timeouts",
    "refused": "refused",
    "interface": "interface",
    "idempotent": "not idempotent",
    "bytes": "not byte-identical",
}


@dataclass
class Verdict:
    """What became of a case: the engine that holds its baseline, and (kind, message) of every problem."""

    baseline: str = NO_BASELINE
    problems: list[tuple[str, str]] = field(default_factory=list)


# ------------------------------------------------------------------ one case, in a worker


def passes(engine: str, model: pathlib.Path, case: suite.Case) -> str | None:
    """None where the engine gives the expected outputs, else what is wrong."""
    import engines

    try:
        results = engines.ENGINES[engine](model, [feed for feed, _ in case.data_sets])
    except Exception as error:
        return f"{engine}: {error}".strip()
    for result, (_, expected) in zip(results, case.data_sets):
        found = suite.difference(expected, result, case.rtol, case.atol)
        if found:
            return found
    return None


def checker_says(model: pathlib.Path, full: bool) -> str | None:
    try:
        onnx.checker.check_model(str(model), full_check=full)
    except Exception as error:
        return str(error).strip() or type(error).__name__
    return None


def interface_difference(before: ModelProto, after: ModelProto, may_raise: bool) -> str | None:
    """What a caller of the model would notice. Before IR version 4 initializers are listed as inputs but are none.
    Where it was asked for, the operator set may be a later one."""
    constants = {tensor.name for tensor in before.graph.initializer} if before.ir_version < 4 else set()
    for side in ("input", "output"):
        old = [v for v in getattr(before.graph, side) if v.name not in constants or side == "output"]
        new = [v for v in getattr(after.graph, side) if v.name not in constants or side == "output"]
        if [v.name for v in old] != [v.name for v in new]:
            return f"{side}s {[v.name for v in new]} instead of {[v.name for v in old]}"
        for one, other in zip(old, new):
            if one != other:
                return f"{side} {one.name}: {other} instead of {one}".replace("\n", " ")
    for part in ("metadata_props", "doc_string", "producer_name", "domain", "model_version"):
        if getattr(before, part) != getattr(after, part):
            return f"another {part}"
    versions = {i.domain: i.version for i in before.opset_import}
    for imported in after.opset_import:
        raised = may_raise and imported.domain in ("", "ai.onnx") and imported.version > versions.get(imported.domain, 0)
        if versions.get(imported.domain) != imported.version and not raised:
            return f"opset {imported.domain}:{imported.version} instead of {versions.get(imported.domain)}"
    return None


def canonical(content: bytes) -> bool:
    """Whether writing the model again gives the same bytes. Files with another order of fields do not."""
    return onnx.load_from_string(content).SerializeToString(deterministic=True) == content


def examine(case: suite.Case, folder: pathlib.Path, options: argparse.Namespace, engines: list[str], stage) -> Verdict:
    """All checks of one case. `engines` are tried in turn; a single one is known to hold the baseline.

    `stage` is told what comes next, for whoever finds this process dead.
    """
    original, result, again = (folder / f"{name}.onnx" for name in ("original", "result", "again"))
    original.write_bytes(case.content)
    verdict = Verdict()
    for engine in engines:
        stage(f"baseline {engine}")
        if engine == NO_BASELINE or len(engines) == 1 or passes(engine, original, case) is None:
            verdict.baseline = engine
            break

    def run(model: pathlib.Path, out: pathlib.Path, level: int) -> bool:
        out.unlink(missing_ok=True)
        flags = [f"-O{level}", "--no-verify", *(options.extra_args if level else [])]
        outcome = tool.optimize(options.binary, model, out, *flags, timeout=OPTIMIZE_SECONDS)
        if outcome.kind:
            verdict.problems.append((outcome.kind, f"-O{level}: {outcome.message}"))
        return outcome.kind is None

    stage("optimize")
    if run(original, again, 0):
        same = again.read_bytes() == case.content
        if not same and canonical(case.content):
            verdict.problems.append(("bytes", "-O0 gives other bytes"))
        elif not same and onnx.load(again) != onnx.load_from_string(case.content):
            verdict.problems.append(("bytes", "-O0 gives another model"))
    if not run(original, result, options.level):
        return verdict
    if run(result, again, options.level) and again.read_bytes() != result.read_bytes():
        verdict.problems.append(("idempotent", "optimizing the result changes it"))
    stage("check")
    try:
        optimized = onnx.load(result)
    except Exception as error:
        verdict.problems.append(("invalid", f"the result is no model: {error}"))
        return verdict
    full = checker_says(original, full=True) is None
    if full or checker_says(original, full=False) is None:
        complaint = checker_says(result, full)
        if complaint:
            verdict.problems.append(("invalid", complaint))
    may_raise = options.level > 2 or any(argument.startswith("--opset") for argument in options.extra_args)
    difference = interface_difference(onnx.load_from_string(case.content), optimized, may_raise)
    if difference:
        verdict.problems.append(("interface", difference))
    if verdict.baseline != NO_BASELINE:
        stage("result")
        complaint = passes(verdict.baseline, result, case)
        if complaint:
            verdict.problems.append(("wrong", complaint))
    return verdict


def work(cases: list[suite.Case], options: argparse.Namespace, pipe: multiprocessing.connection.Connection) -> None:
    """Answers (index, engines) with stages and a verdict until told None."""
    # What a failing engine prints is no part of the report.
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    with tempfile.TemporaryDirectory() as folder, numpy.errstate(all="ignore"):
        while (job := pipe.recv()) is not None:
            index, engines = job
            pipe.send(examine(cases[index], pathlib.Path(folder), options, engines, pipe.send))


# ------------------------------------------------------------------ all cases, in the parent


class Worker:
    """A process that may die: an engine can abort."""

    def __init__(self, cases: list[suite.Case], options: argparse.Namespace) -> None:
        # fork: the cases are built once and shared.
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(cases, options, other), daemon=True)
        self.process.start()
        other.close()
        self.index, self.engines, self.stage, self.deadline = -1, [], "", 0.0

    def give(self, index: int, engines: list[str]) -> None:
        self.index, self.engines, self.stage = index, engines, "start"
        self.deadline = time.monotonic() + STAGE_SECONDS
        self.pipe.send((index, engines))

    def receive(self) -> Verdict | None:
        """A verdict, or None when only the stage changed. Raises EOFError when the process died."""
        message = self.pipe.recv()
        if isinstance(message, Verdict):
            return message
        self.stage, self.deadline = message, time.monotonic() + STAGE_SECONDS
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def after_death(worker: Worker, jobs: list[tuple[int, list[str]]]) -> Verdict | None:
    """What a dead worker says about its case: another engine is tried, or the case is judged."""
    if worker.stage.startswith("baseline"):
        dead = worker.stage.split()[1]
        jobs.append((worker.index, worker.engines[worker.engines.index(dead) + 1 :]))
        return None
    return Verdict(worker.engines[0], [("wrong", f"{worker.engines[0]} died or hung at stage {worker.stage}")])


def engines_to_try(case: suite.Case, known: dict[str, str]) -> list[str]:
    """Where the case may have its baseline, in turn. Random outputs agree in no engine but by chance."""
    if case.is_random:
        return [NO_BASELINE]
    return [known[case.name]] if case.name in known else ["onnxruntime", "reference", NO_BASELINE]


def run_all(cases: list[suite.Case], options: argparse.Namespace, known: dict[str, str]) -> list[Verdict]:
    """The verdict of every case, in order."""
    jobs = [(i, engines_to_try(case, known)) for i, case in enumerate(cases)]
    jobs.reverse()
    verdicts: dict[int, Verdict] = {}
    workers = [Worker(cases, options) for _ in range(min(options.jobs, len(jobs)))]
    busy: list[Worker] = []
    idle = list(workers)
    while jobs or busy:
        while jobs and idle:
            worker = idle.pop()
            worker.give(*jobs.pop())
            busy.append(worker)
        ready = multiprocessing.connection.wait([w.pipe for w in busy], timeout=1)
        for worker in list(busy):
            try:
                verdict = worker.receive() if worker.pipe in ready else None
                if verdict is None and time.monotonic() < worker.deadline:
                    continue
                alive = verdict is not None
            except EOFError:
                verdict, alive = None, False
            busy.remove(worker)
            if not alive:
                verdict = after_death(worker, jobs)
                index = worker.index
                worker.stop()
                idle.append(Worker(cases, options))
            else:
                index = worker.index
                idle.append(worker)
            if verdict is not None:
                verdicts[index] = verdict
    for worker in idle:
        worker.stop()
    return [verdicts[i] for i in range(len(cases))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on names like node/test_add")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--constant-inputs", action="store_true")
    parser.add_argument("--extra-args", type=shlex.split, default=[], help="more options for onnx-opt, in one string")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if not options.binary.is_file():
        sys.exit(f"no program at {options.binary}: cargo build, or --binary PATH")

    started = time.monotonic()
    cases = [case for case in suite.load() if re.search(options.only, case.name)]
    if options.constant_inputs:
        cases = [constant for case in cases if (constant := suite.with_constant_inputs(case))]
    FOLDER.mkdir(parents=True, exist_ok=True)
    from importlib.metadata import version

    variant = "-constant" if options.constant_inputs else ""
    cache = FOLDER / f"baseline-onnx{version('onnx')}-onnxruntime{version('onnxruntime')}-numpy{version('numpy')}{variant}.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    verdicts = run_all(cases, options, known)
    known |= {case.name: verdict.baseline for case, verdict in zip(cases, verdicts)}
    cache.write_text(json.dumps(known, indent=1, sort_keys=True))

    counts: Counter[str] = Counter()
    offenders = []
    for case, verdict in zip(cases, verdicts):
        counts.update({kind for kind, _ in verdict.problems})
        for kind, message in verdict.problems:
            offenders.append({"case": case.name, "operators": case.operators, "kind": kind, "message": message})
    for o in sorted(offenders, key=lambda o: (o["kind"], o["operators"])):
        print(f"{o['kind']:10} {o['case']} [{o['operators'][:60]}]: {' '.join(o['message'].split())[:200]}")
    (FOLDER / f"offenders{variant}.json").write_text(json.dumps(offenders, indent=1))
    passed = sum(not verdict.problems for verdict in verdicts)
    engines = Counter(verdict.baseline for verdict in verdicts)
    print(f"baselines: {engines['onnxruntime']} onnxruntime, {engines['reference']} reference, {engines[NO_BASELINE]} none; {time.monotonic() - started:.0f} s")
    print(f"{len(cases)} cases, {passed} pass, " + ", ".join(f"{counts[kind]} {word}" for kind, word in KINDS.items()))
    sys.exit(passed != len(cases))


if __name__ == "__main__":
    main()
