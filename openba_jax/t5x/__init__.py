"""The bridge to T5X: this network, its tasks and its optimizers in T5X's own binaries (DESIGN §5).

Imported by T5X users alone, mostly through gin (`gin/runs/t5x`). The names below are what those
files configure.
"""

from openba_jax.t5x.requirement import require_t5x

require_t5x()
