"""Cuts a synthetic LLaMA-2 7B of Hugging Face as published, to 3.4B, and takes it there and back.

    python scripts/benchmarks/prune_llama_7b.py --folder=/tmp/llama [--keep]

Writes a folder of random bfloat16 weights in shards, prunes it by `LLAMA_STAGES`, converts what
is left to Hugging Face's format and back to a model folder, and compares the two model folders bit
for bit. Prints a table: for each command seconds, those of the processors (which other work does
not lengthen), MB/s read and peak memory of its process. Needs 34 GB of disk, and gives them back
unless told to keep them.
"""

import argparse
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
from convert_3_8b import RandomCheckpoint, drop_caches, folder_bytes, measure


def make(size: str, target: Path, shard: int) -> None:
    from openba_jax.checkpoints.folders import new_folder
    from openba_jax.checkpoints.formats.huggingface import HuggingFace

    with new_folder(target) as folder:
        HuggingFace(max_shard_bytes=shard).write(RandomCheckpoint(size), folder)


def cut_flags() -> list[str]:
    """The published cut as flags of openba-prune."""
    from openba_jax.pruning.stages import LLAMA_STAGES

    (stage,) = LLAMA_STAGES
    (layers,) = stage.dropped.values()
    return [
        f"--stage={stage.name}",
        f"--drop_layers={','.join(map(str, layers))}",
        *(f"--{name}={size}" for name, size in stage.all_sizes.items()),
        *(f"--slices={stage.slices}", f"--seed={stage.seed}"),
    ]


def cpu_seconds() -> float:
    """Of all processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def same_bits(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same parameters, read leaf by leaf."""
    from openba_jax.checkpoints.registry import open_checkpoint

    first, second = open_checkpoint(one), open_checkpoint(other)
    return first.model.axes == second.model.axes and all(
        np.array_equal(first.read(leaf).view(np.uint16), second.read(leaf).view(np.uint16))
        for leaf in first.model.axes.leaves()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", default="llama2_7b", help="A named size with 32 layers.")
    parser.add_argument("--shard", type=int, default=2**32, help="Bytes of a file.")
    parser.add_argument("--keep", action="store_true", help="Leave all folders there.")
    parser.add_argument("--make_only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    places = {name: options.folder / name for name in ("given", "cut", "there", "back")}
    if options.make_only:
        make(options.size, places["given"], options.shard)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        if not places["given"].exists():
            same = [f"--folder={options.folder}", f"--size={options.size}"]
            same += [f"--shard={options.shard}", "--make_only"]
            measure([sys.executable, __file__, *same])
        main_of = [sys.executable, "-m"]
        commands = {
            "prune": ("given", "cut", [*main_of, "openba_jax.prune", *cut_flags()]),
            "to_huggingface": ("cut", "there", [*main_of, "openba_jax.convert", "to_huggingface"]),
            "to_native": ("there", "back", [*main_of, "openba_jax.convert", "to_native"]),
        }
        columns = ["command", "seconds", "CPU seconds", "MB/s read", "peak memory, MB"]
        columns += ["bytes read", "bytes written"]
        print(f"| {' | '.join(columns)} |\n|---{'|---:' * (len(columns) - 1)}|", flush=True)
        for name, (source, target, command) in commands.items():
            shutil.rmtree(places[target], ignore_errors=True)
            drop_caches(places[source])
            before = cpu_seconds()
            seconds, memory = measure(
                [*command, f"--input={places[source]}", f"--output={places[target]}"]
            )
            used = cpu_seconds() - before
            read, written = folder_bytes(places[source]), folder_bytes(places[target])
            row = [
                name,
                f"{seconds:.1f}",
                f"{used:.1f}",
                f"{read / 1e6 / seconds:.1f}",
                f"{memory:.0f}",
            ]
            print("|", " | ".join([*row, f"{read:,}", f"{written:,}"]), "|", flush=True)
        equal = same_bits(places["cut"], places["back"])
        print("there and back:", "the same bits" if equal else "DIFFERENT", flush=True)
    finally:
        if not options.keep:
            for place in places.values():
                shutil.rmtree(place, ignore_errors=True)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
