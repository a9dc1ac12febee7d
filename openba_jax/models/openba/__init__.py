"""OpenBA, the encoder-decoder of OpenBA-V2 (docs/original.md)."""

from openba_jax.models.openba.config import LABELS, LARGEST, NAMED, OpenBAConfig, inferred_fields
from openba_jax.models.openba.huggingface import OpenBAHuggingFace
from openba_jax.models.openba.megatron import OpenBAMegatron
from openba_jax.models.openba.model import OpenBAModel
from openba_jax.models.registry import Family

FAMILY = Family(
    name=OpenBAConfig.family,
    config=OpenBAConfig,
    model=OpenBAModel,
    named=NAMED,
    largest=LARGEST,
    infer=inferred_fields,
    labels=LABELS,
    huggingface=OpenBAHuggingFace(),
    megatron=OpenBAMegatron(),
)
