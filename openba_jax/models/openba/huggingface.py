"""OpenBA in Hugging Face's format, v1 and v2 (docs/original.md, Hugging Face)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import Row, Tensors, linear, norm
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.widths import check_constants, ffn_hidden_size, rule_of_width

_EMBEDDING = "shared_embedding.weight"
_HEAD = "lm_head.weight"
_WIDE = "encoder.block.0.mlp.fc_in.weight"

# What the original's configuration class assumes where config.json says nothing.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "hidden_size": 512,
    "kv_channels": 64,
    "ffn_hidden_size": 2048,
    "num_layers": 12,
    "num_heads": 8,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "add_qkv_bias": False,
    "add_ffn_bias": False,
    "add_lm_head_bias": False,
    "max_seq_length": 1024,
    "decoder_max_seq_length": 256,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def _rows() -> list[Row]:
    rows = [Row(_EMBEDDING, ("token_embedder/embedding",), "vocab embed")]
    for stack in ("encoder", "decoder"):
        theirs, ours = f"{stack}.block.{{n}}", f"{stack}/layers"
        rows += norm(f"{theirs}.input_layernorm", f"{ours}/pre_self_attention_layer_norm")
        attention = f"{ours}/self_attention"
        parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
        rows += linear(f"{theirs}.self_attn.qkv", parts, "(heads part kv)", "embed")
        rows += linear(f"{theirs}.self_attn.o", [f"{attention}/out"], "embed", "(heads kv)")
        if stack == "decoder":
            attention = f"{ours}/cross_attention"
            ours_norm = f"{ours}/pre_cross_attention_layer_norm"
            rows += norm(f"{theirs}.post_attn_layernorm", ours_norm)
            rows += linear(f"{theirs}.inter_attn.q", [f"{attention}/query"], "(heads kv)", "embed")
            parts = [f"{attention}/key", f"{attention}/value"]
            rows += linear(f"{theirs}.inter_attn.kv", parts, "(heads part kv)", "embed")
            rows += linear(f"{theirs}.inter_attn.o", [f"{attention}/out"], "embed", "(heads kv)")
            rows += norm(f"{theirs}.post_inter_attn_layernorm", f"{ours}/pre_mlp_layer_norm")
        else:
            rows += norm(f"{theirs}.post_attn_layernorm", f"{ours}/pre_mlp_layer_norm")
        parts = [f"{ours}/mlp/wi_0", f"{ours}/mlp/wi_1"]
        rows += linear(f"{theirs}.mlp.fc_in", parts, "(part mlp)", "embed")
        rows += linear(f"{theirs}.mlp.fc_out", [f"{ours}/mlp/wo"], "embed", "mlp")
        rows += norm(f"{stack}.final_layernorm", f"{stack}/final_layer_norm")
    rows.append(Row(_HEAD, ("logits_dense/kernel",), "vocab embed"))
    rows.append(Row("lm_head.bias", ("logits_dense/bias",), "vocab"))
    return rows


class OpenBAHuggingFace:
    """The `HuggingFace` mapping of OpenBA."""

    model_types: Sequence[str] = ("openba",)
    refused: Mapping[str, str] = {}
    rows: Sequence[Row] = tuple(_rows())
    buffers = ""
    tokenizer = "openba"

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> OpenBAConfig:
        """The configuration that `config.json` and the tensors describe.

        A head that is a copy of the embedding, as the original's converter writes it, is read as a
        tied one, as in training.

        Raises:
          UserError: a field has a wrong type or value, a tensor is missing, or the two contradict
            each other.
        """
        fields = _checked(fields)
        for name in (_EMBEDDING, _WIDE):
            if name not in tensors.shapes:
                raise UserError(f"tensor {name} is missing.")
        shape = tensors.shapes[_WIDE]
        if len(shape) != 2:
            raise UserError(f"tensor {_WIDE} has shape {list(shape)}; it should be a matrix.")
        width = shape[0] // 2
        dtype = tensors.dtypes[_EMBEDDING]
        scaled = bool(fields["tie_word_embeddings"])
        tied = scaled or (_HEAD in tensors.shapes and tensors.equal(_EMBEDDING, _HEAD))
        return OpenBAConfig(
            vocab_size=fields["vocab_size"],
            embed_dim=fields["hidden_size"],
            num_heads=fields["num_heads"],
            head_dim=fields["kv_channels"],
            mlp_dim=width,
            encoder_layers=fields["num_layers"],
            decoder_layers=fields["num_decoder_layers"],
            qkv_bias=fields["add_qkv_bias"],
            mlp_bias=fields["add_ffn_bias"],
            logits_bias=fields["add_lm_head_bias"],
            tie_embeddings=tied,
            scale_tied_logits=scaled,
            embedding_dropout=False,
            dropout_rate=fields["hidden_dropout"],
            attention_dropout_rate=fields["attention_dropout"],
            max_encoder_length=fields["max_seq_length"],
            max_decoder_length=fields["decoder_max_seq_length"],
            dtype=dtype,
            param_dtype=dtype,
            ffn_rule=rule_of_width(width, fields["ffn_hidden_size"]),
        )

    def copies(self, config: ModelConfig) -> dict[str, str]:
        """Tensors that may be there as copies of the embedding."""
        assert isinstance(config, OpenBAConfig)
        names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        return dict.fromkeys([*names, _HEAD] if config.tie_embeddings else names, _EMBEDDING)

    def written_copies(self, config: ModelConfig) -> dict[str, str]:
        """The head of a tied model: the original cannot tie without scaling the logits."""
        assert isinstance(config, OpenBAConfig)
        copied = config.tie_embeddings and not config.scale_tied_logits
        return {_HEAD: _EMBEDDING} if copied else {}

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json`, and the classes of the original's modelling code.

        Raises:
          UserError: a constant of that code has another value in the model, or v1 has no number for
            its feed-forward width.
        """
        assert isinstance(config, OpenBAConfig)
        check_constants(config, ("layer_norm_epsilon", "rope_theta"), "Hugging Face's OpenBA")
        modelling = "modeling_openba.OpenBAForConditionalGeneration"
        return {
            "add_ffn_bias": config.mlp_bias,
            "add_lm_head_bias": config.logits_bias,
            "add_qkv_bias": config.qkv_bias,
            "architectures": ["OpenBAForConditionalGeneration"],
            "attention_dropout": config.attention_dropout_rate,
            "auto_map": {
                "AutoConfig": "configuration_openba.OpenBAConfig",
                "AutoModel": modelling,
                "AutoModelForCausalLM": modelling,
                "AutoModelForSeq2SeqLM": modelling,
            },
            "decoder_max_seq_length": config.max_decoder_length,
            "decoder_start_token_id": 0,
            "eos_token_id": 1,
            "ffn_hidden_size": ffn_hidden_size(config),
            "hidden_dropout": config.dropout_rate,
            "hidden_size": config.embed_dim,
            "initializer_factor": 1.0,
            "is_encoder_decoder": True,
            "kv_channels": config.head_dim,
            "max_seq_length": config.max_encoder_length,
            "model_type": "openba",
            "num_decoder_layers": config.decoder_layers,
            "num_heads": config.num_heads,
            "num_layers": config.encoder_layers,
            "pad_token_id": 0,
            "tie_word_embeddings": config.tie_embeddings and config.scale_tied_logits,
            "tokenizer_class": "OpenBATokenizer",
            "torch_dtype": weight_type,
            "transformers_version": "4.31.0",
            "use_cache": True,
            "vocab_size": config.vocab_size,
        }

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json`."""
        del config
        return {
            "_from_model_config": True,
            "decoder_start_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "transformers_version": "4.31.0",
        }


def _checked(read: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config.json`, defaults filled in, of the types that they should have."""
    fields = {**_DEFAULTS, **read}
    if "num_heads" not in read:
        fields["num_heads"] = read.get("num_attention_heads", _DEFAULTS["num_heads"])
    if "num_layers" not in read:
        fields["num_layers"] = read.get("num_hidden_layers", _DEFAULTS["num_layers"])
    if fields.get("num_decoder_layers") is None:
        fields["num_decoder_layers"] = fields["num_layers"]
    for name, default in {**_DEFAULTS, "num_decoder_layers": 0}.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if type(fields[name]) not in kinds:
            raise UserError(f"{name} is {fields[name]!r}, which is no {kinds[-1].__name__}.")
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        if fields[name] != _DEFAULTS[name]:
            raise UserError(f"{name} is {fields[name]}; it is {_DEFAULTS[name]} here.")
    return fields
