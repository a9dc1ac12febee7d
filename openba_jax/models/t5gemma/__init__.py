"""T5Gemma, encoder-decoders made of Gemma 2 (docs/t5gemma.md)."""

from openba_jax.models.registry import Family
from openba_jax.models.t5gemma.config import LABELS, LARGEST, NAMED, T5GemmaConfig, inferred_fields
from openba_jax.models.t5gemma.huggingface import T5GemmaHuggingFace
from openba_jax.models.t5gemma.model import T5GemmaModel

FAMILY = Family(
    name=T5GemmaConfig.family,
    config=T5GemmaConfig,
    model=T5GemmaModel,
    named=NAMED,
    largest=LARGEST,
    infer=inferred_fields,
    labels=LABELS,
    huggingface=T5GemmaHuggingFace(),
)
