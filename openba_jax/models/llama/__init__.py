"""LLaMA and its relatives: decoders with RMS norms, SwiGLU and rotary positions."""

from openba_jax.models.llama.config import LABELS, LARGEST, NAMED, LlamaConfig, inferred_fields
from openba_jax.models.llama.gguf import LlamaGguf
from openba_jax.models.llama.huggingface import LlamaHuggingFace
from openba_jax.models.llama.megatron import LlamaMegatron
from openba_jax.models.llama.model import LlamaModel
from openba_jax.models.registry import Family

FAMILY = Family(
    name=LlamaConfig.family,
    config=LlamaConfig,
    model=LlamaModel,
    named=NAMED,
    largest=LARGEST,
    infer=inferred_fields,
    labels=LABELS,
    huggingface=LlamaHuggingFace(),
    megatron=LlamaMegatron(),
    gguf=LlamaGguf(),
)
