r"""Measures a model folder: benchmarks on questions, loss on token stores.

openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.QUESTIONS='"data/questions"'
openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.BENCHMARKS='["mmlu", "cmmlu:ppl_5"]' --gin.QUESTIONS='"data"' --gin.RESULTS_DIR='"results"'
openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.MIXTURE_OR_TASK_NAME='"ul2"' --gin.TOKEN_STORES='["data/spans"]'
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openba_jax import cli
from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.files import json_text, write_json
from openba_jax.paths import (
    check_output_file,
    check_output_folder,
    local,
    reject_overlap,
    same_or_inside,
)

if TYPE_CHECKING:
    from openba_jax.evaluation.benchmarks.base import (
        Benchmark,
        Subjects,
        UnaskableBenchmarkError,
    )
    from openba_jax.inference.loading import PlacedModel
    from openba_jax.objectives.mixture import Mixture


def evaluate(
    model_dir: str,
    questions: str | Mapping[str, str] = "",
    benchmarks: str | Sequence[str] = "json_choice",
    preset: str = "corrected",
    shots: int | None = None,
    parse_special: bool = False,
    template: str = "{}",
    mixture: str = "",
    stores: str | Sequence[str] = (),
    feature_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    eval_batches: int = 10,
    output_file: str = "",
    results_dir: str = "",
    export: bool = False,
    compare: str | Sequence[str] = (),
    int8: str | Sequence[str] = (),
    mesh_shape: Sequence[int] = (-1, 1, 1),
) -> dict[str, Any]:
    """Measures a model.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      questions: folder of questions, or one for each benchmark, see `sources.places`.
      benchmarks: names of the benchmarks that read it and ask them, with or without a template:
        `mmlu`, `mmlu:ppl_5`.
      preset: `corrected`, or `original` with the mistakes of the original's programs.
      shots: demonstrations at most; None: as the template says.
      parse_special: strings such as `</s>` in questions become the special tokens that they name.
      template: what stands around questions, `{}` being the question.
      mixture: task or mixture whose loss is measured.
      stores: prefixes of token stores to measure it on.
      feature_lengths: `{'inputs': ..., 'targets': ...}`; by default the model's longest.
      batch_size: questions, or rows, at once.
      eval_batches: batches that the loss is measured on.
      output_file: JSON file for the figures, too.
      results_dir: folder for a record of each question, figures, tables and a plot; what is there
        already for the same model, questions and settings is not asked again.
      export: write answers below `results_dir/BENCHMARK/original` in the form of the original's
        programs, and for C-Eval in that of its server, too.
      compare: `figures.json` of other models, which tables and plot show, too.
      int8: what is in eight bits, `weights`, `cache` or both, see `inference.int8`.
      mesh_shape: data, fsdp, model; the batch is rounded up to what data x fsdp divides.

    Returns:
      `benchmarks`: for each of them `subjects`, `categories` and `total`, figures as in
      `evaluation.score.Score.as_dict`; `loss`: `loss`, `accuracy` and `targets`. What was not
      asked for is left out.

    Raises:
      UserError: there is nothing to measure, a benchmark is unknown, model or files cannot be used,
        results there are for other settings, the mixture is for another kind of models, a figure
        would not be finite, or memory is full. Where some benchmarks cannot be asked at all, the
        figures of the others are written first.
    """
    import jax

    from openba_jax.checkpoints.model_folder import split_path
    from openba_jax.evaluation.benchmarks.registry import benchmark
    from openba_jax.evaluation.report.report import check_figures, write_report
    from openba_jax.evaluation.sources.places import places_of
    from openba_jax.inference.int8 import parts_of, with_int8
    from openba_jax.inference.loading import load
    from openba_jax.objectives.mixture import get_mixture
    from openba_jax.parallel import hardware
    from openba_jax.parallel.sharding import use_mesh

    stores = gin_values.several(stores)
    parts = parts_of(int8)
    if batch_size < 1 or eval_batches < 1:
        raise UserError("BATCH_SIZE and EVAL_STEPS must be at least 1.")
    if not questions and not (mixture and stores):
        raise UserError("nothing to measure; give QUESTIONS, or a mixture and TOKEN_STORES.")
    if bool(mixture) != bool(stores):
        raise UserError("the loss needs both MIXTURE_OR_TASK_NAME and TOKEN_STORES; give both.")
    if results_dir and not questions:
        raise UserError("RESULTS_DIR is for benchmarks, which need QUESTIONS; give both.")
    if (export or compare) and not results_dir:
        raise UserError("EXPORT and COMPARE write below RESULTS_DIR; give it, too.")
    stores = [str(local(store)) for store in stores]
    folder = local(model_dir)
    asked = [benchmark(name, preset, shots) for name in gin_values.several(benchmarks)]
    labels = [each.label for each in asked]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"BENCHMARKS names {twice[0]} twice; name it once.")
    if questions and not asked:
        raise UserError("BENCHMARKS is empty, and QUESTIONS need one that reads and asks them.")
    places = places_of(questions, [each.name for each in asked]) if questions else {}
    results = check_output_folder(results_dir) if results_dir else None
    outputs = [check_output_file(output_file)] if output_file else []
    for output in [*outputs, *([] if results is None else [results])]:
        reject_overlap(split_path(folder)[0], output, "model")
        for place in places.values():
            reject_overlap(place, output, "folder of questions")
        for store in map(Path, stores):
            for file in store.parent.glob(f"{glob.escape(store.name)}.*"):
                reject_overlap(file, output, "token store")
    if export and (without := [each.name for each in asked if not each.exports]):
        raise UserError(f"{without[0]} has no files of the original's; ask it without EXPORT.")
    compared = [local(file) for file in gin_values.several(compare)]
    others = check_figures(compared)
    for output in outputs:
        for file in compared:
            reject_overlap(file, output, "file or folder of COMPARE")
        if results is not None:
            _reject_own_file(output, results, labels)
    lengths = None if feature_lengths is None else gin_values.feature_lengths(feature_lengths)
    loaded = [(each, each.load(places[each.name])) for each in asked if questions]
    measured = get_mixture(mixture) if mixture else None
    placed = with_int8(load(folder, mesh_shape), parts)
    if measured is not None:  # A decoder would read targets alone, and call that a loss.
        placed.model.check_layout(measured.layout)
    encoder_length, decoder_length = lengths or placed.model.config.lengths
    sizes: dict[str, Any] = {
        "encoder_length": encoder_length,
        "decoder_length": decoder_length,
        "batch_size": placed.rows(batch_size),
    }
    options = {"parse_special": parse_special, "template": template}
    figures: dict[str, Any] = {}
    unasked: dict[str, UnaskableBenchmarkError] = {}
    with hardware.explain_out_of_memory(), use_mesh(placed.mesh):
        if loaded:
            figures["benchmarks"], unasked = _measured(
                placed, loaded, sizes, options, [*_model_identity(folder), *parts], results, export
            )
        if measured is not None:
            figures["loss"] = _loss(placed, measured, stores, eval_batches, sizes)
    if not figures.get("benchmarks"):
        figures.pop("benchmarks", None)
    if jax.process_index() == 0 and figures:
        if output_file:
            write_json(check_output_file(output_file), figures)
        if results is not None and "benchmarks" in figures:
            write_report(results, folder.name, figures, others)
    if unasked:
        raise UserError(_without_figures(unasked))
    return figures


def _reject_own_file(output: Path, results: Path, labels: Sequence[str]) -> None:
    """Checks that OUTPUT_FILE is none of what is written below RESULTS_DIR.

    Raises:
      UserError: it is.
    """
    from openba_jax.evaluation.report.report import FIGURES, PLOT, TABLES
    from openba_jax.evaluation.results_folder import folder_name

    for name in (FIGURES, TABLES, PLOT, *map(folder_name, labels)):
        if same_or_inside(output, results / name):
            raise UserError(
                f"OUTPUT_FILE {output} is or lies in {name}, which RESULTS_DIR has of its own; "
                "name another file."
            )


def _without_figures(unasked: Mapping[str, UnaskableBenchmarkError]) -> str:
    """One sentence about the benchmarks that could not be asked."""
    reasons = [str(error).removesuffix(".") for error in unasked.values()]
    return f"no figures of {', '.join(unasked)}: {'; and '.join(reasons)}."


def _measured(
    placed: PlacedModel,
    loaded: Sequence[tuple[Benchmark, Subjects]],
    sizes: Mapping[str, Any],
    options: Mapping[str, Any],
    identity: Sequence[Any],
    results: Path | None,
    export: bool,
) -> tuple[dict[str, Any], dict[str, UnaskableBenchmarkError]]:
    """The figures of all benchmarks that can be asked, and why the others cannot."""
    import jax

    from openba_jax.evaluation.asking import AskedModel
    from openba_jax.evaluation.benchmarks.base import TOTAL, UnaskableBenchmarkError
    from openba_jax.evaluation.measuring import measure
    from openba_jax.evaluation.results_folder import ResultsFolder, fingerprint

    asked = AskedModel(placed.model, placed.params, placed.vocabulary, **sizes, **options)
    folders: list[ResultsFolder | None] = [None] * len(loaded)
    if results is not None:  # All are checked before the first is asked.
        model = [*identity, placed.vocabulary.fingerprint]
        same = {"model": model, **sizes, **options}
        folders = [
            ResultsFolder(results, benchmark, {**same, "questions": fingerprint(subjects)})
            for benchmark, subjects in loaded
        ]
    figures: dict[str, Any] = {}
    unasked: dict[str, UnaskableBenchmarkError] = {}
    for (benchmark, subjects), folder in zip(loaded, folders, strict=True):
        try:
            measured = measure(benchmark, subjects, asked, folder=folder, progress=True)
        except UnaskableBenchmarkError as error:  # It costs the others nothing.
            unasked[benchmark.label] = error
            continue
        cli.say(f"{measured.benchmark}, {benchmark.unit}:")
        for name, result in {**measured.subjects, TOTAL: measured.total}.items():
            cli.say(f"{name}: {result}")
        if export and folder is not None and jax.process_index() == 0:
            benchmark.export(folder.path / "original", measured.records)
        figures[measured.benchmark] = {**measured.as_dict(), "settings": dict(benchmark.settings)}
    return figures, unasked


def _model_identity(model_dir: Path) -> list[Any]:
    """What tells that a model folder is another one than before: its path, step and files."""
    from openba_jax.checkpoints.model_folder import existing_step, split_path

    folder, step = split_path(model_dir)
    step = existing_step(folder, step)
    files = sorted(file for file in (folder / "checkpoints" / str(step)).rglob("*"))
    written = max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)
    return [str(folder.resolve()), step, written]


def _loss(
    placed: PlacedModel,
    mixture: Mixture,
    stores: Sequence[str],
    eval_batches: int,
    sizes: Mapping[str, Any],
) -> dict[str, float]:
    from openba_jax.data.loader import BatchLoader
    from openba_jax.evaluation.loss import LossOnBatches, local_rows

    loader = BatchLoader(mixture, stores, placed.vocabulary, evaluation_stores=stores, **sizes)
    rows = local_rows(placed.mesh, sizes["batch_size"])
    batches = loader.evaluation_batches(eval_batches, rows=rows)
    measure = LossOnBatches(placed.model, placed.mesh, batches, sizes["batch_size"])
    figures = measure(placed.params)
    cli.say(f"{mixture.name}: {json_text(figures, mixture.name)}")
    return figures


def main(argv: Sequence[str]) -> None:
    """Measures as the gin files say."""
    cli.run_configured(evaluate, argv)


def run() -> None:
    """Entry point."""
    cli.define_process_flags()
    cli.run_with_gin(main, "openba-eval")


if __name__ == "__main__":
    run()
