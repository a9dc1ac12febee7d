"""Measures `openba-prepare tokens`: speed beside sentencepiece alone, memory, and kills.

The corpus is made up of a given text until it is as large as asked, and deleted afterwards. The
vocabulary has 32,000 pieces by default, trained on the same text if none is given. Needs psutil.

python scripts/benchmarks/prepare.py --text=corpus.jsonl
python scripts/benchmarks/prepare.py --text=corpus.jsonl --megabytes=1000
python scripts/benchmarks/prepare.py --text=corpus.jsonl --kills=20
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import sentencepiece
from absl import app, flags

from openba_jax.data.text.documents import column, read_records
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.files import sha256

_TEXT = flags.DEFINE_list("text", None, "Files with a column `text`.", required=True)
_VOCABULARY = flags.DEFINE_string("vocabulary", None, "A sentencepiece .model file.")
_MEGABYTES = flags.DEFINE_integer("megabytes", 100, "Size of the corpus.", lower_bound=1)
_WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "Cores that each side uses.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each; the median counts.")
_KILLS = flags.DEFINE_integer("kills", 0, "Kill a run so often, in place of the measurements.")


def main(argv: Sequence[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [column(r, "text", place) for place, r in read_records(_TEXT.value)]
        model = _VOCABULARY.value
        if model is None:
            model = train_vocabulary(texts, 32_000, folder / "tokenizer.model").path
        size = _write_corpus(texts, folder / "corpus.jsonl")
        print(f"{size / 1e6:,.0f} MB of JSON lines, {_WORKERS.value} cores")
        command = [
            *(sys.executable, "-m", "openba_jax.prepare", "tokens"),
            *(f"--input={folder}/corpus.jsonl", f"--vocabulary={model}"),
            f"--workers={_WORKERS.value}",
        ]
        if _KILLS.value:
            _kill(command, folder)
        else:
            _measure(command, str(model), folder, size)


def _write_corpus(texts: Sequence[str], path: Path) -> int:
    """Writes documents drawn by chance, with a part of each left out, until there are enough."""
    rng = random.Random(0)
    size = 0
    with path.open("wb") as file:
        while size < _MEGABYTES.value * 1_000_000:
            text = rng.choice(texts)
            start = rng.randrange(1 + len(text) // 4)
            size += file.write(json.dumps({"text": text[start:]}, ensure_ascii=False).encode())
            size += file.write(b"\n")
    return size


def _measure(command: Sequence[str], model: str, folder: Path, size: int) -> None:
    """Both sides by turns, so that neither has the quieter machine."""
    alone, whole, peaks = [], [], []
    for repeat in range(_REPEATS.value):
        alone.append(_sentencepiece_alone(model, folder / "corpus.jsonl"))
        seconds, peak = _run([*command, f"--output={folder}/store{repeat}"])
        whole.append(seconds)
        peaks.append(peak)
        for file in folder.glob(f"store{repeat}.*"):
            file.unlink()
    first, second = statistics.median(alone), statistics.median(whole)
    print(f"sentencepiece alone, {_WORKERS.value} threads: {size / first / 1e6:.2f} MB/s")
    print(
        f"openba-prepare from start to end:  {size / second / 1e6:.2f} MB/s, "
        f"{first / second:.0%} of that speed"
    )
    print(f"peak memory of all its processes:  {max(peaks) / 2**20:,.0f} MiB")


def _sentencepiece_alone(model: str, corpus: Path) -> float:
    """Seconds for the encoding of texts that are in memory already, in parts that fit there."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=model)
    seconds = 0.0
    texts: list[str] = []
    waiting = 0
    with corpus.open("rb") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            waiting += len(line)
            if waiting > 20_000_000:
                seconds += _timed(pieces, texts)
                texts, waiting = [], 0
    return seconds + _timed(pieces, texts)


def _timed(pieces: sentencepiece.SentencePieceProcessor, texts: list[str]) -> float:
    start = time.perf_counter()
    pieces.EncodeAsNumpy(texts, num_threads=_WORKERS.value)
    return time.perf_counter() - start


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and the most memory that a command and its children had to themselves, in bytes."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    handle = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for each in [handle, *handle.children(recursive=True)]:
            try:
                total += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak


def _kill(command: Sequence[str], folder: Path) -> None:
    """Kills runs at random moments and compares what comes out with an unbroken run.

    A run that comes to its end before it is killed is compared, too, and another is begun.
    """
    seconds, _ = _run([*command, f"--output={folder}/whole"])
    rng = random.Random(1)
    arguments = [*command, f"--output={folder}/killed", "--save_seconds=0.1"]
    kills = resumed = ended = 0
    while kills < _KILLS.value:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            _compare(folder)
            ended += 1
            continue
        kills += 1
        resumed += (folder / "killed.progress").exists()
    _run(arguments)
    _compare(folder)
    print(
        f"{kills} kills, {resumed} of them with progress to resume; {ended + 1} runs came to an "
        "end, all with the bytes of an unbroken one"
    )


def _compare(folder: Path) -> None:
    """Compares what was written with the unbroken run, and removes it."""
    for suffix in (".bin", ".idx", ".counts.txt"):
        whole, killed = folder / f"whole{suffix}", folder / f"killed{suffix}"
        if sha256(whole) != sha256(killed):
            raise SystemExit(f"{suffix}: OTHER BYTES")
        killed.unlink()
    (folder / "killed.json").unlink()


if __name__ == "__main__":
    app.run(main)
