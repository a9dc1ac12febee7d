"""What can be done with what a path holds: the commands, as they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from openba_jax.checkpoints.registry import FORMATS, conversion

_MIXTURES = {"openba": "ul2", "t5": "span_corruption"}
"""By the kind of the tokenizer, what a model recovers on."""


class Step(NamedTuple):
    """Something to do.

    Attributes:
      purpose: in words.
      command: words in capitals are for the user to name; "" where a purpose is all there is.
    """

    purpose: str
    command: str = ""


def next_steps(about: Mapping[str, Any]) -> list[Step]:
    """The steps that go on from what `description.describe` has found."""
    path, kind = str(about["path"]), about["kind"]
    if kind in FORMATS:
        return [*_of_checkpoint(path, about)]
    if inside := about.get("checkpoints"):
        return [Step("look at a model in it", _line("openba", "inspect", list(inside)[-1]))]
    return list(_OTHERS.get(kind, lambda _: ())(about))


def _of_checkpoint(path: str, about: Mapping[str, Any]) -> Iterator[Step]:
    native = about["kind"] == "native"
    if native and about["tokenizer"] is None:
        yield Step(f"put tokenizer.model or tokenizer.json into {path}; without it, it has no text")
    if native and about["tokenizer"] is not None:
        model = _gin("MODEL_DIR", path)
        run = "--gin_file=gin/runs/native"
        yield Step(
            "ask it", _line("openba", "infer", f"{run}/infer.gin", model, _gin("PROMPTS", ["TEXT"]))
        )
        yield Step(
            "measure it",
            _line("openba", "eval", f"{run}/eval.gin", model, _gin("QUESTIONS", "FOLDER")),
        )
    if not native:
        yield Step("make a model folder", conversion(path, FORMATS[about["kind"]]))
    key, size = next((k, n) for k, n in about["sizes"].items() if k.rpartition("/")[2] == "mlp")
    beside = str(Path(path).with_name(f"{Path(path).name}-cut")) if Path(path).name else "CUT"
    yield Step(
        "see what a cut would leave",
        _line(
            *("openba", "prune", f"--input={path}", f"--output={beside}"),
            *(f"--sizes={key.rpartition('/')[2]}={max(1, size // 2)}", "--dry_run"),
        ),
    )
    if about["tokenizer"] is not None:
        plain = "causal_lm" if about["layout"] == "decoder_only" else "MIXTURE"
        mixture = _MIXTURES.get(about["tokenizer"]["read as"], plain)
        yield Step(
            "cut, recover and measure it",
            _line(
                *("openba", "pipeline", "--gin_file=gin/runs/native/compress.gin"),
                *(_gin("OUTPUT_DIR", f"{beside}-run"), _gin("ANCESTOR", path)),
                *(_gin("CORPUS", ["TEXT.jsonl"]), _gin("MIXTURE", mixture)),
                *(f"--gin.MLP={max(1, size // 2)}", "--gin.RECOVER_TOKENS=1_000_000"),
            ),
        )
    if native:
        yield Step(
            "give it to transformers",
            _line("openba", "convert", "to_huggingface", f"--input={path}", "--output=FOLDER"),
        )


def _of_store(about: Mapping[str, Any]) -> Iterator[Step]:
    prefix, vocabulary = about["prefix"], about.get("vocabulary") or "TOKENIZER"
    if not about.get("complete", True):
        yield Step("finish it: the command that began it goes on where it stopped")
        return
    yield Step(
        "look at samples",
        _line("openba", "prepare", "show", f"--store={prefix}", f"--vocabulary={vocabulary}"),
    )
    yield Step(
        "train on it",
        _line(
            *("openba", "train", "--gin_file=gin/models/small.gin"),
            *("--gin_file=gin/runs/native/pretrain.gin", _gin("MODEL_DIR", "FOLDER")),
            *(_gin("TOKEN_STORES", [prefix]), _gin("VOCABULARY", vocabulary)),
        ),
    )


def _of_scores(about: Mapping[str, Any]) -> Iterator[Step]:
    yield Step(
        "cut by it the checkpoint that was scored",
        _line(
            *("openba", "prune", "--input=CHECKPOINT", "--output=FOLDER", "--sizes=AXIS=SIZE"),
            f"--scores={about['path']}",
        ),
    )


def _of_answers(about: Mapping[str, Any]) -> Iterator[Step]:
    yield Step(
        "let a student learn from it: a run with the same batches and this setting besides",
        _gin("TEACHER", about["path"]),
    )


def _of_tokenizer(about: Mapping[str, Any]) -> Iterator[Step]:
    yield Step(
        "make a token store of text",
        _line(
            *("openba", "prepare", "tokens", "--input=TEXT.jsonl"),
            *(f"--vocabulary={about['path']}", "--output=STORE"),
        ),
    )


def _of_weights(about: Mapping[str, Any]) -> Iterator[Step]:
    if about["folder"] is not None:
        yield Step("look at its checkpoint", _line("openba", "inspect", about["folder"]))


def _of_unfinished(about: Mapping[str, Any]) -> Iterator[Step]:
    yield Step(f"start the run of {about['path']} again: it stopped before its first checkpoint")


_OTHERS = {
    "store": _of_store,
    "scores": _of_scores,
    "answers": _of_answers,
    "tokenizer": _of_tokenizer,
    "weights": _of_weights,
    "unfinished": _of_unfinished,
}
"""By the name of the kind."""


def _line(*words: str) -> str:
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """As a shell needs it; gin's texts in double quotes, as everywhere in the documentation."""
    plain = "'" not in word or set(word) & set('"$`\\!')
    return shlex.quote(word) if plain else f'{word.partition("=")[0]}="{word.partition("=")[2]}"'


def _gin(name: str, value: Any) -> str:
    return f"--gin.{name}={value!r}"
