"""What to keep: by scores, or drawn at random."""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Mapping, Sequence
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
from openba_jax.pruning.criteria.base import RANDOM, Scores


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to keep, and how it was chosen.

    Attributes:
      keep: lists by key, as in `Plan.keep`, in the numbering of the model that was looked at.
      record: what the plan remembers of the choice.
    """

    keep: Mapping[str, Any]
    record: Mapping[str, Any]


def chosen(axes: AxisTable, names: Sequence[str]) -> list[str]:
    """Keys of what can be cut, the vocabulary apart.

    Args:
      axes: of the model.
      names: keys (`decoder/mlp`), or names of axes (`mlp`), which speak of all stacks; none: all.

    Raises:
      UserError: the model has no such axis.
    """
    cuttable = [key for key in axes.keys if key != VOCAB]
    for name in names:
        if not any(name in (key, axis_of(key)) for key in cuttable):
            known = dict.fromkeys([*cuttable, *map(axis_of, cuttable)])
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
            raise UserError(f"the model has no axis {name!r} that can be cut; {hint}")
    return [key for key in cuttable if not names or {key, axis_of(key)} & set(names)]


def targets_of(axes: AxisTable, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes to reach by key.

    Args:
      axes: of the model.
      sizes: by key (`decoder/mlp`), or by the name of an axis (`mlp`), which speaks of all stacks.

    Raises:
      UserError: the model has no such axis, or a size is above the present one or below 1.
    """
    targets: dict[str, int] = {}
    # A key says more than the name of its axis, which speaks of all stacks.
    for name, size in sorted(sizes.items(), key=lambda item: item[0] in axes.sizes):
        for key in chosen(axes, [name]):
            if not 1 <= size <= axes.sizes[key]:
                raise UserError(
                    f"cannot prune {key} from {axes.sizes[key]} to {size}; choose 1 to "
                    f"{axes.sizes[key]}."
                )
            targets[key] = size
    return targets


def best(
    axes: AxisTable, scores: Scores, targets: Mapping[str, int], method: str | Mapping[str, str]
) -> Selection:
    """The indices with the highest scores; equal scores: the lower index.

    The record holds for each key the share of the sum of scores that is kept, where none of them is
    negative.

    Args:
      axes: of the model.
      scores: for each target, as `criteria.base.Scores`.
      targets: sizes to reach by key.
      method: name of the criterion, or one for each target, for the record.

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
        if score.min() >= 0:
            shares[key] = float(kept) / float(score.sum()) if score.any() else 1.0
    return Selection(keep, _record(axes, method, targets, kept_share=shares))


def drawn(axes: AxisTable, targets: Mapping[str, int], seed: int, slices: int = 1) -> Selection:
    """Uniform subsets, drawn as the original draws them (docs/original.md, Pruning).

    Python's `random`: what lies outside of layers first, then for each layer, stack by stack, its
    axes in order. Sizes that stay as they are are drawn all the same; layers themselves are drawn
    last, where they have a target.

    With several slices, axes of layers are cut alike in each of so many equal parts, which tensor
    parallelism lays on one device each (docs/original.md, LLaMA): the part is drawn once, as every
    device draws for itself from the same seed.

    Args:
      axes: of the model.
      targets: sizes to reach by key.
      seed: of the generator.
      slices: equal parts of axes of layers that keep the same places each.

    Raises:
      UserError: members of groups cannot be divided evenly among those that are kept, or slices
        do not divide an axis of layers, before or after the cut.
    """
    generator = random.Random(seed)
    after = {**axes.sizes, **_followers(axes, targets), **targets}

    def draw(key: str, parts: int = 1) -> list[int]:
        return sorted(generator.sample(range(axes.sizes[key] // parts), after[key] // parts))

    def draw_members(key: str, outer: str, groups: Sequence[int]) -> list[int]:
        width, count = axes.sizes[key] // axes.sizes[outer], after[key] // after[outer]
        return [
            group * width + member
            for group in groups
            for member in sorted(generator.sample(range(width), count))
        ]

    flat = [
        k for k in axes.keys if axes.layers_key(k) is None and axis_of(k) not in (LAYERS, VOCAB)
    ]
    keep: dict[str, Any] = {key: draw(key) for key in flat}
    for stack in axes.stacks:
        keys = [key for key in axes.keys if axes.layers_key(key) == join(stack, LAYERS)]
        for key in keys:
            if (outer := _outer(axes, key)) is not None:
                _check_even(axes, key, after[key], outer, after[outer])
            _check_slices(key, axes.sizes[key], after[key], slices)
        for _ in range(axes.depth(stack)):
            first: dict[str, list[int]] = {}
            for key in _groups_first(axes, keys):
                outer = _outer(axes, key)
                first[key] = (
                    draw(key, slices) if outer is None else draw_members(key, outer, first[outer])
                )
                size = axes.sizes[key] // slices
                row = [part * size + index for part in range(slices) for index in first[key]]
                keep.setdefault(key, []).append(row)
    keep |= {key: draw(key) for key in targets if axis_of(key) == LAYERS}
    sliced = {} if slices == 1 else {"slices": slices}
    return Selection(keep, _record(axes, RANDOM, targets, seed=seed, **sliced))


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
        _check_even(axes, key, target, outer, len(groups))
        for group in groups:
            part = slice(group * width, (group + 1) * width)
            members = group * width + _top(row[part], target // len(groups))
            allowed[layer][members] = row[members]
    return allowed


def _check_even(axes: AxisTable, key: str, target: int, outer: str, groups: int) -> None:
    if target % groups:
        raise UserError(
            f"{key} cannot be cut to {target}, which {groups} groups of {outer} do not divide; "
            f"choose a multiple of {groups}."
        )
    if target > (most := axes.sizes[key] // axes.sizes[outer] * groups):
        raise UserError(
            f"{key} cannot stay at {target}: {groups} groups of {outer} have {most}; choose {most} "
            "or less."
        )


def _check_slices(key: str, size: int, target: int, slices: int) -> None:
    for number, when in ((size, "has"), (target, "is to keep")):
        if number % slices:
            raise UserError(
                f"{key} {when} {number} indices, which {slices} slices do not divide; choose "
                "another size, or fewer slices."
            )


def _outer(axes: AxisTable, key: str) -> str | None:
    """The key of the groups that a key's indices are members of."""
    grouped = [c for c in axes.couplings if isinstance(c, Grouped) and c.inner == key]
    return grouped[0].outer if grouped else None


def _followers(axes: AxisTable, targets: Mapping[str, int]) -> dict[str, int]:
    """Members that go with the groups that a target cuts."""
    return {
        coupling.inner: axes.sizes[coupling.inner]
        // axes.sizes[coupling.outer]
        * targets[coupling.outer]
        for coupling in axes.couplings
        if isinstance(coupling, Grouped) and coupling.outer in targets
    }


def _groups_first(axes: AxisTable, keys: Any) -> list[str]:
    """Keys in their order, but groups before their members."""
    return sorted(keys, key=lambda key: _outer(axes, key) is not None)


def _record(
    axes: AxisTable, method: str | Mapping[str, str], targets: Mapping[str, int], **more: Any
) -> dict[str, Any]:
    """What a plan remembers of a selection: the method, and sizes before and after."""
    sizes = {key: [axes.sizes[key], target] for key, target in targets.items()}
    return {"method": method, "sizes": sizes, **more}
