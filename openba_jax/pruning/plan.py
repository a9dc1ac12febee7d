"""`Plan`: which layers, channels, heads, units and vocabulary rows of its ancestor a model keeps.

A plan is data (JSON, saved beside each checkpoint) in the numbering of the *ancestor*, the model
that nothing was cut from, whatever was pruned since: stage 3's decoder layer 33 is layer 33 of the
36-layer ancestor.

Keys of `keep` are those of the ancestor's `AxisTable`, each of them optional (a missing key keeps
everything):

  STACK/layers       kept layers
  AXIS               kept indices of an axis that occurs outside of the stacks: `embed`, `vocab`
  STACK/AXIS         kept indices of an axis of a stack, `encoder/heads`: one list for all layers,
                     or one list per layer of the ancestor, unless the layers share the axis

All lists ascend, except `vocab`: that may have any order, and may end in repeats of one row, which
pad the embedding to its multiple.

`keep` has one canonical form, so that plans that prune equally are equal: lists of dropped layers
are emptied, lists that are the same for each layer become one, lists that keep everything go.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import (
    LAYERS,
    VOCAB,
    AxisTable,
    Equal,
    Grouped,
    Joined,
    axis_of,
    join,
)
from openba_jax.models.base import Model
from openba_jax.models.registry import model_from_dict

Indices = tuple[int, ...]
Keep = Mapping[str, Any]
"""Lists of indices, or lists of such lists, by key; any sequences or arrays will do."""

_OLD_NAMES = {"root": "ancestor"}
"""Fields of plans that earlier versions wrote."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pruned model keeps of its ancestor, and how that was decided.

    Attributes:
      ancestor: `ModelConfig.to_dict()` of the ancestor.
      source: checkpoint (path or name) of the ancestor.
      keep: indices kept, in the ancestor's numbering (see the docstring of this module).
      steps: one record per decision, oldest first: stage, method, seed and what the method adds.
    """

    ancestor: Mapping[str, Any]
    source: str
    keep: Keep = dataclasses.field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Validates, and brings all fields to their canonical form.

        Raises:
          UserError: the ancestor is of no known family; a key is unknown; an index is out of range,
            repeated or out of order; lists have unequal sizes, or there is not one per layer; axes
            that belong together are cut differently.
        """
        object.__setattr__(self, "ancestor", model_from_dict(self.ancestor).config.to_dict())
        object.__setattr__(self, "keep", canonical(self.axes, self.keep))
        # As JSON gives them back, so that a loaded plan equals the saved one.
        object.__setattr__(self, "steps", tuple(json.loads(json.dumps(list(self.steps)))))

    @classmethod
    def identity(cls, model: Model, source: str) -> Plan:
        """The plan of a model that is its own ancestor: everything is kept."""
        return cls(model.config.to_dict(), source)

    @functools.cached_property
    def ancestor_model(self) -> Model:
        """The model that nothing was cut from."""
        return model_from_dict(self.ancestor)

    @property
    def axes(self) -> AxisTable:
        """The axes of the ancestor."""
        return self.ancestor_model.axes

    def indices(self, key: str) -> Indices:
        """What is kept of layers, or of an axis that occurs outside of layers."""
        return self.keep.get(key, tuple(range(self.axes.sizes[key])))

    def rows(self, key: str) -> tuple[Indices, ...]:
        """What is kept of an axis of layers: one list per layer of the ancestor, empty for dropped
        layers.
        """
        kept = self.keep.get(key, tuple(range(self.axes.sizes[key])))
        if np.ndim(kept[0]):
            return kept
        of_layers = _layers_of(self.axes, key)
        layers = set(self.indices(of_layers))
        return tuple(kept if i in layers else () for i in range(self.axes.sizes[of_layers]))

    def narrow(self, keep: Keep, **step: Any) -> Plan:
        """A plan that keeps less.

        Args:
          keep: for some keys what remains, in the ancestor's numbering. What it says of layers that
            are dropped does not matter, so width and layers may be decided in either order.
          **step: the record of this decision: `stage`, `method`, `seed`, ...

        Raises:
          UserError: `keep` is not valid, or names an index that this plan does not keep.
        """
        narrowed = Plan(self.ancestor, self.source, {**self.keep, **keep}, (*self.steps, step))
        relative(narrowed, self)  # Raises if something would come back.
        return narrowed

    def drop_layers(
        self,
        numbers: Mapping[str, Sequence[int]],
        *,
        stage: str = "",
        one_based: bool = False,
    ) -> Plan:
        """A plan without some layers.

        Args:
          numbers: for each stack numbers of layers in the ancestor.
          stage: name for the record.
          one_based: the numbers count from 1.

        Raises:
          UserError: the model has no such stack; a number names no layer of the ancestor, or one
            that is dropped already, or stands there twice; or no layer would be left.
        """
        keep, dropped = {}, {}
        for stack, named in numbers.items():
            if stack not in self.axes.stacks:
                known = ", ".join(self.axes.stacks)
                raise UserError(f"the model has no stack {stack!r} of layers; it has {known}.")
            depth = self.axes.depth(stack)
            kept = list(self.indices(join(stack, LAYERS)))
            dropped[stack] = [number - one_based for number in named]
            for number, layer in zip(named, dropped[stack], strict=True):
                if not 0 <= layer < depth:
                    raise UserError(
                        f"{stack} layer {number} does not exist; the ancestor has layers "
                        f"{0 + one_based} to {depth - 1 + one_based}."
                    )
                if dropped[stack].count(layer) > 1:
                    raise UserError(f"{stack} layer {number} is to be dropped twice; name it once.")
                if layer not in kept:
                    raise UserError(
                        f"{stack} layer {number} is dropped already; in the numbering of the "
                        f"ancestor there remain {[k + one_based for k in kept]}."
                    )
                kept.remove(layer)
            if not kept:
                raise UserError(f"no {stack} layer would be left; drop fewer.")
            keep[join(stack, LAYERS)] = kept
        return self.narrow(keep, stage=stage, method="drop_layers", dropped=dropped)

    def to_ancestor(self, keep: Keep) -> dict[str, Any]:
        """Translates lists in the numbering of the model that this plan makes into the ancestor's.

        Args:
          keep: lists as in a plan whose ancestor is the model that this plan makes.

        Raises:
          UserError: `keep` does not fit that model.
        """
        inner = Plan(pruned_model(self).config.to_dict(), self.source, keep)
        outer: dict[str, Any] = {}
        for key in inner.keep:
            if self.axes.layers_key(key) is None:
                mine = self.indices(key)
                outer[key] = tuple(mine[i] for i in inner.indices(key))
            else:
                layers = self.indices(_layers_of(self.axes, key))
                positions = dict(zip(layers, inner.rows(key), strict=True))
                outer[key] = tuple(
                    tuple(row[i] for i in positions.get(layer, ()))
                    for layer, row in enumerate(self.rows(key))
                )
        return outer

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields = (field.name for field in dataclasses.fields(self))
        return json.loads(json.dumps({name: getattr(self, name) for name in fields}))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
          UserError: the fields make no valid plan.
        """
        types = {"ancestor": dict, "source": str, "keep": dict, "steps": list}
        if isinstance(fields, Mapping):
            fields = {_OLD_NAMES.get(name, name): value for name, value in fields.items()}
        if not isinstance(fields, Mapping) or set(fields) != set(types):
            raise UserError(f"a pruning plan has exactly the fields {', '.join(types)}.")
        for name, expected in types.items():
            if not isinstance(fields[name], expected):
                raise UserError(f"{name} of the pruning plan is not a JSON {expected.__name__}.")
        return cls(fields["ancestor"], fields["source"], fields["keep"], tuple(fields["steps"]))


def pruned_model(plan: Plan, like: Model | None = None) -> Model:
    """The model that a plan makes: the ancestor, with smaller sizes.

    Args:
      plan: what is kept.
      like: where types, lengths and rates come from, if not from the ancestor.
    """
    sizes = dict(plan.axes.sizes)
    for key in plan.keep:
        if plan.axes.layers_key(key) is None:
            sizes[key] = len(plan.indices(key))
        else:
            sizes[key] = max(len(row) for row in plan.rows(key))
    for coupling in plan.axes.couplings:
        if isinstance(coupling, Joined):
            for key in [key for key in sizes if axis_of(key) == coupling.outer]:
                joined = join(key.rpartition("/")[0], coupling.axis)
                sizes[joined] = sizes[key] * coupling.inner
    ancestor = plan.ancestor_model.config
    kept = {
        name: tuple(values[layer] for layer in plan.indices(join(stack, LAYERS)))
        for name, stack in ancestor.per_layer.items()
        if (values := getattr(ancestor, name))
    }
    return (like or plan.ancestor_model).resized(sizes, **kept)


def relative(child: Plan, parent: Plan) -> dict[str, Any]:
    """What makes the child's parameters out of the parent's, in the parent's numbering.

    Returns:
      Lists as in `Plan.keep`, canonical, one per layer of the parent where they are per layer, and
      spelt out for joined axes; ready for `transform.take`. `parent.to_ancestor` translates them
      back.

    Raises:
      UserError: the plans have different ancestors, or the child keeps what the parent lacks.
    """
    if child.ancestor != parent.ancestor or child.source != parent.source:
        raise UserError(
            f"the plans have different ancestors, {child.source!r} and {parent.source!r}; "
            "a plan continues that of the checkpoint it starts from."
        )
    keep: dict[str, Any] = {}
    for key in parent.axes.keys:
        if child.keep.get(key) == parent.keep.get(key):
            continue  # Not only for speed: padding rows of the vocabulary stay rows of their own.
        if parent.axes.layers_key(key) is None:
            keep[key] = _positions(key, child.indices(key), parent.indices(key))
        else:
            wanted, available = child.rows(key), parent.rows(key)
            layers = parent.indices(_layers_of(parent.axes, key))
            keep[key] = [_positions(key, wanted[i], available[i]) for i in layers]
    axes = pruned_model(parent).axes
    return _with_joined(axes, canonical(axes, keep))


def canonical(axes: AxisTable, keep: Keep) -> dict[str, Any]:
    """Validates lists for a model; empties dropped layers, unites equal lists, leaves out full.

    Raises:
      UserError: see `Plan.__post_init__`.
    """
    unknown = sorted(set(keep) - set(axes.keys))
    if unknown:
        raise UserError(
            f"the pruning plan has unknown keys {unknown}; known are {', '.join(axes.keys)}."
        )
    result: dict[str, Any] = {}
    for key in axes.keys:
        if key in keep and axes.layers_key(key) is None:
            result[key] = _checked(key, keep[key], axes.sizes[key])
    for key in axes.keys:
        if key in keep and (of_layers := axes.layers_key(key)) is not None:
            depth = axes.sizes[of_layers]
            layers = result.get(of_layers, range(depth))
            result[key] = _checked_rows(key, keep[key], axes.sizes[key], depth, layers)
    for coupling in axes.couplings:
        if isinstance(coupling, Grouped):
            result |= _grouped(axes, coupling, result)
    for coupling in axes.couplings:
        if isinstance(coupling, Equal):
            _check_equal(axes, coupling, result)
    return {key: kept for key, kept in result.items() if kept != tuple(range(axes.sizes[key]))}


def _layers_of(axes: AxisTable, key: str) -> str:
    of_layers = axes.layers_key(key)
    if of_layers is None:
        raise KeyError(f"{key} is not cut layer by layer")
    return of_layers


def _check_equal(axes: AxisTable, coupling: Equal, keep: Keep) -> None:
    first, *others = coupling.keys
    wanted = _width(keep.get(first, range(axes.sizes[first])))
    for key in others:
        if (found := _width(keep.get(key, range(axes.sizes[key])))) != wanted:
            raise UserError(
                f"the pruning plan keeps {wanted} in {first} and {found} in {key}; the two must be "
                "equal."
            )


def _grouped(axes: AxisTable, coupling: Grouped, keep: Keep) -> dict[str, Any]:
    """Groups and members as they go together: members of dropped groups go, and empty groups."""
    outer, inner = coupling.outer, coupling.inner
    if outer not in keep and inner not in keep:
        return {}
    of_layers = _layers_of(axes, outer)
    depth = axes.sizes[of_layers]
    layers = keep.get(of_layers, range(depth))
    size = axes.sizes[inner] // axes.sizes[outer]
    groups: dict[int, Indices] = {}
    members: dict[int, Indices] = {}
    for layer in layers:
        asked = _row(keep.get(outer), layer, axes.sizes[outer])
        kept = [m for m in _row(keep.get(inner), layer, axes.sizes[inner]) if m // size in asked]
        counts = Counter(m // size for m in kept)
        if len(set(counts.values())) != 1:
            raise UserError(
                f"{inner} of the pruning plan keeps {sorted(counts.values())} in the groups of "
                f"{outer} in layer {layer}; keep equally many in each."
            )
        groups[layer], members[layer] = tuple(sorted(counts)), tuple(kept)
    return {
        outer: _checked_rows(outer, _by_layer(groups, depth), axes.sizes[outer], depth, layers),
        inner: _checked_rows(inner, _by_layer(members, depth), axes.sizes[inner], depth, layers),
    }


def _with_joined(axes: AxisTable, keep: dict[str, Any]) -> dict[str, Any]:
    """The lists, and besides what they mean for axes that join another with a faster one."""
    for coupling in axes.couplings:
        if not isinstance(coupling, Joined):
            continue
        for key in [key for key in keep if axis_of(key) == coupling.outer]:
            joined = join(key.rpartition("/")[0], coupling.axis)
            keep[joined] = spelt_out(keep[key], coupling.inner)
    return keep


def spelt_out(kept: Any, size: int) -> Any:
    """What lists of the slower of two axes mean for the one that joins it with a faster one.

    Args:
      kept: indices, or a list of them for each layer.
      size: of the faster axis.
    """
    if len(kept) and np.ndim(kept[0]):
        return tuple(spelt_out(row, size) for row in kept)
    return tuple(index * size + i for index in kept for i in range(size))


def _by_layer(rows: Mapping[int, Indices], depth: int) -> list[Indices]:
    return [rows.get(layer, ()) for layer in range(depth)]


def _row(kept: Any, layer: int, size: int) -> Sequence[int]:
    """What canonical lists keep in one layer."""
    if kept is None:
        return range(size)
    return kept if np.ndim(kept[0]) == 0 else kept[layer]


def _positions(key: str, wanted: Indices, available: Indices) -> Indices:
    """Where the wanted indices stand among the available ones; repeats stand at their first."""
    place = {index: i for i, index in reversed(list(enumerate(available)))}
    missing = next((index for index in wanted if index not in place), None)
    if missing is not None:
        raise UserError(f"the plan keeps {key} {missing}, which was pruned before.")
    return tuple(place[index] for index in wanted)


def _checked_rows(key: str, kept: Any, size: int, depth: int, layers: Sequence[int]) -> Any:
    """One list for all layers, or one per layer that is empty where the layer is dropped."""
    if not isinstance(kept, Sequence | np.ndarray) or len(kept) == 0 or _is_flat(kept):
        return _checked(key, kept, size)
    if len(kept) != depth:
        raise UserError(f"{key} of the pruning plan has {len(kept)} lists for {depth} layers.")
    rows = {layer: _checked(f"{key}, layer {layer},", kept[layer], size) for layer in layers}
    counts = [len(row) for row in rows.values()]
    if len(set(counts)) > 1:
        raise UserError(f"{key} of the pruning plan has lists of unequal sizes {counts}.")
    if len(set(rows.values())) == 1:
        return rows[layers[0]]
    return tuple(rows.get(layer, ()) for layer in range(depth))


def _is_flat(kept: Any) -> bool:
    return not isinstance(kept[0], Sequence | np.ndarray) or isinstance(kept[0], str)


def _checked(key: str, kept: Any, size: int) -> Indices:
    """A list of indices below `size` as a tuple, in order and without repeats."""
    where = f"{key} of the pruning plan"
    try:
        indices = tuple(operator.index(i) for i in kept)
    except TypeError as error:
        raise UserError(f"{where} is not a list of whole numbers: {error}.") from error
    if not indices:
        raise UserError(f"{where} keeps nothing; leave the key out to keep everything.")
    for index in indices:
        if not 0 <= index < size:
            raise UserError(f"{where} names {index}; the model has 0 to {size - 1}.")
    # Repeats of one row at the end of the vocabulary are padding.
    padding = 0
    while key == VOCAB and padding < len(indices) and indices[-1 - padding] == indices[-1]:
        padding += 1
    distinct = indices[: len(indices) - padding]
    repeated = [index for index, count in Counter(distinct).items() if count > 1]
    if repeated:
        raise UserError(f"{where} names {repeated[0]} more than once.")
    if key != VOCAB and list(indices) != sorted(indices):
        raise UserError(f"{where} is not in ascending order.")
    return indices


def _width(kept: Any) -> int:
    """The number of indices that canonical lists keep in each layer."""
    return len(kept) if np.ndim(kept[0]) == 0 else max(len(row) for row in kept)
