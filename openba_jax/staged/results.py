"""What a staged run found: scores, the rows and curves of its report, sample answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks import json_choice
from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.measuring import measure
from openba_jax.evaluation.score import Score
from openba_jax.files import write_atomically, write_json
from openba_jax.inference import loading
from openba_jax.inference.generator import Generator
from openba_jax.models.counting import parameter_count, train_flops_per_example
from openba_jax.parallel.sharding import use_mesh
from openba_jax.pruning.vocabulary import sum_counts
from openba_jax.staged import plots, report
from openba_jax.staged.models import Models, pruned_name, tuned_name
from openba_jax.staged.plots import Curve
from openba_jax.staged.recovery import NEAR, tokens_to_reach
from openba_jax.staged.report import Row
from openba_jax.staged.settings import Data
from openba_jax.training.records import metrics

SCORED_AT_ONCE = 64
"""Questions of a batch."""


def score(folder: Path, data: Data, mesh_shape: Sequence[int]) -> dict[str, Any]:
    """Asks a model the questions of a run; returns scores in the form of `openba-eval`'s files."""
    placed = loading.load(folder, mesh_shape)
    asked = AskedModel(
        placed.model,
        placed.params,
        placed.vocabulary,
        data.encoder_length,
        data.decoder_length,
        batch_size=placed.rows(SCORED_AT_ONCE),
    )
    with use_mesh(placed.mesh):
        subjects = json_choice.load(Path(data.questions))
        return measure(json_choice.BENCHMARK, subjects, asked).as_dict()


@dataclasses.dataclass(frozen=True)
class Results:
    """Figures of the models of a run.

    Attributes:
      models: the models.
      prompts: texts that the final model answers in the report.
    """

    models: Models
    prompts: Sequence[str]

    def scores(self, name: str) -> dict[str, Score]:
        """Scores on the questions, for each subject and `TOTAL`; empty without questions."""
        data = self.models.corpora.data
        if not data.questions:
            return {}
        path = self.models.root / "scores" / f"{name}.json"
        if not path.exists():
            measured = score(self.models.folder(name), data, self.models.mesh_shape)
            write_json(path, measured)
        stored = json.loads(path.read_text(encoding="utf-8"))
        scores = {**stored["subjects"], TOTAL: stored[TOTAL]}
        return {subject: Score.from_dict(fields) for subject, fields in scores.items()}

    def accuracy(self, name: str) -> float | None:
        """Accuracy over all questions, None where there are none."""
        scores = self.scores(name)
        return scores[TOTAL].accuracy if scores else None

    def row(
        self,
        name: str,
        step: int,
        *,
        parent: str | None = None,
        tuned: bool = False,
        control: bool = False,
    ) -> Row:
        """The line of the table for a model that was trained for so many steps."""
        data = self.models.corpora.data
        model = self.models.model(name)
        evaluated = evaluations(self.models, name)
        before = None if parent is None else evaluations(self.models, parent)[-1]["loss"]
        trains = parent is None or step > 0
        pruned = pruned_name(name) if step else name
        tokens = [data.tokens(record["step"]) for record in evaluated]
        losses = [record["loss"] for record in evaluated]
        return Row(
            name=name,
            parameters=parameter_count(model),
            flops=train_flops_per_example(model, data.encoder_length, data.decoder_length),
            tokens=data.tokens(step),
            loss_before=before,
            loss_pruned=None if parent is None else losses[0],
            loss_recovered=losses[-1] if trains else None,
            tokens_to_recover=None
            if before is None
            else tokens_to_reach(tokens, losses, NEAR * before),
            accuracy_pruned=None if parent is None else self.accuracy(pruned),
            accuracy_recovered=self.accuracy(name) if trains else None,
            accuracy_tuned=self.accuracy(tuned_name(name)) if tuned and self._tunes else None,
            control=control,
        )

    def curve(self, name: str, start: int, control: bool = False) -> Curve:
        """The losses of a model over its tokens."""
        trained, evaluated = records(self.models, name, "train"), evaluations(self.models, name)
        tokens = self.models.corpora.data.tokens
        return Curve(
            name=name,
            start=start,
            tokens=[tokens(record["step"]) for record in trained],
            losses=[record["loss"] for record in trained],
            evaluated_tokens=[tokens(record["step"]) for record in evaluated],
            evaluated=[record["loss"] for record in evaluated],
            control=control,
            pieces=self.models.model(name).axes.sizes["vocab"],
        )

    def answers(self, name: str) -> list[tuple[str, str]]:
        """What a model answers, greedily, to the prompts."""
        if not self.prompts:
            return []
        data = self.models.corpora.data
        model = tuned_name(name) if self._tunes else name
        placed = loading.load(self.models.folder(model), self.models.mesh_shape)
        generator = Generator(
            placed.model,
            placed.params,
            placed.vocabulary,
            data.encoder_length,
            placed.rows(len(self.prompts)),
        )
        with use_mesh(placed.mesh):
            answers = generator(self.prompts, max_new_tokens=data.decoder_length)
        return list(zip(self.prompts, answers, strict=True))

    def report(
        self, rows: Sequence[Row], curves: Sequence[Curve], final: str, pieces: int | None
    ) -> str:
        """Writes the report's files; returns its text.

        Args:
          rows: of the ancestor, the stages and the controls.
          curves: of the same.
          final: name of the last stage.
          pieces: of the vocabulary that is kept; None if it was not cut.
        """
        root, corpora = self.models.root, self.models.corpora
        names = sorted(path.stem for path in (root / "scores").glob("*.json"))
        scores = {name: self.scores(name) for name in names}
        chance = scores[self.models.first][TOTAL].chance if scores else 0.0
        skipped = {name: each[TOTAL].skipped for name, each in scores.items()}
        found = report.findings(rows, chance, final)
        found += report.speed_findings(curves, final)
        answers = self.answers(final)
        write_json(root / "report.json", report.as_dict(rows, found, answers, scores))
        markdown = report.as_markdown(rows, found, answers, skipped)
        write_atomically(root / "report.md", markdown)
        plots.plot_losses(curves, root / "losses.png")
        if counted := corpora.token_counts(open_vocabulary(corpora.tokenizer)):
            plots.plot_coverage(sum_counts(counted), pieces, root / "coverage.png")
        lines = "".join(f"{question}  ->  {answer}\n" for question, answer in answers)
        return report.as_text(rows, found, skipped) + lines

    @property
    def _tunes(self) -> bool:
        """Whether models are tuned."""
        return self.models.tune is not None


def evaluations(models: Models, name: str) -> list[dict[str, Any]]:
    """The held-out losses of a model by `step`: of its training, or what was measured instead."""
    measured = models.losses(name)
    if measured.exists():
        return [{"step": 0, **json.loads(measured.read_text(encoding="utf-8"))}]
    return records(models, name, "eval")


def records(models: Models, name: str, split: str) -> list[dict[str, Any]]:
    """What the training of a model has written; nothing of one that was only measured."""
    # What a given ancestor has written of its own training is not of this run.
    if models.losses(name).exists():
        return []
    return [
        dict(record)
        for record in metrics.read(models.folder(name) / metrics.METRICS)
        if record["split"] == split
    ]
