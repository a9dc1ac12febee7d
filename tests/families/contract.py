"""What every family keeps, as tests of one configuration.

A family has them by `class TestX(FamilyContract): config = ...` (test_families.py). Configurations
are tiny, in float32 and without dropout. Of axes called `embed` no two have one size, so that a
norm can be told by the size of what it normalises.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.checkpoint import load_state, load_tree
from openba_jax.checkpoints.registry import FORMATS, open_checkpoint
from openba_jax.data.layouts import LAYOUTS, Part
from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, VOCAB, Equal, axis_of, flatten, unflatten
from openba_jax.models.base import Model
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import family, model_of
from openba_jax.nn import layers
from openba_jax.parallel import sharding
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.selection import drawn
from openba_jax.pruning.stages import Stage
from openba_jax.pruning.transform import mask, take
from openba_jax.training import train_step
from openba_jax.training.optimizer import adamw, warmup_constant

WIDTHS = (6, 5)
"""Positions of inputs and targets."""
TOLERANCE = 1e-5
ADAMW = adamw(warmup_constant(1e-2))


def random_params(model: Model, seed: int = 0) -> dict[str, Any]:
    """Parameters that are all different from zero, biases and scales too, as numpy arrays."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape.shape, scale=0.2).astype(shape.dtype),
        model.abstract_params(),
    )


def random_samples(model: Model, ids: Any = None, rows: int = 3) -> dict[str, np.ndarray]:
    """Inputs and targets of uneven lengths, padded as the model's layout has it."""
    rng = np.random.default_rng(5)
    ids = np.arange(1, model.config.vocab_size) if ids is None else np.asarray(ids)
    samples = {}
    for name, width in zip(("inputs", "targets"), WIDTHS, strict=True):
        lengths = rng.permutation(np.arange(rows) % (width - 1) + 2)[:, None]
        tokens = rng.choice(ids[ids > 0], (rows, width))
        padded = np.where(np.arange(width) < lengths, tokens, model.padding)
        samples[name] = padded.astype(np.int32)
    return samples


def batch_of(model: Model, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples as the rows of a batch."""
    rows = len(samples["inputs"])
    return LAYOUTS[model.layout].plain([Part(np.arange(rows), samples)], rows, WIDTHS)


@functools.lru_cache(maxsize=8)
def program(model: Model) -> Any:
    """The compiled logits of batches."""
    return jax.jit(lambda params, batch: model.head(params).logits(model.hidden(params, batch)))


def logits(
    model: Model, params: Any, samples: dict[str, np.ndarray], run: Any = None
) -> np.ndarray:
    """The logits of all targets, one row each, of the model's program or of another."""
    batch = batch_of(model, samples)
    return np.asarray((run or program(model))(params, batch))[batch["decoder_loss_weights"] > 0]


def unrolled(model: Model, params: Any) -> dict[str, Any]:
    """Parameters of scanned layers as those of layers of their own."""
    flat = flatten(params)
    return unflatten(
        {
            leaf.unrolled: flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer]
            for leaf in model.axes.leaves()
        }
    )


class KeptMean:
    """`jax.numpy` for norms, whose means are those of kept channels alone."""

    def __init__(self, kept: dict[int, np.ndarray]) -> None:
        self.kept = kept  # By the size of the axis.

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def mean(self, x: jax.Array, **options: Any) -> jax.Array:
        return jnp.mean(x, where=self.kept.get(x.shape[-1]), **options)


class FamilyContract:
    """What holds for a configuration of any family.

    Attributes:
      config: the configuration.
      huggingface_refuses: what Hugging Face's format says to a configuration that it cannot hold.
      tested_apart: keys whose masked model is not the whole one with zeros, since its scales follow
        the width; the family's own tests have them.
      counts_pairs: attention is counted by the pairs that see each other, in the family's own test.
    """

    config: ClassVar[ModelConfig]
    huggingface_refuses: ClassVar[str] = ""
    tested_apart: ClassVar[tuple[str, ...]] = ()
    counts_pairs: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Model:
        return model_of(cls.config)

    @pytest.fixture(scope="class")
    @classmethod
    def params(cls, model: Model) -> dict[str, Any]:
        return random_params(model)

    @pytest.fixture(scope="class")
    @classmethod
    def root(cls, model: Model) -> Plan:
        return Plan.identity(model, "root")

    def test_fresh_parameters_have_the_shapes_of_the_axis_table(self, model: Model) -> None:
        axes, found = model.axes, flatten(jax.jit(model.init)(jax.random.key(0)))
        assert set(found) == set(axes.paths)
        for path, array in found.items():
            depth = [] if axes.layers(path) == [None] else [len(axes.layers(path))]
            assert array.shape == (*depth, *axes.shape(path)), path
            assert array.dtype == jnp.dtype(self.config.param_dtype), path
            assert np.isfinite(array).all(), path
        assert axes.count() == sum(array.size for array in found.values())
        assert model.resized(axes.sizes) == model

    def test_sliced_equals_masked(
        self, model: Model, params: Any, root: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        axes, names = model.axes, model.logical_axes()
        samples = random_samples(model)
        whole = logits(model, params, samples)
        for key in axes.keys:
            if key in (VOCAB, *self.tested_apart):
                continue
            for plan in _cuts(root, key):
                pruned, keep = pruned_model(plan), relative(plan, root)
                small = logits(pruned, take(params, names, keep), samples)
                run = None
                with monkeypatch.context() as patch:
                    if axis_of(key) == "embed":
                        assert [axes.sizes[k] for k in _embeds(model)].count(axes.sizes[key]) == 1
                        kept = np.isin(np.arange(axes.sizes[key]), plan.indices(key))
                        patch.setattr(layers, "jnp", KeptMean({axes.sizes[key]: kept}))
                        run = program.__wrapped__(model)  # Traced anew.
                    masked = logits(model, mask(params, names, keep), samples, run)
                np.testing.assert_allclose(
                    small, masked, atol=TOLERANCE, rtol=TOLERANCE, err_msg=f"{key}: {plan.keep}"
                )
                assert np.abs(small - whole).max() > 1e-3, key

    def test_kept_rows_of_the_vocabulary_have_the_same_logits(
        self, model: Model, params: Any, root: Plan
    ) -> None:
        rows = np.append(np.arange(4), np.arange(4, self.config.vocab_size, 2))  # Controls stay.
        plan = root.narrow({VOCAB: rows})
        samples = random_samples(model, rows)
        small = {
            name: np.where(tokens == model.padding, tokens, np.searchsorted(rows, tokens))
            for name, tokens in samples.items()
        }
        cut = take(params, model.logical_axes(), relative(plan, root))
        np.testing.assert_allclose(
            logits(pruned_model(plan), cut, small),
            logits(model, params, samples)[:, rows],
            atol=TOLERANCE,
            rtol=TOLERANCE,
        )

    def test_two_cuts_are_one(self, model: Model, params: Any, root: Plan) -> None:
        first = _cuts(root, model.stacks[-1] + "/layers")[0]
        second = first
        for key in pruned_model(first).axes.keys:
            if key not in (VOCAB, model.stacks[-1] + "/layers"):
                second = _cuts(second, key)[-1]
        once = take(params, model.logical_axes(), relative(second, root))
        middle = take(params, model.logical_axes(), relative(first, root))
        twice = take(middle, pruned_model(first).logical_axes(), relative(second, first))
        jax.tree.map(np.testing.assert_array_equal, twice, once)
        assert pruned_model(second).axes.count() == sum(x.size for x in jax.tree.leaves(once))

    def test_unrolled_layers_compute_the_same(self, model: Model, params: Any) -> None:
        samples = random_samples(model)
        found = logits(model.replace(scan_layers=False), unrolled(model, params), samples)
        expected = logits(model, params, samples)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE)

    def test_decoding_with_a_cache_gives_the_logits_of_whole_sequences(
        self, model: Model, params: Any
    ) -> None:
        samples = random_samples(model)
        inputs, targets = jnp.asarray(samples["inputs"]), samples["targets"]
        step = jax.jit(model.decode_step)
        state = model.start_decoding(params, inputs, WIDTHS[1])
        tokens, found = model.first_tokens(inputs)[:, None], []
        for place in range(WIDTHS[1]):
            row, cache = step(params, state, inputs, tokens)
            state = state._replace(cache=cache)
            found.append(row[:, 0])
            tokens = jnp.asarray(np.maximum(targets[:, place, None], 0))
        real = targets != model.padding
        np.testing.assert_allclose(
            np.stack(found, axis=1)[real],
            logits(model, params, samples),
            atol=TOLERANCE,
            rtol=TOLERANCE,
        )

    def test_flops_are_those_of_the_matrices_and_of_attention(self, model: Model) -> None:
        if self.counts_pairs:
            pytest.skip("the family's own test counts pairs of attention")
        inputs, targets = 20, 12
        expected = self.attention_flops(model, inputs, targets)
        for path in model.axes.paths:
            if path.endswith("kernel"):
                elements = math.prod(model.axes.shape(path)) * len(model.axes.layers(path))
                expected += 2 * elements * self._tokens(model, path, inputs, targets)
        if not any(path.endswith("logits_dense/kernel") for path in model.axes.paths):
            sizes = model.axes.sizes_at("token_embedder/embedding")
            tokens = self._tokens(model, "logits_dense/kernel", inputs, targets)
            expected += 2 * math.prod(sizes.values()) * tokens
        assert model.forward_flops(inputs, targets) == expected

    def attention_flops(self, model: Model, inputs: int, targets: int) -> float:
        """Of scores and weighted values; causal attention is counted half."""
        total = 0.0
        for path, axes in model.axes.paths.items():
            if not path.endswith("query/kernel"):
                continue
            sizes = model.axes.sizes_at(path)
            width = math.prod(sizes[a] for a in axes if axis_of(a) != "embed")
            if model.layout == "decoder_only":
                length = inputs + targets
                windows = self._windows(model)
                pairs = [length * min(length, 2 * window) / 2 for window in windows]
            elif path.startswith("encoder/"):
                pairs = [inputs**2] * len(model.axes.layers(path))
            elif f"/{model.memory}/" in path:
                pairs = [inputs * targets] * len(model.axes.layers(path))
            else:
                pairs = [targets**2 / 2] * len(model.axes.layers(path))
            total += sum(4 * width * n for n in pairs)
        return total

    def _windows(self, model: Model) -> list[int]:
        """For each layer of a decoder the positions that a query sees at most."""
        slides = getattr(model.config, "slides", ()) or (False,) * model.axes.depth("decoder")
        return [model.config.sliding_window if each else 2**31 for each in slides]

    @staticmethod
    def _tokens(model: Model, path: str, inputs: int, targets: int) -> int:
        """How many tokens a matrix is applied to."""
        if model.layout == "decoder_only":
            return inputs + targets
        memory = f"/{model.memory}/"
        of_memory = memory in path and path.split("/")[-2] in ("key", "value")
        return inputs if path.startswith("encoder/") or of_memory else targets

    def test_hugging_face_and_back_is_exact(self, tmp_path: Path) -> None:
        if family(self.config.family).huggingface is None:
            pytest.skip(f"the family {self.config.family} has no format of Hugging Face")
        source = MemoryCheckpoint(self.config)
        for name in ("native", "there", "back"):
            (tmp_path / name).mkdir()
        FORMATS["native"].write(source, tmp_path / "native")
        opened = open_checkpoint(tmp_path / "native")
        if self.huggingface_refuses:
            with pytest.raises(UserError, match=self.huggingface_refuses):
                FORMATS["huggingface"].write(opened, tmp_path / "there")
            return
        FORMATS["huggingface"].write(opened, tmp_path / "there")
        FORMATS["native"].write(open_checkpoint(tmp_path / "there"), tmp_path / "back")
        back = open_checkpoint(tmp_path / "back")
        assert back.model.axes == source.model.axes
        jax.tree.map(np.testing.assert_array_equal, load_tree(back), load_tree(source))

    def test_the_optimizer_is_cut_along_and_goes_on(
        self, model: Model, params: Any, tmp_path: Path
    ) -> None:
        batch = batch_of(model, random_samples(model, rows=4))
        mesh = sharding.make_mesh((1, 1, 1), jax.devices()[:1])
        state = train_step.init_state(model, ADAMW, mesh, params=params)
        state, _ = train_step.make_train_step(model, ADAMW, mesh)(state, batch)
        state = jax.device_get(state)
        training_state.create(
            tmp_path / "given", model, state.params, opt_state=state.opt_state, step=1
        )
        last = model.stacks[-1]
        layers_left = model.axes.depth(last) - 1
        stage = Stage("cut", sizes={f"{last}/layers": layers_left, **halves(model)})
        found = {}
        for kind in ("native", "t5x"):
            plan = prune_checkpoint(
                tmp_path / "given",
                tmp_path / kind,
                stage,
                keep_optimizer=True,
                output_format=kind,
            )
            found[kind] = load_state(open_checkpoint(tmp_path / kind))
        keep = relative(plan, Plan.identity(model, str(tmp_path / "given")))
        cut = functools.partial(take, axes=model.logical_axes(), keep=keep)
        for loaded in found.values():
            assert loaded["step"] == 1
            jax.tree.map(np.testing.assert_array_equal, loaded["params"], cut(state.params))
            adam = loaded["opt_state"][1]
            assert adam["count"] == 1
            for name in ("mu", "nu"):
                moments = getattr(state.opt_state[1], name)
                jax.tree.map(np.testing.assert_array_equal, adam[name], cut(moments))
        self._goes_on(tmp_path / "native", pruned_model(plan, like=model), batch, mesh)

    @staticmethod
    def _goes_on(folder: Path, model: Model, batch: Any, mesh: Any) -> None:
        abstract = train_step.abstract_state(model, ADAMW, mesh)
        target = {name: getattr(abstract, name) for name in ("step", "params", "opt_state")}
        restored, _ = training_state.restore_state(folder, target)
        state, metrics = train_step.make_train_step(model, ADAMW, mesh)(
            train_step.TrainState(**restored), batch
        )
        assert int(state.step) == 2
        assert np.isfinite(metrics["loss_sum"])
        assert float(metrics["grad_norm"]) > 0

    def test_eight_devices_compute_what_one_does(self) -> None:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("on_eight_devices.py"))],
            input=json.dumps(self.config.to_dict()),
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
                "--xla_force_host_platform_device_count=8",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "cut and trained alike" in done.stdout


def _embeds(model: Model) -> list[str]:
    return [key for key in model.axes.sizes if axis_of(key) == "embed"]


def halves(model: Model) -> dict[str, int]:
    """Half of every width that is cut; names speak of all stacks."""
    axes = model.axes
    names = {axis_of(key): key for key in axes.keys if axis_of(key) not in (LAYERS, VOCAB)}
    return {name: max(1, axes.sizes[key] // 2) for name, key in names.items()}


def _cuts(plan: Plan, key: str) -> list[Plan]:
    """Plans that cut a key, and what must go with it: layer by layer, and alike in all layers."""
    axes = pruned_model(plan).axes
    together = {key}
    for coupling in axes.couplings:
        if isinstance(coupling, Equal) and key in coupling.keys:
            together |= set(coupling.keys)
    targets = {each: max(1, axes.sizes[each] * 2 // 3) for each in together}
    if axis_of(key) != LAYERS:
        targets = {each: max(1, axes.sizes[each] // 2) for each in together}
    chosen = drawn(axes, targets, seed=3).keep
    each = {k: chosen[k] for k in targets}
    plans = [plan.narrow(plan.to_ancestor(each))]
    if axes.layers_key(key) is not None:
        plans.append(plan.narrow(plan.to_ancestor({k: rows[0] for k, rows in each.items()})))
    return plans
