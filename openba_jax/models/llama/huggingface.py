"""LLaMA, Mistral, Qwen 2 and Qwen 3 in Hugging Face's format (transformers 4 and 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.llama.config import LlamaConfig
from openba_jax.models.mapping import Row, Tensors, linear

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"

_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "sliding_window": 4096},
    "qwen2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32_768},
    "qwen3": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32_768, "head_dim": 128},
}
"""What each architecture assumes where config.json says nothing."""

_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads"),
)


def _rows() -> list[Row]:
    theirs, ours = "model.layers.{n}", "decoder/layers"
    attention = f"{ours}/self_attention"
    rows = [
        Row(_EMBEDDING, ("token_embedder/embedding",), "vocab embed"),
        Row(
            f"{theirs}.input_layernorm.weight",
            (f"{ours}/pre_self_attention_layer_norm/scale",),
            "embed",
        ),
        *linear(f"{theirs}.self_attn.q_proj", [f"{attention}/query"], "(heads kv)", "embed"),
    ]
    for name in ("key", "value"):
        for heads in ("heads", "kv_heads"):  # A model has one of the two.
            projection = f"{theirs}.self_attn.{name[0]}_proj"
            rows += linear(projection, [f"{attention}/{name}"], f"({heads} kv)", "embed")
    rows += linear(f"{theirs}.self_attn.o_proj", [f"{attention}/out"], "embed", "(heads kv)")
    for name in ("query", "key"):
        scale = f"{attention}/{name}_norm/scale"
        rows.append(Row(f"{theirs}.self_attn.{name[0]}_norm.weight", (scale,), "kv"))
    norm = f"{ours}/pre_mlp_layer_norm/scale"
    rows.append(Row(f"{theirs}.post_attention_layernorm.weight", (norm,), "embed"))
    rows += linear(f"{theirs}.mlp.gate_proj", [f"{ours}/mlp/wi_0"], "mlp", "embed")
    rows += linear(f"{theirs}.mlp.up_proj", [f"{ours}/mlp/wi_1"], "mlp", "embed")
    rows += linear(f"{theirs}.mlp.down_proj", [f"{ours}/mlp/wo"], "embed", "mlp")
    rows.append(Row("model.norm.weight", ("decoder/final_layer_norm/scale",), "embed"))
    rows.append(Row(_HEAD, ("logits_dense/kernel",), "vocab embed"))
    return rows


class LlamaHuggingFace:
    """The `HuggingFace` mapping of LLaMA and its relatives."""

    model_types: Sequence[str] = tuple(_DEFAULTS)
    refused: Mapping[str, str] = {
        **dict.fromkeys(
            ("mixtral", "qwen2_moe", "qwen3_moe", "llama4", "olmoe"),
            "It is a mixture of experts, and only dense models can be read.",
        ),
        **dict.fromkeys(
            ("deepseek_v2", "deepseek_v3"),
            "It has multi-latent attention, which the family llama has not.",
        ),
    }
    rows: Sequence[Row] = tuple(_rows())
    tokenizer = "sentencepiece"
    buffers = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> LlamaConfig:
        """The configuration that `config.json` and the tensors describe.

        Raises:
          UserError: a field has a wrong type or value, a tensor is missing, or the architecture is
            a variant that the network does not have.
        """
        kind = fields["model_type"]
        fields = {**_DEFAULTS[kind], **fields}
        for name in _SIZES:
            if type(fields.get(name)) is not int:
                raise UserError(f"{name} is {fields.get(name)!r}, which is no whole number.")
        if (activation := fields.get("hidden_act", "silu")) != "silu":
            raise UserError(f"hidden_act is {activation!r}; only 'silu' can be read.")
        if _EMBEDDING not in tensors.shapes:
            raise UserError(f"tensor {_EMBEDDING} is missing.")
        heads = fields["num_attention_heads"]
        keys = _or(fields.get("num_key_value_heads"), heads)
        if heads < 1:
            raise UserError(f"num_attention_heads is {heads}; it must be at least 1.")
        head_dim = _or(fields.get("head_dim"), fields["hidden_size"] // heads)
        bias = {"qwen2": True, "mistral": False}.get(kind, bool(fields.get("attention_bias")))
        dtype = tensors.dtypes[_EMBEDDING]
        return LlamaConfig(
            model_type=kind,
            vocab_size=fields["vocab_size"],
            embed_dim=fields["hidden_size"],
            num_heads=heads,
            num_kv_heads=0 if keys == heads else keys,
            head_dim=head_dim,
            mlp_dim=fields["intermediate_size"],
            decoder_layers=fields["num_hidden_layers"],
            qkv_bias=bias,
            out_bias=bias and kind != "qwen2",
            mlp_bias=kind == "llama" and bool(fields.get("mlp_bias")),
            qk_norm=kind == "qwen3",
            tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
            norm_epsilon=_number(fields, "rms_norm_eps", 1e-6),
            max_length=fields["max_position_embeddings"],
            attention_dropout_rate=_number(fields, "attention_dropout", 0.0),
            initializer_std=_number(fields, "initializer_range", 0.02),
            dtype=dtype,
            param_dtype=dtype,
            **_rope(fields),
            **_windows(kind, fields),
        )

    def copies(self, config: ModelConfig) -> dict[str, str]:
        """The head of a tied model, which some writers store as well."""
        assert isinstance(config, LlamaConfig)
        return {_HEAD: _EMBEDDING} if config.tie_embeddings else {}

    def written_copies(self, config: ModelConfig) -> dict[str, str]:
        """None: `transformers` ties by itself."""
        del config
        return {}

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json`, for transformers 4 and 5.

        Raises:
          UserError: the architecture cannot express the model.
        """
        assert isinstance(config, LlamaConfig)
        kind = config.model_type
        _check_expressible(config)
        if config.dropout_rate:
            logging.warning(
                "dropout_rate %g is left out: transformers trains a %s without it.",
                config.dropout_rate,
                kind,
            )
        rope: dict[str, Any] = {"rope_type": "default"}
        if config.rope_scaling != "none":
            rope = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
        if config.rope_scaling == "llama3":
            rope |= {
                "low_freq_factor": config.rope_low_factor,
                "high_freq_factor": config.rope_high_factor,
                "original_max_position_embeddings": config.rope_original_length,
            }
        fields = {
            "architectures": [_CLASSES[kind]],
            "attention_dropout": config.attention_dropout_rate,
            "dtype": weight_type,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "hidden_size": config.embed_dim,
            "initializer_range": config.initializer_std,
            "intermediate_size": config.mlp_dim,
            "max_position_embeddings": config.max_length,
            "model_type": kind,
            "num_attention_heads": config.num_heads,
            "num_hidden_layers": config.decoder_layers,
            "num_key_value_heads": config.num_kv_heads or config.num_heads,
            "rms_norm_eps": config.norm_epsilon,
            "rope_parameters": {**rope, "rope_theta": config.rope_theta},
            "rope_scaling": None if config.rope_scaling == "none" else rope,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tie_embeddings,
            "torch_dtype": weight_type,
            "use_cache": True,
            "vocab_size": config.vocab_size,
        }
        if kind in ("llama", "qwen3"):
            fields["attention_bias"] = config.qkv_bias
        if kind == "llama":
            fields["mlp_bias"] = config.mlp_bias
        if kind == "mistral":
            fields["sliding_window"] = config.sliding_window or None
        if kind in ("qwen2", "qwen3"):
            slides = config.slides
            types = ["sliding_attention" if slide else "full_attention" for slide in slides]
            fields |= {
                "use_sliding_window": bool(slides),
                "sliding_window": config.sliding_window if slides else None,
                "max_window_layers": slides.index(True) if slides else config.decoder_layers,
                "layer_types": types or ["full_attention"] * config.decoder_layers,
            }
        return fields

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json`; a tokenizer adds its ids."""
        del config
        return {"_from_model_config": True}


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def _or(value: Any, default: int) -> int:
    """A field that may be null."""
    return default if value is None else value


def _number(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A field that may be missing or null.

    Raises:
      UserError: it is no finite number.
    """
    found = fields.get(name)
    if found is None:
        return default
    if type(found) not in (int, float) or not math.isfinite(found):
        raise UserError(f"{name} is {found!r}, which is no number.")
    return float(found)


def _rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of rotary positions, as transformers 5 or 4 writes them.

    Raises:
      UserError: they are stretched in a way that the network does not have.
    """
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise UserError(f"rope_parameters or rope_scaling is {scaling!r}, which is no object.")
    theta = _number(scaling, "rope_theta", _number(fields, "rope_theta", 10000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    share = scaling.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if share != 1.0:
        raise UserError(f"partial_rotary_factor is {share}; only whole heads can be rotated.")
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in ("linear", "llama3"):
        raise UserError(
            f"rotary positions are of the type {kind!r}; those that can be read: 'default', "
            "'linear', 'llama3'."
        )
    read: dict[str, Any] = {"rope_theta": theta, "rope_scaling": kind}
    names = {"rope_factor": "factor"}
    if kind == "llama3":
        names |= {
            "rope_low_factor": "low_freq_factor",
            "rope_high_factor": "high_freq_factor",
            "rope_original_length": "original_max_position_embeddings",
        }
    for ours, theirs in names.items():
        if scaling.get(theirs) is None:
            raise UserError(f"{theirs} of rotary positions is missing.")
        number = _number(scaling, theirs, 0.0)
        read[ours] = int(number) if ours == "rope_original_length" else number
    return read


def _windows(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of sliding windows."""
    if kind == "llama":
        return {}
    window = fields.get("sliding_window")
    if kind == "mistral":
        return {"sliding_window": window or 0}
    if not fields.get("use_sliding_window", False) or not window:
        return {}
    layers = fields["num_hidden_layers"]
    types = fields.get("layer_types")
    if types is None:
        first = fields.get("max_window_layers", 28)
        types = ["sliding_attention" if n >= first else "full_attention" for n in range(layers)]
    return {"sliding_window": window, "layer_types": tuple(types)}


def _check_expressible(config: LlamaConfig) -> None:
    """Checks that the architecture has words for the model.

    Raises:
      UserError: it has none; the message names the field.
    """
    kind = config.model_type
    wanted: dict[str, Any] = {"bidirectional_inputs": False}
    if kind != "qwen3":
        wanted["qk_norm"] = False
    if kind != "llama":
        wanted["mlp_bias"] = False
    if kind == "llama":
        wanted |= {"slides": (), "out_bias": config.qkv_bias}
    if kind == "mistral":
        wanted |= {"qkv_bias": False, "out_bias": False}
        if config.slides:
            wanted["slides"] = (True,) * config.decoder_layers
    if kind == "qwen2":
        wanted |= {"qkv_bias": True, "out_bias": False}
    if kind == "qwen3":
        wanted |= {"qk_norm": True, "out_bias": config.qkv_bias}
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise UserError(
                f"{name} is {getattr(config, name)!r}, and Hugging Face's {kind} has always "
                f"{value!r}; another model_type may fit."
            )
    if kind == "llama" and config.embed_dim % config.num_heads:
        raise UserError(
            f"hidden_size {config.embed_dim} is no multiple of the {config.num_heads} heads, which "
            "transformers refuses for a LLaMA; cut to other sizes, or write model_type 'mistral'."
        )
