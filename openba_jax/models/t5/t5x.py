"""T5 in T5X's own networks (`t5x/examples/t5` and `t5x/examples/scalable_t5`)."""

from __future__ import annotations

from openba_jax.models.mapping import T5XNetwork

_STACKS = ("encoder", "decoder")
_BIAS = "relpos_bias/rel_embedding"

NETWORKS = {
    "t5": T5XNetwork({"scan_layers": False, "shared_relpos": True}),
    "scalable_t5": T5XNetwork(
        {"scan_layers": True, "shared_relpos": False},
        stacks={f"{stack}/{stack}/": f"{stack}/layers/" for stack in _STACKS},
        layers_axis=1,
        split=True,
        spread={f"{stack}/layers/{_BIAS}": f"{stack}/{_BIAS}" for stack in _STACKS},
    ),
}
"""The parameters of the first have the names that they have here, layers unrolled."""
