"""The generic pruning transform: gather along the axes that a plan names.

It looks at nothing but the logical names of a parameter's axes and at its path, which tells the
stack (`encoder/...`) and, in unrolled trees, the layer (`.../layers_3/...`). So it serves any
network whose parameters carry these names, a moment of an optimizer, traced arrays on a sharded
mesh and numpy arrays from disk, leaf by leaf.

`keep` is `plan.relative(child, parent)` or alike, in the numbering of the tree at hand: `embed`
speaks of every axis of that name, `encoder/heads` of those below `encoder/`. In place of a list of
indices may stand one list for each layer of the tree at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, Leaf, flatten, split_layer, unflatten

Tree = Mapping[str, Any]
Keep = Mapping[str, Any]
AxisNames = tuple[str, ...]


def take(params: Tree, axes: Tree, keep: Keep) -> dict[str, Any]:
    """Keeps the given indices of every named axis and drops the rest.

    Args:
      params: nested dict of arrays, scanned (`layers/...`) or unrolled (`layers_0/...`).
      axes: the same structure, of tuples with the name of each axis.
      keep: what to keep, see the docstring of this module.

    Returns:
      The smaller tree; unrolled layers are numbered anew from 0.

    Raises:
      UserError: a key of `keep` fits no leaf, or its lists do not fit the arrays.
    """
    kept = {
        new_path: take_leaf(path, leaf, names, keep)
        for path, leaf, names in _leaves(params, axes, keep)
        if (new_path := kept_path(path, keep)) is not None
    }
    return unflatten(kept)


def mask(params: Tree, axes: Tree, keep: Keep) -> dict[str, Any]:
    """Sets to zero what `take` would drop; arguments and errors as there.

    A reference for `take` at small sizes: zeroed heads, units and layers add nothing to the
    residual stream. Layer norms of zeroed channels still count them: average over kept ones.
    """
    masked = {}
    for path, leaf, names in _leaves(params, axes, keep):
        numbers = np.arange(leaf.size).reshape(leaf.shape)
        visible = np.zeros(leaf.size, bool)
        if kept_path(path, keep) is not None:
            visible[take_leaf(path, numbers, names, keep)] = True
        masked[path] = _module(leaf).where(visible.reshape(leaf.shape), leaf, leaf.dtype.type(0))
    return unflatten(masked)


def take_leaf(path: str, leaf: Any, names: AxisNames, keep: Keep) -> Any:
    """Keeps the given indices of one array.

    Args:
      path: its path in the tree, such as `encoder/layers/mlp/wo/kernel`.
      leaf: a numpy or jax array with one axis per name; the result is of the same kind and dtype,
        in C order only if the array is.
      names: the names of its axes.
      keep: what to keep.

    Raises:
      UserError: lists do not fit the array.
    """
    if np.ndim(leaf) != len(names):
        raise UserError(f"{path} has shape {np.shape(leaf)}, but should have the axes {names}.")
    if isinstance(leaf, np.ndarray) and not leaf.flags.c_contiguous:
        # In the order in which a file holds it: so numpy copies what is kept, and not the whole.
        order = sorted(range(leaf.ndim), key=lambda axis: -leaf.strides[axis])
        stored = leaf.transpose(order)
        if stored.flags.c_contiguous:
            kept = take_leaf(path, stored, tuple(names[axis] for axis in order), keep)
            return kept.transpose(np.argsort(order))
    layers = None
    if LAYERS in names and (key := _key(path, LAYERS, keep)):
        layers = np.asarray(keep[key])
        leaf = _gather(key, leaf, layers, names.index(LAYERS))
    _, number = split_layer(path)
    for axis, name in enumerate(names):
        if name == LAYERS or (key := _key(path, name, keep)) is None:
            continue
        rows = keep[key]
        if np.ndim(rows[0]) == 0:
            leaf = _gather(key, leaf, np.asarray(rows), axis)
        elif number is not None:
            leaf = _gather(key, leaf, np.asarray(rows[number]), axis)
        elif LAYERS in names:
            rows = rows if layers is None else [rows[layer] for layer in layers]
            leaf = _gather_rows(key, leaf, rows, names.index(LAYERS), axis)
        else:
            raise UserError(f"{path} belongs to no layer, but {key} has one list per layer.")
    return leaf


def kept_path(path: str, keep: Keep) -> str | None:
    """The path that a leaf has after `take`; None if its (unrolled) layer is dropped."""
    normal, number = split_layer(path)
    key = _key(path, LAYERS, keep)
    if number is None or key is None:
        return path
    layers = list(keep[key])
    return Leaf(normal, layers.index(number)).unrolled if number in layers else None


def _leaves(params: Tree, axes: Tree, keep: Keep) -> Iterator[tuple[str, Any, AxisNames]]:
    """Paths, arrays and axis names, once it is clear that every key of `keep` means something."""
    leaves, names = flatten(params), flatten(axes)
    if leaves.keys() != names.keys():
        odd = sorted(leaves.keys() ^ names.keys())
        raise UserError(f"parameters and axis names do not match, for instance at {odd[0]}.")
    used = set()
    for path, axis_names in names.items():
        unrolled = split_layer(path)[1] is not None
        for name in (*axis_names, *([LAYERS] if unrolled else [])):
            used.add(_key(path, name, keep))
    unused = sorted(keep.keys() - used)
    if unused:
        raise UserError(f"the model has no axis that {unused[0]} of the pruning plan speaks of.")
    for path, leaf in leaves.items():
        yield path, leaf, names[path]


def _key(path: str, name: str, keep: Keep) -> str | None:
    """The key of `keep` that speaks of the axis `name` of a leaf."""
    keys = []
    for key in keep:
        scope, _, last = key.rpartition("/")
        if "/" in name:  # The axis of another stack, by its key.
            keys += [key] if key == name else []
        elif last == name and (not scope or path.startswith(f"{scope}/")):
            keys.append(key)
    if len(keys) > 1:
        raise UserError(f"both {keys[0]} and {keys[1]} of the pruning plan speak of {path}.")
    return keys[0] if keys else None


def _gather(key: str, leaf: Any, indices: np.ndarray, axis: int) -> Any:
    """`leaf` at the indices along an axis."""
    _check(key, indices, leaf.shape[axis])
    return leaf.take(indices, axis=axis, mode="clip")


def _gather_rows(key: str, leaf: Any, rows: Any, layers: int, axis: int) -> Any:
    """`leaf` at the indices along an axis, other ones for each layer."""
    if len(rows) != leaf.shape[layers] or len({len(row) for row in rows}) != 1:
        raise UserError(f"{key} must have lists of equal size, one per layer.")
    indices = np.asarray(rows)
    _check(key, indices, leaf.shape[axis])
    shape = [1] * leaf.ndim
    shape[layers], shape[axis] = indices.shape
    indices = (indices if layers < axis else indices.T).reshape(shape)
    return _module(leaf).take_along_axis(leaf, indices, axis=axis)


def _check(key: str, indices: np.ndarray, size: int) -> None:
    """Raises where an index is out of range; gathers would clip it silently."""
    wrong = indices[(indices < 0) | (indices >= size)]
    if wrong.size:
        raise UserError(f"{key} names {wrong[0]}, but the array has {size}.")


def _module(leaf: Any) -> Any:
    """The array library of a leaf."""
    return np if isinstance(leaf, np.ndarray) else jnp
