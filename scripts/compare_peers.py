#!/usr/bin/env python3
"""Runs onnx-opt and the optimizers of the Python world over a folder of models and holds the results side by side.

    nodes      Constant nodes not counted, bodies and model-local functions counted
    bytes      of the file and its external data
    seconds    of the whole process, start and imports included, best of --runs, or of all within a second: what takes
               a few milliseconds needs more runs until one is not disturbed; the tools take turns
    peak       most resident memory of the process, MB
    differ     largest difference from the original in onnxruntime relative to the range of an output, over all feeds,
               onnxruntime's own optimizations off and on; `!` where that is too much (the limit of check_models.py)
    latency    time in onnxruntime at its default settings over the original's

A latency is the ratio of medians of interleaved runs. One above 1.02 is measured again with new sessions, four times
at most, and the smallest ratio counts: what is slower is slower every time, what a busy machine does is not.

Peers: onnxsim, onnxslim, onnxscript (its optimizer) and onnxruntime (offline, its basic level: standard operators).
They are those of the interpreter that runs this script: pip install onnxsim onnxslim onnxscript.

    python scripts/compare_peers.py FOLDER [--binary PATH] [--only REGEX] [--peers a,b] [--json FILE]
"""

# The process that starts the others imports nothing large: the peak of a child counts what its parent held.
import argparse
import json
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import tool

OURS = "onnx-opt"
ORIGINAL = "original"
SLOWER = 1.02
MEASUREMENTS = 5
LEAST = 1.0
ROUNDS = (15, 400)

# ------------------------------------------------------------------ peers, each in a process of its own


def onnxsim(model: str, out: str) -> None:
    import onnxsim

    onnxsim.simplify(model, output_path=out)


def onnxslim(model: str, out: str) -> None:
    import onnxslim

    onnxslim.slim(model, out)


def onnxscript(model: str, out: str) -> None:
    from onnxscript import ir, optimizer

    ir.save(optimizer.optimize(ir.load(model)), out)


def onnxruntime(model: str, out: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = out
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


PEERS: dict[str, Callable[[str, str], None]] = {f.__name__: f for f in (onnxsim, onnxslim, onnxscript, onnxruntime)}


def timed(command: list[str], log: pathlib.Path, timeout: float) -> dict:
    """Runs a command to its end: seconds, peak memory in MB, and the error if it failed."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        os.kill(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout, kill)
    with log.open("w") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        timer.start()
        # To wait for its end, and not to look for it from time to time: some are done in a few milliseconds.
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if late.is_set():
        return {"error": f"no result within {timeout:g} s"}
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"error": f"exit code {process.returncode}: {lines[-1][:200] if lines else 'nothing said'}"}
    return {"seconds": seconds, "peak": usage.ru_maxrss / 1024}


def optimized(model: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> dict[str, dict]:
    """What it costs each optimizer to optimize a model, best of several runs. They take turns: a machine is not as fast
    at all times."""
    best: dict[str, dict] = {}
    for _ in range(options.runs):
        for name in options.tools:
            end = time.perf_counter() + LEAST / options.runs
            entry = best.get(name, {})
            while "error" not in entry:
                run = optimized_once(name, model, folder / name, options)
                entry = run if "error" in run else {key: min(run[key], entry.get(key, run[key])) for key in run}
                if time.perf_counter() >= end:
                    break
            best[name] = entry
    return best


def optimized_once(name: str, model: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> dict:
    """Seconds and memory of one run, or its error."""
    out = folder / model.name
    if name == OURS:
        command = [str(options.binary), str(model), "-o", str(out), "-O2", "--no-verify", "-q", *options.extra_args]
    else:
        command = [sys.executable, __file__, "--run-peer", name, str(model), str(out)]
    out.unlink(missing_ok=True)
    entry = timed(command, folder.with_suffix(".log"), options.timeout)
    return entry if "error" in entry or out.is_file() else {"error": "no file was written"}


# ------------------------------------------------------------------ the judge, in a process of its own


def judge(folder: pathlib.Path, model: pathlib.Path, names: list[str], latencies: bool) -> dict[str, dict]:
    """Nodes, bytes, agreement and latency of the results that lie in FOLDER/NAME/ under the name of the model."""
    import check_models
    import onnx

    def described(path: pathlib.Path) -> dict:
        counts = check_models.operators(onnx.load(path, load_external_data=False))
        counts.pop("Constant", None)
        return {"nodes": counts.total(), "operators": dict(counts.most_common()), "bytes": check_models.size(path)}

    found = {ORIGINAL: described(model)}
    before = check_models.operators(onnx.load(model, load_external_data=False))
    for name in names:
        path = folder / name / model.name
        row = check_models.Row(name, before=before)
        try:
            found[name] = described(path)
            check_models.compare(model, path, 1e-3, row)
        except Exception as error:
            row.failures.append(f"{type(error).__name__}: {error}"[:200])
        found.setdefault(name, {}).update(difference=row.difference, limit=row.limit, notes=row.notes, failures=row.failures)
    if not latencies:
        return found
    feed = check_models.feeds_of(model)[0]
    for name in names:
        try:
            ratios = latency_ratios(model, folder / name / model.name, feed)
            found[name].update(latency=min(ratios), latencies=ratios)
        except Exception as error:
            found[name]["notes"].append(f"no latency: {error}".splitlines()[0][:100])
    return found


def latency_ratios(original: pathlib.Path, result: pathlib.Path, feed: dict) -> list[float]:
    """The result's time over the original's, measured until it is not slower or was slower every time."""
    ratios: list[float] = []
    while len(ratios) < MEASUREMENTS and all(ratio > SLOWER for ratio in ratios):
        ratios.append(latency_ratio(original, result, feed, seconds=1.5 * (len(ratios) + 1)))
    return ratios


def latency_ratio(original: pathlib.Path, result: pathlib.Path, feed: dict, seconds: float) -> float:
    import engines

    sessions = [engines.session(path, optimized=True, threads=0) for path in (original, result)]
    for session in sessions:
        session.run(None, feed)
        session.run(None, feed)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    least, most = ROUNDS
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < most):
        # Either goes first every other time: what one leaves in the caches serves the next.
        for which in (0, 1) if len(times[0]) % 2 else (1, 0):
            started = time.perf_counter()
            sessions[which].run(None, feed)
            times[which].append(time.perf_counter() - started)
    return statistics.median(times[1]) / statistics.median(times[0])


# ------------------------------------------------------------------ tables


def compare(model: pathlib.Path, options: argparse.Namespace) -> dict[str, dict]:
    """Everything about one model, by optimizer."""
    with tempfile.TemporaryDirectory(prefix="compare-peers-") as temporary:
        folder = pathlib.Path(temporary)
        for name in options.tools:
            (folder / name).mkdir()
        entries = optimized(model, folder, options)
        names = [name for name in options.tools if "error" not in entries[name]]
        flags = ["--no-latency"] if options.no_latency else []
        command = [sys.executable, __file__, "--judge", str(folder), str(model), *names, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            sys.exit(f"{model.name}: the judge failed: {lines[-1] if lines else done.returncode}")
        for name, entry in json.loads(done.stdout.splitlines()[-1]).items():
            entries[name] = entries.get(name, {}) | entry
    return entries


def show(model: str, entries: dict[str, dict]) -> None:
    original = entries[ORIGINAL]
    print(f"{model}: {original['nodes']:,} nodes, {original['bytes']:,} bytes")
    for name, entry in entries.items():
        if name == ORIGINAL:
            continue
        if "nodes" not in entry:
            print(f"  {name:12} {entry.get('error') or entry.get('failures')}")
            continue
        latency = f"{entry['latency']:6.3f}" if "latency" in entry else "     -"
        wrong = "!" if entry["failures"] else " "
        print(
            f"  {name:12} {entry['nodes']:7,} nodes {entry['bytes']:13,} bytes {entry['seconds']:7.3f} s {entry['peak']:6.0f} MB"
            f"  differ {entry['difference']:7.1e}{wrong} latency {latency}{'*' if entry.get('latency', 0) > SLOWER else ' '}"
            + "".join(f" ({note})" for note in [*entry["failures"], *entry["notes"]])
        )
    sys.stdout.flush()


def summarize(results: dict[str, dict[str, dict]]) -> None:
    """Where a peer has fewer nodes, how much faster onnx-opt is than the fastest peer, what became slower."""
    right = lambda entry: "nodes" in entry and not entry["failures"]
    fewer, factors, slower = [], [], []
    for model, entries in results.items():
        ours = entries.get(OURS, {})
        peers = {name: entry for name, entry in entries.items() if name in PEERS and right(entry)}
        slower += [f"{model}: {name} {e['latency']:.3f}" for name, e in entries.items() if e.get("latency", 0) > SLOWER]
        if "nodes" not in ours or not peers:
            continue
        least = min(peers, key=lambda name: peers[name]["nodes"])
        if peers[least]["nodes"] < ours["nodes"]:
            fewer.append((model, least, ours, peers[least]))
        fastest = min(peers, key=lambda name: peers[name]["seconds"])
        factors.append((peers[fastest]["seconds"] / ours["seconds"], model, fastest))
    print(f"\nmodels where a right result of a peer has fewer nodes: {len(fewer)}")
    for model, name, ours, theirs in fewer:
        a, b = ours["operators"], theirs["operators"]
        more = {op: a.get(op, 0) - b.get(op, 0) for op in sorted({*a, *b}) if a.get(op, 0) != b.get(op, 0)}
        print(f"  {model}: {ours['nodes']} against {theirs['nodes']} of {name}:", " ".join(f"{op}{n:+}" for op, n in more.items()))
    if factors:
        factors.sort()
        middle = statistics.median(factor for factor, *_ in factors)
        print(f"\ntimes faster than the fastest peer: median {middle:.1f}, least {factors[0][0]:.1f} ({factors[0][1]}, {factors[0][2]})")
    for name in {name: None for entries in results.values() for name in entries if name != ORIGINAL}:
        mine = [entries[name] for entries in results.values() if name in entries]
        done = [entry for entry in mine if "nodes" in entry]
        latencies = [entry["latency"] for entry in done if "latency" in entry]
        wrong = sum(bool(entry["failures"]) for entry in done)
        middle = f", median latency {statistics.median(latencies):.3f}" if latencies else ""
        print(f"  {name:12} {sum(e['nodes'] for e in done):7,} nodes in {len(done)} results, {wrong} of them wrong, {len(mine) - len(done)} failed{middle}")
    print(f"\nresults slower than the original: {len(slower)}", *slower, sep="\n  ")


def main() -> None:
    if sys.argv[1:2] == ["--run-peer"]:
        return PEERS[sys.argv[2]](*sys.argv[3:5])
    if sys.argv[1:2] == ["--judge"]:
        folder, model, *names = [word for word in sys.argv[2:] if word != "--no-latency"]
        print(json.dumps(judge(pathlib.Path(folder), pathlib.Path(model), names, "--no-latency" not in sys.argv)))
        return None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--binary", type=pathlib.Path, default=tool.TARGET / "release" / "onnx-opt", help="a release build")
    parser.add_argument("--only", default="", help="regular expression on file names")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {', '.join(PEERS)}, or nothing")
    parser.add_argument("--runs", type=int, default=1, help="least number of runs of each optimizer, of which the best counts")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run of an optimizer")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--extra-args", type=shlex.split, default=[], help="more options for onnx-opt, in one string")
    parser.add_argument("--json", type=pathlib.Path, help="all figures as JSON")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if not options.binary.is_file():
        sys.exit(f"no program at {options.binary}: cargo build --release, or --binary PATH")
    options.tools = [OURS, *filter(None, options.peers.split(","))]
    if unknown := [name for name in options.tools[1:] if name not in PEERS]:
        sys.exit(f"no peer is called {unknown[0]}")
    paths = [p.resolve() for p in sorted(options.folder.glob("*.onnx")) if re.search(options.only, p.name)]
    if not paths:
        sys.exit(f"no model in {options.folder}")
    results: dict[str, dict[str, dict]] = {}
    for path in paths:
        results[path.stem] = compare(path, options)
        show(path.stem, results[path.stem])
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    summarize(results)


if __name__ == "__main__":
    main()
