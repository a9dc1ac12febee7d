"""T5Gemma in Hugging Face's format: `T5GemmaForConditionalGeneration` of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import Row, Tensors, linear
from openba_jax.models.t5gemma.config import EOS_ID, STACKS, StackSizes, T5GemmaConfig, alternating

_HEAD = "lm_head.out_proj.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight"
_CLASS = "T5GemmaForConditionalGeneration"
_ACTIVATION = "gelu_pytorch_tanh"

_STACK_DEFAULTS: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": _ACTIVATION,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "rope_theta": 10000.0,
    "bos_token_id": 2,
    "pad_token_id": 0,
}
"""What transformers assumes where the part of `config.json` on a stack says nothing."""

_DEFAULTS: dict[str, Any] = {
    "dropout_rate": 0.0,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
}
"""The same for what concerns both."""

_ALIKE = ("vocab_size", "rms_norm_eps", "attention_bias", "attn_logit_softcapping", "rope_theta")
"""What both stacks have alike here; the head's bound and the ids are those of the decoder."""

_BOUNDS = ("final_logit_softcapping", "attn_logit_softcapping")
"""None means that there is no bound."""


def _norm(theirs: str, ours: str) -> Row:
    """An RMS norm, which has no bias; both sides keep the distance of its scale from 1."""
    return Row(f"{theirs}.weight", (f"{ours}/scale",), "embed")


def _attention(theirs: str, ours: str, memory: str) -> list[Row]:
    rows = linear(f"{theirs}.q_proj", [f"{ours}/query"], "(heads kv)", "embed")
    for letter, name in (("k", "key"), ("v", "value")):
        rows += linear(f"{theirs}.{letter}_proj", [f"{ours}/{name}"], "(kv_heads kv)", memory)
    return rows + linear(f"{theirs}.o_proj", [f"{ours}/out"], "embed", "(heads kv)")


def _rows() -> list[Row]:
    rows = []
    for stack in STACKS:
        outer, inner = f"model.{stack}", f"model.{stack}.layers.{{n}}"
        ours = f"{stack}/layers"
        rows.append(
            Row(
                f"{outer}.embed_tokens.weight",
                (f"{stack}/token_embedder/embedding",),
                "vocab embed",
            )
        )
        attentions = [("self_attn", "self_attention", "embed")]
        if stack == "decoder":
            attentions.append(("cross_attn", "cross_attention", "encoder/embed"))
        for name, own, memory in attentions:
            rows += _attention(f"{inner}.{name}", f"{ours}/{own}", memory)
            for place in ("pre", "post"):
                rows.append(
                    _norm(f"{inner}.{place}_{name}_layernorm", f"{ours}/{place}_{own}_norm")
                )
        for name, own in (("gate", "wi_0"), ("up", "wi_1")):
            rows += linear(f"{inner}.mlp.{name}_proj", [f"{ours}/mlp/{own}"], "mlp", "embed")
        rows += linear(f"{inner}.mlp.down_proj", [f"{ours}/mlp/wo"], "embed", "mlp")
        for place in ("pre", "post"):
            rows.append(_norm(f"{inner}.{place}_feedforward_layernorm", f"{ours}/{place}_mlp_norm"))
        rows.append(_norm(f"{outer}.norm", f"{stack}/final_norm"))
    rows.append(Row(_HEAD, ("decoder/logits_dense/kernel",), "vocab embed"))
    return rows


class T5GemmaHuggingFace:
    """The `HuggingFace` mapping of T5Gemma."""

    model_types: Sequence[str] = ("t5gemma",)
    refused: Mapping[str, str] = {
        "t5gemma2": "T5Gemma 2 has another network, of merged self- and cross-attention, one "
        "embedding for both stacks and a vision tower; convert a T5Gemma (model_type t5gemma)."
    }
    rows: Sequence[Row] = tuple(_rows())
    tokenizer = "sentencepiece"
    buffers = ""

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> T5GemmaConfig:
        """The configuration that `config.json` describes.

        Raises:
          UserError: a field has a wrong type, or a value that the network here does not have; the
            stacks contradict each other; or the decoder's embedding is missing.
        """
        whole = _checked(fields, _DEFAULTS, "")
        stacks = {stack: _stack(fields, stack) for stack in STACKS}
        encoder, decoder = stacks["encoder"], stacks["decoder"]
        for name in _ALIKE:
            if encoder[name] != decoder[name]:
                raise UserError(
                    f"{name} is {encoder[name]} in the encoder and {decoder[name]} in the decoder; "
                    "here both stacks have it alike."
                )
        if not whole["is_encoder_decoder"]:
            raise UserError(f"is_encoder_decoder is False; only {_CLASS} is read.")
        if (vocab := fields.get("vocab_size", decoder["vocab_size"])) != decoder["vocab_size"]:
            raise UserError(f"vocab_size is {vocab}, and {decoder['vocab_size']} in the stacks.")
        if _EMBEDDING not in tensors.dtypes:
            raise UserError(f"tensor {_EMBEDDING} is missing.")
        dtype = tensors.dtypes[_EMBEDDING]
        own: dict[str, Any] = {}
        for stack, found in stacks.items():
            sizes = StackSizes(
                found["hidden_size"],
                found["num_attention_heads"],
                found["num_key_value_heads"],
                found["head_dim"],
                found["intermediate_size"],
                found["num_hidden_layers"],
                found["layer_types"],
                found["sliding_window"],
                found["query_pre_attn_scalar"],
            )
            own |= {f"{stack}_{name}": value for name, value in sizes._asdict().items()}
        return T5GemmaConfig(
            **own,
            vocab_size=decoder["vocab_size"],
            attention_bias=decoder["attention_bias"],
            attention_softcap=decoder["attn_logit_softcapping"],
            final_softcap=decoder["final_logit_softcapping"],
            tie_embeddings=whole["tie_word_embeddings"],
            rms_norm_epsilon=decoder["rms_norm_eps"],
            rope_theta=decoder["rope_theta"],
            initializer_std=decoder["initializer_range"],
            start_id=decoder["bos_token_id"],
            eos_ids=_eos_ids(fields),
            dropout_rate=whole["dropout_rate"],
            attention_dropout_rate=whole["attention_dropout"],
            max_encoder_length=encoder["max_position_embeddings"],
            max_decoder_length=decoder["max_position_embeddings"],
            dtype=dtype,
            param_dtype=dtype,
        )

    def copies(self, config: ModelConfig) -> dict[str, str]:
        """The head of a tied model may be there, as a copy of the decoder's embedding."""
        assert isinstance(config, T5GemmaConfig)
        return {_HEAD: _EMBEDDING} if config.tie_embeddings else {}

    def written_copies(self, config: ModelConfig) -> dict[str, str]:
        """None: transformers ties the head itself."""
        del config
        return {}

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json`.

        Raises:
          UserError: the width of a stack is no multiple of its heads, which transformers asks for.
        """
        assert isinstance(config, T5GemmaConfig)
        for stack, sizes in (("encoder", config.encoder), ("decoder", config.decoder)):
            if sizes.embed_dim % sizes.num_heads:
                raise UserError(
                    f"{stack}_embed_dim is {sizes.embed_dim} and transformers takes only multiples "
                    f"of the number of heads, {sizes.num_heads}; cut one of the two further."
                )
        whole = {
            "bos_token_id": config.start_id,
            "eos_token_id": _written_eos(config),
            "pad_token_id": 0,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_embeddings,
            "initializer_range": config.initializer_std,
            "dropout_rate": config.dropout_rate,
            "attention_dropout": config.attention_dropout_rate,
        }
        shared = {
            **whole,
            "model_type": "t5_gemma_module",
            "hidden_activation": _ACTIVATION,
            "rms_norm_eps": config.rms_norm_epsilon,
            "attention_bias": config.attention_bias,
            "attn_logit_softcapping": config.attention_softcap or None,
            "final_logit_softcapping": config.final_softcap or None,
            # Twice: releases before 5 know the second form alone.
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
            "use_cache": True,
        }
        return {
            **whole,
            "architectures": [_CLASS],
            "classifier_dropout_rate": 0.0,
            "dtype": weight_type,
            "is_encoder_decoder": True,
            "model_type": "t5gemma",
            "transformers_version": "5.24.0",
            "encoder": {
                **shared,
                **_stack_fields(config.encoder),
                "is_decoder": False,
                "max_position_embeddings": config.max_encoder_length,
            },
            "decoder": {
                **shared,
                **_stack_fields(config.decoder),
                "cross_attention_hidden_size": config.encoder_embed_dim,
                "is_decoder": True,
                "max_position_embeddings": config.max_decoder_length,
            },
        }

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json`."""
        assert isinstance(config, T5GemmaConfig)
        return {
            "_from_model_config": True,
            "bos_token_id": config.start_id,
            "decoder_start_token_id": config.start_id,
            "eos_token_id": _written_eos(config),
            "pad_token_id": 0,
            "transformers_version": "5.24.0",
        }


def _stack_fields(sizes: StackSizes) -> dict[str, Any]:
    """The sizes of one stack by their names in `config.json`."""
    return {
        "hidden_size": sizes.embed_dim,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.mlp_dim,
        "num_hidden_layers": sizes.layers,
        "layer_types": list(sizes.layer_types),
        "sliding_window": sizes.sliding_window,
        "query_pre_attn_scalar": sizes.query_pre_attn_scalar,
    }


def _written_eos(config: T5GemmaConfig) -> int | list[int]:
    """One id as a number, several as a list."""
    return list(config.eos_ids) if len(config.eos_ids) > 1 else config.eos_ids[0]


def _stack(fields: Mapping[str, Any], stack: str) -> dict[str, Any]:
    """The part of `config.json` on one stack, defaults filled in, of the types it should have."""
    given = fields.get(stack)
    if not isinstance(given, Mapping):
        raise UserError(f"{stack} is {given!r}, where its sizes should be.")
    given = dict(given)
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise UserError(f"{stack}: rotary positions of type {rope!r}; known is 'default'.")
    if "rope_theta" in rope:
        given["rope_theta"] = rope["rope_theta"]
    for name in _BOUNDS:
        if name in given and given[name] is None:
            given[name] = 0.0
    found = _checked(given, _STACK_DEFAULTS, f"{stack}: ")
    if found["hidden_activation"] != _ACTIVATION:
        raise UserError(
            f"{stack}: hidden_activation is {found['hidden_activation']!r}; known is "
            f"{_ACTIVATION!r}."
        )
    if found["pad_token_id"] != 0:
        raise UserError(f"{stack}: pad_token_id is {found['pad_token_id']}; it is 0 here.")
    types = given.get("layer_types")
    if types is None:
        types = alternating(found["num_hidden_layers"])
    elif not isinstance(types, list) or not types:
        raise UserError(
            f"{stack}: layer_types is {types!r}; it should list the type of each layer."
        )
    return {**found, "layer_types": tuple(types)}


def _checked(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields that have defaults, of the types of these."""
    found = {name: given.get(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if type(found[name]) not in kinds:
            raise UserError(f"{where}{name} is {found[name]!r}, which is no {kinds[-1].__name__}.")
    return found


def _eos_ids(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer: a number or a list, of the model or of its decoder."""
    given = fields.get("eos_token_id", fields["decoder"].get("eos_token_id", EOS_ID))
    return tuple(given) if isinstance(given, list) else (given,)
