"""Prunes a synthetic 15B model in bfloat16 to the shape of OpenBA-V2's width stage.

    python scripts/benchmarks/prune_15b.py --folder=/tmp/prune [--size=openba_15b]
    python scripts/benchmarks/prune_15b.py --folder=/tmp/prune --keep_optimizer

Prints, for each way of choosing width, seconds, MB/s read and peak memory of `openba-prune`. Needs
29 GB for the model and 8 GB for what is cut from it; three times as much with the state of the
optimizer.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from convert_3_8b import RandomCheckpoint, drop_caches, folder_bytes, measure


def make(size: str, moments: bool, target: Path) -> None:
    from openba_jax.checkpoints.folders import new_folder
    from openba_jax.checkpoints.formats.native import Native

    with new_folder(target) as folder:
        Native().write(RandomCheckpoint(size, moments), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", default="openba_15b")
    parser.add_argument("--methods", nargs="*", default=["random", "magnitude"])
    parser.add_argument("--widths", nargs="*", default=["embed=2560", "heads=20", "mlp=6912"])
    parser.add_argument("--drop_encoder_layers", default="4,6,8,10")
    parser.add_argument("--drop_decoder_layers", default="7,11,18,20,22,30,4,16,27")
    parser.add_argument("--keep_optimizer", action="store_true", help="Cut two moments along.")
    parser.add_argument("--make_only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    moments = options.keep_optimizer
    model = options.folder / ("model_with_moments" if moments else "model")
    cut = options.folder / "cut"
    if options.make_only:
        make(options.size, moments, model)
        return
    if not model.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        same = [f"--folder={options.folder}", f"--size={options.size}", "--make_only"]
        measure([sys.executable, __file__, *same, *["--keep_optimizer"] * moments])
    size = folder_bytes(model)
    print(json.dumps({"size": options.size, "bytes": size}), flush=True)
    cuts = [
        *(f"--{width}" for width in options.widths),
        f"--drop_encoder_layers={options.drop_encoder_layers}",
        f"--drop_decoder_layers={options.drop_decoder_layers}",
        *["--keep_optimizer"] * moments,
    ]
    for method in options.methods:
        shutil.rmtree(cut, ignore_errors=True)
        drop_caches(model)
        seconds, memory = measure(
            [
                *(sys.executable, "-m", "openba_jax.prune"),
                *(f"--input={model}", f"--output={cut}", f"--method={method}", *cuts),
            ]
        )
        result = {
            "seconds": round(seconds, 1),
            "MB_per_second": round(size / 1e6 / seconds, 1),
            "peak_memory_MB": round(memory),
            "bytes_written": folder_bytes(cut),
        }
        print(method, json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
