r"""Prepares text for training: a vocabulary, then token stores; shows what came out.

Input files hold JSON lines (.jsonl, .ndjson, .json), tables (.parquet) or plain text, one document
per line, and may be compressed (.gz, .bz2, .xz, .zst). They are paths, patterns or URLs that fsspec
knows; outputs are local.

openba-prepare vocabulary --input=corpus.jsonl --size=8000 --output=data/tokenizer.model
openba-prepare tokens --input=corpus.jsonl,more.txt.gz --vocabulary=data/tokenizer.model \
  --output=data/corpus
openba-prepare tokens --kind=instructions --input=pairs.jsonl \
  --vocabulary=data/tokenizer.model --output=data/pairs
openba-prepare tokens --source=wiki:2:wiki/*.jsonl.zst --source=books:1:s3://texts/books.parquet \
  --vocabulary=data/tokenizer.model --output=data/mixed
openba-prepare show --store=data/corpus --vocabulary=data/tokenizer.model --mixture=ul2
openba-prepare merge --store=data/corpus,data/pairs --output=data/all
openba-prepare split --store=data/all --parts=4 --output=data/part
openba-prepare verify --store=data/all
openba-prepare teacher --teacher=runs/ancestor --store=data/train --mixture=ul2 --rows=128 \
  --vocabulary=data/tokenizer.model --steps=2000 --output=data/answers
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.paths import local

if TYPE_CHECKING:
    from openba_jax.data.text.chunks import TextSource
    from openba_jax.data.text.rules import RecordRule

_NEEDED = {
    "vocabulary": ("input", "output"),
    "tokens": ("output", "vocabulary"),
    "merge": ("store", "output"),
    "split": ("store", "output"),
    "verify": ("store",),
    "show": ("store", "vocabulary"),
    "teacher": ("teacher", "store", "vocabulary", "mixture", "rows", "steps", "output"),
}


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_multi_string(
        "input",
        [],
        "Files to read, in this order, with commas between; may be given several times",
    )
    flags.DEFINE_multi_string(
        "source",
        [],
        "tokens: NAME:WEIGHT:FILE[,FILE...] in place of --input, once for each source. Training "
        "draws from the sources in the ratio of their weights.",
    )
    flags.DEFINE_string("output", None, "vocabulary: the .model file. Else: PREFIX of the files.")
    flags.DEFINE_string("text_column", "text", "The column with the text.")
    flags.DEFINE_bool("strict", False, "Stop at a line that cannot be used; else leave it out.")
    flags.DEFINE_integer("size", 32_000, "vocabulary: number of pieces.", lower_bound=1)
    flags.DEFINE_float(
        "character_coverage",
        0.9995,
        "vocabulary: share of the characters that get a piece.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_enum(
        "normalization",
        "identity",
        # As `vocabulary_training.NORMALIZATIONS`, which takes long to import.
        ["identity", "nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf"],
        "vocabulary: what a text becomes before it is cut in pieces. identity: it stays as it is. "
        "nmt_nfkc: as mT5 has it; full-width punctuation, newlines and runs of blanks do not come "
        "back.",
    )
    flags.DEFINE_string(
        "vocabulary", None, "tokens, show: a sentencepiece .model file, or a tokenizer.json."
    )
    flags.DEFINE_enum(
        "vocabulary_kind",
        "openba",
        ["openba", "t5"],
        "vocabulary: the special tokens behind its pieces, OpenBA's or T5's.",
    )
    flags.DEFINE_bool(
        "newline",
        None,
        "The newline is a token of its own. vocabulary: says so in tokenizer_settings.json beside "
        "the model. tokens, show: by default as that file says.",
    )
    flags.DEFINE_enum(
        "kind",
        "text",
        ["text", "instructions", "dialogues", "translations", "spans"],
        "tokens: what records become: groups of text for denoising, or pairs. `spans` is the "
        "earlier name of `text`.",
    )
    flags.DEFINE_integer("group_size", 568, "text: tokens of a group.", lower_bound=2)
    flags.DEFINE_integer(
        "batch_size",
        1000,
        "text: documents that are cut in groups together, what remains is dropped; 0: all.",
        lower_bound=0,
    )
    flags.DEFINE_string("input_column", "inputs", "instructions: the column with the input.")
    flags.DEFINE_string("target_column", "targets", "instructions: the column with the target.")
    flags.DEFINE_string(
        "instruction_column", "text", "instructions: the column with the instruction, if any."
    )
    flags.DEFINE_string("task_prefix", "", "instructions: text in front of each target.")
    flags.DEFINE_string("turns_column", "conversation", "dialogues: the column with the turns.")
    flags.DEFINE_list(
        "language_columns", ["en", "zh"], "translations: the columns with the two languages."
    )
    flags.DEFINE_list(
        "translation_prompts",
        ["Translate English to Chinese: ", "将中文翻译成英文："],
        "translations: the text before a source, of either direction.",
    )
    flags.DEFINE_integer(
        "max_length",
        None,
        "Not text: pairs with a longer source are left out; 1024, dialogues 2048.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "workers",
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "tokens: cores to keep busy, by threads, or by processes if more than 4. The files do not "
        "depend on it.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "save_seconds", 10.0, "tokens: how often progress is saved, to resume.", lower_bound=0.0
    )
    flags.DEFINE_list("store", [], "merge, split, verify, show, teacher: PREFIX of token stores.")
    flags.DEFINE_integer("parts", 2, "split: number of parts, OUTPUT-0 and so on.", lower_bound=2)
    flags.DEFINE_integer(
        "seed",
        None,
        "split: of the draws, 423 as the original. show: 0. teacher: 1234, of the run.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "mixture",
        None,
        "show: the task or mixture; by default the pretraining of the family that has such a "
        "vocabulary: ul2, span_corruption or causal_lm.",
    )
    flags.DEFINE_integer("count", 5, "show: number of samples.", lower_bound=1)
    flags.DEFINE_integer("encoder_length", 570, "show, teacher: width of inputs.", lower_bound=1)
    flags.DEFINE_integer("decoder_length", 381, "show, teacher: width of targets.", lower_bound=1)
    flags.DEFINE_string("teacher", None, "teacher: a checkpoint, whose answers are written.")
    flags.DEFINE_string(
        "student", None, "teacher: a checkpoint whose vocabulary was cut, and that will learn."
    )
    flags.DEFINE_integer("rows", None, "teacher: BATCH_SIZE of the run.", lower_bound=1)
    flags.DEFINE_integer("steps", None, "teacher: TRAIN_STEPS of the run.", lower_bound=1)
    flags.DEFINE_integer("held_out", 0, "teacher: HELD_OUT of the run.", lower_bound=0)
    flags.DEFINE_bool("pack", False, "teacher: PACK of the run.")
    flags.DEFINE_integer("top", 32, "teacher: likeliest pieces that are kept.", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "teacher: divides its logits.")
    flags.DEFINE_enum(
        "teacher_dtype", "bfloat16", ["bfloat16", "float32"], "teacher: of its parameters."
    )
    cli.define_memory_flag()


def main(argv: Sequence[str]) -> None:
    """Does the action that the first argument names.

    Raises:
      UserError: The action is unknown, or a flag that it needs is missing.
      UserError: The work cannot be done, see the functions that do it.
    """
    values = flags.FLAGS
    if len(argv) != 2 or argv[1] not in _NEEDED:
        raise UserError(f"say what to do, {' or '.join(_NEEDED)}, and no other words.")
    action = argv[1]
    values["input"].value = [file for text in values.input for file in text.split(",")]
    for flag in ("vocabulary", "output"):
        if path := getattr(values, flag):
            values[flag].value = os.path.expanduser(path)
            local(path)
    values["store"].value = [str(local(store)) for store in values.store]
    for flag in _NEEDED[action]:
        if not values[flag].value:
            raise UserError(f"--{flag} is missing.")
    if action == "tokens" and bool(values.input) == bool(values.source):
        raise UserError("--input is missing; give it or --source, not both.")
    actions = {
        "vocabulary": _vocabulary,
        "tokens": _tokens,
        "merge": _merge,
        "split": _split,
        "verify": _verify,
        "show": _show,
        "teacher": _teacher,
    }
    try:
        actions[action](values)
    except BrokenPipeError:  # `show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # No permission, a full disk.
        goes_on = ", it goes on where it stopped" if action in ("tokens", "teacher") else ""
        raise UserError(
            f"{error.filename or values.output}: {error.strerror}; mend that and run the same "
            f"command again{goes_on}."
        ) from error


def _vocabulary(values: flags.FlagValues) -> None:
    """Trains a vocabulary."""
    from openba_jax.data.text.documents import column, read_records, text_files
    from openba_jax.data.vocabulary_training import TextSample, round_trips, train_vocabulary
    from openba_jax.paths import check_output_file, reject_overlap

    files = text_files(values.input)
    output = check_output_file(values.output)
    for file in files:
        reject_overlap(file, output, "input")

    def left_out(error: UserError) -> None:
        if values.strict:
            raise error
        logging.warning("Left out: %s", error)

    def texts() -> Iterator[str]:
        for number, (place, record) in enumerate(
            read_records(files, values.text_column, on_bad=left_out)
        ):
            try:
                yield column(record, values.text_column, place)
            except UserError as error:
                if not number:  # It is the wrong column.
                    raise
                left_out(error)

    sample = TextSample()
    vocabulary = train_vocabulary(
        sample.through(texts()),
        values.size,
        output,
        character_coverage=values.character_coverage,
        normalization=values.normalization,
        newline=bool(values.newline),
        kind=values.vocabulary_kind,
    )
    whole, count = round_trips(vocabulary, sample.texts), len(sample.texts)
    sys.stdout.write(
        f"{vocabulary.path}: {vocabulary.piece_count} pieces, {vocabulary.size} embedding rows, "
        f"sha256 {vocabulary.fingerprint}\n"
        f"{whole:,} of {count:,} documents ({whole / count:.1%}) come back exactly when they are "
        f"encoded and decoded (normalization {values.normalization})\n"
    )


def _tokens(values: flags.FlagValues) -> None:
    """Makes a token store."""
    from openba_jax.data.text.preparation import prepare
    from openba_jax.data.vocabularies.registry import open_vocabulary

    manifest = prepare(
        _sources(values),
        _rule(values),
        open_vocabulary(values.vocabulary, newline=values.newline),
        values.output,
        workers=values.workers,
        strict=values.strict,
        progress=True,
        save_seconds=values.save_seconds,
    )
    for source in manifest["sources"] if values.source else ():
        sys.stdout.write(f"{source['name']}: {_listed(source['numbers'])}\n")
    _report(values.output, manifest)


def _merge(values: flags.FlagValues) -> None:
    """Makes one store of several."""
    from openba_jax.data.store.tools import merge_stores

    _report(values.output, merge_stores(values.store, values.output))


def _split(values: flags.FlagValues) -> None:
    """Makes several stores of one."""
    from openba_jax.data.store.tools import SPLIT_SEED, split_store

    seed = SPLIT_SEED if values.seed is None else values.seed
    parts = split_store(_one_store(values), values.parts, values.output, seed)
    for part, manifest in enumerate(parts):
        _report(f"{values.output}-{part}", manifest)


def _verify(values: flags.FlagValues) -> None:
    """Checks stores."""
    from openba_jax.data.store.tools import verify_store

    for prefix in values.store:
        sys.stdout.write(f"{prefix}: whole; {_listed(verify_store(prefix))}\n")


def _show(values: flags.FlagValues) -> None:
    """Prints samples."""
    from openba_jax.data.loader import BatchLoader
    from openba_jax.data.viewer import describe_samples
    from openba_jax.data.vocabularies.registry import open_vocabulary
    from openba_jax.objectives.mixture import get_mixture

    vocabulary = open_vocabulary(values.vocabulary, newline=values.newline)
    mixture = values.mixture
    if mixture is None:
        mixture = {"openba": "ul2", "t5": "span_corruption"}.get(vocabulary.kind, "causal_lm")
    loader = BatchLoader(
        get_mixture(mixture),
        values.store,
        vocabulary,
        batch_size=values.count,
        encoder_length=values.encoder_length,
        decoder_length=values.decoder_length,
        seed=values.seed or 0,
    )
    # https://no-color.org
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for text in describe_samples(loader, vocabulary, values.count, colour):
        sys.stdout.write(f"{text}\n\n")
    sys.stdout.flush()


def _teacher(values: flags.FlagValues) -> None:
    """Writes the answers of a teacher."""
    from openba_jax.data.loader import BatchLoader
    from openba_jax.data.vocabularies.registry import open_vocabulary
    from openba_jax.distillation.asking import ask
    from openba_jax.distillation.settings import Distillation
    from openba_jax.objectives.mixture import get_mixture

    batches = BatchLoader(
        get_mixture(values.mixture),
        values.store,
        open_vocabulary(values.vocabulary, newline=values.newline),
        batch_size=values.rows,
        encoder_length=values.encoder_length,
        decoder_length=values.decoder_length,
        seed=1234 if values.seed is None else values.seed,
        held_out=values.held_out,
        pack=values.pack,
    )
    answers = ask(
        Distillation(
            values.teacher, temperature=values.temperature, teacher_dtype=values.teacher_dtype
        ),
        batches,
        values.vocabulary,
        values.output,
        student=values.student,
        steps=values.steps,
        top=values.top,
        progress=True,
    )
    sys.stdout.write(
        f"{answers.folder}: steps {values.steps:,}, the likeliest {values.top} pieces of each of "
        f"{'x'.join(map(str, answers.setting['shape'][:2]))} targets\n"
    )


def _sources(values: flags.FlagValues) -> list[TextSource]:
    """The sources that the flags name."""
    from openba_jax.data.text.chunks import TextSource

    if values.input:
        return [TextSource("input", values.input)]
    sources = []
    for text in values.source:
        name, _, rest = text.partition(":")
        weight, _, files = rest.partition(":")
        try:
            sources.append(TextSource(name, files.split(","), float(weight)))
        except ValueError as error:
            raise UserError(
                f"--source={text} has no number as weight; write NAME:WEIGHT:FILE[,FILE...]."
            ) from error
    return sources


def _rule(values: flags.FlagValues) -> RecordRule:
    """The rule that the flags name."""
    from openba_jax.data.text.conversations import Dialogues, Translations
    from openba_jax.data.text.rules import Instructions, TextGroups

    if values.kind == "spans":
        logging.warning("--kind=spans is now called --kind=text.")
    if values.kind in ("text", "spans"):
        return TextGroups(values.group_size, values.batch_size, values.text_column)
    limit = {} if values.max_length is None else {"max_length": values.max_length}
    if values.kind == "dialogues":
        return Dialogues(values.turns_column, **limit)
    if values.kind == "translations":
        for flag in ("language_columns", "translation_prompts"):
            if len(list(values[flag].value or ())) != 2:
                raise UserError(f"--{flag} must name two, one for each language.")
        return Translations(*values.language_columns, *values.translation_prompts, **limit)
    return Instructions(
        values.input_column,
        values.target_column,
        values.instruction_column,
        values.task_prefix,
        **limit,
    )


def _one_store(values: flags.FlagValues) -> str:
    """The only store."""
    if len(values.store) != 1:
        raise UserError(f"--store names {len(values.store)} stores; give one, or merge them.")
    return str(values.store[0])


def _report(prefix: str, manifest: dict[str, Any]) -> None:
    """Prints what a store holds, and what a reader should know of it."""
    numbers = manifest["numbers"]
    sys.stdout.write(f"{prefix}: {_listed(numbers)}\n")
    if special := numbers.get("special_tokens"):
        sys.stderr.write(
            f"warning: the text spells out special tokens such as <extra_id_0> {special:,} times; "
            "they became those tokens.\n"
        )
    if bad := numbers.get("bad_items"):
        lines = "1 line" if bad == 1 else f"{bad:,} lines"
        sys.stderr.write(f"warning: {lines} could not be used, see bad_items in {prefix}.json.\n")


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
