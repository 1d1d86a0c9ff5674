"""Calls onnx-opt and says how it ended. Shared by the scripts of this folder."""

import os
import pathlib
import subprocess
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


@dataclass
class Outcome:
    """How a run ended. `kind` is None after success, else panic, timeout or refused."""

    kind: str | None
    message: str
    seconds: float


def optimize(binary: pathlib.Path, model: pathlib.Path, out: pathlib.Path, *flags: str, timeout: float) -> Outcome:
    """Runs `onnx-opt MODEL -o OUT FLAGS`."""
    started = time.perf_counter()
    try:
        done = subprocess.run([binary, model, "-o", out, "-q", *flags], capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Outcome("timeout", f"no result within {timeout:g} s", timeout)
    seconds = time.perf_counter() - started
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode < 0 or done.returncode in (101, 134, 139) or "panicked at" in said:
        return Outcome("panic", f"exit code {done.returncode}: {said}", seconds)
    if done.returncode != 0:
        return Outcome("refused", f"exit code {done.returncode}: {said}", seconds)
    if not out.is_file():
        return Outcome("refused", "exit code 0 without a result", seconds)
    return Outcome(None, said, seconds)


def default_binary() -> pathlib.Path:
    """The development build."""
    return TARGET / "debug" / "onnx-opt"
