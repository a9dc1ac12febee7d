"""From text to text: frames prompts, generates, decodes (reference §9.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import GREEDY, Sampling, generate
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.models.base import Model, Params
from openba_jax.parallel.sharding import to_host


class Generator:
    """Answers prompts.

    A prompt is framed `<S> prompt <extra_id_0> </s>`; the model answers `<extra_id_0> answer </s>`.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        encoder_length: int,
        batch_size: int = 16,
    ) -> None:
        """Keeps a model.

        Args:
          model: the model.
          params: its parameters.
          vocabulary: its vocabulary.
          encoder_length: longest prompt, frame included.
          batch_size: prompts at once.
        """
        self._model = model
        self._params = params
        self._vocabulary = vocabulary
        self._encoder_length = encoder_length
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
    ) -> Iterator[list[str]]:
        """Yields the answers batch by batch, special tokens left out.

        Args:
          prompts: texts.
          max_new_tokens: longest answer, sentinel and end of sequence included.
          sampling: how tokens are chosen; greedy by default.
          seed: for sampling.

        Raises:
          UserError: a prompt is too long; nothing is cut off silently.
        """
        framed = [self._frame(prompt) for prompt in prompts]
        length = fitting_length(framed, self._encoder_length)
        for start in range(0, len(framed), self._batch_size):
            chunk = framed[start : start + self._batch_size]
            # A row of padding fills the last batch up, so that one shape is compiled.
            rows = chunk + [[]] * (self._batch_size - len(chunk))
            ids = generate(
                self._model,
                self._params,
                pad_rows(rows, length),
                jax.random.fold_in(jax.random.key(seed), start),
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop_ids=(self._vocabulary.eos_id,),
            )
            answers = to_host(ids)[: len(chunk)].tolist()
            yield [
                self._vocabulary.decode(answer, skip_special_tokens=True).strip()
                for answer in answers
            ]

    def _frame(self, prompt: str) -> list[int]:
        vocabulary = self._vocabulary
        body = vocabulary.encode(prompt)
        ids = [vocabulary.s_id, *body, vocabulary.sentinel(0), vocabulary.eos_id]
        if len(ids) > self._encoder_length:
            raise UserError(
                f"a prompt of {len(body)} tokens exceeds the {self._encoder_length - 3} that fit "
                f"into the encoder: {prompt[:60]!r}."
            )
        return ids
