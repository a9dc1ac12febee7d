r"""Measures a model folder: accuracy on multiple-choice files, loss on token stores.

openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.QUESTIONS='"data/questions"'
openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.MIXTURE_OR_TASK_NAME='"ul2"' --gin.TOKEN_STORES='["data/spans"]'
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openba_jax import cli, gin_values
from openba_jax.errors import UserError
from openba_jax.files import json_text, write_json
from openba_jax.paths import check_output_file, local, reject_overlap

if TYPE_CHECKING:
    from openba_jax.inference.loading import Loaded


def evaluate(
    model_dir: str,
    questions: str = "",
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
      questions: folder of question files (reference §7.2).
      mixture: task or mixture whose loss is measured.
      stores: prefixes of token stores to measure it on.
      feature_lengths: `{'inputs': ..., 'targets': ...}`; by default the model's longest.
      batch_size: questions, or rows, at once.
      eval_batches: batches that the loss is measured on.
      output_file: JSON file for the figures, too.
      mesh_shape: data, fsdp, model; the batch is rounded up to what data x fsdp divides.

    Raises:
      UserError: there is nothing to measure, model or files cannot be used, or memory is full.
    """
    import jax

    from openba_jax.checkpoints.formats.native import split_path
    from openba_jax.inference.loading import load
    from openba_jax.parallel import hardware
    from openba_jax.parallel.sharding import use_mesh

    stores = gin_values.several(stores)
    if batch_size < 1 or eval_batches < 1:
        raise UserError("BATCH_SIZE and EVAL_STEPS must be at least 1.")
    if not questions and not (mixture and stores):
        raise UserError("nothing to measure; give QUESTIONS, or a mixture and TOKEN_STORES.")
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
    model = load(folder, mesh_shape)
    longest = model.config.max_encoder_length, model.config.max_decoder_length
    encoder_length, decoder_length = lengths or longest
    sizes: dict[str, Any] = {
        "encoder_length": encoder_length,
        "decoder_length": decoder_length,
        "batch_size": model.rows(batch_size),
    }
    figures: dict[str, Any] = {}
    with hardware.explain_out_of_memory(), use_mesh(model.mesh):
        if questions:
            figures["accuracy"] = _accuracy(model, questions, sizes)
        if mixture and stores:
            figures["loss"] = _loss(model, mixture, stores, eval_batches, sizes)
    if output_file and jax.process_index() == 0:
        write_json(check_output_file(output_file), figures)
    return figures


def _accuracy(model: Loaded, questions: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    from openba_jax.evaluation.multiple_choice import question_files, score_files

    config, params, vocabulary, _ = model
    scores = score_files(config, params, vocabulary, question_files(local(questions)), **sizes)
    for name, score in scores.items():
        cli.say(f"{name}: {score.accuracy:.1%} of {score.count}, chance {score.chance:.1%}")
    return {name: dataclasses.asdict(score) for name, score in scores.items()}


def _loss(
    model: Loaded,
    mixture: str,
    stores: Sequence[str],
    eval_batches: int,
    sizes: Mapping[str, Any],
) -> dict[str, float]:
    from openba_jax.data.loader import BatchLoader
    from openba_jax.evaluation.loss import mean_loss
    from openba_jax.objectives.mixture import get_mixture

    config, params, vocabulary, _ = model
    loader = BatchLoader(
        get_mixture(mixture), stores, vocabulary, evaluation_stores=stores, **sizes
    )
    figures = mean_loss(config, params, loader.evaluation_batches(eval_batches))
    cli.say(f"{mixture}: {json_text(figures, mixture)}")
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
