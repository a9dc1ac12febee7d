"""T5 and mT5 in Hugging Face's format (`transformers`, models t5 and mt5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import Row, Tensors
from openba_jax.models.t5.config import Activation, ModelType, T5Config

_EMBEDDING = "shared.weight"
_HEAD = "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

# What their configuration classes assume where config.json says nothing.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "relu",
    "n_positions": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_MT5_DEFAULTS: dict[str, Any] = {
    **_DEFAULTS,
    "vocab_size": 250_112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
_OTHER_NAMES = {
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
}
_FEED_FORWARD: dict[str, tuple[bool, Activation]] = {
    "relu": (False, "relu"),
    "gelu_new": (False, "gelu"),
    "silu": (False, "silu"),
    "gated-relu": (True, "relu"),
    "gated-gelu": (True, "gelu"),  # In T5 this name, too, is the approximation by tanh.
    "gated-silu": (True, "silu"),
}
_CLASSES: dict[ModelType, str] = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
}


def _attention(theirs: str, ours: str) -> list[Row]:
    names = {"q": "query", "k": "key", "v": "value"}
    rows = [
        Row(f"{theirs}.{name}.weight", (f"{ours}/{full}/kernel",), "joined_kv embed")
        for name, full in names.items()
    ]
    return [*rows, Row(f"{theirs}.o.weight", (f"{ours}/out/kernel",), "embed joined_kv")]


def _rows() -> list[Row]:
    rows = [Row(_EMBEDDING, ("token_embedder/embedding",), "vocab embed")]
    for stack in ("encoder", "decoder"):
        decoder = stack == "decoder"
        theirs, ours = f"{stack}.block.{{n}}.layer", f"{stack}/layers"
        # In the files it is part of the first layer, here of the stack: it stays when layers go.
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(Row(bias, (f"{stack}/relpos_bias/rel_embedding",), "relpos_buckets heads"))
        parts = [("SelfAttention", "self_attention" if decoder else "attention")]
        if decoder:
            parts.append(("EncDecAttention", "encoder_decoder_attention"))
        norms = {"attention": "attention", "self_attention": "self_attention"}
        norms["encoder_decoder_attention"] = "cross_attention"
        for number, (their_name, our_name) in enumerate(parts):
            rows += _attention(f"{theirs}.{number}.{their_name}", f"{ours}/{our_name}")
            norm = f"{ours}/pre_{norms[our_name]}_layer_norm/scale"
            rows.append(Row(f"{theirs}.{number}.layer_norm.weight", (norm,), "embed"))
        last = f"{theirs}.{len(parts)}"
        for name in ("wi", "wi_0", "wi_1"):
            mlp = f"{last}.DenseReluDense.{name}.weight"
            rows.append(Row(mlp, (f"{ours}/mlp/{name}/kernel",), "mlp embed"))
        rows.append(
            Row(f"{last}.DenseReluDense.wo.weight", (f"{ours}/mlp/wo/kernel",), "embed mlp")
        )
        norm = f"{ours}/pre_mlp_layer_norm/scale"
        rows.append(Row(f"{last}.layer_norm.weight", (norm,), "embed"))
        norm = f"{stack}/{stack}_norm/scale"
        rows.append(Row(f"{stack}.final_layer_norm.weight", (norm,), "embed"))
    rows.append(Row(_HEAD, ("decoder/logits_dense/kernel",), "vocab embed"))
    return rows


class T5HuggingFace:
    """The `HuggingFace` mapping of T5 and mT5."""

    model_types: Sequence[str] = ("t5", "mt5")
    refused: Mapping[str, str] = {
        "umt5": "Its layers have position biases of their own, which this format has no rows for.",
        "longt5": "It attends to blocks and to summaries of them, which the family t5 does not.",
    }
    rows: Sequence[Row] = tuple(_rows())
    tokenizer = "t5"
    buffers = ""

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> T5Config:
        """The configuration that `config.json` and the tensors describe.

        The tensors say whether the head is tied: one that is missing, or a copy of the embedding,
        is. Tied logits are scaled in T5 unless `config.json` says otherwise, in mT5 never.

        Raises:
          UserError: a field has a wrong type or value, a tensor is missing, or the two contradict
            each other.
        """
        model_type: ModelType = "mt5" if fields["model_type"] == "mt5" else "t5"
        scaled = _scaled(fields, model_type)
        fields = _checked(fields, _MT5_DEFAULTS if model_type == "mt5" else _DEFAULTS)
        if _EMBEDDING not in tensors.shapes:
            raise UserError(f"tensor {_EMBEDDING} is missing.")
        tied = _HEAD not in tensors.shapes or tensors.equal(_EMBEDDING, _HEAD)
        if scaled and not tied:
            raise UserError(
                f"tie_word_embeddings says that {_HEAD} is {_EMBEDDING}, and the tensors differ; "
                "write false where they are meant to."
            )
        gated, activation = _FEED_FORWARD[fields["feed_forward_proj"]]
        dtype = tensors.dtypes[_EMBEDDING]
        return T5Config(
            vocab_size=fields["vocab_size"],
            embed_dim=fields["d_model"],
            num_heads=fields["num_heads"],
            head_dim=fields["d_kv"],
            mlp_dim=fields["d_ff"],
            encoder_layers=fields["num_layers"],
            decoder_layers=fields["num_decoder_layers"],
            gated_mlp=gated,
            mlp_activation=activation,
            tie_embeddings=tied,
            scale_tied_logits=scaled,
            relpos_buckets=fields["relative_attention_num_buckets"],
            relpos_max_distance=fields["relative_attention_max_distance"],
            layer_norm_epsilon=fields["layer_norm_epsilon"],
            initializer_factor=fields["initializer_factor"],
            dropout_rate=fields["dropout_rate"],
            attention_dropout_rate=fields["dropout_rate"],
            max_encoder_length=fields["n_positions"],
            max_decoder_length=fields["n_positions"],
            dtype=dtype,
            param_dtype=dtype,
            huggingface_type=model_type,
        )

    def copies(self, config: ModelConfig) -> dict[str, str | None]:
        """Copies of the embedding, and a bias of old files that nothing has ever read."""
        assert isinstance(config, T5Config)
        names = [*_COPIES, _HEAD] if config.tie_embeddings else _COPIES
        return {**dict.fromkeys(names, _EMBEDDING), _UNREAD: None}

    def written_copies(self, config: ModelConfig) -> dict[str, str]:
        """The head of a tied model without scale: `tie_word_embeddings` would scale it."""
        assert isinstance(config, T5Config)
        copied = config.tie_embeddings and not config.scale_tied_logits
        return {_HEAD: _EMBEDDING} if copied else {}

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json`.

        Raises:
          UserError: the format cannot express the model.
        """
        assert isinstance(config, T5Config)
        scaled = config.tie_embeddings and config.scale_tied_logits
        if not config.shared_relpos:
            raise UserError(
                f"the layers have biases of positions of their own (shared_relpos), and Hugging "
                f"Face's {config.huggingface_type} shares one; write native or t5x."
            )
        if scaled and config.huggingface_type == "mt5":
            raise UserError(
                "mt5 has no scaled logits; set huggingface_type to t5 in its config.json."
            )
        if config.dropout_rate != config.attention_dropout_rate:
            raise UserError(
                f"dropout_rate is {config.dropout_rate} and attention_dropout_rate "
                f"{config.attention_dropout_rate}, and Hugging Face's T5 has one rate; set both "
                "alike in the model's config.json."
            )
        forms = {form: name for name, form in _FEED_FORWARD.items()}
        return {
            "architectures": [_CLASSES[config.huggingface_type]],
            "d_ff": config.mlp_dim,
            "d_kv": config.head_dim,
            "d_model": config.embed_dim,
            "decoder_start_token_id": 0,
            "dropout_rate": config.dropout_rate,
            "eos_token_id": 1,
            "feed_forward_proj": forms[config.gated_mlp, config.mlp_activation],
            "initializer_factor": config.initializer_factor,
            "is_encoder_decoder": True,
            "layer_norm_epsilon": config.layer_norm_epsilon,
            "model_type": config.huggingface_type,
            "n_positions": max(config.lengths),
            "num_decoder_layers": config.decoder_layers,
            "num_heads": config.num_heads,
            "num_layers": config.encoder_layers,
            "pad_token_id": 0,
            "relative_attention_max_distance": config.relpos_max_distance,
            "relative_attention_num_buckets": config.relpos_buckets,
            "tie_word_embeddings": scaled,
            "torch_dtype": weight_type,
            "use_cache": True,
            "vocab_size": config.vocab_size,
        }

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json`."""
        del config
        return {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def _scaled(fields: Mapping[str, Any], model_type: str) -> bool:
    """Whether decoder outputs are scaled before the logits.

    Old versions of transformers scale where embeddings are tied; new ones tie them always and save
    the scale under a name of its own.

    Raises:
      UserError: a switch is neither true nor false.
    """
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        if type(fields.get(name, True)) is not bool:
            raise UserError(f"{name} is {fields[name]!r}, which is no bool.")
    if model_type == "mt5":
        return False
    return bool(fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True)))


def _checked(read: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config.json`, defaults filled in, of the types that they should have.

    Raises:
      UserError: a field has another type, or a value that no network here has.
    """
    fields = {**defaults, **read}
    for name, other in _OTHER_NAMES.items():
        if name not in read and other in read:
            fields[name] = read[other]
    if fields.get("num_decoder_layers") is None:
        fields["num_decoder_layers"] = fields["num_layers"]
    if fields["decoder_start_token_id"] is None:  # As their class says it of a model from scratch.
        fields["decoder_start_token_id"] = 0
    for name, default in {**defaults, "num_decoder_layers": 0}.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if type(fields[name]) not in kinds:
            raise UserError(f"{name} is {fields[name]!r}, which is no {kinds[-1].__name__}.")
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        if fields[name] != defaults[name]:
            raise UserError(f"{name} is {fields[name]}; it is {defaults[name]} here.")
    if fields["feed_forward_proj"] not in _FEED_FORWARD:
        known = ", ".join(_FEED_FORWARD)
        raise UserError(f"feed_forward_proj is {fields['feed_forward_proj']!r}; known: {known}.")
    return fields
