"""Which channels, heads, feed-forward units and layers to keep.

A method is a function of the loaded model's plan that returns a `Selection` in the numbering of the
root model. `WIDTH_METHODS` lists them by name; a new one joins with `@width_method("name")`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from flax import traverse_util

from openba_jax.errors import UserError
from openba_jax.pruning.plan import Plan, pruned_config
from openba_jax.pruning.transform import LAYERS, stack_and_layer

Tree = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to keep, and how it was chosen: `plan.narrow(selection.keep, **selection.record)`.

    Attributes:
      keep: lists by key, as in `Plan.keep`, in root numbering.
      record: method, seed, sizes and what else the method wants remembered.
    """

    keep: Mapping[str, Any]
    record: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Widths:
    """Sizes to reach; None leaves a size as it is.

    Attributes:
      embed: channels of the residual stream.
      heads: attention heads of each layer.
      mlp: feed-forward units of each layer.
    """

    embed: int | None = None
    heads: int | None = None
    mlp: int | None = None

    def within(self, plan: Plan) -> dict[str, tuple[int, int]]:
        """Source and target size by axis name, for the model that `plan` makes.

        Raises:
          UserError: a target is larger than the source, or below 1.
        """
        config = pruned_config(plan)
        sources = {"embed": config.embed_dim, "heads": config.num_heads, "mlp": config.mlp_dim}
        sizes = {}
        for name, source in sources.items():
            target = getattr(self, name)
            target = source if target is None else target
            if not 1 <= target <= source:
                raise UserError(
                    f"cannot prune {name} from {source} to {target}; choose 1 to {source}."
                )
            sizes[name] = (source, target)
        return sizes


class WidthMethod(Protocol):
    """Chooses what a model keeps of its width."""

    def __call__(
        self,
        plan: Plan,
        widths: Widths,
        *,
        seed: int,
        params: Tree | None = None,
        axes: Tree | None = None,
    ) -> Selection:
        """Selects.

        Args:
          plan: that of the loaded model, before anything is dropped in this step.
          widths: the sizes to reach.
          seed: for methods that draw.
          params: the loaded model's parameters, for methods that score.
          axes: the names of their axes.
        """


WIDTH_METHODS: dict[str, WidthMethod] = {}


def width_method(name: str) -> Callable[[WidthMethod], WidthMethod]:
    """Registers a method under a name."""

    def register(method: WidthMethod) -> WidthMethod:
        WIDTH_METHODS[name] = method
        return method

    return register


def select_width(
    method: str,
    plan: Plan,
    widths: Widths,
    *,
    seed: int = 1234,
    params: Tree | None = None,
    axes: Tree | None = None,
) -> Selection:
    """Selects by the name of a method; arguments as `WidthMethod`.

    Raises:
      UserError: no method has that name, or a target is larger than the source.
    """
    if method not in WIDTH_METHODS:
        raise UserError(
            f"no pruning method is called {method!r}; known are {', '.join(WIDTH_METHODS)}."
        )
    return WIDTH_METHODS[method](plan, widths, seed=seed, params=params, axes=axes)


@width_method("random")
def random_width(
    plan: Plan,
    widths: Widths,
    *,
    seed: int,
    params: Tree | None = None,
    axes: Tree | None = None,
) -> Selection:
    """Uniform subsets, drawn as the original draws them (reference §6.3).

    Python's `random`: channels first, then for each layer of the loaded model, encoder before
    decoder, heads and units. Sizes that stay as they are are drawn all the same.
    """
    del params, axes
    sizes = widths.within(plan)
    config = pruned_config(plan)
    generator = random.Random(seed)

    def draw(name: str) -> tuple[int, ...]:
        source, target = sizes[name]
        return tuple(sorted(generator.sample(range(source), target)))

    keep: dict[str, Any] = {"embed": draw("embed")}
    depths = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for stack, depth in depths.items():
        layers = [(draw("heads"), draw("mlp")) for _ in range(depth)]
        keep[f"{stack}/heads"], keep[f"{stack}/mlp"] = zip(*layers, strict=True)
    return Selection(plan.to_root(keep), _record("random", sizes, seed=seed))


@width_method("magnitude")
def magnitude_width(
    plan: Plan,
    widths: Widths,
    *,
    seed: int = 0,
    params: Tree | None = None,
    axes: Tree | None = None,
) -> Selection:
    """The indices whose weights have the largest sum of squares, over all leaves with the axis.

    The record holds for each key the share of the sum that is kept. Equal scores: lower index.
    """
    del seed
    if params is None or axes is None:
        raise UserError("pruning by magnitude needs the parameters of the model.")
    sizes = widths.within(plan)
    keep: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for name, (_, target) in sizes.items():
        for key, score in squared_norms(params, axes, name).items():
            best = np.sort(np.argsort(-score, axis=-1, kind="stable")[..., :target], axis=-1)
            keep[key] = best.tolist()
            kept = np.take_along_axis(score, best, axis=-1).sum()
            shares[key] = float(kept / score.sum()) if score.any() else 1.0
    return Selection(plan.to_root(keep), _record("magnitude", sizes, kept_share=shares))


def squared_norms(params: Tree, axes: Tree, name: str) -> dict[str, np.ndarray]:
    """Sums of squared weights for each index of a named axis.

    Computed on the host in float64 and in a fixed order, so that a sharded model gives the very
    scores of an unsharded one.

    Args:
      params: nested dict of arrays, scanned or unrolled.
      axes: the names of their axes.
      name: of the axis to score.

    Returns:
      float64 `[size]` under `name` if the axis also occurs outside of layers (the residual
      stream), otherwise `[layers, size]` under `STACK/name` for every stack.

    Raises:
      UserError: no parameter has that axis.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    total: np.ndarray | float = 0.0
    layers: dict[str, dict[int, np.ndarray]] = {}
    everywhere = False
    for path, names in sorted(traverse_util.flatten_dict(axes, sep="/").items()):
        if name not in names:
            continue
        leaf = np.asarray(leaves[path])
        stack, number = stack_and_layer(path)
        if stack is None:
            everywhere = True
            total = total + _sum_of_squares(leaf, names, name)
            continue
        rows = layers.setdefault(stack, {})
        if number is None:
            axis = names.index(LAYERS)
            inner = names[:axis] + names[axis + 1 :]
            for i, layer in enumerate(np.moveaxis(leaf, axis, 0)):
                rows[i] = rows.get(i, 0.0) + _sum_of_squares(layer, inner, name)
        else:
            rows[number] = rows.get(number, 0.0) + _sum_of_squares(leaf, names, name)
    if not layers and not everywhere:
        raise UserError(f"no parameter of the model has an axis {name}.")
    if everywhere:
        scores = [rows[i] for _, rows in sorted(layers.items()) for i in sorted(rows)]
        return {name: np.asarray(sum(scores, start=total))}
    return {
        f"{stack}/{name}" if stack else name: np.stack([rows[i] for i in sorted(rows)])
        for stack, rows in layers.items()
    }


def spread_layers(depth: int, count: int) -> list[int]:
    """Default layers to drop: evenly spread, and neither first nor last where possible.

    Middle layers cost least, and dropped ones should be far apart (reference §6.1).

    Raises:
      UserError: not even one layer would be left.
    """
    if not 0 <= count < depth:
        raise UserError(f"cannot drop {count} of {depth} layers; at least one must be left.")
    return [(i + 1) * (depth - 1) // (count + 1) for i in range(count)]


def _sum_of_squares(leaf: np.ndarray, names: tuple[str, ...], name: str) -> np.ndarray:
    """float64 sums over all axes but one, in blocks: the embedding alone would fill gigabytes."""
    others = tuple(axis for axis, other in enumerate(names) if other != name)
    rows = max(1, _BLOCK // max(1, leaf[0].size))
    sums = [
        np.square(leaf[start : start + rows].astype(np.float64)).sum(axis=others)
        for start in range(0, len(leaf), rows)
    ]
    return np.concatenate(sums) if names[0] == name else np.sum(sums, axis=0)


_BLOCK = 2**22
"""Values that are squared at once."""


def _record(method: str, sizes: Mapping[str, tuple[int, int]], **more: Any) -> dict[str, Any]:
    """What a plan remembers of a selection."""
    return {"method": method, **{name: list(pair) for name, pair in sizes.items()}, **more}
