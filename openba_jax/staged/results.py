"""What a staged run found: scores, the rows and curves of its report, sample answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.data.vocabulary import Vocabulary
from openba_jax.evaluation.multiple_choice import question_files, score_files
from openba_jax.files import write_atomically
from openba_jax.inference.generator import Generator
from openba_jax.models.counting import parameter_count, train_flops_per_example
from openba_jax.pruning.vocabulary import sum_counts
from openba_jax.staged import report
from openba_jax.staged.models import PRETRAIN, Models, pruned_name, tuned_name
from openba_jax.staged.report import Curve, Row
from openba_jax.training import metrics


@dataclasses.dataclass(frozen=True)
class Results:
    """Figures of the models of a run.

    Attributes:
      models: the models.
      prompts: texts that the final model answers in the report.
    """

    models: Models
    prompts: Sequence[str]

    def scores(self, name: str) -> dict[str, Any]:
        """Scores on the questions: for each subject and `total`, right, count and chance."""
        data = self.models.corpora.data
        if not data.questions:
            return {}
        path = self.models.root / "scores" / f"{name}.json"
        if not path.exists():
            loaded = training_state.load_model(self.models.folder(name))
            scores = score_files(
                loaded.model,
                loaded.params,
                self.models.vocabulary(name),
                question_files(data.questions),
                encoder_length=data.encoder_length,
                decoder_length=data.decoder_length,
            )
            path.parent.mkdir(exist_ok=True)
            as_dicts = {subject: dataclasses.asdict(score) for subject, score in scores.items()}
            write_atomically(path, json.dumps(as_dicts, indent=2) + "\n")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def accuracy(self, name: str) -> float | None:
        """Accuracy over all questions, None where there are none."""
        scores = self.scores(name)
        return scores["total"]["right"] / scores["total"]["count"] if scores else None

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
        model = model_folder.load_model(self.models.folder(name))
        evaluations = self._records(name, "eval")
        return Row(
            name=name,
            parameters=parameter_count(model),
            flops=train_flops_per_example(model, data.encoder_length, data.decoder_length),
            tokens=data.tokens(step),
            loss_before=None if parent is None else self._records(parent, "eval")[-1]["loss"],
            loss_pruned=None if parent is None else evaluations[0]["loss"],
            loss_recovered=evaluations[-1]["loss"],
            accuracy_pruned=None if parent is None else self.accuracy(pruned_name(name)),
            accuracy_recovered=self.accuracy(name),
            accuracy_tuned=self.accuracy(tuned_name(name)) if tuned else None,
            control=control,
        )

    def curve(self, name: str, start: int, control: bool = False) -> Curve:
        """The losses of a model over its tokens."""
        trained, evaluated = self._records(name, "train"), self._records(name, "eval")
        tokens = self.models.corpora.data.tokens
        return Curve(
            name=name,
            start=start,
            tokens=[tokens(record["step"]) for record in trained],
            losses=[record["loss"] for record in trained],
            evaluated_tokens=[tokens(record["step"]) for record in evaluated],
            evaluated=[record["loss"] for record in evaluated],
            control=control,
        )

    def answers(self, name: str) -> list[tuple[str, str]]:
        """What a model answers, greedily, to the prompts."""
        if not self.prompts:
            return []
        data = self.models.corpora.data
        loaded = training_state.load_model(self.models.folder(name))
        generator = Generator(
            loaded.model, loaded.params, self.models.vocabulary(name), data.encoder_length
        )
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
        scores = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((root / "scores").glob("*.json"))
        }
        chance = scores[PRETRAIN]["total"]["chance"] if scores else 0.0
        found = report.findings(rows, chance, final)
        answers = self.answers(tuned_name(final))
        write_atomically(root / "report.json", report.as_json(rows, found, answers, scores))
        write_atomically(root / "report.md", report.as_markdown(rows, found, answers))
        report.plot_losses(curves, root / "losses.png")
        counts = sum_counts(corpora.token_counts(Vocabulary(corpora.tokenizer)))
        report.plot_coverage(counts, pieces, root / "coverage.png")
        lines = "".join(f"{question}  ->  {answer}\n" for question, answer in answers)
        return report.as_text(rows, found) + lines

    def _records(self, name: str, split: str) -> list[dict[str, Any]]:
        return [
            dict(record)
            for record in metrics.read(self.models.folder(name) / metrics.METRICS)
            if record["split"] == split
        ]
