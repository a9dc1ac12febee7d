"""What to keep: by scores, or drawn at random."""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import (
    LAYERS,
    VOCAB,
    AxisTable,
    Grouped,
    axis_of,
    join,
)
from openba_jax.pruning.scores import Scores


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to keep, and how it was chosen.

    Attributes:
      keep: lists by key, as in `Plan.keep`, in the numbering of the model that was looked at.
      record: what the plan remembers of the choice.
    """

    keep: Mapping[str, Any]
    record: Mapping[str, Any]


def targets_of(axes: AxisTable, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes to reach by key.

    Args:
      axes: of the model.
      sizes: by key (`decoder/mlp`), or by the name of an axis (`mlp`), which speaks of all stacks.

    Raises:
      UserError: the model has no such axis, or a size is above the present one or below 1.
    """
    targets: dict[str, int] = {}
    cuttable = [key for key in axes.keys if key != VOCAB]
    # A key says more than the name of its axis, which speaks of all stacks.
    for name, size in sorted(sizes.items(), key=lambda item: item[0] in axes.sizes):
        keys = [key for key in cuttable if name in (key, axis_of(key))]
        if not keys:
            known = dict.fromkeys([*cuttable, *map(axis_of, cuttable)])
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
            raise UserError(f"the model has no axis {name!r} that can be cut; {hint}")
        for key in keys:
            if not 1 <= size <= axes.sizes[key]:
                raise UserError(
                    f"cannot prune {key} from {axes.sizes[key]} to {size}; choose 1 to "
                    f"{axes.sizes[key]}."
                )
            targets[key] = size
    return targets


def best(axes: AxisTable, scores: Scores, targets: Mapping[str, int], method: str) -> Selection:
    """The indices with the highest scores; equal scores: the lower index.

    The record holds for each key the share of the sum of scores that is kept.

    Args:
      axes: of the model.
      scores: for each target, as `scores.Scores`.
      targets: sizes to reach by key.
      method: name of the criterion, for the record.

    Raises:
      UserError: members of groups cannot be divided evenly among those that are kept.
    """
    keep: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for key in _groups_first(axes, targets):
        score = scores[key]
        chosen = _top(_allowed(axes, key, targets[key], score, keep), targets[key])
        kept = np.take_along_axis(score, chosen, axis=-1).sum()
        keep[key] = chosen.tolist()
        shares[key] = float(kept / score.sum()) if score.any() else 1.0
    return Selection(keep, _record(axes, method, targets, kept_share=shares))


def drawn(axes: AxisTable, targets: Mapping[str, int], seed: int) -> Selection:
    """Uniform subsets, drawn as the original draws them (docs/original.md, Pruning).

    Python's `random`: what lies outside of layers first, then for each layer, stack by stack, its
    axes in order. Sizes that stay as they are are drawn all the same; layers themselves are drawn
    last, where they have a target.

    Raises:
      UserError: members of groups cannot be divided evenly among those that are kept.
    """
    generator = random.Random(seed)

    def draw(key: str, groups: Any = None) -> list[int]:
        size, target = axes.sizes[key], targets.get(key, axes.sizes[key])
        if groups is None:
            return sorted(generator.sample(range(size), target))
        kept, of = groups
        _check_even(key, target, of, len(kept))
        width = size // axes.sizes[of]
        return [
            group * width + member
            for group in kept
            for member in sorted(generator.sample(range(width), target // len(kept)))
        ]

    flat = [
        k for k in axes.keys if axes.layers_key(k) is None and axis_of(k) not in (LAYERS, VOCAB)
    ]
    keep: dict[str, Any] = {key: draw(key) for key in flat}
    for stack in axes.stacks:
        keys = [key for key in axes.keys if axes.layers_key(key) == join(stack, LAYERS)]
        for layer in range(axes.depth(stack)):
            for key in _groups_first(axes, keys):
                outer = _outer(axes, key)
                groups = None if outer is None else (keep[outer][layer], outer)
                keep.setdefault(key, []).append(draw(key, groups))
    keep |= {key: draw(key) for key in targets if axis_of(key) == LAYERS}
    return Selection(keep, _record(axes, "random", targets, seed=seed))


def spread_layers(depth: int, count: int) -> list[int]:
    """Default layers to drop: evenly spread, and neither first nor last where possible.

    Middle layers cost least, and dropped ones should be far apart (docs/original.md, Pruning).

    Raises:
      UserError: not even one layer would be left.
    """
    if not 0 <= count < depth:
        raise UserError(f"cannot drop {count} of {depth} layers; at least one must be left.")
    return [(i + 1) * (depth - 1) // (count + 1) for i in range(count)]


def _top(score: np.ndarray, target: int) -> np.ndarray:
    """Indices of the highest scores along the last axis, ascending."""
    return np.sort(np.argsort(-score, axis=-1, kind="stable")[..., :target], axis=-1)


def _allowed(
    axes: AxisTable, key: str, target: int, score: np.ndarray, keep: Mapping[str, Any]
) -> np.ndarray:
    """The scores, minus infinity where the group that an index belongs to leaves no room for it."""
    outer = _outer(axes, key)
    if outer is None:
        return score
    width = axes.sizes[key] // axes.sizes[outer]
    allowed = np.full_like(score, -np.inf)
    for layer, row in enumerate(score):
        groups = keep[outer][layer] if outer in keep else range(axes.sizes[outer])
        _check_even(key, target, outer, len(groups))
        for group in groups:
            part = slice(group * width, (group + 1) * width)
            members = group * width + _top(row[part], target // len(groups))
            allowed[layer][members] = row[members]
    return allowed


def _check_even(key: str, target: int, outer: str, groups: int) -> None:
    if target % groups:
        raise UserError(
            f"{key} cannot be cut to {target}, which {groups} groups of {outer} do not divide; "
            f"choose a multiple of {groups}."
        )


def _outer(axes: AxisTable, key: str) -> str | None:
    """The key of the groups that a key's indices are members of."""
    grouped = [c for c in axes.couplings if isinstance(c, Grouped) and c.inner == key]
    return grouped[0].outer if grouped else None


def _groups_first(axes: AxisTable, keys: Any) -> list[str]:
    """Keys in their order, but groups before their members."""
    return sorted(keys, key=lambda key: _outer(axes, key) is not None)


def _record(
    axes: AxisTable, method: str, targets: Mapping[str, int], **more: Any
) -> dict[str, Any]:
    """What a plan remembers of a selection: the method, and sizes before and after."""
    sizes = {key: [axes.sizes[key], target] for key, target in targets.items()}
    return {"method": method, "sizes": sizes, **more}
