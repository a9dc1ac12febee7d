"""`openba_jax` among the models of lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.model import LM
from tqdm import tqdm

from openba_jax.errors import UserError
from openba_jax.evaluation.continuations import Continuation, score_continuations
from openba_jax.harness.mapping import RequestMapping
from openba_jax.harness.settings import GenerationSettings, whole_number
from openba_jax.inference.loading import load
from openba_jax.inference.until import answer_until
from openba_jax.parallel import hardware
from openba_jax.parallel.sharding import use_mesh
from openba_jax.paths import local

DEFAULT_BATCH_SIZE = 16


class HarnessModel(LM):
    """A model folder that answers the harness's requests; all of its types.

    Requests go to the model sorted by length, in few shapes; a context is read once for all of its
    continuations.
    """

    def __init__(
        self,
        path: str,
        mapping: str = "frame",
        max_length: int | str = 0,
        parse_special: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        seed: int | str = 0,
        **unknown: Any,
    ) -> None:
        """Opens a model folder; what the command line says below `--model_args`.

        Args:
          path: a model folder, or `DIR/checkpoints/<step>`.
          mapping: how requests become inputs and targets, one of `mapping.MAPPINGS`.
          max_length: the longest context of an encoder, or the longest text of a decoder, in
            tokens; 0: as long as the model was made for.
          parse_special: strings such as `</s>` in requests become these special tokens.
          batch_size: continuations, or prompts, at once.
          max_batch_size: not to be given; there is no search for a batch size.
          device: the harness always gives one, for PyTorch; JAX_PLATFORMS says where a model runs.
          seed: for sampling.
          **unknown: arguments of other models, which are refused.

        Raises:
          UserError: an argument is unknown or has no meaning here, or the model cannot be used.
        """
        super().__init__()
        if unknown:
            raise UserError(
                f"model_args has {next(iter(unknown))!r}; openba_jax takes path, mapping, "
                "max_length, parse_special, batch_size and seed."
            )
        if max_batch_size is not None or batch_size == "auto":
            raise UserError("there is no search for a batch size; give --batch_size a number.")
        del device
        self._path = str(local(path))
        size = DEFAULT_BATCH_SIZE if batch_size is None else whole_number("batch_size", batch_size)
        self._seed = whole_number("seed", seed, least=0)
        placed = load(self._path, (-1, 1, 1))
        self._placed = placed
        self._mapping = RequestMapping(
            placed.model,
            placed.vocabulary,
            mapping,
            whole_number("max_length", max_length, least=0),
            parse_special,
        )
        self._multiple = placed.rows(1)
        self._batch_size = placed.rows(size)

    @property
    def batch_size(self) -> int:
        """Continuations, or prompts, at once."""
        return self._batch_size

    @property
    def tokenizer_name(self) -> str:
        """What marks the harness's caches of requests: the tokenizer and how it is used."""
        return f"openba_jax-{self._placed.vocabulary.fingerprint}"

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Scores continuations, see `LM.loglikelihood`.

        Raises:
          UserError: one has no token or is too long, or its score is not finite.
        """
        pairs = [
            self._mapping.continuation(request.args[0], request.args[1], f"request {number}")
            for number, request in enumerate(requests, start=1)
        ]
        found: dict[int, tuple[float, bool]] = {}
        for number, score in self._scores(pairs, "loglikelihood", disable_tqdm):
            found[number] = (score.log_likelihood, score.greedy)
            self.cache_hook.add_partial("loglikelihood", requests[number].args, found[number])
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Scores whole texts, see `LM.loglikelihood_rolling`; an empty text scores 0.

        Raises:
          UserError: a score is not finite.
        """
        windows: list[Continuation] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            parts = list(self._mapping.windows(request.args[0], f"request {number + 1}"))
            windows += parts
            owners += [number] * len(parts)
        sums = [0.0] * len(requests)
        left = [owners.count(number) for number in range(len(requests))]
        for part, score in self._scores(windows, "loglikelihood_rolling", disable_tqdm):
            owner = owners[part]
            sums[owner] += score.log_likelihood
            left[owner] -= 1
            if not left[owner]:
                self.cache_hook.add_partial(
                    "loglikelihood_rolling", requests[owner].args, sums[owner]
                )
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers contexts, see `LM.generate_until`.

        Raises:
          UserError: a setting of generation is unknown or out of its range, answers leave no room
            for contexts, or logits are not finite.
        """
        answers: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True, default=str)
            groups.setdefault(key, []).append(number)
        settings = {
            key: GenerationSettings.of(requests[numbers[0]].args[1])
            for key, numbers in groups.items()
        }
        prompts = {
            number: self._mapping.prompt(
                requests[number].args[0], settings[key].max_new_tokens, f"request {number + 1}"
            )
            for key, numbers in groups.items()
            for number in numbers
        }
        with self._working(len(requests), "generate_until", disable_tqdm) as bar:
            for key, numbers in groups.items():
                chosen = settings[key]
                for place, answer in answer_until(
                    self._placed.model,
                    self._placed.params,
                    self._placed.vocabulary,
                    [prompts[number] for number in numbers],
                    max_new_tokens=chosen.max_new_tokens,
                    stop=chosen.stop,
                    sampling=chosen.sampling,
                    seed=self._seed,
                    batch_size=self._placed.rows(min(self._batch_size, len(numbers))),
                ):
                    number = numbers[place]
                    answers[number] = answer
                    self.cache_hook.add_partial("generate_until", requests[number].args, answer)
                    bar.update()
        return [answers[number] for number in range(len(requests))]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """There is none.

        Raises:
          UserError: always.
        """
        del chat_history, add_generation_prompt
        raise UserError(
            "openba_jax has no chat template; leave out --apply_chat_template, or write the turns "
            "into the task's doc_to_text and give parse_special=True."
        )

    def _scores(
        self, pairs: Sequence[Continuation], unit: str, disable_tqdm: bool
    ) -> Iterator[Any]:
        with self._working(len(pairs), unit, disable_tqdm) as bar:
            for each in score_continuations(
                self._placed.model,
                self._placed.params,
                pairs,
                self._batch_size,
                self._multiple,
            ):
                yield each
                bar.update()

    @contextlib.contextmanager
    def _working(self, total: int, unit: str, disable_tqdm: bool) -> Iterator[tqdm]:
        """The mesh in use, and a progress bar."""
        with (
            hardware.explain_out_of_memory(),
            use_mesh(self._placed.mesh),
            tqdm(total=total, desc=unit, disable=disable_tqdm or None) as bar,
        ):
            yield bar
