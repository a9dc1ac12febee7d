"""`OpenBAConfig`: every size and switch of the network, and the named sizes of OpenBA-V2.

Sizes and defaults: reference §1 and §5.4 (`stages.json`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from openba_jax.errors import UserError

RematPolicy = Literal["none", "minimal", "full"]
FfnRule = Literal["v1", "v2"]

VOCABULARY_MULTIPLE = 128
"""The rows of the embedding are padded to a multiple of this (reference §2.2)."""

MAX_LAYERS = 10_000
"""No stack is as deep; a configuration that says so would keep its reader busy for hours."""

_SIZES = (
    *("vocab_size", "embed_dim", "num_heads", "head_dim", "mlp_dim"),
    *("encoder_layers", "decoder_layers", "max_encoder_length", "max_decoder_length"),
)


@dataclasses.dataclass(frozen=True)
class OpenBAConfig:
    """Architecture and numerics of one encoder-decoder.

    Attributes:
      vocab_size: rows of the embedding, padding rows included.
      embed_dim: width of the residual stream.
      num_heads: attention heads, of self- and cross-attention, in both stacks.
      head_dim: size of one head; pruning never changes it.
      mlp_dim: width of the SwiGLU layer (the real width, not Megatron's v1 argument, §1.6).
      encoder_layers: depth of the encoder.
      decoder_layers: depth of the decoder.
      qkv_bias: bias on query, key, value and attention output projections.
      mlp_bias: bias on the feed-forward projections.
      logits_bias: bias on the logits.
      tie_embeddings: the logits use the embedding matrix.
      scale_tied_logits: multiply the decoder output by `embed_dim ** -0.5` before tied logits; only
        the Hugging Face class does so (§1.2).
      embedding_dropout: drop out embeddings too, as Megatron does and Hugging Face does not (§1.2).
      dropout_rate: rate on residual branches (and embeddings).
      attention_dropout_rate: rate on attention probabilities.
      layer_norm_epsilon: added to the variance.
      rope_theta: base of the rotary frequencies.
      initializer_std: standard deviation of all projections but the output ones (§1.7).
      max_encoder_length: longest encoder input that the model was made for, in tokens.
      max_decoder_length: the same for the decoder.
      dtype: name of the compute type.
      param_dtype: name of the type in which parameters are kept.
      scan_layers: one scanned layer (`layers` axis first) instead of unrolled ones.
      remat_policy: what the backward pass recomputes: nothing, all but matrix products, everything.
      ffn_rule: how Hugging Face's and Megatron's configurations state `mlp_dim`: by a number that
        goes through a rule (v1), or as it is (v2, §1.6). The network does not depend on it.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    encoder_layers: int
    decoder_layers: int
    head_dim: int = 128
    qkv_bias: bool = True
    mlp_bias: bool = False
    logits_bias: bool = True
    tie_embeddings: bool = True
    scale_tied_logits: bool = False
    embedding_dropout: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    initializer_std: float = 0.02
    max_encoder_length: int = 1024
    max_decoder_length: int = 1024
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: RematPolicy = "none"
    ffn_rule: FfnRule = "v1"

    def __post_init__(self) -> None:
        """Checks types, that sizes are positive and switches known.

        Raises:
          UserError: a field has a value that no network can have.
        """
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("dropout_rate", "attention_dropout_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1."
                )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16", "float16"):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; known are 'float32', 'bfloat16' and "
                    "'float16'."
                )
        if max(self.encoder_layers, self.decoder_layers) > MAX_LAYERS:
            raise UserError(
                f"{self.encoder_layers} and {self.decoder_layers} layers are asked for; a stack "
                f"has at most {MAX_LAYERS}."
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}; rotary positions need an even size.")
        if self.remat_policy not in get_args(RematPolicy):
            raise UserError(
                f"remat_policy is {self.remat_policy!r}; known are 'none', 'minimal' and 'full'."
            )
        if self.ffn_rule not in get_args(FfnRule):
            raise UserError(f"ffn_rule is {self.ffn_rule!r}; known are 'v1' and 'v2'.")

    def replace(self, **changes: Any) -> OpenBAConfig:
        """A copy with some fields changed.

        Raises:
          UserError: a field is unknown, or has a value that no network can have.
        """
        return OpenBAConfig.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OpenBAConfig:
        """The inverse of `to_dict`.

        Raises:
          UserError: a field is unknown or missing.
        """
        if not isinstance(fields, Mapping):
            raise UserError("the model config is no JSON object.")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            close = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UserError(f"a model config has no field {unknown[0]}{hint}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise UserError(f"model config is incomplete: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> OpenBAConfig:
        """Reads `config.json`.

        Raises:
          UserError: the file is missing or is no such config.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{path} does not exist; a model folder holds a config.json."
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}.") from error
        try:
            return cls.from_dict(fields)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _check_type(name: str, kind: str, value: Any) -> None:
    """Raises where a value, of a gin file or a JSON file, is not of the type of its field."""
    types = {"int": int, "float": int | float, "bool": bool}
    words = {"int": "a whole number", "float": "a number", "bool": "True or False"}
    # A bool is an int to Python, not to a user.
    fits = isinstance(value, types.get(kind, str)) and (kind == "bool") == isinstance(value, bool)
    if not fits:
        raise UserError(f"{name} is {value!r}; it must be {words.get(kind, 'a text')}.")


def padded_vocab_size(tokens: int) -> int:
    """`tokens` rounded up to a multiple of `VOCABULARY_MULTIPLE`."""
    return -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


_V1 = OpenBAConfig(
    vocab_size=250_368,
    embed_dim=4096,
    num_heads=40,
    mlp_dim=11_008,
    encoder_layers=12,
    decoder_layers=36,
    dtype="bfloat16",
)
_V2 = _V1.replace(
    embed_dim=2560,
    num_heads=20,
    mlp_dim=6912,
    encoder_layers=8,
    decoder_layers=24,
    max_encoder_length=1040,
    max_decoder_length=1040,
    ffn_rule="v2",
)

NAMED_CONFIGS: dict[str, OpenBAConfig] = {
    "openba_15b": _V1,
    "stage1_12b": _V1.replace(encoder_layers=10, decoder_layers=30),
    "stage2_11b": _V1.replace(encoder_layers=8, decoder_layers=27),
    "stage3_10b": _V1.replace(encoder_layers=8, decoder_layers=24),
    "stage4_3_8b": _V2.replace(max_encoder_length=1024, max_decoder_length=1024),
    "stage5_3_8b": _V2,
    # 120,000 pieces and 103 special tokens: the vocabulary behind the published scores (§1.8).
    "openba_v2_3_4b": _V2.replace(vocab_size=padded_vocab_size(120_000 + 103)),
    "tiny": OpenBAConfig(
        vocab_size=512,
        embed_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=64,
        encoder_layers=2,
        decoder_layers=3,
        ffn_rule="v2",
    ),
    "small": OpenBAConfig(
        vocab_size=2048,
        embed_dim=128,
        num_heads=4,
        head_dim=32,
        mlp_dim=352,
        encoder_layers=4,
        decoder_layers=8,
        ffn_rule="v2",
    ),
}


def named_config(name: str, **changes: Any) -> OpenBAConfig:
    """A named size, with fields changed at will.

    Raises:
      UserError: no size has that name, or a change is not possible.
    """
    if name not in NAMED_CONFIGS:
        raise UserError(f"no model size is called {name!r}; known are {', '.join(NAMED_CONFIGS)}.")
    return NAMED_CONFIGS[name].replace(**changes)
