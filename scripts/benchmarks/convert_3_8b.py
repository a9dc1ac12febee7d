"""Converts a synthetic 3.8B model in bfloat16, Hugging Face -> model folder -> Hugging Face.

    python scripts/benchmarks/convert_3_8b.py --folder=/tmp/convert [--size=stage4_3_8b]

Prints, for each step, seconds, MB/s and peak memory of a process of its own, beside the time that
`cp` takes for the same files; and whether what came back is equal, bit for bit. Needs three times
the size of the model on the disk, 23 GB for 3.8B.
"""

import argparse
import filecmp
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class RandomCheckpoint:
    """Normal random weights: the same values for every layer, drawn once, cut and shifted."""

    def __init__(self, size: str, moments: bool = False, **changes):
        from openba_jax.checkpoints.checkpoint import Slot, all_leaves
        from openba_jax.models.registry import model_of, named_config

        config = named_config(size, param_dtype="bfloat16", dtype="bfloat16", **changes)
        self.model = model_of(config)
        self.tokenizer, self.plan, self.step, self.data, self.carried = None, None, 0, {}, {}
        self.optimizer = None
        if moments:  # As orbax gives back the state of `training.optimizer.adamw`.
            count = np.int32(0)
            link = {"count": count, "mu": Slot("1/mu"), "nu": Slot("1/nu")}
            self.optimizer = [None, link, {"inner_state": None}, {"count": count}]
        random = np.random.default_rng(0)
        values = random.normal(0, 0.02, 2**26).astype(np.float32)
        self._values = values.astype(ml_dtypes.bfloat16)
        self._leaves = {leaf: n for n, leaf in enumerate(all_leaves(self))}

    def dtype(self, leaf):
        return self._values.dtype

    def place(self, leaf):
        return f"random values for {leaf}"

    def read(self, leaf, rows=None):
        axes = self.model.axes
        sizes = axes.sizes_at(leaf.path)
        start = self._leaves[leaf] * 7919
        if rows is not None:
            sizes["vocab"] = rows.stop - rows.start
            start += rows.start
        shape = [sizes[name] for name in axes.paths[leaf.path]]
        flat = np.empty(int(np.prod(shape)), self._values.dtype)
        filled = 0
        while filled < flat.size:
            piece = self._values[start % self._values.size :][: flat.size - filled]
            flat[filled : filled + piece.size] = piece
            filled, start = filled + piece.size, start + piece.size
        return flat.reshape(shape)


def make(size: str, target: Path, shard: int) -> None:
    from openba_jax.checkpoints.folders import new_folder
    from openba_jax.checkpoints.formats.huggingface import HuggingFace

    with new_folder(target) as folder:
        # Tied with scaling is the one form in which Hugging Face has no second copy of the head.
        checkpoint = RandomCheckpoint(size, scale_tied_logits=True)
        HuggingFace(max_shard_bytes=shard).write(checkpoint, folder)


def drop_caches(folder: Path) -> None:
    """Lets the next step read from the disk, not from memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", default="stage4_3_8b")
    parser.add_argument("--shard_gb", type=float, default=5)
    parser.add_argument("--make_only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    first, model, back = (options.folder / name for name in ("first", "model", "back"))
    shard = int(options.shard_gb * 1e9)
    if options.make_only:
        make(options.size, first, shard)
        return
    if not first.exists():
        measure(
            [
                sys.executable,
                __file__,
                f"--folder={options.folder}",
                f"--size={options.size}",
                f"--shard_gb={options.shard_gb}",
                "--make_only",
            ]
        )
    for folder in (model, back):
        shutil.rmtree(folder, ignore_errors=True)
    convert = [sys.executable, "-m", "openba_jax.convert"]
    megabytes = int(options.shard_gb * 1000)
    steps = {
        "cp": ["cp", "-r", first, options.folder / "copy"],
        "to_native": [*convert, "to_native", f"--input={first}", f"--output={model}"],
        "to_huggingface": [
            *convert,
            "to_huggingface",
            f"--input={model}",
            f"--output={back}",
            f"--max_shard_size={megabytes}MB",
        ],
    }
    result = {"size": options.size, "bytes": folder_bytes(first)}
    for name, command in steps.items():
        source = model if name == "to_huggingface" else first
        drop_caches(source)
        command = [str(part) for part in command]
        if name == "cp":
            # Both sides are to be on the disk at the end, as conversions flush theirs.
            command = ["sh", "-c", f"{' '.join(command)} && sync -f {options.folder}"]
        seconds, memory = measure(command)
        size = folder_bytes(source)
        result[name] = {
            "seconds": round(seconds, 1),
            "MB_per_second": round(size / 1e6 / seconds, 1),
            "peak_memory_MB": round(memory),
        }
        print(name, json.dumps(result[name]), flush=True)
        shutil.rmtree(options.folder / "copy", ignore_errors=True)
    names = [path.name for path in first.iterdir()]
    _, different, broken = filecmp.cmpfiles(first, back, names, shallow=False)
    result["equal"] = not different and not broken
    result["own_peak_memory_MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
