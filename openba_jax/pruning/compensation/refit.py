"""Fits all that reads a cut axis, layer by layer, on the inputs that the cut model has by then.

Both models run side by side over the calibration text, one layer at a time. In each layer the
projections that read what was cut are fitted in the order of their calls (`ridge`), so that each
gives what it gave in the whole model, from inputs that the fits before it have changed. Last comes
the head. One layer of each model is in memory; what was fitted waits on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, VOCAB, Leaf, flatten, join, unflatten
from openba_jax.models.base import Batch
from openba_jax.parallel import sharding
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.compensation.one_layer import OneLayer, Seen, Site, groups
from openba_jax.pruning.compensation.ridge import Fit, Moments, fit
from openba_jax.pruning.transform import take_leaf

NO_COMPENSATION = "none"
"""What is left of the parameters after a cut stays as it is, as in the original."""

RIDGE = "ridge"
"""Kernels and biases are fitted."""

BIAS = "bias"
"""Biases alone are fitted, of models that have them."""

COMPENSATIONS = (NO_COMPENSATION, RIDGE, BIAS)

STRENGTH = 1e-3
"""Of the pull to what the cut left, see `ridge.fit`."""


def check_compensation(name: str) -> None:
    """Checks that a compensation is known.

    Raises:
      UserError: it is not.
    """
    if name not in COMPENSATIONS:
        raise UserError(
            f"no compensation is called {name!r}; known are {', '.join(COMPENSATIONS)}."
        )


class Refitted:
    """A cut checkpoint, some of whose leaves were fitted anew."""

    def __init__(self, cut: Checkpoint, folder: Path) -> None:
        """Keeps the checkpoint and the folder that fitted leaves lie in."""
        self.model, self.tokenizer, self.plan = cut.model, cut.tokenizer, cut.plan
        self.step, self.optimizer, self.data = cut.step, cut.optimizer, cut.data
        self.carried = cut.carried
        self._cut = cut
        self._folder = folder
        self._files: dict[Leaf, Path] = {}

    def replace(self, leaf: Leaf, values: np.ndarray) -> None:
        """Puts other values in the place of a leaf, in its own type."""
        if not np.isfinite(values).all():
            raise UserError(f"what was fitted for {leaf} is not finite; give other text.")
        path = self._files.get(leaf, self._folder / f"{len(self._files)}.npy")
        np.save(path, values.astype(np.float32))
        self._files[leaf] = path

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self._cut.dtype(leaf)

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, see `Checkpoint.read`."""
        if leaf not in self._files:
            return self._cut.read(leaf, rows)
        values = np.load(self._files[leaf], mmap_mode="r")
        if rows is not None:
            place = self.model.axes.paths[leaf.path].index(VOCAB)
            values = values[(slice(None),) * place + (rows,)]
        return np.asarray(values).astype(self.dtype(leaf))

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that a leaf was cut from."""
        return self._cut.place(leaf)


@contextlib.contextmanager
def refitted(
    whole: Checkpoint,
    cut: Checkpoint,
    keep: Mapping[str, Any],
    calibration: Calibration,
    compensation: str,
    advance: Callable[[int], Any] = lambda _: None,
) -> Iterator[tuple[Refitted, dict[str, Any]]]:
    """A cut checkpoint whose projections were fitted; it can be read within.

    Args:
      whole: what it was cut from.
      cut: what is left.
      keep: what was kept, as `plan.relative` gives it.
      calibration: text to fit on.
      compensation: `RIDGE` or `BIAS`.
      advance: told of every layer that is done.

    Yields:
      The checkpoint, and a record of the fit: tokens, projections fitted, and the squared error of
      their outputs relative to these, before and after.

    Raises:
      UserError: there is nothing to fit, or what was fitted is not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Refitted(cut, Path(folder))
        yield target, _Refit(whole, target, keep, calibration, compensation).run(advance)


class _Refit:
    """One fit of a whole model."""

    def __init__(
        self,
        whole: Checkpoint,
        target: Refitted,
        keep: Mapping[str, Any],
        calibration: Calibration,
        compensation: str,
    ) -> None:
        self._whole, self._target, self._keep = whole, target, keep
        self._mesh = calibration.mesh
        self._batches = list(calibration.placed())
        self._only_bias = compensation == BIAS
        if self._only_bias and not any(map(self._shares_a_cut_axis, self._biases())):
            raise UserError(
                "no projection of what was cut has a bias to fit; give the compensation "
                f"{RIDGE}, or {NO_COMPENSATION}."
            )
        self._fits: list[Fit] = []
        self._tokens = 0.0
        self._compiled = functools.lru_cache(maxsize=32)(self._compile)
        self._folding = functools.lru_cache(maxsize=8)(self._folds)
        self._running = functools.lru_cache(maxsize=32)(self._run)

    def run(self, advance: Callable[[int], Any]) -> dict[str, Any]:
        """Fits; returns the record."""
        model = self._whole.model
        encoded: list[Any] = [(None, None)] * len(self._batches)
        for stack in model.stacks:
            encoded = self._stack(stack, encoded, advance)
        if not self._fits:
            what = "a bias" if self._only_bias else "a projection"
            raise UserError(f"nothing that was cut is read by {what} that could be fitted.")
        scale = sum(each.scale for each in self._fits) or 1.0
        return {
            "compensation": BIAS if self._only_bias else RIDGE,
            "batches": len(self._batches),
            "tokens": round(self._tokens),
            "projections": len(self._fits),
            "error_before": sum(each.before for each in self._fits) / scale,
            "error_after": sum(each.after for each in self._fits) / scale,
        }

    def _stack(self, stack: str, encoded: list[Any], advance: Callable[[int], Any]) -> list[Any]:
        """Fits the layers of a stack; returns its outputs in both models for each batch."""
        model = self._whole.model
        depth = model.axes.depth(stack)
        kept = list(self._keep.get(join(stack, LAYERS), range(depth)))
        streams: list[Any] = [(None, None)] * len(self._batches)
        last: tuple[OneLayer, int] | None = None  # The kept layer that the cut stream enters.
        gone = 0  # Layers after it that are dropped.
        for layer in range(depth):
            one = OneLayer.of(model, stack, layer)
            params = one.params(self._whole.read, layer)
            if layer in kept:
                streams = self._leave(last, gone, streams, encoded)
                place = kept.index(layer)
                last, gone = (OneLayer.of(self._target.model, stack, place), place), 0
                self._layer(one, last[0], params, layer, place, streams, encoded)
                advance(1)
            else:
                gone += 1
            streams = [
                (self._left(one, params, batch, x, memory[0]), z)
                for batch, (x, z), memory in zip(self._batches, streams, encoded, strict=True)
            ]
        streams = self._leave(last, gone, streams, encoded)
        assert last is not None
        cut_params = last[0].params(self._target.read, last[1])
        outputs = [
            (
                self._finished(one, params, batch, x, memory[0]),
                self._finished(last[0], cut_params, batch, z, memory[1]),
            )
            for batch, (x, z), memory in zip(self._batches, streams, encoded, strict=True)
        ]
        if stack == model.stacks[-1]:
            self._head(outputs)
        return outputs

    def _leave(
        self,
        last: tuple[OneLayer, int] | None,
        gone: int,
        streams: list[Any],
        encoded: list[Any],
    ) -> list[Any]:
        """Takes the cut stream through its layer, which first learns what dropped ones did."""
        if last is None:
            return streams
        cut_one, place = last
        if gone:
            self._fold(cut_one, place, streams, encoded)
        cut_params = cut_one.params(self._target.read, place)
        return [
            (x, self._left(cut_one, cut_params, batch, z, memory[1]))
            for batch, (x, z), memory in zip(self._batches, streams, encoded, strict=True)
        ]

    def _fold(
        self, cut_one: OneLayer, place: int, streams: Sequence[Any], encoded: Sequence[Any]
    ) -> None:
        """Fits what a layer writes last so that its stream is that of the whole model further on.

        Where the layer does not simply add what it writes (T5Gemma normalises it first), nothing
        is done.
        """
        if self._only_bias:
            return
        params = cut_one.params(self._target.read, place)
        found: list[Site] = []
        self._trace(
            cut_one,
            params,
            streams[0][1],
            encoded[0][1],
            lambda seen: found.extend(s for s in seen.sites if s.out_axes == ("embed",)),
        )
        path = found[-1].path
        axes = self._target.model.axes
        channels = self._keep.get(axes.key(path, "embed"))
        measure = self._folding(cut_one, path)
        silent = flatten(params)
        for name in (path, path.removesuffix("kernel") + "bias"):
            leaf = Leaf(name, 0).unrolled
            if leaf in silent:
                silent[leaf] = jnp.zeros_like(silent[leaf])
        sums = []
        for batch, (x, z), memory in zip(self._batches, streams, encoded, strict=True):
            wanted = x if channels is None else x[..., np.asarray(channels)]
            rest = self._left(cut_one, unflatten(silent), batch, z, memory[1])
            *moments, adds = jax.device_get(measure(params, batch, z, memory[1], wanted, rest))
            if not adds:
                return
            sums.append(moments)
        self._apply(Leaf(path, place), Moments.summed(sums), np.eye(sums[0][3].shape[0]))

    def _folds(self, cut_one: OneLayer, path: str) -> Callable[..., Any]:
        """The moments of what a projection reads, and of what it should write."""

        def measure(
            params: Any, batch: Batch, z: Any, memory: Any, wanted: jax.Array, rest: jax.Array
        ) -> Any:
            seen = cut_one.run(params, batch, z, memory)
            site = next(site for site in seen.sites if site.path == path)
            adds = jnp.allclose(rest + site.outputs, seen.left, rtol=1e-3, atol=1e-3)
            real = cut_one.model.real_tokens(batch)[cut_one.stack]
            return (*self._moments(wanted - rest, site.inputs, real), adds)

        return sharding.jit_on_mesh(measure, self._mesh)

    def _layer(
        self,
        one: OneLayer,
        cut_one: OneLayer,
        params: Any,
        layer: int,
        place: int,
        streams: Sequence[Any],
        encoded: Sequence[Any],
    ) -> None:
        """Fits the projections of one layer, in the order of their calls."""
        for numbers in self._groups(one, params, streams[0][0], encoded[0][0]):
            cut_params = cut_one.params(self._target.read, place)
            measure = self._compiled(one, cut_one, numbers[0])
            sums = [
                jax.device_get(measure(params, cut_params, batch, stream, memory))
                for batch, stream, memory in zip(self._batches, streams, encoded, strict=True)
            ]
            moments = Moments.summed(sums)
            self._tokens = max(self._tokens, moments.count)
            for path, in_axes in self._paths(one, params, streams[0][0], encoded[0][0], numbers):
                self._fit(Leaf(path, layer), Leaf(path, place), in_axes, moments)

    def _fit(self, leaf: Leaf, cut_leaf: Leaf, in_axes: Sequence[str], moments: Moments) -> None:
        """Fits one projection to what it wrote in the whole model."""
        axes = self._whole.model.axes
        read = {axes.key(leaf.path, axis) for axis in in_axes}
        others = {key: kept for key, kept in self._keep.items() if key not in read}
        target = take_leaf(leaf.unrolled, self._whole.read(leaf), axes.paths[leaf.path], others)
        whole = np.asarray(target, np.float64).reshape(len(moments.whole_sum), -1)
        bias = Leaf(leaf.path.removesuffix("kernel") + "bias", leaf.layer)
        added = 0.0
        if bias.path in axes.paths:
            names = axes.paths[bias.path]
            added = take_leaf(bias.unrolled, self._whole.read(bias), names, others).reshape(-1)
        self._apply(cut_leaf, moments, whole, added)

    def _apply(
        self, leaf: Leaf, moments: Moments, target: np.ndarray, added: np.ndarray | float = 0.0
    ) -> None:
        """Fits a projection of the cut model.

        Args:
          leaf: its kernel.
          moments: of what it reads.
          target: `[whole, out]`, see `ridge.fit`.
          added: to what that makes, `[out]`.
        """
        start = self._target.read(leaf)
        bias = Leaf(leaf.path.removesuffix("kernel") + "bias", leaf.layer)
        has_bias = bias.path in self._target.model.axes.paths
        if self._only_bias and not has_bias:
            return
        found = fit(
            moments,
            target,
            np.asarray(start, np.float64).reshape(len(moments.cut_sum), -1),
            ridge=STRENGTH,
            has_bias=has_bias,
            only_bias=self._only_bias,
        )
        self._fits.append(found)
        if not self._only_bias:
            self._target.replace(leaf, found.kernel.reshape(start.shape))
        if has_bias:
            values = np.asarray(added, np.float64) + found.shift
            self._target.replace(bias, values.reshape(self._target.read(bias).shape))

    def _head(self, outputs: Sequence[Any]) -> None:
        """Fits the kernel of logits that are not tied to the embedding."""
        axes = self._whole.model.axes
        path = next((p for p, n in axes.paths.items() if n[1:] == (VOCAB,)), "")
        if not path or axes.key(path, axes.paths[path][0]) not in self._keep:
            return
        stack = self._whole.model.stacks[-1]
        sums = []
        for batch, (x, z) in zip(self._batches, outputs, strict=True):
            real = self._whole.model.real_tokens(batch)[stack]
            sums.append(jax.device_get(self._moments(x, z, real)))
        moments = Moments.summed(sums)
        self._fit(Leaf(path), Leaf(path), axes.paths[path][:1], moments)

    def _biases(self) -> list[str]:
        """The kernels of projections that have a bias."""
        paths = self._whole.model.axes.paths
        kernels = [path for path in paths if path.endswith("/kernel")]
        return [path for path in kernels if path.removesuffix("kernel") + "bias" in paths]

    def _shares_a_cut_axis(self, path: str) -> bool:
        axes = self._whole.model.axes
        return any(axes.key(path, axis) in self._keep for axis in axes.paths[path])

    def _wanted(self, site: Site) -> bool:
        """Whether a projection reads a cut axis."""
        axes = self._whole.model.axes
        return any(axes.key(site.path, axis) in self._keep for axis in site.in_axes)

    def _groups(self, one: OneLayer, params: Any, x: Any, memory: Any) -> list[tuple[int, ...]]:
        found: list[list[tuple[int, ...]]] = []
        self._trace(one, params, x, memory, lambda s: found.append(groups(s.sites, self._wanted)))
        return found[0]

    def _paths(
        self, one: OneLayer, params: Any, x: Any, memory: Any, numbers: Sequence[int]
    ) -> list[tuple[str, tuple[str, ...]]]:
        found: list[list[tuple[str, tuple[str, ...]]]] = []
        self._trace(
            one,
            params,
            x,
            memory,
            lambda s: found.append([(s.sites[n].path, s.sites[n].in_axes) for n in numbers]),
        )
        return found[0]

    def _trace(
        self, one: OneLayer, params: Any, x: Any, memory: Any, look: Callable[[Seen], Any]
    ) -> None:
        """Shows what a layer would see; computes nothing."""

        def run(params: Any, batch: Batch, x: Any, memory: Any) -> None:
            look(one.run(params, batch, x, memory))

        with sharding.use_mesh(self._mesh):
            jax.eval_shape(run, params, self._batches[0], x, memory)

    def _compile(self, one: OneLayer, cut_one: OneLayer, number: int) -> Callable[..., Any]:
        """The moments of what one projection reads in both models."""

        def measure(params: Any, cut_params: Any, batch: Batch, stream: Any, memory: Any) -> Any:
            x = one.run(params, batch, stream[0], memory[0]).sites[number]
            z = cut_one.run(cut_params, batch, stream[1], memory[1]).sites[number]
            real = one.model.real_tokens(batch)
            read = one.model.stacks[0] if x.memory else one.stack
            return self._moments(x.inputs, z.inputs, real[read])

        return sharding.jit_on_mesh(measure, self._mesh)

    @staticmethod
    def _moments(x: jax.Array, z: jax.Array, real: jax.Array) -> tuple[jax.Array, ...]:
        weights = real.reshape(-1, 1).astype(jnp.float32)
        x = x.reshape(weights.shape[0], -1).astype(jnp.float32) * weights
        z = z.reshape(weights.shape[0], -1).astype(jnp.float32) * weights
        with jax.default_matmul_precision("highest"):
            return jnp.sum(weights), z.T @ z, z.T @ x, x.T @ x, jnp.sum(z, 0), jnp.sum(x, 0)

    def _left(self, one: OneLayer, params: Any, batch: Batch, x: Any, memory: Any) -> jax.Array:
        """What a layer makes of a stream."""
        return cast(jax.Array, self._running(one, False)(params, batch, x, memory))

    def _finished(self, one: OneLayer, params: Any, batch: Batch, x: Any, memory: Any) -> jax.Array:
        """What a stack makes of the stream behind its last layer."""
        return cast(jax.Array, self._running(one, True)(params, batch, x, memory))

    def _run(self, one: OneLayer, skip: bool) -> Callable[..., Any]:
        def run(params: Any, batch: Batch, x: Any, memory: Any) -> jax.Array:
            seen = one.run(params, batch, x, memory, skip=skip)
            return seen.finished if skip else seen.left

        return sharding.jit_on_mesh(run, self._mesh)
