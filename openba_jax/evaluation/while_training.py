"""Benchmarks that are asked while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.registry import benchmark
from openba_jax.evaluation.measuring import measure
from openba_jax.evaluation.sources.places import places_of
from openba_jax.models.base import Model, Params
from openba_jax.parallel import sharding


class BenchmarkEvaluator:
    """A function from a model and its parameters to the figures of some benchmarks."""

    def __init__(
        self,
        names: Sequence[str],
        questions: str | Mapping[str, str],
        vocabulary: Vocabulary,
        lengths: tuple[int, int],
        *,
        batch_size: int = 32,
        every: int | None = None,
        preset: str = "corrected",
        shots: int | None = None,
    ) -> None:
        """Reads the questions.

        Args:
          names: of benchmarks, with or without a template, such as `mmlu:ppl_5`.
          questions: where they lie, see `sources.places`.
          vocabulary: the model's.
          lengths: tokens of the longest prompt and answer, frames included.
          batch_size: questions at once; rounded up to what the mesh divides.
          every: steps between two measurements; None: at every evaluation.
          preset: see `Benchmark.configured`.
          shots: see `Benchmark.configured`.

        Raises:
          UserError: a benchmark is unknown, questions are missing or malformed, or a number is too
            small.
        """
        if not names or not questions:
            raise UserError("EVAL_BENCHMARKS and EVAL_QUESTIONS go together; give both, or none.")
        if batch_size < 1 or (every is not None and every < 1):
            raise UserError("batch size and period of EVAL_BENCHMARKS must be at least 1.")
        found = [benchmark(name, preset, shots) for name in names]
        places = places_of(questions, [each.name for each in found])
        self.every = every
        self._asked = [(each, each.load(places[each.name])) for each in found]
        self._vocabulary, self._lengths, self._batch_size = vocabulary, lengths, batch_size

    def __call__(self, model: Model, params: Params, mesh: Mesh) -> dict[str, float]:
        """Measures; parameters are sharded over the mesh.

        Returns:
          The main figure of each benchmark over all of its items, by its label, from 0 to 1.

        Raises:
          UserError: no question of a benchmark can be asked, or an answer is not finite.
        """
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        rows = -(-self._batch_size // parts) * parts
        asked = AskedModel(model, params, self._vocabulary, *self._lengths, batch_size=rows)
        with sharding.use_mesh(mesh):
            measured = [measure(each, subjects, asked) for each, subjects in self._asked]
        return {each.benchmark: each.total.figure for each in measured}
