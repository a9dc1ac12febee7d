"""LLaMA in Megatron's format (docs/llama.md, Megatron)."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.llama.config import LlamaConfig
from openba_jax.models.mapping import Row, Tensors, linear, training_argument

_ROOT = "language_model"
_EMBEDDING = f"{_ROOT}/embedding/word_embeddings/weight"
_LAYERS = f"{_ROOT}/encoder/layers."
_BIAS = f"{_LAYERS}0.self_attention.dense.bias"
_THETA = 10000.0

_KNOWN: tuple[tuple[str, Any, Any], ...] = (
    ("normalization", "RMSNorm", "LayerNorm"),
    ("swiglu", True, False),
    ("position_embedding_type", "rope", "rope"),
    ("apply_layernorm_1p", False, False),
    ("apply_residual_connection_post_layernorm", False, False),
    ("num_experts", None, None),
    ("rotary_percent", 1.0, 1.0),
    ("rotary_base", 10000, 10000),
    ("rotary_interleaved", False, False),
)
"""Training arguments of the network: name, the value of a LLaMA, what a missing one stands for."""


def _rows() -> list[Row]:
    theirs, ours = f"{_LAYERS}{{n}}", "decoder/layers"
    attention = f"{ours}/self_attention"
    fused = [f"{attention}/{name}" for name in ("query", "key", "value")]
    gated = [f"{ours}/mlp/wi_0", f"{ours}/mlp/wi_1"]
    key = f"{theirs}.self_attention"
    return [
        Row(_EMBEDDING, ("token_embedder/embedding",), "vocab embed"),
        Row(
            f"{theirs}.input_norm.weight", (f"{ours}/pre_self_attention_layer_norm/scale",), "embed"
        ),
        *linear(f"{key}.query_key_value", fused, "(heads part kv)", "embed"),
        *linear(f"{key}.dense", [f"{attention}/out"], "embed", "(heads kv)"),
        Row(f"{theirs}.post_attention_norm.weight", (f"{ours}/pre_mlp_layer_norm/scale",), "embed"),
        *(
            Row(f"{theirs}.mlp.dense_h_to_4h.{name}", tuple(f"{p}/{leaf}" for p in gated), layout)
            for name, leaf, layout in (
                ("weight", "kernel", "(part mlp) embed"),
                ("bias", "bias", "(part mlp)"),
            )
        ),
        *linear(f"{theirs}.mlp.dense_4h_to_h", [f"{ours}/mlp/wo"], "embed", "mlp"),
        Row(f"{_ROOT}/encoder/final_norm.weight", ("decoder/final_layer_norm/scale",), "embed"),
        Row(f"{_ROOT}/output_layer/weight", ("logits_dense/kernel",), "vocab embed"),
    ]


class LlamaMegatron:
    """The `Megatron` mapping of LLaMA."""

    rows: Sequence[Row] = tuple(_rows())
    buffer = ""
    ignored: Collection[str] = ("zs",)
    vocabulary_multiple = 1

    def recognises(self, names: Collection[str]) -> bool:
        """Whether the tensors are those of one stack, as every GPT of Megatron has it."""
        stacks = {name.split("/")[1] for name in names if name.startswith(f"{_ROOT}/")}
        return "encoder" in stacks and "decoder" not in stacks

    def read_config(self, arguments: Mapping[str, Any], tensors: Tensors) -> LlamaConfig:
        """The configuration that the training arguments and the tensors describe.

        Raises:
          UserError: an argument or a tensor is missing or has a wrong type, or the network is
            another GPT than a LLaMA.
        """
        for name, known, missing in _KNOWN:
            if (value := arguments.get(name, missing)) != known:
                raise UserError(
                    f"the training argument {name} is {value!r}, and a LLaMA has {known!r}; other "
                    "GPTs cannot be read."
                )

        number = functools.partial(training_argument, arguments)
        if _EMBEDDING not in tensors.shapes:
            raise UserError(f"tensor {_EMBEDDING} is missing.")
        heads = number("num_attention_heads")
        groups = arguments.get("num_query_groups")
        # Pruning leaves a stale number of groups behind; it counts only with the switch.
        if arguments.get("group_query_attention") and groups != heads:
            raise UserError(
                f"num_query_groups is {groups!r} for {heads} heads; grouped queries cannot be read "
                "from Megatron's format, convert the folder to Hugging Face's first."
            )
        factor = arguments.get("rotary_seq_len_interpolation_factor")
        scaling: dict[str, Any] = {}
        if factor is not None:
            name = "rotary_seq_len_interpolation_factor"
            scaling = {"rope_scaling": "linear", "rope_factor": number(name, float)}
        bias = _BIAS in tensors.shapes
        dtype = tensors.dtypes[_EMBEDDING]
        return LlamaConfig(
            vocab_size=number("padded_vocab_size"),
            embed_dim=number("hidden_size"),
            num_heads=heads,
            head_dim=number("kv_channels"),
            mlp_dim=number("ffn_hidden_size"),
            decoder_layers=number("num_layers"),
            qkv_bias=bias,
            out_bias=bias,
            mlp_bias=bias,
            tie_embeddings=not number("untie_embeddings_and_output_weights", bool, False),
            norm_epsilon=number("norm_epsilon", float, 1e-5),
            max_length=number("max_position_embeddings"),
            dropout_rate=number("hidden_dropout", float, 0.1),
            attention_dropout_rate=number("attention_dropout", float, 0.1),
            initializer_std=number("init_method_std", float, 0.02),
            dtype=dtype,
            param_dtype=dtype,
            **scaling,
        )

    def arguments(self, config: ModelConfig, carried: Mapping[str, Any]) -> dict[str, Any]:
        """The training arguments of a configuration.

        Args:
          config: the configuration.
          carried: those of the checkpoint that the model comes from, if it was one of Megatron's.

        Raises:
          UserError: Megatron cannot express the model.
        """
        del carried
        assert isinstance(config, LlamaConfig)
        _check_expressible(config)
        linear_scaling = config.rope_scaling == "linear"
        return {
            **{name: known for name, known, _ in _KNOWN},
            "hidden_size": config.embed_dim,
            "kv_channels": config.head_dim,
            "ffn_hidden_size": config.mlp_dim,
            "num_layers": config.decoder_layers,
            "encoder_num_layers": config.decoder_layers,
            "num_attention_heads": config.num_heads,
            "group_query_attention": False,
            "num_query_groups": 1,
            "seq_length": config.max_length,
            "max_position_embeddings": config.max_length,
            "norm_epsilon": config.norm_epsilon,
            "add_bias_linear": config.mlp_bias,
            "untie_embeddings_and_output_weights": not config.tie_embeddings,
            "use_rotary_position_embeddings": True,
            "add_position_embedding": False,
            "rotary_seq_len_interpolation_factor": config.rope_factor if linear_scaling else None,
            "hidden_dropout": config.dropout_rate,
            "attention_dropout": config.attention_dropout_rate,
            "init_method_std": config.initializer_std,
            "pipeline_model_parallel_size": 1,
            "make_vocab_size_divisible_by": self.vocabulary_multiple,
        }

    def buffers(self, config: ModelConfig) -> dict[str, np.ndarray]:
        """None: Megatron's GPT computes its rotary frequencies anew."""
        del config
        return {}


def _check_expressible(config: LlamaConfig) -> None:
    """Checks that Megatron has words for the model.

    Raises:
      UserError: it has not.
    """
    lacks = {
        "num_kv_heads": config.num_kv_heads not in (0, config.num_heads),
        "qk_norm": config.qk_norm,
        "sliding_window": bool(config.slides),
        "rope_scaling": config.rope_scaling == "llama3",
        "rope_theta": config.rope_theta != _THETA,
        "bidirectional_inputs": config.bidirectional_inputs,
    }
    for name, lacking in lacks.items():
        if lacking:
            raise UserError(
                f"{name} is {getattr(config, name)!r}, which Megatron's LLaMA cannot express; "
                "write another format."
            )
    if len({config.qkv_bias, config.out_bias, config.mlp_bias}) > 1:
        raise UserError(
            f"qkv_bias is {config.qkv_bias}, out_bias {config.out_bias} and mlp_bias "
            f"{config.mlp_bias}; Megatron has biases on all projections or on none, so write "
            "another format."
        )
