r"""Compiles a run's step for a chip that is not there, and says what it would take.

openba-fit --model=openba_v2_3_4b --chip=v5p --topology=2x2x1 --batch=64 \
  --encoder_length=576 --decoder_length=384 --remat=minimal --mesh=1x4x1
openba-fit --gin_file=gin/runs/fit/openba_15b_v5p_32.gin --chip=v5p --chips=32

The step is that of openba-train with these gin files (or of evaluation, or of decoding: --steps),
and the compiler is the chip's own, from the extra `aot`; without it virtual CPU devices stand in,
which the report says. --search tries meshes, rematerialisation and micro-batches, and shows the
best that fits. With --output a folder gets fit.json and fit.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from openba_jax import cli

if TYPE_CHECKING:
    from openba_jax.fit.compilers import Target
    from openba_jax.fit.fitting import Fit
    from openba_jax.fit.steps import Workload


def main(argv: Sequence[str]) -> None:
    """Compiles, and reports."""
    cli.reject_positional(argv)
    values = flags.FLAGS
    from openba_jax.fit.chips import find_slice

    chips = find_slice(values.chip, values.topology, values.chips or 0)
    _check_flags()
    from openba_jax.fit.environment import prepare

    prepare()
    from openba_jax.fit import compilers, settings

    work, of_run = settings.workload()
    given = settings.mesh_shape(values.mesh) if values.mesh else of_run or (1, -1, 1)
    target = compilers.target(chips)
    if values.search:
        _search(work, target)
    else:
        _measure(work, target, given)


def _check_flags() -> None:
    """Refuses flags that nothing would read.

    Raises:
      UserError: there are some.
    """
    from openba_jax.errors import UserError
    from openba_jax.paths import check_output_folder

    values = flags.FLAGS
    if values.output:
        check_output_folder(values.output)
    for name in ("batches", "remats", "meshes", "compilations"):
        if values[name].present and not values.search:
            raise UserError(f"--{name} is for --search.")
    for name in ("mesh", "remat"):
        if values[name].present and values.search:
            raise UserError(f"--{name} is for one setting; a search takes --{name}s.")
    if values.search and values.steps != ["train"]:
        raise UserError("--search looks for a training step; leave --steps out.")


def _measure(work: Workload, target: Target, mesh: Sequence[int]) -> None:
    """Compiles each step for one mesh."""
    from openba_jax.fit import fitting, report

    fits: list[Fit] = []
    for step in flags.FLAGS.steps:
        found = fitting.fit(work, step, mesh, target)
        fits.append(found)
        cli.say(f"{report.heading(work, step)}\n{report.details(found)}")
        _write(work, fits, {})


def _search(work: Workload, target: Target) -> None:
    """Searches the best setting of a training step."""
    from openba_jax.fit import report
    from openba_jax.fit.search import search
    from openba_jax.fit.settings import mesh_shape, numbers

    values = flags.FLAGS
    fits: list[Fit] = []

    def tell(found: Fit) -> None:
        fits.append(found)
        sys.stderr.write("  ".join(report.row(found)) + "\n")
        _write(work, fits, {"search": "not finished"})

    options: dict[str, Any] = {"compilations": values.compilations, "report": tell}
    if values.remats:
        options["remats"] = values.remats
    found = search(
        work,
        target,
        batches=numbers(values.batches, "batches") or [work.batch],
        meshes=[mesh_shape(text) for text in values.meshes],
        **options,
    )
    best = found.best
    cli.say(f"{report.heading(work, 'train')}\n{report.searched(found)}")
    summary = {
        "candidates": found.candidates,
        "too_large": found.too_large,
        "left": found.left,
        "best": None if best is None else list(found.compiled).index(best),
    }
    _write(work, fits, {"search": summary})


def _write(work: Workload, fits: Sequence[Fit], more: dict[str, Any]) -> None:
    """Writes what there is so far, so that an interrupted run loses nothing."""
    if not flags.FLAGS.output:
        return
    from openba_jax.files import write_json
    from openba_jax.fit import plots, report
    from openba_jax.paths import local

    folder = Path(local(flags.FLAGS.output))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "fit.json", report.document(work, fits, more))
    plots.plot(fits, folder / "fit.png")


def define_flags() -> None:
    """Defines the flags of this main, besides those of gin."""
    flags.DEFINE_string("model", "", "A named size, or a model folder, instead of gin files.")
    flags.DEFINE_string("chip", None, "v5e, v5p, v6e, a100, h100 or h200.", required=True)
    flags.DEFINE_string("topology", "", "Axes of the slice, 2x2x1; of GPUs hosts x GPUs, 1x8.")
    flags.DEFINE_integer("chips", None, "Number of chips, instead of --topology.", lower_bound=1)
    flags.DEFINE_integer("batch", None, "Rows of a step.", lower_bound=1)
    flags.DEFINE_integer("accumulation", None, "Micro-batches of a step.", lower_bound=1)
    flags.DEFINE_integer("encoder_length", None, "Positions of inputs.", lower_bound=1)
    flags.DEFINE_integer("decoder_length", None, "Positions of targets.", lower_bound=1)
    flags.DEFINE_integer("new_tokens", None, "Longest answer to decode.", lower_bound=1)
    flags.DEFINE_string("mesh", "", "data x fsdp x model, 1x4x1; one may be -1.")
    flags.DEFINE_enum("remat", None, ["none", "minimal", "full"], "Rematerialisation.")
    flags.DEFINE_enum("param_dtype", None, ["float32", "bfloat16"], "Of parameters and moments.")
    flags.DEFINE_list("steps", ["train"], "train, evaluate, decode, score.")
    flags.DEFINE_bool("search", False, "Search the best training step that fits.")
    flags.DEFINE_list("batches", [], "Rows of a step to try; by default that of the run.")
    flags.DEFINE_list("remats", [], "Policies to try; by default all.")
    flags.DEFINE_list("meshes", [], "Meshes to try, 1x4x1,2x2x1; by default all.")
    flags.DEFINE_integer("compilations", 8, "Settings to compile at most.", lower_bound=1)
    flags.DEFINE_string("output", "", "Folder for fit.json and fit.png.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run_with_gin(main, "openba-fit", instead=["model"])


if __name__ == "__main__":
    run()
