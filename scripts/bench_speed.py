#!/usr/bin/env python3
"""Times onnx-opt on generated transformer encoders, beside `cp` of the same file.

    nodes      operators of the model
    cp         seconds to copy the file, best of all runs
    optimize   seconds of `onnx-opt --no-verify -O2`, whole process, best of all runs
    -O0        seconds of reading and writing alone
    peak       most resident memory, MB, mapped pages of the model included
    anonymous  most resident memory that is not a mapped file, MB, sampled every millisecond

Models are made once, in target/bench. Use a release build: cargo build --release.

    python scripts/bench_speed.py [--binary PATH] [--runs 5] [--small]
"""

import argparse
import pathlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import onnx

import tool
from generate_transformer import encoder

FOLDER = tool.TARGET / "bench"
# (layers, hidden): many nodes, then big weights.
SIZES = [(32, 32), (128, 32), (512, 32), (12, 768)]


@dataclass
class Run:
    seconds: float
    peak: float
    anonymous: float


def model_of(layers: int, hidden: int) -> pathlib.Path:
    """The generated model's file."""
    path = FOLDER / f"encoder_{layers}x{hidden}.onnx"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(encoder(layers, hidden, max(2, hidden // 64)).SerializeToString(deterministic=True))
        part.rename(path)
    return path


def kilobytes(status: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) if found else 0


def run(command: list[str | pathlib.Path]) -> Run:
    """Runs a command to its end and watches its memory from outside, to a millisecond."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = pathlib.Path(f"/proc/{process.pid}/status")
    peak = anonymous = 0
    while process.poll() is None:
        # The peak of the resource usage would count what this interpreter held when it forked.
        memory = status.read_text()
        peak, anonymous = max(peak, kilobytes(memory, "VmHWM")), max(anonymous, kilobytes(memory, "RssAnon"))
        time.sleep(0.001)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}")
    return Run(seconds, peak / 1024, anonymous / 1024)


def best(command: list[str | pathlib.Path], out: pathlib.Path, runs: int) -> Run:
    """The least time and the most memory over several runs."""
    results = []
    for _ in range(runs):
        out.unlink(missing_ok=True)
        results.append(run(command))
    return Run(min(r.seconds for r in results), max(r.peak for r in results), max(r.anonymous for r in results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=tool.TARGET / "release" / "onnx-opt")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="leave out 512 layers and the 340 MB model")
    options = parser.parse_args()
    binary = options.binary.resolve()
    if not binary.is_file():
        sys.exit(f"no program at {binary}: cargo build --release, or --binary PATH")
    print(f"{'model':>18} {'nodes':>7} {'after':>7} {'MB':>7} {'cp':>7} {'optimize':>9} {'-O0':>7} {'peak':>7} {'anonymous':>9}")
    for layers, hidden in SIZES[:2] if options.small else SIZES:
        path = model_of(layers, hidden)
        out = FOLDER / "out.onnx"
        copied = best(["cp", path, out], out, options.runs)
        untouched = best([binary, path, "-o", out, "-q", "-O0", "--no-verify"], out, options.runs)
        optimized = best([binary, path, "-o", out, "-q", "-O2", "--no-verify"], out, options.runs)
        before, after = (len(onnx.load(p).graph.node) for p in (path, out))
        out.unlink()
        print(
            f"{layers:>4} layers of {hidden:>3} {before:7,} {after:7,} {path.stat().st_size / 1e6:7.1f} {copied.seconds:7.3f} {optimized.seconds:9.3f}"
            f" {untouched.seconds:7.3f} {optimized.peak:7.0f} {optimized.anonymous:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
