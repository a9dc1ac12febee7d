r"""Runs a main once for every combination of some gin bindings, and compares the runs.

openba-sweep --gin_file=gin/sweeps/recover_learning_rate.gin --gin.OUTPUT_DIR='"runs/rates"' -- \
  --gin.INITIAL_CHECKPOINT_PATH='"runs/pruned"' --gin.TOKEN_STORES='["data/train"]' \
  --gin.VOCABULARY='"data/tokenizer.model"' --gin.EVAL_STEPS=8 --gin.HELD_OUT=512

openba-sweep --gin_file=gin/sweeps/recipe.gin --gin.OUTPUT_DIR='"runs/recipes"' \
  --gin.GRID='{"MLP": [96, 64], "METHOD": ["magnitude", "random"]}' -- \
  --gin.ANCESTOR='"my_model"' --gin.CORPUS='["my.jsonl"]' --gin.RECOVER_TOKENS=1_000_000

What stands after `--` is given to every run. A run that ended is not done again; one that failed or
was stopped goes on when the sweep is started again with the same arguments.

    OUTPUT_DIR/RUN/              the folder that the main makes
    OUTPUT_DIR/RUN.log           what it printed
    OUTPUT_DIR/RUN.done          its arguments, once it has ended well
    OUTPUT_DIR/sweep.{json,md}   a row per run, the best first; sweep.png: their losses
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax import cli
from openba_jax.cli import gin_values
from openba_jax.cli.progress import SECONDS, clock
from openba_jax.errors import UserError
from openba_jax.files import write_atomically, write_json
from openba_jax.paths import check_output_folder, local
from openba_jax.plotting.picture import legend_below, logarithmic, look, picture, titles


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is run, and what is varied.

    Attributes:
      output_dir: folder of the sweep.
      module: the main, as `python -m` takes it: `openba_jax.train`, `openba_jax.pipeline`,
        `t5x.train`.
      gin_files: of every run.
      folder: name of the macro that holds a run's folder.
      grid: binding -> values to try; every combination is one run.
    """

    output_dir: str
    module: str
    gin_files: Sequence[str]
    folder: str
    grid: Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One combination: its name, which is its folder's, and its bindings."""

    name: str
    bindings: Mapping[str, Any]


def runs_of(grid: Mapping[str, Sequence[Any]]) -> list[Run]:
    """The runs of a grid; the last binding varies fastest.

    Raises:
      UserError: the grid is empty, or two runs would have one name.
    """
    if not grid or not all(grid.values()):
        raise UserError("the grid of the sweep is empty; bind Sweep.grid = {'BINDING': [VALUES]}.")
    found: dict[str, Run] = {}
    for values in itertools.product(*grid.values()):
        bindings = dict(zip(grid, values, strict=True))
        parts = [f"{key.rpartition('.')[2]}={value}" for key, value in bindings.items()]
        name = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))
        if name in found:
            raise UserError(f"two runs of the sweep would be named {name}; change Sweep.grid.")
        found[name] = Run(name, bindings)
    return list(found.values())


def command(sweep: Sweep, run: Run, arguments: Sequence[str]) -> list[str]:
    """The command line of a run."""
    bindings = {sweep.folder: str(Path(sweep.output_dir) / run.name), **run.bindings}
    return [
        *(sys.executable, "-m", sweep.module),
        *(f"--gin_file={file}" for file in sweep.gin_files),
        *arguments,
        *(f"--gin_bindings={name} = {value!r}" for name, value in bindings.items()),
    ]


def execute(sweep: Sweep, arguments: Sequence[str]) -> list[Run]:
    """Does what is not done yet, one run after the other; returns the runs that failed.

    Raises:
      UserError: a folder holds a run with other arguments.
    """
    runs, root, failed = runs_of(sweep.grid), Path(sweep.output_dir), []
    _check_folders(sweep, runs, arguments)
    seconds = [took for run in runs if (took := _seconds(root, run)) is not None]
    for number, run in enumerate(runs):
        argv = command(sweep, run, arguments)
        started, done = (root / f"{run.name}.{mark}" for mark in ("started", "done"))
        wanted = _known_by(argv)
        head = f"[{number + 1}/{len(runs)}] {run.name}"
        if done.exists():
            sys.stdout.write(f"{head}: done before\n")
            continue
        log = root / f"{run.name}.log"
        left = ""
        if seconds:
            each = sum(seconds) / len(seconds)
            left = f", about {clock(each * (len(runs) - number))} left for all runs"
        _say(f"{head}: running, log {log}{left}")
        write_atomically(started, wanted)
        code = _watched(argv, log, head)
        if code:
            failed.append(run)
            _say(f"{head}: exit code {code}; {log} ends with: {_last_line(log)}")
        else:
            write_atomically(done, wanted)
            seconds.append(_seconds(root, run) or 0.0)
    return failed


def _check_folders(sweep: Sweep, runs: Sequence[Run], arguments: Sequence[str]) -> None:
    """Checks that no folder holds a run with other arguments, before any run begins.

    Raises:
      UserError: one does.
    """
    for run in runs:
        folder = Path(sweep.output_dir) / run.name
        started, done = (folder.with_name(f"{run.name}.{mark}") for mark in ("started", "done"))
        if (
            started.exists()
            and started.read_text() != _known_by(command(sweep, run, arguments))
            and (folder.exists() or done.exists())
        ):
            raise UserError(
                f"{folder} holds a run with other arguments; "
                "choose another OUTPUT_DIR, or repeat the arguments."
            )


def _known_by(argv: Sequence[str]) -> str:
    """The arguments of a run as its folder keeps them."""
    return json.dumps(argv[1:], indent=1)


def _seconds(root: Path, run: Run) -> float | None:
    """How long a run took that has ended well; None for others."""
    started, done = (root / f"{run.name}.{mark}" for mark in ("started", "done"))
    return done.stat().st_mtime - started.stat().st_mtime if done.exists() else None


def _watched(argv: Sequence[str], log: Path, head: str) -> int:
    """Runs a command; now and then says what it has said last.

    At Ctrl-C the command gets the signal, too; it is waited for, since it saves what it has.

    Returns:
      The exit code.
    """
    began, shown = time.monotonic(), ""
    with log.open("w") as file, subprocess.Popen(argv, stdout=file, stderr=file) as process:
        try:
            while True:
                try:
                    return process.wait(SECONDS)
                except subprocess.TimeoutExpired:
                    if (last := _last_line(log)) != shown:
                        shown = last
                        _say(f"{head}: {clock(time.monotonic() - began)} so far: {last}")
        except KeyboardInterrupt:
            _say(f"{head}: waiting for it to end; Ctrl-C again ends it at once")
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def figures(folder: Path) -> dict[str, Any]:
    """What is compared: the last evaluation of a training, or the last stage of a pipeline.

    A run of another main, or one that never evaluated, has none.
    """
    from openba_jax.training.records.metrics import METRICS, read

    if (folder / "report.json").exists():
        rows = json.loads((folder / "report.json").read_text())["rows"]
        row = [row for row in rows if not row["control"]][-1]
        # Without recovery, tuning or questions, there is less.
        named = {
            "loss": ("loss_recovered", "loss_pruned"),
            "accuracy": ("accuracy_tuned", "accuracy_recovered", "accuracy_pruned"),
            "parameters": ("parameters",),
        }
        found = {
            ours: next((row[name] for name in theirs if row.get(name) is not None), None)
            for ours, theirs in named.items()
        }
        return {name: figure for name, figure in found.items() if figure is not None}
    records = [record for record in read(folder / METRICS) if record["split"] == "eval"]
    return {key: records[-1][key] for key in ("loss", "accuracy", "step")} if records else {}


def write_comparison(sweep: Sweep) -> str:
    """Writes `sweep.json`, `sweep.md` and `sweep.png`; returns the table."""
    root = Path(sweep.output_dir)
    rows = [(run, figures(root / run.name)) for run in runs_of(sweep.grid)]
    rows.sort(key=lambda row: row[1].get("loss", float("inf")))
    columns = list(dict.fromkeys(key for _, found in rows for key in found))
    lines = [[*sweep.grid, *columns]]
    for run, found in rows:
        cells = [found.get(key, "-") for key in columns]
        texts = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append([*(str(value) for value in run.bindings.values()), *texts])
    lines.insert(1, ["---"] * len(lines[0]))
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    write_atomically(root / "sweep.md", table)
    content = [{"name": run.name, **run.bindings, "figures": found} for run, found in rows]
    write_json(root / "sweep.json", content)
    _plot(root, [run.name for run, _ in rows], ",\n".join(sweep.grid))
    return table


def _plot(root: Path, names: Sequence[str], varied: str) -> None:
    """The losses of trainings over their steps, evaluations as dots."""
    from openba_jax.training.records.metrics import METRICS, read

    curves = {name: read(root / name / METRICS) for name in names}
    if not any(curves.values()):
        return
    with picture(root / "sweep.png", height=0.55) as (figure, (panel,)):
        lines = []
        for number, (name, records) in enumerate(curves.items()):
            lines += panel.plot(*_points(records, "train"), label=name, **look(number))
            dots = _points(records, "eval")
            panel.plot(*dots, "o", color=lines[-1].get_color(), markersize=4)
        logarithmic(panel, "y", "loss, nats per target token")
        panel.set_xlabel("step")
        titles([panel], [f"Loss of training (lines) and on held-out text (dots) over\n{varied}"])
        legend_below(figure, lines)


def _points(records: Sequence[Mapping[str, Any]], split: str) -> tuple[list[int], list[float]]:
    """Steps and losses of the records of one split."""
    found = [record for record in records if record["split"] == split]
    return [record["step"] for record in found], [record["loss"] for record in found]


def main(argv: Sequence[str]) -> None:
    """Sweeps as the gin file says."""
    import gin

    configured = gin.external_configurable(gin_values.checked(Sweep), "Sweep")
    cli.parse_gin()
    sweep = cli.call_configured(functools.partial(configured))
    assert isinstance(sweep, Sweep)
    sweep = dataclasses.replace(sweep, output_dir=str(local(sweep.output_dir)))
    check_output_folder(sweep.output_dir)
    failed = execute(sweep, argv[1:])
    if len(failed) == len(runs_of(sweep.grid)):  # A table of an earlier sweep stays.
        raise UserError(f"all {len(failed)} runs failed; see their logs in {sweep.output_dir}.")
    sys.stdout.write(write_comparison(sweep))
    if failed:
        raise UserError(f"{len(failed)} runs failed; see their logs in {sweep.output_dir}.")


def run() -> None:
    """Entry point."""
    cli.run_with_gin(main, "openba-sweep")


if __name__ == "__main__":
    run()
