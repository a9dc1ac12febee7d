"""`Plan`: which layers, channels, heads, units and vocabulary rows of an ancestor a model keeps.

A plan is data (JSON, saved beside each checkpoint) in the numbering of the *root* model, whatever
was pruned before: stage 3's decoder layer 33 is layer 33 of the 36-layer ancestor (reference §6.2).

Keys of `keep`, each of them optional (a missing key keeps everything):

  encoder/layers, decoder/layers    kept layers
  embed, vocab                      kept channels of the residual stream, kept embedding rows
  encoder/heads, decoder/heads,     kept heads and feed-forward units: one list for all layers, or
  encoder/mlp, decoder/mlp          one list per root layer

All lists ascend, except `vocab`: that may have any order, and may end in repeats of one row, which
pad the embedding to its multiple (reference §6.5).

`keep` has one canonical form, so that plans that prune equally are equal: lists of dropped layers
are emptied, lists that are the same for each layer become one, lists that keep everything go.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.openba.config import OpenBAConfig

Indices = tuple[int, ...]
Keep = Mapping[str, Any]
"""Lists of indices, or lists of such lists, by key; any sequences or arrays will do."""

STACKS = ("encoder", "decoder")
FLAT_KEYS = ("encoder/layers", "decoder/layers", "embed", "vocab")
LAYERED_KEYS = ("encoder/heads", "decoder/heads", "encoder/mlp", "decoder/mlp")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pruned model keeps of its root ancestor, and how that was decided.

    Attributes:
      root: `OpenBAConfig.to_dict()` of the ancestor.
      source: checkpoint (path or name) of the ancestor.
      keep: indices kept, in the ancestor's numbering (see the docstring of this module).
      steps: one record per decision, oldest first: stage, method, seed and what the method adds.
    """

    root: Mapping[str, Any]
    source: str
    keep: Keep = dataclasses.field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Validates, and brings `keep` and `steps` to their canonical form.

        Raises:
          UserError: an unknown key; an index out of range, repeated or out of order; lists of
            unequal sizes or not one per layer.
        """
        object.__setattr__(self, "keep", _canonical(self.root_config, self.keep))
        # As JSON gives them back, so that a loaded plan equals the saved one.
        object.__setattr__(self, "steps", tuple(json.loads(json.dumps(list(self.steps)))))

    @classmethod
    def identity(cls, config: OpenBAConfig, source: str) -> Plan:
        """The plan of a model that is its own ancestor: everything is kept."""
        return cls(config.to_dict(), source)

    @property
    def root_config(self) -> OpenBAConfig:
        """The configuration of the ancestor."""
        return OpenBAConfig.from_dict(self.root)

    def indices(self, key: str) -> Indices:
        """What a flat key keeps: `encoder/layers`, `decoder/layers`, `embed` or `vocab`."""
        return self.keep.get(key, tuple(range(_sizes(self.root_config)[key])))

    def rows(self, key: str) -> tuple[Indices, ...]:
        """What a per-layer key keeps: one list per root layer, empty for dropped layers."""
        sizes = _sizes(self.root_config)
        stack = key.split("/")[0]
        kept = self.keep.get(key, tuple(range(sizes[key])))
        if np.ndim(kept[0]):
            return kept
        layers = set(self.indices(f"{stack}/layers"))
        return tuple(kept if i in layers else () for i in range(sizes[f"{stack}/layers"]))

    def narrow(self, keep: Keep, **step: Any) -> Plan:
        """A plan that keeps less.

        Args:
          keep: for some keys what remains, in root numbering. What it says of layers that are
            dropped does not matter, so width and layers may be decided in either order.
          **step: the record of this decision: `stage`, `method`, `seed`, ...

        Raises:
          UserError: `keep` is not valid, or names an index that this plan does not keep.
        """
        narrowed = Plan(self.root, self.source, {**self.keep, **keep}, (*self.steps, step))
        relative(narrowed, self)  # Raises if something would come back.
        return narrowed

    def drop_layers(
        self,
        encoder: Sequence[int] = (),
        decoder: Sequence[int] = (),
        *,
        stage: str = "",
        one_based: bool = False,
    ) -> Plan:
        """A plan without some layers.

        Args:
          encoder: numbers of encoder layers, in the root model.
          decoder: numbers of decoder layers, in the root model.
          stage: name for the record.
          one_based: the numbers count from 1. The published table is read from 0 (§6.2).

        Raises:
          UserError: a number names no layer of the root, or one that is dropped already, or stands
            there twice; or no layer would be left.
        """
        keep, dropped = {}, {}
        for stack, numbers in zip(STACKS, (encoder, decoder), strict=True):
            depth = _sizes(self.root_config)[f"{stack}/layers"]
            kept = list(self.indices(f"{stack}/layers"))
            dropped[stack] = [number - one_based for number in numbers]
            for number, layer in zip(numbers, dropped[stack], strict=True):
                if not 0 <= layer < depth:
                    raise UserError(
                        f"{stack} layer {number} does not exist; the original model has layers "
                        f"{0 + one_based} to {depth - 1 + one_based}."
                    )
                if dropped[stack].count(layer) > 1:
                    raise UserError(f"{stack} layer {number} is to be dropped twice; name it once.")
                if layer not in kept:
                    raise UserError(
                        f"{stack} layer {number} is dropped already; in the numbering of the "
                        f"original model there remain {[k + one_based for k in kept]}."
                    )
                kept.remove(layer)
            if not kept:
                raise UserError(f"no {stack} layer would be left; drop fewer.")
            keep[f"{stack}/layers"] = kept
        return self.narrow(keep, stage=stage, method="drop_layers", dropped=dropped)

    def keep_width(
        self,
        embed: Sequence[int] | None = None,
        heads: Mapping[str, Any] | None = None,
        mlp: Mapping[str, Any] | None = None,
        **step: Any,
    ) -> Plan:
        """A plan with given channels, heads and feed-forward units, in root numbering.

        Args:
          embed: channels of the residual stream.
          heads: for `encoder` and `decoder` one list, or one list per root layer.
          mlp: the same for feed-forward units.
          **step: the record of this decision.

        Raises:
          UserError: as `narrow`.
        """
        keep: dict[str, Any] = {} if embed is None else {"embed": embed}
        keep |= {f"{stack}/heads": kept for stack, kept in (heads or {}).items()}
        keep |= {f"{stack}/mlp": kept for stack, kept in (mlp or {}).items()}
        return self.narrow(keep, **step)

    def keep_vocab(self, ids: Iterable[int], **step: Any) -> Plan:
        """A plan whose embedding consists of the rows `ids` of the root's.

        Raises:
          UserError: as `narrow`.
        """
        return self.narrow({"vocab": tuple(ids)}, **step)

    def to_root(self, keep: Keep) -> dict[str, Any]:
        """Translates lists in the numbering of this plan's own model into root numbering.

        Args:
          keep: lists as in a plan whose root is the model that this plan makes.

        Raises:
          UserError: `keep` does not fit that model.
        """
        inner = Plan(pruned_config(self).to_dict(), self.source, keep)
        outer: dict[str, Any] = {}
        for key in inner.keep:
            if key in FLAT_KEYS:
                mine = self.indices(key)
                outer[key] = tuple(mine[i] for i in inner.indices(key))
            else:
                layers = self.indices(f"{key.split('/')[0]}/layers")
                positions = dict(zip(layers, inner.rows(key), strict=True))
                outer[key] = tuple(
                    tuple(row[i] for i in positions.get(layer, ()))
                    for layer, row in enumerate(self.rows(key))
                )
        return outer

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields = ("root", "source", "keep", "steps")
        return json.loads(json.dumps({name: getattr(self, name) for name in fields}))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
          UserError: the fields make no valid plan.
        """
        types = {"root": dict, "source": str, "keep": dict, "steps": list}
        if not isinstance(fields, Mapping) or set(fields) != set(types):
            raise UserError(f"a pruning plan has exactly the fields {', '.join(types)}.")
        for name, expected in types.items():
            if not isinstance(fields[name], expected):
                raise UserError(f"{name} of the pruning plan is not a JSON {expected.__name__}.")
        return cls(fields["root"], fields["source"], fields["keep"], tuple(fields["steps"]))

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        write_atomically(path, json.dumps(self.to_dict(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads a plan.

        Raises:
          UserError: the file is missing or holds no valid plan.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; a pruned model has a plan.json.") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}.") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def pruned_config(plan: Plan, like: OpenBAConfig | None = None) -> OpenBAConfig:
    """The configuration of the model that a plan makes: the root's, with smaller sizes.

    Args:
      plan: what is kept.
      like: where types, lengths and rates come from, if not from the root.
    """

    def width(key: str) -> int:
        return max(len(row) for row in plan.rows(key))

    return (like or plan.root_config).replace(
        vocab_size=len(plan.indices("vocab")),
        embed_dim=len(plan.indices("embed")),
        num_heads=width("encoder/heads"),
        mlp_dim=width("encoder/mlp"),
        encoder_layers=len(plan.indices("encoder/layers")),
        decoder_layers=len(plan.indices("decoder/layers")),
    )


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does `first`, then `second`, whose root is the model that `first` makes.

    Raises:
      UserError: `second` belongs to a model of other sizes.
    """
    made, expected = _sizes(pruned_config(first)), _sizes(second.root_config)
    if made != expected:
        raise UserError(f"plans do not follow each other: one makes {made}, the next {expected}.")
    keep = {**first.keep, **first.to_root(second.keep)}
    return Plan(first.root, first.source, keep, (*first.steps, *second.steps))


def relative(child: Plan, parent: Plan) -> dict[str, Any]:
    """What makes the child's parameters out of the parent's, in the parent's numbering.

    Returns:
      Lists as in `Plan.keep`, canonical, one per layer of the parent where they are per layer;
      ready for `transform.take`. `parent.to_root` translates them back.

    Raises:
      UserError: the plans have different ancestors, or the child keeps what the parent lacks.
    """
    if child.root != parent.root or child.source != parent.source:
        raise UserError(
            f"the plans have different ancestors, {child.source!r} and {parent.source!r}; "
            "a plan continues that of the checkpoint it starts from."
        )
    keep: dict[str, Any] = {}
    for key in (*FLAT_KEYS, *LAYERED_KEYS):
        if child.keep.get(key) == parent.keep.get(key):
            continue  # Not only for speed: padding rows of the vocabulary stay rows of their own.
        if key in FLAT_KEYS:
            keep[key] = _positions(key, child.indices(key), parent.indices(key))
        else:
            wanted, available = child.rows(key), parent.rows(key)
            layers = parent.indices(f"{key.split('/')[0]}/layers")
            keep[key] = [_positions(key, wanted[i], available[i]) for i in layers]
    return _canonical(pruned_config(parent), keep)


def _sizes(config: OpenBAConfig) -> dict[str, int]:
    """The number of indices that each key chooses from."""
    return {
        "encoder/layers": config.encoder_layers,
        "decoder/layers": config.decoder_layers,
        "embed": config.embed_dim,
        "vocab": config.vocab_size,
        **{f"{stack}/heads": config.num_heads for stack in STACKS},
        **{f"{stack}/mlp": config.mlp_dim for stack in STACKS},
    }


def _positions(key: str, wanted: Indices, available: Indices) -> Indices:
    """Where the wanted indices stand among the available ones; repeats stand at their first."""
    place = {index: i for i, index in reversed(list(enumerate(available)))}
    missing = next((index for index in wanted if index not in place), None)
    if missing is not None:
        raise UserError(f"the plan keeps {key} {missing}, which was pruned before.")
    return tuple(place[index] for index in wanted)


def _canonical(config: OpenBAConfig, keep: Keep) -> dict[str, Any]:
    """Validates lists for a model; empties dropped layers, unites equal lists, leaves out full."""
    sizes = _sizes(config)
    unknown = sorted(set(keep) - set(sizes))
    if unknown:
        raise UserError(f"the pruning plan has unknown keys {unknown}; known are {list(sizes)}.")
    result: dict[str, Any] = {}
    for key in FLAT_KEYS:
        if key in keep:
            result[key] = _checked(key, keep[key], sizes[key])
    for key in LAYERED_KEYS:
        if key in keep:
            stack = key.split("/")[0]
            depth = sizes[f"{stack}/layers"]
            layers = result.get(f"{stack}/layers", range(depth))
            result[key] = _checked_rows(key, keep[key], sizes[key], depth, layers)
    for encoder_key, decoder_key in (LAYERED_KEYS[:2], LAYERED_KEYS[2:]):
        counts = [_width(result.get(k, range(sizes[k]))) for k in (encoder_key, decoder_key)]
        if counts[0] != counts[1]:
            raise UserError(
                f"the pruning plan keeps {counts[0]} per layer in {encoder_key} and {counts[1]} in "
                f"{decoder_key}; the two must be equal."
            )
    return {key: kept for key, kept in result.items() if kept != tuple(range(sizes[key]))}


def _checked_rows(key: str, kept: Any, size: int, depth: int, layers: Sequence[int]) -> Any:
    """One list for all layers, or one per layer that is empty where the layer is dropped."""
    if not isinstance(kept, Sequence | np.ndarray) or len(kept) == 0 or np.ndim(kept[0]) == 0:
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
    while key == "vocab" and padding < len(indices) and indices[-1 - padding] == indices[-1]:
        padding += 1
    distinct = indices[: len(indices) - padding]
    repeated = [index for index, count in Counter(distinct).items() if count > 1]
    if repeated:
        raise UserError(f"{where} names {repeated[0]} more than once.")
    if key != "vocab" and list(indices) != sorted(indices):
        raise UserError(f"{where} is not in ascending order.")
    return indices


def _width(kept: Any) -> int:
    """The number of indices that canonical lists keep in each layer."""
    return len(kept) if np.ndim(kept[0]) == 0 else max(len(row) for row in kept)
