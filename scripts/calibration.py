"""Seconds and peak memory of calibration: onnx-opt with either engine, and onnxruntime's own calibrators.

    scripts/calibration.py --binary target/release/onnx-opt MODEL FEED.npz [MODEL FEED.npz ...]

A feed holds one set of inputs by name. It is repeated to as many samples as asked for, floats moved by a little noise.
Every measurement is a process of its own; memory is the peak of the largest process that it starts.
Needs numpy and onnxruntime with its quantization package.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEERS = ["minmax", "entropy"]


def samples(feed, count):
    """The feed so many times over, as lists by name."""
    random = np.random.default_rng(0)
    arrays = dict(np.load(feed))
    for _ in range(count):
        yield {
            name: (array + 0.05 * random.standard_normal(array.shape)).astype(array.dtype)
            if array.dtype.kind == "f" else array
            for name, array in arrays.items()
        }


def peer(method, model, folder):
    """Runs in a process of its own: onnxruntime's calibrator on the files of a folder."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.files = iter(sorted(Path(folder).glob("*.npz")))

        def get_next(self):
            file = next(self.files, None)
            return None if file is None else dict(np.load(file))

    augmented = str(Path(folder).parent / "augmented.onnx")
    chosen = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}[method]
    calibrator = create_calibrator(model, None, augmented_model_path=augmented, calibrate_method=chosen)
    calibrator.collect_data(Reader())
    calibrator.compute_data()


def measure(command):
    """Seconds, peak memory in MB, and the last line of complaint, if it failed."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines() or [""]
    failure = None if child.returncode == 0 else f"exit {child.returncode}: {lines[-1][:100]}"
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, failure


def main():
    if sys.argv[1:2] == ["--peer"]:
        return peer(*sys.argv[2:])
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--binary", default="target/release/onnx-opt")
    arguments.add_argument("--ort-lib", default=os.environ.get("ORT_DYLIB_PATH"))
    arguments.add_argument("--samples", type=int, nargs="+", default=[16, 512])
    arguments.add_argument("pairs", nargs="+", metavar="MODEL FEED")
    options = arguments.parse_args()
    for model, feed in zip(options.pairs[::2], options.pairs[1::2]):
        for count in options.samples:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "samples"
                folder.mkdir()
                for index, sample in enumerate(samples(feed, count)):
                    np.savez(folder / f"{index:05}.npz", **sample)
                ours = [options.binary, "calibrate", model, "--as-is", "--data", str(folder), "-q",
                        "-o", str(Path(place) / "c.json")]
                runs = [("onnx-opt tract", ours + ["--engine", "tract", "--calibration-method", "entropy"])]
                if options.ort_lib:
                    engine = ["--engine", "onnxruntime", "--ort-lib", options.ort_lib]
                    runs += [(f"onnx-opt onnxruntime {observer}", ours + engine + ["--calibration-method", observer])
                             for observer in ["min-max", "entropy", "mse"]]
                runs += [(f"onnxruntime.quantization {method}",
                          [sys.executable, __file__, "--peer", method, model, str(folder)]) for method in PEERS]
                for name, command in runs:
                    seconds, memory, failure = measure(command)
                    result = failure or f"{seconds:8.2f} s {memory:8.0f} MB"
                    print(f"{Path(model).name:36} {count:4} samples  {name:34} {result}", flush=True)
    return None


if __name__ == "__main__":
    sys.exit(main())
