"""The model class of networks without an encoder under T5X."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from t5x import models
from t5x.optimizers import OptimizerDefType

from openba_jax.errors import UserError
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import GREEDY, Sampling, generate
from openba_jax.models.config import ModelConfig
from openba_jax.models.decoder_only import PACKING, PADDING
from openba_jax.models.registry import model_of
from openba_jax.t5x.model import Batch, NetworkModel


class DecoderOnlyModel(NetworkModel, models.DecoderOnlyModel):
    """A decoder of this package under T5X's `BaseModel`.

    Batches are those of the native runner (`data.layouts`), not those of seqio's feature
    converters: nothing stands in front of the first token, any id may be a token, and
    `decoder_segment_ids` say which ones are there. Decoding is the native runner's, and takes no
    `decode_fn`.

    Attributes:
      config: the network's configuration.
      model: the network.
    """

    read = ("decoder_input_tokens", *PACKING)

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: seqio.Vocabulary,
        optimizer_def: OptimizerDefType,
        sampling: Sampling = GREEDY,
        num_decodes: int = 1,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
    ) -> None:
        """Puts the parts together; nothing is allocated and no file is read.

        Args:
          config: the network's configuration.
          vocabulary: of the tokens, mostly `openba_jax.t5x.vocabulary.TokenIds`.
          optimizer_def: see `openba_jax.t5x.optimizer`.
          sampling: how tokens are chosen without beams.
          num_decodes: beams, with more than one of them.
          length_penalty: of the beams.
          max_new_tokens: length of an answer; by default that of the rows of a batch.

        Raises:
          UserError: the network has an encoder, or beams are asked to sample.
        """
        self.config = config
        self.model = model_of(config)
        if self.model.layout != "decoder_only":
            raise UserError(
                f"a model of the family {config.family} has an encoder; leave "
                "gin/runs/t5x/decoder.gin out."
            )
        if num_decodes > 1 and sampling != GREEDY:
            raise UserError(
                f"num_decodes is {num_decodes} and temperature {sampling.temperature}; beams do "
                "not sample, give one of the two."
            )
        self._sampling = sampling
        self._num_decodes = num_decodes
        self._length_penalty = length_penalty
        self._max_new_tokens = max_new_tokens
        super().__init__(
            module=self.model.module, vocabulary=vocabulary, optimizer_def=optimizer_def
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: all that the tokenizer names, or the end that seqio knows.

        Raises:
          UserError: the vocabulary names none.
        """
        vocabulary = getattr(self.output_vocabulary, "vocabulary", None)
        if vocabulary is not None:
            return tuple(vocabulary.stop_ids)
        end = self.output_vocabulary.eos_id
        if end is None:
            raise UserError("the vocabulary names no token that ends an answer; give its eos_id.")
        return (int(end),)

    def predict_batch_with_aux(
        self,
        params: Any,
        batch: Batch,
        rng: jax.Array | None = None,
        *,
        return_all_decodes: bool = False,
        num_decodes: int | None = None,
        decoder_params: Mapping[str, Any] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The native runner's answers to what is an input in the rows of a batch.

        Args:
          params: the parameters.
          batch: of the native runner, one sample in each row; of more the first is read.
          rng: a key for sampling.
          return_all_decodes: give all beams, the best last, as T5X's own models do.
          num_decodes: another number of beams.
          decoder_params: not known.

        Returns:
          int32 `[batch, length]`, answers without their inputs, padded with -1 behind the token
          that ends them; and float32 `[batch]`, `scores`: summed log p, of beams with their penalty
          of length. With `return_all_decodes` both have an axis of decodes behind `batch`.

        Raises:
          UserError: there are `decoder_params`, or beams are asked to sample.
        """
        if decoder_params:
            raise UserError(
                f"decoder_params has {sorted(decoder_params)}; decoders take sampling, num_decodes "
                "and length_penalty when they are made."
            )
        count = self._num_decodes if num_decodes is None else num_decodes
        inputs = prompts(batch)
        length = self._max_new_tokens or inputs.shape[1]
        if count > 1:
            if self._sampling != GREEDY:
                raise UserError(f"num_decodes is {count}, and beams do not sample; leave it out.")
            beams = generate_beams(
                self.model,
                params,
                inputs,
                beams=count,
                max_new_tokens=length,
                length_penalty=self._length_penalty,
                stop_ids=self.stop_ids,
            )
            answers, scores = beams.sequences[:, ::-1, 1:], beams.scores[:, ::-1]
        else:
            one = generate(
                self.model,
                params,
                inputs,
                jax.random.PRNGKey(0) if rng is None else rng,
                max_new_tokens=length,
                sampling=self._sampling,
                stop_ids=self.stop_ids,
            )
            answers = one[:, None]
            scores = answer_log_likelihoods(
                self.model,
                params,
                inputs,
                jnp.maximum(answers, 0),
                (answers >= 0).astype(jnp.float32),
            )
        if return_all_decodes:
            return answers, {"scores": scores}
        return answers[:, -1], {"scores": scores[:, -1]}


def prompts(batch: Batch) -> jax.Array:
    """The inputs of the first sample of each row, int32 `[batch, length]`, padded with -1."""
    real = batch["decoder_segment_ids"] == 1
    is_input = (batch["decoder_causal_attention"] > 0) & real
    return jnp.where(is_input, batch["decoder_input_tokens"], PADDING)
