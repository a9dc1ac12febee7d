"""The bridge to T5X: this network, its tasks and its optimizers in T5X's own binaries
(docs/architecture.md#the-t5x-contract).

Imported by T5X users alone, mostly through gin (`gin/runs/t5x`), which configures what is here.
"""

from openba_jax.t5x.mistakes import tell_in_one_sentence
from openba_jax.t5x.requirement import require_t5x

tell_in_one_sentence()
require_t5x()
