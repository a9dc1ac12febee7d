r"""Compares tokenizers with those of `transformers`, before and after pruning.

It makes a tokenizer of each kind (or takes those that are given), writes it as a Hugging Face
folder, loads that with `AutoTokenizer`, and compares the ids of texts that are hard to encode: once
with special tokens read as such, once as text. The same again after the vocabulary was cut.
It needs an environment with `transformers`; parts of the package that need JAX are not imported.

  python scripts/compare_tokenizers.py --corpus=texts.jsonl --tokenizer=some/tokenizer.json

With `--record` it writes small tokenizers and the ids that `transformers` gives, which tests read.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from openba_jax.checkpoints.files.tokenizer_writer import WRITERS
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings

TEXTS = [
    "The capital of France is Paris.",
    "Don't you'll we've I'M THEY'RE; 3.14159 and 1,000,000 or 2024-11-26!",
    "日本的首都是哪里？东京。全角，标点！",
    "emoji 😀 👩‍👩‍👧 🇫🇷 and accents: naïve café, Ünïcödé, e\u0301",
    "two  blanks, three   blanks, and     five",
    "  leading blanks",
    "trailing blanks  ",
    "a line\nanother line\n\n\nthree newlines\r\nwindows",
    "\ttabs\t\tin\ta text",
    "",
    " ",
    "\n",
    "def f(x):\n    return x ** 2  # a comment\n",
    "العربية and हिन्दी and ไทย",
    "</s><s> <unk> <pad> <|im_end|> <|endoftext|> <extra_id_0> <bos> [INST]",
    "text</s>text <extra_id_0> text<extra_id_1>.",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "\u2581 the mark of a space \u2581a",
    "zero\u200bwidth and no\u00a0break \u3000 ideographic",
]


_KNOWN: dict[str, tuple[Callable[[str, bool], bool], str]] = {
    "LlamaTokenizer": (
        lambda text, special: text.startswith((" ", "\u2581")),
        "it leaves out one of the blanks at the beginning of a text, which sentencepiece keeps",
    ),
    "T5Tokenizer": (
        lambda text, special: not special and "<" in text,
        "it finds special tokens in texts where it is told not to",
    ),
}
"""Where `transformers` differs from sentencepiece: for a class, the texts, and what it does."""


def main() -> int:
    """Compares all tokenizers; 1 if one of them differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--corpus", action="append", default=[], help="JSON lines with `text`")
    parser.add_argument("--tokenizer", action="append", default=[], help="further files to compare")
    parser.add_argument("--keep", type=float, default=0.5, help="share of pieces to keep")
    parser.add_argument("--record", help="a folder for tokenizers and ids, to test against")
    values = parser.parse_args()
    if values.record:
        _record(Path(values.record))
        return 0
    texts = [*TEXTS, *_texts(values.corpus)]
    differences = 0
    with tempfile.TemporaryDirectory() as work:
        made = list(_made(Path(work), texts))
        for name, path in [*made, *((each, Path(each)) for each in values.tokenizer)]:
            differences += _compare(name, open_vocabulary(path), texts, Path(work))
            differences += _compare_pruned(name, path, texts, values.keep, Path(work))
    return int(differences > 0)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The text as it stands, and defaults."""


def _texts(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"][:2000]


def _made(folder: Path, texts: Sequence[str], pieces: int = 2000) -> Iterator[tuple[str, Path]]:
    """Tokenizers as T5, mT5, LLaMA, Gemma, SmolLM2 and LLaMA 3 have them, trained on the texts."""
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    common = {"vocab_size": pieces, "hard_vocab_limit": False, "minloglevel": 2}
    t5 = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    llama = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
    }
    gemma = {
        **llama,
        "add_dummy_prefix": False,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "bos_piece": "<bos>",
        "eos_piece": "<eos>",
        "pad_piece": "<pad>",
        "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>", "<unused0>", "<unused1>"],
    }
    own = [f"<extra_id_{k}>" for k in range(99, -1, -1)]
    kinds = {
        "t5": (t5, TokenizerSettings(kind="t5")),
        "mt5": ({**t5, "user_defined_symbols": own}, TokenizerSettings(kind="t5")),
        "llama": (llama, TokenizerSettings()),
        "gemma": (gemma, TokenizerSettings(special=("<start_of_turn>", "<end_of_turn>"))),
    }
    for name, (options, settings) in kinds.items():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines), model_writer=model, **{**common, **options}
        )
        path = folder / name / "tokenizer.model"
        path.parent.mkdir()
        path.write_bytes(model.getvalue())
        write_settings(path, settings)
        yield name, path
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    split = pre_tokenizers.Split(words, "isolated")
    for name, first in (("smollm", digits), ("llama3", split)):
        yield name, _byte_level(folder / name, lines, first, pieces)


def _byte_level(
    folder: Path, lines: Sequence[str], first: pre_tokenizers.PreTokenizer, pieces: int
) -> Path:
    """A byte-level BPE tokenizer, with bos before every text if words are whole pieces."""
    whole = isinstance(first, pre_tokenizers.Split)
    made = Tokenizer(models.BPE(ignore_merges=whole))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not whole)
    made.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[] if whole else special,
    )
    made.train_from_iterator(lines, trainer)
    if whole:  # Behind the pieces, as LLaMA 3 has them.
        made.add_special_tokens(special)
        made.add_tokens(["[INST]"])
        first_id = made.token_to_id(special[0])
        made.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    f"{special[0]} $A", special_tokens=[(special[0], first_id)]
                ),
            ]
        )
    path = folder / "tokenizer.json"
    folder.mkdir()
    made.save(str(path), pretty=False)
    write_settings(path, TokenizerSettings(bos=special[0], eos=special[2]))
    return path


def _record(folder: Path) -> None:
    """Writes small tokenizers and the ids that `transformers` gives for `TEXTS`."""
    with tempfile.TemporaryDirectory() as work:
        for name, path in _made(Path(work), [text * 3 for text in TEXTS], 450):
            if name in ("t5", "mt5"):  # The rules of normalization make these large.
                continue
            vocabulary = open_vocabulary(path)
            theirs_folder = Path(tempfile.mkdtemp(dir=work))
            WRITERS[vocabulary.kind](vocabulary, theirs_folder, 512)
            theirs = transformers.AutoTokenizer.from_pretrained(theirs_folder)
            is_known = _KNOWN.get(type(theirs).__name__, (lambda text, special: False, ""))[0]
            cases = [
                {
                    "text": text,
                    "special": special,
                    "ids": theirs(text, add_special_tokens=False, split_special_tokens=not special)[
                        "input_ids"
                    ],
                }
                for text in TEXTS
                for special in (True, False)
                if not is_known(text, special)
            ]
            saved = save_tokenizer(folder / name, vocabulary)
            lines = (json.dumps(case, ensure_ascii=False) for case in cases)
            (saved.parent / "ids.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compare(name: str, vocabulary: Vocabulary, texts: Sequence[str], work: Path) -> int:
    """Prints how many texts differ, and the first; returns their number."""
    folder = Path(tempfile.mkdtemp(dir=work))
    WRITERS[vocabulary.kind](vocabulary, folder, 512)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    kind = type(theirs).__name__
    is_known, reason = _KNOWN.get(kind, (lambda text, special: False, ""))
    count, known = 0, 0
    for special in (True, False):
        for text, ours in zip(texts, vocabulary.encode_all(texts, special), strict=True):
            found = theirs(text, add_special_tokens=False, split_special_tokens=not special)
            if found["input_ids"] != ours:
                if is_known(text, special):
                    known += 1
                    continue
                count += 1
                if count <= 5:
                    sys.stdout.write(
                        f"  {text[:60]!r}, special tokens {'read' if special else 'text'}\n"
                        f"    ours   {vocabulary.decode(ours)!r} {ours[:24]}\n"
                        f"    theirs {theirs.decode(found['input_ids'])!r} "
                        f"{found['input_ids'][:24]}\n"
                    )
    sys.stdout.write(f"{name}: {kind}, {count} of {2 * len(texts)} encodings differ")
    sys.stdout.write(f", and {known} since {reason}\n" if known else "\n")
    return count


def _compare_pruned(name: str, path: Path, texts: Sequence[str], keep: float, work: Path) -> int:
    """The same with the vocabulary cut to a share of its pieces."""
    from openba_jax.pruning.vocabulary import prune_vocabulary

    vocabulary = open_vocabulary(path)
    counts = np.bincount(
        np.concatenate(vocabulary.encode_arrays(texts)), minlength=vocabulary.token_count
    )
    pruned = prune_vocabulary(path, counts, int(keep * vocabulary.piece_count))
    folder = Path(tempfile.mkdtemp(dir=work))
    pruned.save(folder / pruned.file)
    return _compare(f"{name}, pruned", open_vocabulary(folder / pruned.file), texts, work)


if __name__ == "__main__":
    sys.exit(main())
