"""Too little memory is said before the work, with figures and what would help."""

from __future__ import annotations

import errno
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from openba_jax import cli
from openba_jax.checkpoints import training_state
from openba_jax.errors import UserError, exhausted
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import hardware, memory, sharding
from openba_jax.training import needs, train_step
from openba_jax.training.optimizer import adamw

GIB = 1 << 30


def _system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2048 kB\n"}, [(2 << 20, "this machine")]),
        (  # Version 2: the group itself has no limit, the one above has.
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/box/memory.current": "5\n",
                "sys/fs/cgroup/pod/memory.max": "1000\n",
                "sys/fs/cgroup/pod/memory.current": "400\n",
                "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 150\n",
            },
            [(750, "the control group of this process")],
        ),
        (  # Version 1, in a container that sees its own group as the root.
            {
                "proc/self/cgroup": "5:cpu:/a\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "900\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "300\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 7\n",
            },
            [(607, "the control group of this process")],
        ),
        ({}, []),
    ],
)
def test_limits_of_the_machine(files: dict[str, str], expected: list, tmp_path: Path) -> None:
    assert list(memory.host_limits(_system(tmp_path, files))) == expected


def test_this_machine_has_some() -> None:
    found = memory.free()
    assert found is None or 0 < found.bytes < 1 << 50


class _Accelerator:
    platform, device_kind = "gpu", "NVIDIA H100"

    def __init__(self, stats: dict[str, int] | None) -> None:
        self._stats = stats

    def memory_stats(self) -> dict[str, int] | None:
        return self._stats


def test_devices_with_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = [{"bytes_limit": 80 * GIB, "bytes_in_use": used * GIB} for used in (1, 4)]
    monkeypatch.setattr(jax, "local_devices", lambda: list(map(_Accelerator, stats)))
    assert memory.free() == (76 * GIB, "each NVIDIA H100")
    monkeypatch.setattr(jax, "local_devices", lambda: [_Accelerator(None)])
    assert memory.free() is None
    memory.require({"parameters": 1 << 60}, "")  # Nothing is known, nothing is refused.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 MiB."""
    monkeypatch.setattr(memory, "free", lambda: memory.Free(1 << 20, "this machine"))


def test_what_does_not_fit_is_refused_with_figures(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.require({"parameters": 1 << 19, "optimizer": 1 << 19}, "")
    with pytest.raises(UserError) as refused:
        memory.require({"parameters": 3 << 20, "optimizer": 6 << 20}, "take less")
    assert str(refused.value) == (
        "this takes at least 9.0 MiB (parameters 3.0 MiB, optimizer 6.0 MiB), and this machine has "
        "1.0 MiB free; take less. --ignore_memory tries all the same."
    )
    with pytest.raises(UserError) as refused:
        memory.require({"parameters": 3 << 20}, "take less", halved="halve it")
    assert "halve it" not in str(refused.value)  # It would not help.
    with pytest.raises(UserError, match="free; halve it, or take less"):
        memory.require({"parameters": 2 << 20}, "take less", halved="halve it")
    monkeypatch.setenv(cli.IGNORE_MEMORY, "1")
    memory.require({"parameters": 3 << 20}, "take less")


def _abstract(name: str = "openba_15b", **changes: object):
    model = model_of(named_config(name, **changes))
    optimizer = adamw(optax.constant_schedule(1e-3))
    mesh = sharding.make_mesh((1, 1, 1))
    return model, train_step.abstract_state(model, optimizer, mesh), mesh


BATCH = {
    f"{stack}_input_tokens": np.zeros((1, n), np.int32)
    for stack, n in (("encoder", 570), ("decoder", 380))
}


def test_needs_of_a_run() -> None:
    model, abstract, _ = _abstract()
    found = needs.of_run(model, abstract, BATCH, 64)
    assert found["parameters"] == 4 * 14_567_703_040 == found["gradients"]
    assert found["optimizer"] == pytest.approx(2 * found["parameters"], abs=1000)
    size = np.dtype(model.config.dtype if model.config.dtype != "bfloat16" else "u2").itemsize
    assert found["activations"] == 64 * 4096 * size * (12 * 570 + 36 * 380)


def test_a_run_that_cannot_fit_names_the_lever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: memory.Free(23 * GIB, "this machine"))
    model, abstract, mesh = _abstract()
    with pytest.raises(UserError, match=r"at least 2\d\d\.\d GiB .*23\.0 GiB free.*MESH_SHAPE"):
        needs.check(model, abstract, BATCH, 1, 1, mesh)
    model, abstract, mesh = _abstract("small")
    needs.check(model, abstract, BATCH, 64, 1, mesh)
    with pytest.raises(UserError, match="take a smaller BATCH_SIZE or more ACCUMULATION"):
        needs.check(model, abstract, BATCH, 1 << 16, 1, mesh)
    needs.check(model, abstract, BATCH, 1 << 16, 1 << 10, mesh)


def test_parameters_that_cannot_fit_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(named_config("tiny"))
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(tmp_path / "model", model, params)
    size = 4 * model.axes.count()
    monkeypatch.setattr(memory, "free", lambda: memory.Free(size - 1, "this machine"))
    with pytest.raises(UserError, match=r"--dtype=bfloat16.*openba-prune.*--ignore_memory"):
        training_state.restore_params(tmp_path / "model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"), "Out of"),
        (jax.errors.JaxRuntimeError("INTERNAL: x\nOut of memory allocating 6 bytes"), "Out of mem"),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out"), "CUDA_ERROR"),
        (jax.errors.JaxRuntimeError("UNKNOWN: std::bad_alloc"), "std::bad_alloc"),
        (jax.errors.JaxRuntimeError("Failed to allocate request for 2GiB"), "Failed to allocate"),
        (ValueError("RESOURCE_EXHAUSTED: allocating"), "allocating"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (MemoryError(), "MemoryError"),
        (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f4")), "Unable to allocate"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_every_form_of_exhaustion_is_one_sentence(error: Exception, said: str) -> None:
    assert said in (exhausted(error) or "")
    told = pytest.raises(
        UserError, match=r"^there is too little memory \(.*\); take a smaller batch"
    )
    with told, hardware.explain_out_of_memory():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        UserError("out of memory is what this user error speaks of"),
        ValueError("shapes differ"),
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [28]"),
    ],
)
def test_other_errors_pass(error: Exception) -> None:
    assert exhausted(error) is None
    with pytest.raises(type(error)), hardware.explain_out_of_memory():
        raise error
