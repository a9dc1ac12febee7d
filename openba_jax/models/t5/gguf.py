"""T5 and mT5 in GGUF, as llama.cpp reads them.

Keys and network: `src/models/t5.cpp` of https://github.com/ggml-org/llama.cpp. It scales no logits,
gates by GELU alone, puts all distances from 128 tokens on into one bucket, and counts the layers of
the encoder where it places those of the decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.t5.config import T5Config

_NAME = "t5"
_MAX_DISTANCE = 128
_GATE = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
_HEAD = "lm_head.weight"
_LAST_NORM = "decoder.final_layer_norm.weight"
_LOGIT_SCALE = f"{_NAME}.logit_scale"


class T5Gguf:
    """The `Gguf` mapping of T5 and mT5."""

    architectures: Sequence[str] = (_NAME,)
    # A bias of old files that nothing has ever read.
    constants: Sequence[str] = ("dec.blk.0.cross_attn_rel_b.weight",)

    def fields(
        self,
        metadata: Mapping[str, Any],
        constants: Mapping[str, np.ndarray],
        theirs: Collection[str],
    ) -> dict[str, Any]:
        """`config.json` as Hugging Face has it.

        Tied logits are scaled unless the file says that they are not: other writers leave the scale
        out, since it changes no greedy answer.

        Raises:
          UserError: a key is missing, or the model is of a variant that the network does not have.
        """
        del constants

        def value(key: str, default: Any = None) -> Any:
            found = metadata.get(f"{_NAME}.{key}", default)
            if found is None:
                raise UserError(f"the metadata lack {_NAME}.{key}.")
            return found

        heads, head_dim = value("attention.head_count"), value("attention.key_length")
        for key, expected in (
            ("attention.head_count_kv", heads),
            ("attention.value_length", head_dim),
            ("decoder_start_token_id", 0),
            ("logit_scale", 1.0),
        ):
            if (found := value(key, expected)) != expected:
                raise UserError(f"{_NAME}.{key} is {found}; it is {expected} in every T5 here.")
        return {
            "model_type": "t5",
            "d_model": value("embedding_length"),
            "d_ff": value("feed_forward_length"),
            "d_kv": head_dim,
            "num_heads": heads,
            "num_layers": value("block_count"),
            "num_decoder_layers": value("decoder_block_count", value("block_count")),
            "feed_forward_proj": "gated-gelu" if _GATE in theirs else "relu",
            "layer_norm_epsilon": float(value("attention.layer_norm_rms_epsilon")),
            "relative_attention_num_buckets": value("attention.relative_buckets_count"),
            "relative_attention_max_distance": _MAX_DISTANCE,
            "n_positions": value("context_length"),
            "scale_decoder_outputs": _HEAD not in theirs and _LOGIT_SCALE not in metadata,
        }

    def metadata(self, config: ModelConfig) -> dict[str, Any]:
        """What llama.cpp reads, by key; `general.architecture` among it.

        Raises:
          UserError: llama.cpp has no such network.
        """
        assert isinstance(config, T5Config)
        if not config.shared_relpos:
            raise UserError(
                "the layers have biases of positions of their own (shared_relpos), and here GGUF "
                "holds one for all; write native or t5x."
            )
        known = "gelu" if config.gated_mlp else "relu"
        if config.mlp_activation != known:
            raise UserError(
                f"mlp_activation is {config.mlp_activation!r} with gated_mlp={config.gated_mlp}, "
                f"and llama.cpp's T5 knows {known!r} there; write another format."
            )
        if config.relpos_max_distance != _MAX_DISTANCE:
            raise UserError(
                f"relpos_max_distance is {config.relpos_max_distance}, and llama.cpp's T5 has "
                f"{_MAX_DISTANCE}; write another format."
            )
        if config.decoder_layers > config.encoder_layers:
            raise UserError(
                f"the decoder has {config.decoder_layers} layers and the encoder "
                f"{config.encoder_layers}, and llama.cpp loads no decoder that is deeper than its "
                "encoder; write another format."
            )
        keys: dict[str, Any] = {
            "context_length": max(config.lengths),
            "embedding_length": config.embed_dim,
            "feed_forward_length": config.mlp_dim,
            "block_count": config.encoder_layers,
            "decoder_block_count": config.decoder_layers,
            "vocab_size": config.vocab_size,
            "attention.head_count": config.num_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
            "attention.layer_norm_rms_epsilon": float(config.layer_norm_epsilon),
            "attention.relative_buckets_count": config.relpos_buckets,
            "decoder_start_token_id": 0,
        }
        if config.tie_embeddings:
            keys["logit_scale"] = 1.0
        return {
            "general.architecture": _NAME,
            **{f"{_NAME}.{key}": value for key, value in keys.items()},
        }

    def written_constants(self, config: ModelConfig) -> dict[str, np.ndarray]:
        """None."""
        del config
        return {}

    def interleaved_heads(self, theirs: str, config: ModelConfig) -> int:
        """None: T5 has no rotary positions."""
        del theirs, config
        return 0

    def factor(self, theirs: str, config: ModelConfig) -> float:
        """The last norm is multiplied by the scale of tied logits, which llama.cpp has not."""
        assert isinstance(config, T5Config)
        return config.logits_scale if theirs == _LAST_NORM else 1.0
