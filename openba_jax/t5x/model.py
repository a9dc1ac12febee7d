"""The model class that T5X trains, decodes and scores with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from t5x import decoding as t5x_decoding
from t5x import metrics as t5x_metrics
from t5x import models
from t5x.optimizers import OptimizerDefType

from openba_jax.errors import UserError
from openba_jax.evaluation.scoring import token_losses
from openba_jax.models.base import DecodingState, Model
from openba_jax.models.config import ModelConfig
from openba_jax.models.encoder_decoder import PACKING
from openba_jax.models.registry import model_of
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.t5x import decoding

Batch = Mapping[str, jax.Array]
Metrics = dict[str, clu_metrics.Metric]


class NetworkModel(models.BaseTransformerModel):
    """What T5X asks of a network of this package, with an encoder or without one.

    Losses are computed in chunks, never from the one-hot vectors of the whole vocabulary, and
    parameters come with the axes that the network declares.

    Attributes:
      config: the network's configuration.
      model: the network.
    """

    config: ModelConfig
    model: Model
    read: ClassVar[tuple[str, ...]]
    """What the network reads of a batch."""

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> flax.core.FrozenDict:
        """Fresh `params` and, for T5X's partitioner, `params_axes`."""
        del input_shapes, input_types  # No parameter depends on them.
        axes = traverse_util.flatten_dict(self.model.logical_axes())
        metadata = {
            (*path[:-1], f"{path[-1]}_axes"): flax_partitioning.AxisMetadata(names=names)
            for path, names in axes.items()
        }
        return flax.core.freeze(
            {
                "params": self.model.init(rng),
                "params_axes": traverse_util.unflatten_dict(metadata),
            }
        )

    def loss_fn(
        self, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Mean loss over target tokens in nats, for T5X's own trainer, and metrics."""
        batch = with_float_weights(batch)
        hidden = self.model.hidden(params, batch, dropout_rng)
        loss_sum, counts = token_cross_entropy(hidden, self.model.head(params), batch)
        loss = loss_sum / jnp.maximum(counts["weight_sum"], 1.0)
        return loss, batch_metrics(loss_sum, counts, batch)

    def score_batch(self, params: Any, batch: Batch, return_intermediates: bool = False) -> Any:
        """Summed log p of the targets, float32 `[batch]`.

        Args:
          params: the parameters.
          batch: as for `loss_fn`.
          return_intermediates: give also what the network sowed, with `decoder/target_tokens`,
            `decoder/loss_weights` and `decoder/token_scores` `[batch, length]` added, as T5X does.
        """
        batch = with_float_weights(batch)
        hidden, sown = self.module.apply(
            {"params": params},
            **{name: batch[name] for name in self.read if name in batch},
            enable_dropout=False,
            mutable=["intermediates"] if return_intermediates else [],
            method=self.module.hidden_states,
        )
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        token_scores = -token_losses(self.model.head(params), hidden, targets) * weights
        scores = jnp.sum(token_scores, axis=-1)
        if not return_intermediates:
            return scores
        intermediates = flax.core.unfreeze(sown.get("intermediates", {}))
        intermediates.setdefault("decoder", {}).update(
            target_tokens=(targets,), loss_weights=(weights,), token_scores=(token_scores,)
        )
        return scores, intermediates


class EncoderDecoderModel(NetworkModel, models.EncoderDecoderModel):
    """An encoder-decoder of this package under T5X's `BaseModel`.

    It differs from T5X's own class in what `NetworkModel` says and in two points more: the cache
    starts from the real encoder output, whose projections are made once; and decoding is by default
    that of the native runner.

    Attributes:
      config: the network's configuration.
      model: the network.
    """

    read = ("encoder_input_tokens", "decoder_input_tokens", *PACKING)

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: seqio.Vocabulary,
        optimizer_def: OptimizerDefType,
        decode_fn: models.DecodeFnCallable = decoding.sample,
        num_decodes: int = 1,
        return_all_decodes: bool = False,
    ) -> None:
        """Puts the parts together; nothing is allocated and no file is read.

        Args:
          config: the network's configuration.
          vocabulary: of inputs and targets.
          optimizer_def: see `openba_jax.t5x.optimizer`.
          decode_fn: how answers are found; those of `t5x.decoding` fit, too.
          num_decodes: beams.
          return_all_decodes: give all of them, the best last, rather than the best.

        Raises:
          UserError: the network has no encoder.
        """
        self.config = config
        self.model = model_of(config)
        if self.model.layout != "encoder_decoder":
            raise UserError(
                f"a model of the family {config.family} has no encoder; train it with "
                "gin/runs/t5x/decoder.gin after the run's gin file, and ask it with openba-infer."
            )
        self._projections: dict[str, Any] | None = None  # Of one prediction, while it is traced.
        super().__init__(
            module=self.model.module,
            input_vocabulary=vocabulary,
            output_vocabulary=vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
            default_decoder_params=models.DecoderParams(return_all_decodes, num_decodes),
        )

    def _compute_kv_cache(
        self,
        params: Any,
        encoded_inputs: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        prefill_decoder_prompt: bool = False,
    ) -> tuple[Any, jax.Array | None]:
        """The cache, with the encoder output projected, and maybe with a prompt read."""

        def decode(variables: Any, tokens: jax.Array, **arguments: Any) -> Any:
            _, changed = self.module.apply(
                {"params": params, **variables},
                encoded_inputs,
                encoder_input_tokens,
                tokens,
                enable_dropout=False,
                decode=True,
                mutable=["cache"],
                method=self.module.decode_hidden,
                **arguments,
            )
            return changed["cache"]

        length = decoder_input_tokens.shape[1]
        cache = decode({}, decoder_input_tokens[:, :1], max_decode_length=length)
        if not prefill_decoder_prompt:
            return self._keep_projections(cache), None
        # A prompt is start id 0, tokens, then padding.
        lengths = jnp.sum(decoder_input_tokens != 0, axis=1, dtype=jnp.int32)
        cache = decode({"cache": cache}, decoder_input_tokens, prefill_lengths=lengths)
        return self._keep_projections(cache), lengths

    def _keep_projections(self, cache: Any) -> Any:
        """The cache without the projections of the encoder output, if a prediction is under way."""
        if self._projections is None:
            return cache
        split: DecodingState = self.model.split_cache(cache)
        self._projections.update(split.fixed)
        return split.cache

    def predict_batch_with_aux(self, *arguments: Any, **options: Any) -> Any:
        """As T5X's, but the projections of the encoder output stay outside of the cache.

        T5X's decoding would copy them once for every beam, and move them with every token.
        """
        prediction = copy.copy(self)
        prediction._projections = {}
        return super(EncoderDecoderModel, prediction).predict_batch_with_aux(*arguments, **options)

    def _compute_logits_from_slice(
        self,
        decoding_state: t5x_decoding.DecodingState,
        params: Any,
        encoded_inputs: jax.Array,
        raw_inputs: jax.Array,
        max_decode_length: int,
    ) -> tuple[jax.Array, Any]:
        """One step; T5X's beam search leaves a prefilled cache index `[batch, beams]`."""
        rows = decoding_state.cur_token.shape[0]
        leading = 1 if self.module.scan_layers else 0
        old = traverse_util.flatten_dict(decoding_state.cache)
        flat = {
            path: leaf.reshape(*leaf.shape[:leading], rows)
            if path[-1] == "cache_index" and leaf.ndim > leading + 1
            else leaf
            for path, leaf in old.items()
        }
        logits, changed = self.module.apply(
            {
                "params": params,
                "cache": traverse_util.unflatten_dict(flat),
                "encoded": self._projections or {},
            },
            encoded_inputs,
            raw_inputs,
            decoding_state.cur_token,
            enable_dropout=False,
            decode=True,
            max_decode_length=max_decode_length,
            mutable=["cache"],
            method=self.module.decode,
        )
        new = traverse_util.flatten_dict(changed["cache"])
        shaped = {path: leaf.reshape(old[path].shape) for path, leaf in new.items()}
        return logits[:, 0], traverse_util.unflatten_dict(shaped)


def with_float_weights(batch: Batch) -> dict[str, jax.Array]:
    """The batch with float32 loss weights, which seqio makes integers or leaves out."""
    weights = batch.get("decoder_loss_weights", batch["decoder_target_tokens"] > 0)
    return {**batch, "decoder_loss_weights": weights.astype(jnp.float32)}


def batch_metrics(loss_sum: jax.Array, counts: Mapping[str, jax.Array], batch: Batch) -> Metrics:
    """What T5X logs of a batch: means over target tokens, fill and speed.

    Args:
      loss_sum: nats, summed over target tokens.
      counts: `weight_sum` and `correct_sum`.
      batch: the batch.
    """
    weight_sum = counts["weight_sum"]
    real = real_tokens(batch)
    tokens = sum(jnp.sum(mask) for mask in real.values())
    return {
        "loss": clu_metrics.Average(total=loss_sum, count=weight_sum),
        "accuracy": clu_metrics.Average(total=counts["correct_sum"], count=weight_sum),
        "tokens": t5x_metrics.Sum(tokens),
        **{f"non_padding_fraction/{stack}": _fraction(mask) for stack, mask in real.items()},
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
        "timing/seconds": t5x_metrics.Time(),
        "timing/tokens_per_second": t5x_metrics.TimeRate.from_model_output(numerator=tokens),
    }


def real_tokens(batch: Batch) -> dict[str, jax.Array]:
    """What is no padding, by stack, bool `[batch, length]`.

    A model without an encoder has tokens of every id, and segment ids say which ones are there.
    """
    if "encoder_input_tokens" not in batch:
        return {"decoder": batch["decoder_segment_ids"] > 0}
    return {
        "encoder": batch["encoder_input_tokens"] > 0,
        "decoder": batch["decoder_target_tokens"] > 0,
    }


def _fraction(mask: jax.Array) -> clu_metrics.Average:
    return clu_metrics.Average(total=jnp.sum(mask), count=jnp.array(mask.size))
