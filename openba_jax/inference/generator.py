"""From text to text: frames prompts, generates, decodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.beam_search import Beams, BeamSettings, generate_beams
from openba_jax.inference.decoding import GREEDY, NOT_FINITE, Sampling, generate
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.inference.prompts import PLACE, frame_of
from openba_jax.models.base import Model, Params
from openba_jax.parallel.sharding import to_host


class Generator:
    """Answers prompts, which are framed as the model wants them."""

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        encoder_length: int,
        batch_size: int = 16,
        parse_special: bool = False,
        template: str = PLACE,
    ) -> None:
        """Keeps a model.

        Args:
          model: the model.
          params: its parameters.
          vocabulary: its vocabulary.
          encoder_length: longest prompt, frame included.
          batch_size: prompts at once.
          parse_special: strings of special tokens in prompts become these tokens.
          template: what stands around prompts, see `PromptFrame`.

        Raises:
          UserError: the template has not one place for the prompt, or there is no room for it.
        """
        self._model = model
        self._params = params
        self._vocabulary = vocabulary
        self._frame = frame_of(model, vocabulary)(
            vocabulary, encoder_length, parse_special=parse_special, template=template
        )
        self._batch_size = batch_size

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """One answer per prompt; see `stream`."""
        batches = self.stream(prompts, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        return [answer for batch in batches for answer in batch]

    def stream(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        places: Sequence[str] | None = None,
        search: BeamSettings | None = None,
    ) -> Iterator[list[str]]:
        """Yields the answers batch by batch, special tokens left out.

        Args:
          prompts: texts.
          max_new_tokens: longest answer, sentinel and end of sequence included.
          sampling: how tokens are chosen; greedy by default.
          seed: for sampling.
          places: where the prompts stand, for messages; by default they are counted from 1.
          search: beams, of which the best is the answer; None: `sampling` chooses.

        Raises:
          UserError: the logits of an answer are not finite.
          UnusablePromptError: a prompt is too long, since nothing is cut off silently, or is no
            valid Unicode. It is raised before anything is generated.
        """
        if places is None:
            places = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
        framed = [
            self._frame.prompt(prompt, place) for prompt, place in zip(prompts, places, strict=True)
        ]
        length = fitting_length(framed, self._frame.encoder_length)
        for start in range(0, len(framed), self._batch_size):
            chunk = framed[start : start + self._batch_size]
            # A row of padding fills the last batch up, so that one shape is compiled.
            rows = chunk + [[]] * (self._batch_size - len(chunk))
            inputs = pad_rows(rows, length, self._model.padding)
            options: Any = {
                "max_new_tokens": max_new_tokens,
                "stop_ids": self._vocabulary.stop_ids,
            }
            if search is None:
                rng = jax.random.fold_in(jax.random.key(seed), start)
                options["sampling"] = sampling
                ids = generate(self._model, self._params, inputs, rng, **options)
            else:
                options.update(dataclasses.asdict(search))
                ids = _best(generate_beams(self._model, self._params, inputs, **options))
            answers = to_host(ids)[: len(chunk)].tolist()
            for answer, place in zip(answers, places[start:], strict=False):
                if NOT_FINITE in answer:
                    raise UserError(
                        f"{place}: the logits are not finite, and no answer would mean anything; "
                        "the compute type is too narrow for the parameters, or these are damaged."
                    )
            yield [
                self._vocabulary.decode(
                    [i for i in answer if i != self._model.padding], skip_special_tokens=True
                ).strip()
                for answer in answers
            ]


def _best(found: Beams) -> jax.Array:
    """The best answer to each row, int32 `[batch, length]`, as `generate` gives answers."""
    answers, scores = found.sequences[:, 0, 1:], found.scores[:, 0]
    return jnp.where(jnp.isfinite(scores)[:, None], answers, NOT_FINITE)
