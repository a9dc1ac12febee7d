"""What `gpu.py` measures, the most telling first.

Training and decoding are those of the largest shape that fits. Each lever is moved by itself, on a
quarter of that shape's layers, where even the setting that keeps most has room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

LENGTHS = (570, 384)
"""Positions of inputs and targets: those of UL2 on groups of 568 tokens."""

FEW = (64, 48)
"""The same, for trying the command."""

CARD, TRAINING, LEVERS, DECODING, ATTENTION = (
    *("card", "training", "levers", "decoding", "attention"),
)

LADDER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stage5_3_8b", {}),
    ("openba_v2_3_4b", {}),
    ("openba_v2_3_4b", {"encoder_layers": 4, "decoder_layers": 12}),
    ("openba_v2_3_4b", {"encoder_layers": 2, "decoder_layers": 6}),
    ("openba_v2_3_4b", {"encoder_layers": 1, "decoder_layers": 3}),
)
"""Shapes, the largest first: published ones, then fewer layers of the smallest of them."""

TINY: tuple[tuple[str, dict[str, Any]], ...] = (("tiny", {}),)
"""For trying the command where there is no GPU."""

BASE = "defaults"
"""The name of the setting that levers are compared with."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measurement, in a process of its own.

    Attributes:
      name: its key in the results.
      group: the table that it stands in.
      label: what it is, in that table.
      options: arguments of the function that measures.
      flags: XLA's, set before it starts.
    """

    name: str
    group: str
    label: str
    options: dict[str, Any]
    flags: str = ""


IDENTITY = Measurement("identity", "identity", "identity", {})
"""Which card it is."""


def of_card(tiny: bool) -> Measurement:
    """The card itself, and which shapes and batches fit into its memory."""
    options = {
        "ladder": TINY if tiny else LADDER,
        "lengths": FEW if tiny else LENGTHS,
        "most_rows": 2 if tiny else 64,
        "least_rows": 1 if tiny else 4,
        "tiny": tiny,
    }
    return Measurement(CARD, CARD, "card", options)


def measurements(card: dict[str, Any]) -> list[Measurement]:
    """All that follow the card, the most telling first.

    Args:
      card: what the measurement of the card found.
    """
    shape, tiny = card["shape"], card["tiny"]
    training = list(_training(shape))
    levers = list(_levers(card["lever_shape"]))
    flags = list(_flags(card["lever_shape"]))
    decoding = list(_decoding(shape, 16 if tiny else 128))
    attention = list(_attention(tiny))
    return [
        *training[:1],
        *decoding[:1],
        *training[1:3],
        *levers[:2],
        *attention,
        *levers[2:7],
        *decoding[1:5],
        *training[3:],
        *flags[:2],
        *levers[7:],
        *flags[2:],
        *decoding[5:],
    ]


def _training(shape: dict[str, Any]) -> Iterator[Measurement]:
    """The largest batch of each rematerialisation policy, and of what makes room for more."""
    for name in ("minimal", "full", "none", "adafactor", "bfloat16"):
        rows = shape["rows"][name]
        config, label, options = dict(shape["config"]), f"`remat_policy = '{name}'`", {}
        config["remat_policy"] = name if name in ("minimal", "full", "none") else "minimal"
        if name == "adafactor":
            options, label = {"optimizer": "adafactor"}, "Adafactor, `minimal`"
        elif name == "bfloat16":
            config["param_dtype"], label = "bfloat16", "`param_dtype = 'bfloat16'`, `minimal`"
        yield Measurement(
            f"{TRAINING}/{name}",
            TRAINING,
            label,
            {"model": shape["model"], "config": config, "rows": rows, "lengths": shape["lengths"]}
            | options,
        )


def _lever(
    shape: dict[str, Any],
    label: str,
    flags: str = "",
    config: Any = None,
    **options: Any,
) -> Measurement:
    config = {**shape["config"], **(config or {})}
    rows = shape["rows"]["none"]
    base = {"model": shape["model"], "config": config, "rows": rows, "lengths": shape["lengths"]}
    return Measurement(f"{LEVERS}/{label}", LEVERS, label, base | options, flags)


def _levers(shape: dict[str, Any]) -> Iterator[Measurement]:
    rows, longer = shape["rows"]["none"], -(-(shape["lengths"][0] + 1) // 64) * 64
    yield _lever(shape, BASE)
    yield _lever(shape, "attention = 'xla'", config={"attention": "xla"})
    yield _lever(shape, "remat_policy = 'minimal'", config={"remat_policy": "minimal"})
    yield _lever(shape, "remat_policy = 'full'", config={"remat_policy": "full"})
    yield _lever(shape, "param_dtype = 'bfloat16'", config={"param_dtype": "bfloat16"})
    yield _lever(shape, "adafactor", optimizer="adafactor")
    yield _lever(shape, f"{2 * rows} rows", rows=2 * rows)
    yield _lever(shape, "scan_layers = False", config={"scan_layers": False})
    yield _lever(shape, "moment_dtype = 'bfloat16'", optimizer="bfloat16 moment")
    yield _lever(shape, "chunks of 2^25 logits", chunk=2**25)
    yield _lever(shape, "chunks of 2^29 logits", chunk=2**29)
    yield _lever(shape, f"{longer} inputs", lengths=(longer, shape["lengths"][1]))
    if rows > 1:
        yield _lever(shape, f"{rows // 2} rows", rows=rows // 2)
        yield _lever(shape, "ACCUMULATION = 2", accumulation=2)


def _flags(shape: dict[str, Any]) -> Iterator[Measurement]:
    for flag in (
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        "--xla_gpu_enable_triton_gemm=false",
        "--xla_gpu_enable_command_buffer=",
        "--xla_gpu_enable_while_loop_double_buffering=true",
    ):
        yield _lever(shape, flag, flags=flag)


def _decoding(shape: dict[str, Any], new_tokens: int) -> Iterator[Measurement]:
    def one(rows: int, label: str, parts: tuple[str, ...] = (), scan: bool = False) -> Measurement:
        types = {"dtype": "bfloat16", "param_dtype": "bfloat16", "scan_layers": scan}
        options = {
            "model": shape["model"],
            "config": {**shape["config"], **types},
            "rows": rows,
            "inputs": shape["lengths"][0],
            "new_tokens": new_tokens,
            "parts": parts,
        }
        return Measurement(f"{DECODING}/{rows}/{label}", DECODING, label, options)

    yield one(1, "bfloat16")
    yield one(8, "bfloat16")
    yield one(1, "weights in int8", ("weights",))
    yield one(32, "bfloat16")
    yield one(32, "both in int8", ("weights", "cache"))
    yield one(1, "both in int8", ("weights", "cache"))
    yield one(8, "both in int8", ("weights", "cache"))
    yield one(1, "bfloat16, layers scanned", scan=True)


def _attention(tiny: bool) -> Iterator[Measurement]:
    lengths, rows, heads = ((64,), 2, 2) if tiny else ((576, 1152, 2304, 4608), 8, 20)
    for kernel in ("cudnn", "xla"):
        options = {
            "kernel": kernel,
            "lengths": lengths,
            "rows": rows,
            "heads": heads,
            "kv": 128,
        }
        yield Measurement(f"{ATTENTION}/{kernel}", ATTENTION, kernel, options)
