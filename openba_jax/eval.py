r"""Measures a model folder: accuracy on multiple-choice files, loss on token stores.

openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.QUESTIONS='"data/questions"'
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
from openba_jax.paths import check_output_file, local, reject_overlap

if TYPE_CHECKING:
    from openba_jax.evaluation.benchmarks.base import Benchmark, Subjects
    from openba_jax.inference.loading import PlacedModel
    from openba_jax.objectives.mixture import Mixture


def evaluate(
    model_dir: str,
    questions: str = "",
    benchmarks: str | Sequence[str] = "json_choice",
    parse_special: bool = False,
    template: str = "{}",
    mixture: str = "",
    stores: str | Sequence[str] = (),
    feature_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    eval_batches: int = 10,
    output_file: str = "",
    mesh_shape: Sequence[int] = (-1, 1, 1),
) -> dict[str, Any]:
    """Measures a model.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      questions: folder of questions.
      benchmarks: names of the benchmarks that read it and ask them.
      parse_special: strings such as `</s>` in questions become the special tokens that they name.
      template: what stands around questions, `{}` being the question.
      mixture: task or mixture whose loss is measured.
      stores: prefixes of token stores to measure it on.
      feature_lengths: `{'inputs': ..., 'targets': ...}`; by default the model's longest.
      batch_size: questions, or rows, at once.
      eval_batches: batches that the loss is measured on.
      output_file: JSON file for the figures, too.
      mesh_shape: data, fsdp, model; the batch is rounded up to what data x fsdp divides.

    Returns:
      `benchmarks`: for each of them `subjects`, `categories` and `total`, figures as in
      `evaluation.score.Score.as_dict`; `loss`: `loss`, `accuracy` and `targets`. What was not
      asked for is left out.

    Raises:
      UserError: there is nothing to measure, a benchmark is unknown, model or files cannot be used,
        the mixture is for another kind of models, a figure would not be finite, or memory is full.
    """
    import jax

    from openba_jax.checkpoints.model_folder import split_path
    from openba_jax.evaluation.benchmarks.registry import benchmark
    from openba_jax.inference.loading import load
    from openba_jax.objectives.mixture import get_mixture
    from openba_jax.parallel import hardware
    from openba_jax.parallel.sharding import use_mesh

    stores = gin_values.several(stores)
    if batch_size < 1 or eval_batches < 1:
        raise UserError("BATCH_SIZE and EVAL_STEPS must be at least 1.")
    if not questions and not (mixture and stores):
        raise UserError("nothing to measure; give QUESTIONS, or a mixture and TOKEN_STORES.")
    if bool(mixture) != bool(stores):
        raise UserError("the loss needs both MIXTURE_OR_TASK_NAME and TOKEN_STORES; give both.")
    stores = [str(local(store)) for store in stores]
    folder = local(model_dir)
    if output_file:
        reject_overlap(split_path(folder)[0], check_output_file(output_file), "model")
        if questions:
            reject_overlap(local(questions), output_file, "folder of questions")
        for store in map(Path, stores):
            for file in store.parent.glob(f"{glob.escape(store.name)}.*"):
                reject_overlap(file, output_file, "token store")
    lengths = None if feature_lengths is None else gin_values.feature_lengths(feature_lengths)
    asked = [benchmark(name) for name in gin_values.several(benchmarks)]
    if questions and not asked:
        raise UserError("BENCHMARKS is empty, and QUESTIONS need one that reads and asks them.")
    loaded = [(each, each.load(local(questions))) for each in asked if questions]
    measured = get_mixture(mixture) if mixture else None
    placed = load(folder, mesh_shape)
    if measured is not None:  # A decoder would read targets alone, and call that a loss.
        placed.model.check_layout(measured.layout)
    encoder_length, decoder_length = lengths or placed.model.config.lengths
    sizes: dict[str, Any] = {
        "encoder_length": encoder_length,
        "decoder_length": decoder_length,
        "batch_size": placed.rows(batch_size),
    }
    figures: dict[str, Any] = {}
    with hardware.explain_out_of_memory(), use_mesh(placed.mesh):
        if loaded:
            figures["benchmarks"] = {
                each.name: _measured(placed, each, subjects, sizes, parse_special, template)
                for each, subjects in loaded
            }
        if measured is not None:
            figures["loss"] = _loss(placed, measured, stores, eval_batches, sizes)
    if output_file and jax.process_index() == 0:
        write_json(check_output_file(output_file), figures)
    return figures


def _measured(
    placed: PlacedModel,
    benchmark: Benchmark,
    subjects: Subjects,
    sizes: Mapping[str, Any],
    parse_special: bool,
    template: str,
) -> dict[str, Any]:
    from openba_jax.evaluation.asking import AskedModel
    from openba_jax.evaluation.benchmarks.base import TOTAL
    from openba_jax.evaluation.measuring import measure

    asked = AskedModel(
        placed.model,
        placed.params,
        placed.vocabulary,
        **sizes,
        parse_special=parse_special,
        template=template,
    )
    measured = measure(benchmark, subjects, asked)
    for name, result in {**measured.subjects, TOTAL: measured.total}.items():
        cli.say(f"{name}: {result}")
    return measured.as_dict()


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
