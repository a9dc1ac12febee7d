"""T5 1.0 and 1.1, mT5, Flan-T5 and UL2 (docs/t5.md)."""

from openba_jax.models.registry import Family
from openba_jax.models.t5.config import LABELS, NAMED, T5Config, inferred_fields
from openba_jax.models.t5.gguf import T5Gguf
from openba_jax.models.t5.huggingface import T5HuggingFace
from openba_jax.models.t5.model import T5Model
from openba_jax.models.t5.t5x import NETWORKS

FAMILY = Family(
    name=T5Config.family,
    config=T5Config,
    model=T5Model,
    named=NAMED,
    largest=NAMED["tiny_t5_1_1"],
    alternatives=(NAMED["tiny_t5"], NAMED["tiny_t5"].replace(shared_relpos=False)),
    infer=inferred_fields,
    labels=LABELS,
    huggingface=T5HuggingFace(),
    gguf=T5Gguf(),
    t5x_networks=NETWORKS,
)
