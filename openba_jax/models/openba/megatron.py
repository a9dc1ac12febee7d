"""OpenBA in Megatron's format (docs/original.md, Megatron)."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import Row, Tensors, linear, norm, training_argument
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.widths import check_constants, ffn_hidden_size, rule_of_width
from openba_jax.models.padding import VOCABULARY_MULTIPLE

_ROOT = "language_model"
_EMBEDDING = f"{_ROOT}/embedding/word_embeddings/weight"
_FIRST = f"{_ROOT}/encoder/layers.0"


def _rows() -> list[Row]:
    rows = [Row(_EMBEDDING, ("token_embedder/embedding",), "vocab embed")]
    for stack in ("encoder", "decoder"):
        theirs, ours = f"{_ROOT}/{stack}/layers.{{n}}", f"{stack}/layers"
        rows += norm(f"{theirs}.input_layernorm", f"{ours}/pre_self_attention_layer_norm")
        attention = f"{ours}/self_attention"
        parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
        key = f"{theirs}.self_attention"
        rows += linear(f"{key}.query_key_value", parts, "(heads part kv)", "embed")
        rows += linear(f"{key}.dense", [f"{attention}/out"], "embed", "(heads kv)")
        mlp_norm = f"{ours}/pre_mlp_layer_norm"
        if stack == "decoder":
            attention = f"{ours}/cross_attention"
            ours_norm = f"{ours}/pre_cross_attention_layer_norm"
            key = f"{theirs}.inter_attention"
            rows += norm(f"{theirs}.post_attention_layernorm", ours_norm)
            rows += linear(f"{key}.query", [f"{attention}/query"], "(heads kv)", "embed")
            parts = [f"{attention}/key", f"{attention}/value"]
            rows += linear(f"{key}.key_value", parts, "(heads part kv)", "embed")
            rows += linear(f"{key}.dense", [f"{attention}/out"], "embed", "(heads kv)")
            rows += norm(f"{theirs}.post_inter_attention_layernorm", mlp_norm)
        else:
            rows += norm(f"{theirs}.post_attention_layernorm", mlp_norm)
        rows += linear(f"{theirs}.mlp.w1", [f"{ours}/mlp/wi_0"], "mlp", "embed")
        rows += linear(f"{theirs}.mlp.w3", [f"{ours}/mlp/wi_1"], "mlp", "embed")
        rows += linear(f"{theirs}.mlp.w2", [f"{ours}/mlp/wo"], "embed", "mlp")
        rows += norm(f"{_ROOT}/{stack}/final_layernorm", f"{stack}/final_layer_norm")
    rows.append(Row("lm_head/bias", ("logits_dense/bias",), "vocab"))
    return rows


class OpenBAMegatron:
    """The `Megatron` mapping of OpenBA."""

    rows: Sequence[Row] = tuple(_rows())
    buffer = "self_attention.rotary_embed.inv_freq"
    ignored: Collection[str] = ()
    vocabulary_multiple = VOCABULARY_MULTIPLE

    def recognises(self, names: Collection[str]) -> bool:
        """Whether the tensors are those of two stacks."""
        return any(name.startswith(f"{_ROOT}/decoder/") for name in names)

    def read_config(self, arguments: Mapping[str, Any], tensors: Tensors) -> OpenBAConfig:
        """The configuration that the training arguments and the tensors describe.

        Raises:
          UserError: an argument or a tensor is missing, has a wrong type or value, or contradicts
            the others.
        """
        for name, known in (("mlp_type", "SwiGLU"), ("pos_emb_type", "rotary")):
            if (value := arguments.get(name, known)) != known:
                raise UserError(f"the training argument {name} is {value!r}, not {known!r}.")

        number = functools.partial(training_argument, arguments)
        wide = f"{_FIRST}.mlp.w1.weight"
        for name in (_EMBEDDING, wide):
            if name not in tensors.shapes:
                raise UserError(f"tensor {name} is missing.")
        width = sum(tensors.shapes[wide][:1])
        dtype = tensors.dtypes[_EMBEDDING]
        return OpenBAConfig(
            vocab_size=number("padded_vocab_size"),
            embed_dim=number("hidden_size"),
            num_heads=number("num_attention_heads"),
            head_dim=number("kv_channels"),
            mlp_dim=width,
            encoder_layers=arguments.get("encoder_num_layers") or number("num_layers"),
            decoder_layers=arguments.get("decoder_num_layers") or number("num_layers"),
            qkv_bias=f"{_FIRST}.self_attention.dense.bias" in tensors.shapes,
            mlp_bias=f"{_FIRST}.mlp.w1.bias" in tensors.shapes,
            logits_bias="lm_head/bias" in tensors.shapes,
            dropout_rate=number("hidden_dropout", float, 0.1),
            attention_dropout_rate=number("attention_dropout", float, 0.1),
            layer_norm_epsilon=number("layernorm_epsilon", float, 1e-5),
            initializer_std=number("init_method_std", float, 0.02),
            max_encoder_length=number("encoder_seq_length", int, 1024),
            max_decoder_length=number("decoder_seq_length", int, 1024),
            dtype=dtype,
            param_dtype=dtype,
            ffn_rule=rule_of_width(width, number("ffn_hidden_size")),
        )

    def arguments(self, config: ModelConfig, carried: Mapping[str, Any]) -> dict[str, Any]:
        """The training arguments of a configuration.

        Args:
          config: the configuration.
          carried: those of the checkpoint that the model comes from, if it was one of Megatron's.

        Raises:
          UserError: Megatron cannot express the model.
        """
        assert isinstance(config, OpenBAConfig)
        _check_expressible(config)
        return {
            "hidden_size": config.embed_dim,
            "kv_channels": config.head_dim,
            "ffn_hidden_size": ffn_hidden_size(config, carried.get("ffn_hidden_size")),
            "num_layers": config.encoder_layers,
            "encoder_num_layers": config.encoder_layers,
            "decoder_num_layers": config.decoder_layers,
            "hidden_dropout": config.dropout_rate,
            "attention_dropout": config.attention_dropout_rate,
            "num_attention_heads": config.num_heads,
            "encoder_seq_length": config.max_encoder_length,
            "decoder_seq_length": config.max_decoder_length,
            "pipeline_model_parallel_size": 1,
            "layernorm_epsilon": config.layer_norm_epsilon,
            "init_method_std": config.initializer_std,
            "mlp_type": "SwiGLU",
            "pos_emb_type": "rotary",
            "make_vocab_size_divisible_by": VOCABULARY_MULTIPLE,
            "vocab_extra_ids": 100,
        }

    def buffers(self, config: ModelConfig) -> dict[str, np.ndarray]:
        """The rotary frequencies of every layer, float32 `[head_dim / 2]`."""
        assert isinstance(config, OpenBAConfig)
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        values = np.float32(1) / np.float32(config.rope_theta) ** exponents
        depths = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        return {
            f"{_ROOT}/{stack}/layers.{n}.{self.buffer}": values
            for stack, depth in depths.items()
            for n in range(depth)
        }


def _check_expressible(config: OpenBAConfig) -> None:
    check_constants(config, ("rope_theta",), "Megatron's OpenBA")
    if not config.tie_embeddings:
        raise UserError(
            "logits_dense/kernel differs from the embedding, and Megatron has no place for it: its "
            "logits always use the embedding."
        )
    if config.scale_tied_logits:
        raise UserError(
            "the model scales its logits by embed_dim ** -0.5 (tie_word_embeddings of Hugging "
            "Face), which Megatron does not do."
        )
    if not config.logits_bias or not config.qkv_bias:
        raise UserError("Megatron's model has biases on attention and logits; this one has none.")
