"""The report of `gpu.py` as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpu_plan import ATTENTION, BASE, CARD, DECODING, LEVERS, TRAINING

Found = Mapping[str, Mapping[str, Any]]

GIB = 2**30


def report(found: Found, not_run: Mapping[str, str]) -> str:
    """The whole report.

    Args:
      found: results by name of the measurement; each has `figures`, or says why it `failed`.
      not_run: why others were not made, by name.
    """
    lines = ["# Measured on a GPU", "", *_card(found[CARD]["figures"])]
    for group, section in _SECTIONS.items():
        of_group = {name: each for name, each in found.items() if each["group"] == group}
        if of_group:
            lines += ["", *section(of_group, found[CARD]["figures"])]
    failed = {name: each["failed"] for name, each in found.items() if "failed" in each}
    for title, reasons in (("Failed", failed), ("Not run", not_run)):
        if reasons:
            lines += ["", f"## {title}", ""]
            lines += [f"- `{name}`: {why}" for name, why in reasons.items()]
    return "\n".join(lines) + "\n"


def _card(card: Mapping[str, Any]) -> Iterator[str]:
    yield f"{card['device']}, {_version(card)}, {card['free'] / GIB:.1f} GiB for a program."
    yield ""
    if card["peak"] is None:
        yield (
            f"No share of a peak is given: {card['peak_source']}. TFLOP/s are those of the model, "
            "without recomputation."
        )
    else:
        yield (
            f"MFU is the model's FLOPs, without recomputation, over {card['peak'] / 1e12:.4g} "
            f"TFLOP/s ({card['peak_source']})."
        )
    yield (
        f"A square product in bfloat16 reaches {card['product'] / 1e12:.4g} TFLOP/s, and adding "
        f"one to an array {_rate(card['copy'])}."
    )
    if card["bandwidth"] is None:
        yield f"No share of the bandwidth is given: {card['bandwidth_source']}."
    else:
        yield f"The memory's limit is {_rate(card['bandwidth'])} ({card['bandwidth_source']})."


def _version(card: Mapping[str, Any]) -> str:
    return f"jax {card['jax']} ({' '.join(card['backend'].split())})"


def _rate(rate: float) -> str:
    return f"{rate / 1e9:,.0f} GB/s"


def _name(shape: Mapping[str, Any]) -> str:
    layers = " + ".join(map(str, shape["layers"]))
    return f"{shape['model']}, {layers} layers, {shape['parameters'] / 1e9:.3g}B parameters"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / GIB:.2f}"


def _failed(label: str, why: str, columns: int) -> list[str]:
    return [label, f"failed: {why.replace('|', '/')}", *[""] * (columns - 2)]


_TRAINING = (
    *("rows", "s a step", "tokens/s", "TFLOP/s", "MFU", "peak GiB", "compiler's GiB"),
    *("s to compile", "cuDNN"),
)


def _step(figures: Mapping[str, Any], peak: float | None) -> list[str]:
    """The figures of a step; `peak` in FLOP/s is the one that the report names."""
    planned = figures["argument_bytes"] + figures["temporary_bytes"]
    return [
        str(figures["rows"]),
        f"{figures['seconds']:.4g}",
        f"{figures['tokens_per_second']:,.0f}",
        f"{figures['flops_per_second'] / 1e12:.4g}",
        _share(None if peak is None else figures["flops_per_second"] / peak),
        _gib(figures["peak_bytes"]),
        _gib(planned),
        f"{figures['compile_seconds']:.1f}",
        "yes" if figures["cudnn_calls"] else "no",
    ]


def _training(found: Found, card: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Training: {_name(card['shape'])}"
    yield ""
    yield (
        f"{'/'.join(map(str, card['shape']['lengths']))} positions without padding, bfloat16; "
        "AdamW with float32 parameters and moments, unless a line says otherwise. Rows are those "
        "that were estimated to fit."
    )
    yield ""
    columns = ("setting", *_TRAINING)
    rows = [
        _failed(each["label"], each["failed"], len(columns))
        if "failed" in each
        else [each["label"], *_step(each["figures"], card["peak"])]
        for each in found.values()
    ]
    yield from _table(columns, rows)


def _levers(found: Found, card: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Levers: {_name(card['lever_shape'])}"
    yield ""
    yield (
        "One lever moved at a time from the defaults: nothing recomputed, layers scanned, AdamW "
        "with float32 parameters and moments, the platform's attention. *tokens* compares tokens/s."
    )
    yield ""
    columns = ("lever", "tokens", *_TRAINING)
    base = found.get(f"{LEVERS}/{BASE}", {}).get("figures")
    rows = []
    for each in found.values():
        label = f"`{each['label']}`"
        if "failed" in each:
            rows.append(_failed(label, each["failed"], len(columns)))
            continue
        figures = each["figures"]
        change = ""
        if base and figures is not base:
            change = f"{figures['tokens_per_second'] / base['tokens_per_second'] - 1:+.1%}"
        rows.append([label, change, *_step(figures, card["peak"])])
    yield from _table(columns, rows)


def _decoding(found: Found, card: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Decoding: {_name(card['shape'])}"
    yield ""
    yield (
        f"Greedy, {card['shape']['lengths'][0]} inputs; *ms a token* without reading the inputs. "
        "*GB* is what each step must read: weights of decoder and vocabulary, keys and values."
    )
    yield ""
    columns = (
        *("what", "rows", "ms for the inputs", "ms a token", "tokens/s", "GB", "GB/s"),
        *("of the bandwidth", "peak GiB"),
    )
    rows = []
    for each in found.values():
        if "failed" in each:
            rows.append(_failed(each["label"], each["failed"], len(columns)))
            continue
        figures = each["figures"]
        rows.append(
            [
                each["label"],
                str(figures["rows"]),
                f"{1e3 * figures['seconds_reading']:.2f}",
                f"{1e3 * figures['seconds_token']:.3f}",
                f"{figures['tokens_per_second']:,.0f}",
                f"{figures['bytes'] / 1e9:.3g}",
                f"{figures['bytes_per_second'] / 1e9:,.0f}",
                _share(figures["share"]),
                _gib(figures["peak_bytes"]),
            ]
        )
    yield from _table(columns, rows)


def _attention(found: Found, card: Mapping[str, Any]) -> Iterator[str]:
    del card
    options = next(iter(found.values()))["options"]
    yield "## Attention"
    yield ""
    yield (
        f"One bidirectional and one causal attention over packed rows, bfloat16, {options['rows']} "
        f"rows, {options['heads']} heads of {options['kv']}; *backward* has the forward pass in it."
    )
    yield ""
    columns = ("kernel", "length", "ms forward", "ms backward", "MiB forward", "MiB backward")
    rows = []
    for each in found.values():
        if "failed" in each:
            rows.append(_failed(each["label"], each["failed"], len(columns)))
            continue
        for line in each["figures"]["lengths"]:
            rows.append([each["label"], str(line["length"]), *_kernel(line)])
    yield from _table(columns, rows)


def _kernel(line: Mapping[str, Any]) -> list[str]:
    times = [
        f"{1e3 * line[name]:.3f}" if name in line else f"failed: {line[f'{name}_failed']}"
        for name in ("total", "gradients")
    ]
    sizes = [
        f"{line[f'{name}_bytes'] / 2**20:.0f}" if name in line else ""
        for name in ("total", "gradients")
    ]
    return times + sizes


_SECTIONS: dict[str, Callable[[Found, Mapping[str, Any]], Iterator[str]]] = {
    TRAINING: _training,
    LEVERS: _levers,
    DECODING: _decoding,
    ATTENTION: _attention,
}
