"""LLaMA, Qwen 2 and Qwen 3 in GGUF, as llama.cpp lays them down.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A LLaMA's queries and keys are
rotated there by neighbouring pairs: their channels are interleaved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.llama.config import LlamaConfig
from openba_jax.nn.rotary import Llama3Scaling

_MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_FACTORS = "rope_freqs.weight"
_KNOWN_SCALINGS = tuple(
    Llama3Scaling(factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0, 16.0, 4.0, 2.0)
)
"""GGUF holds what frequencies are divided by; these are the constants of LLaMA 3.1 to 3.3."""


class LlamaGguf:
    """The `Gguf` mapping of LLaMA and its relatives."""

    architectures: Sequence[str] = tuple(_MODEL_TYPES)
    constants: Sequence[str] = (_FACTORS,)

    def fields(
        self,
        metadata: Mapping[str, Any],
        constants: Mapping[str, np.ndarray],
        theirs: Collection[str],
    ) -> dict[str, Any]:
        """`config.json` as Hugging Face has it.

        Raises:
          UserError: a key is missing, or the model is of a variant that the network does not have.
        """
        name = metadata["general.architecture"]

        def value(key: str, default: Any = None) -> Any:
            found = metadata.get(f"{name}.{key}", default)
            if found is None:
                raise UserError(f"the metadata lack {name}.{key}.")
            return found

        if value("expert_count", 0):
            raise UserError(
                f"{name}.expert_count is {value('expert_count')}: a mixture of experts."
            )
        heads = value("attention.head_count")
        head_dim = value("attention.key_length", value("embedding_length") // heads)
        if (rotated := value("rope.dimension_count", head_dim)) != head_dim:
            raise UserError(
                f"{name}.rope.dimension_count is {rotated} of {head_dim}; only whole heads can be "
                "rotated."
            )
        rope: dict[str, Any] = {"rope_theta": float(value("rope.freq_base", 10000.0))}
        # As llama.cpp: a factor without a type is linear, and had another name in old files.
        factor = value("rope.scaling.factor", value("rope.scale_linear", 1.0))
        kind = value("rope.scaling.type", "none" if factor in (0, 1) else "linear")
        if kind == "linear":
            rope |= {"rope_type": "linear", "factor": float(factor)}
        elif kind != "none":
            raise UserError(f"{name}.rope.scaling.type is {kind!r}; 'linear' can be read.")
        if _FACTORS in constants:
            rope |= _llama3(constants[_FACTORS], rope["rope_theta"])
        return {
            "model_type": _MODEL_TYPES[name],
            "hidden_size": value("embedding_length"),
            "intermediate_size": value("feed_forward_length"),
            "num_hidden_layers": value("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": value("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "rms_norm_eps": float(value("attention.layer_norm_rms_epsilon")),
            "max_position_embeddings": value("context_length"),
            "rope_parameters": rope,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in theirs,
            "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in theirs,
            "tie_word_embeddings": "lm_head.weight" not in theirs,
        }

    def metadata(self, config: ModelConfig) -> dict[str, Any]:
        """What llama.cpp reads, by key; `general.architecture` among it.

        Raises:
          UserError: llama.cpp has no such network.
        """
        assert isinstance(config, LlamaConfig)
        if config.slides:
            raise UserError(
                f"sliding_window is {config.sliding_window}, and llama.cpp's network of this "
                "architecture sees everything; write another format."
            )
        if config.bidirectional_inputs:
            raise UserError("bidirectional_inputs is True, and llama.cpp reads from left to right.")
        name = {"mistral": "llama"}.get(config.model_type, config.model_type)
        keys: dict[str, Any] = {
            "context_length": config.max_length,
            "embedding_length": config.embed_dim,
            "feed_forward_length": config.mlp_dim,
            "block_count": config.decoder_layers,
            "vocab_size": config.vocab_size,
            "attention.head_count": config.num_heads,
            "attention.head_count_kv": config.num_kv_heads or config.num_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.layer_norm_rms_epsilon": float(config.norm_epsilon),
            "rope.dimension_count": config.head_dim,
            "rope.freq_base": float(config.rope_theta),
        }
        if config.rope_scaling == "linear":
            keys |= {
                "rope.scaling.type": "linear",
                "rope.scaling.factor": float(config.rope_factor),
            }
        return {
            "general.architecture": name,
            **{f"{name}.{key}": value for key, value in keys.items()},
        }

    def written_constants(self, config: ModelConfig) -> dict[str, np.ndarray]:
        """What LLaMA 3 divides frequencies by, float32 `[kv / 2]`.

        Raises:
          UserError: they are none that are known.
        """
        assert isinstance(config, LlamaConfig)
        scaling = config.rotary.scaling
        if not isinstance(scaling, Llama3Scaling):
            return {}
        divisors = _divisors(scaling, config.rope_theta, config.head_dim)
        _llama3(divisors, config.rope_theta)  # What could not be read back is not written.
        return {_FACTORS: divisors}

    def interleaved_heads(self, theirs: str, config: ModelConfig) -> int:
        """How many heads of a tensor, by Hugging Face's name, have their channels interleaved."""
        assert isinstance(config, LlamaConfig)
        if config.model_type not in ("llama", "mistral"):
            return 0
        if ".q_proj." in theirs:
            return config.num_heads
        return (config.num_kv_heads or config.num_heads) if ".k_proj." in theirs else 0

    def factor(self, theirs: str, config: ModelConfig) -> float:
        """1: llama.cpp's network is this one."""
        del theirs, config
        return 1.0


def _divisors(scaling: Llama3Scaling, theta: float, head_dim: int) -> np.ndarray:
    half = head_dim // 2
    plain = theta ** (-np.arange(half, dtype=np.float32) / half)
    return (plain / np.asarray(scaling(jnp.asarray(plain)))).astype(np.float32)


def _llama3(divisors: np.ndarray, theta: float) -> dict[str, Any]:
    """The constants that give these divisors.

    Raises:
      UserError: they are none that are known.
    """
    for scaling in _KNOWN_SCALINGS:
        if np.allclose(_divisors(scaling, theta, 2 * len(divisors)), divisors, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_factor,
                "high_freq_factor": scaling.high_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
    raise UserError(f"{_FACTORS} stretches rotary positions in a way that is not LLaMA 3's.")
