"""The protocol buffer of a sentencepiece model, and small changes to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sentencepiece import sentencepiece_model_pb2

# protobuf makes the class at run time.
ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
PieceType: Any = ModelProto.SentencePiece


def with_controls(model: bytes, ids: Iterable[int]) -> bytes:
    """A model some of whose pieces are found in no text."""
    proto = ModelProto.FromString(model)
    for i in ids:
        proto.pieces[i].type = PieceType.CONTROL
    content: bytes = proto.SerializeToString()
    return content


def without_dummy_prefix(model: bytes) -> bytes:
    """A model that puts no space before a text, and takes none from a decoded one."""
    proto = ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = False
    content: bytes = proto.SerializeToString()
    return content


def has_dummy_prefix(model: bytes) -> bool:
    """Whether a model puts a space before a text."""
    return bool(ModelProto.FromString(model).normalizer_spec.add_dummy_prefix)
