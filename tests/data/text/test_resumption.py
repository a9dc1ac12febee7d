"""However often it is broken off, and however many work on it: the same bytes."""

import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from made_up_text import words

from openba_jax.data.text import chunks, encoding, preparation
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.errors import UserError

FILES = (".bin", ".idx", ".json", ".counts.txt")


class BrokenOffError(Exception):
    """Stands for whatever ends a run."""


def written(prefix):
    """What is left behind, which must be the store's files alone."""
    names = {path.name for path in prefix.parent.glob(f"{prefix.name}.*")}
    assert names == {prefix.name + suffix for suffix in FILES}
    return {suffix: prefix.with_name(prefix.name + suffix).read_bytes() for suffix in FILES[:2]} | {
        "manifest": json.loads(prefix.with_name(prefix.name + ".json").read_text())["numbers"],
        "counts": prefix.with_name(prefix.name + ".counts.txt").read_bytes(),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sources in three files, with blank and broken lines in the middle."""
    folder = tmp_path_factory.mktemp("sources")
    lines = [json.dumps({"text": words(i, 5 + i % 40)}) for i in range(120)]
    lines[17], lines[60] = "", '{"text": '
    (folder / "a.jsonl").write_text("\n".join(lines[:70]) + "\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[70:]).encode()))
    (folder / "c.txt").write_text("\n".join(words(200 + i, 30) for i in range(50)))
    return [
        TextSource("one", [folder / "a.jsonl", folder / "b.jsonl.gz"], 2.0),
        TextSource("two", [folder / "c.txt"], 1.0),
    ]


@settings(deadline=None, max_examples=15)
@given(
    breaks=st.lists(st.integers(0, 12), max_size=4),
    batch_size=st.sampled_from([0, 1, 7, 1000]),
    chunk_bytes=st.sampled_from([300, 1000, 5000]),
)
def test_broken_runs(tmp_path_factory, vocabulary, sources, breaks, batch_size, chunk_bytes):
    folder = tmp_path_factory.mktemp("broken")
    rule = TextGroups(group_size=16, batch_size=batch_size)
    prepare(sources, rule, vocabulary, folder / "whole")
    encode = preparation.encode_chunks

    def break_off(after):
        def encode_some(*arguments):
            results = encode(*arguments)
            for _ in range(after):
                yield next(results)
            raise BrokenOffError

        return encode_some

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        for after in breaks:
            patch.setattr(preparation, "encode_chunks", break_off(after))
            with pytest.raises((BrokenOffError, StopIteration, RuntimeError)):
                prepare(sources, rule, vocabulary, folder / "broken", save_seconds=-1)
        patch.setattr(preparation, "encode_chunks", encode)
        prepare(sources, rule, vocabulary, folder / "broken", save_seconds=-1)
    assert written(folder / "broken") == written(folder / "whole")


@pytest.mark.parametrize("moment", ["write_atomically", "describe_files", "write_manifest"])
def test_broken_off_while_finishing(vocabulary, sources, tmp_path, monkeypatch, moment):
    rule = TextGroups(group_size=16)
    prepare(sources, rule, vocabulary, tmp_path / "whole")

    def fail(*arguments):
        raise BrokenOffError

    # The manifests that say that the work is unfinished, and what it is, are written.
    first = [preparation.write_manifest] * 2 if moment == "write_manifest" else []

    def once(*arguments):
        return first.pop()(*arguments) if first else fail()

    with monkeypatch.context() as patch:
        patch.setattr(preparation, moment, once)
        with pytest.raises(BrokenOffError):
            prepare(sources, rule, vocabulary, tmp_path / "broken", save_seconds=-1)
    assert (tmp_path / "broken.bin").exists()
    prepare(sources, rule, vocabulary, tmp_path / "broken")
    assert written(tmp_path / "broken") == written(tmp_path / "whole")


def test_other_work_starts_anew(vocabulary, sources, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(sources, TextGroups(16), vocabulary, tmp_path / "out", save_seconds=-1)
    assert (tmp_path / "out.progress").exists()
    prepare(sources[1:], TextGroups(16), vocabulary, tmp_path / "out")
    prepare(sources[1:], TextGroups(16), vocabulary, tmp_path / "fresh")
    assert written(tmp_path / "out") == written(tmp_path / "fresh")


def test_unfinished_work_of_an_earlier_version_starts_anew(
    sources, vocabulary, tmp_path, monkeypatch
):
    """Its files have another name, which does not stay behind."""
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(sources, TextGroups(16), vocabulary, tmp_path / "out", save_seconds=-1)
    (tmp_path / "out.text.tmp").rename(tmp_path / "out.spans.tmp")
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "out")
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "whole")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_broken_off_after_the_end(vocabulary, sources, tmp_path, monkeypatch):
    """Nothing but the store stays, whenever the run was killed."""
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(preparation.Progress, "remove", lambda state: 1 / (not state.saved))
        with pytest.raises(ZeroDivisionError):
            prepare(sources, TextGroups(16), vocabulary, tmp_path / "out", save_seconds=-1)
    assert (tmp_path / "out.text.tmp").exists()
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "out")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


@pytest.mark.parametrize("lost", [".bin.tmp", ".lengths.tmp", ".progress"])
@pytest.mark.parametrize("all_of_it", [True, False])
def test_unfinished_files_that_were_lost(
    vocabulary, sources, tmp_path, monkeypatch, lost, all_of_it
):
    """The work starts anew."""
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(sources, TextGroups(16), vocabulary, tmp_path / "out", save_seconds=-1)
    path = tmp_path / f"out{lost}"
    if all_of_it:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "out")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_full_disk(vocabulary, sources, tmp_path, monkeypatch):
    """What was written stays; with room again, the run goes on."""
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "whole")
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepare(sources, TextGroups(16), vocabulary, tmp_path / "out", save_seconds=-1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert (tmp_path / "out.progress").exists()
    read = []
    encode = preparation.encode_chunks

    def count(sources, *arguments):
        return encode((read.append(chunk) or chunk for chunk in sources), *arguments)

    monkeypatch.setattr(preparation, "encode_chunks", count)
    prepare(sources, TextGroups(16), vocabulary, tmp_path / "out")
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert read[0].start > 0


def test_a_full_disk_is_one_sentence(vocabulary, sources, tmp_path):
    limited = ["bash", "-c", 'ulimit -f 3; exec "$@"', "-"]  # Files of three kilobytes at most.
    made = subprocess.run(
        limited + command(sources[1].files[0], vocabulary, tmp_path / "out", "--group_size=16"),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 2
    assert made.stderr.count("\n") == 1
    assert "out: File too large" in made.stderr
    assert "run the same command again" in made.stderr
    assert not (tmp_path / "out.bin").exists()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Large enough for two workers."""
    path = tmp_path_factory.mktemp("large") / "corpus.jsonl"
    texts = [words(i, 500) for i in range(40)]
    with path.open("w") as file:
        for i in range(4500):
            file.write(json.dumps({"text": texts[i % 40][i % 7 :], "targets": "ba"}) + "\n")
    return path


def command(file, vocabulary, output, *more):
    return [
        *(sys.executable, "-m", "openba_jax.prepare", "tokens", f"--input={file}"),
        *(f"--vocabulary={vocabulary.path}", f"--output={output}", *more),
    ]


@pytest.mark.parametrize("kind", ["text", "instructions"])
def test_workers_change_nothing(large, vocabulary, tmp_path, kind, monkeypatch):
    rule = TextGroups(100) if kind == "text" else Instructions("text", instruction_column="none")
    for name, workers, threads in (("one", 1, 4), ("threads", 2, 4), ("processes", 2, 1)):
        monkeypatch.setattr(encoding, "_MOST_THREADS", threads)
        source = [TextSource("all", [large])]
        prepare(source, rule, vocabulary, tmp_path / name, workers=workers)
    assert written(tmp_path / "one") == written(tmp_path / "threads")
    assert written(tmp_path / "one") == written(tmp_path / "processes")


def run_with_kills(large, vocabulary, tmp_path, kills, seed):
    """Kills runs at random moments, then lets one end; how many of them had saved progress.

    A run that ends before it is killed must have the same bytes, too, and another one is begun.
    """
    prepare([TextSource("input", [large])], TextGroups(), vocabulary, tmp_path / "whole")
    whole = written(tmp_path / "whole")
    rng = np.random.default_rng(seed)
    fast = ("--workers=2", "--save_seconds=0")
    arguments = command(large, vocabulary, tmp_path / "killed", *fast)
    start = time.monotonic()
    subprocess.run(command(large, vocabulary, tmp_path / "timed", *fast), check=True)
    longest = time.monotonic() - start
    killed = resumed = 0
    while killed < kills:
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1) * longest)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            assert written(tmp_path / "killed") == whole
            for path in tmp_path.glob("killed.*"):
                path.unlink()
            longest *= 0.9  # The machine has become faster.
            continue
        killed += 1
        resumed += (tmp_path / "killed.progress").exists()
    subprocess.run(arguments, check=True)
    assert written(tmp_path / "killed") == whole
    return resumed


def test_killed_runs(large, vocabulary, tmp_path):
    run_with_kills(large, vocabulary, tmp_path, kills=3, seed=0)


@pytest.mark.slow(reason="kills a preparation twenty times")
def test_twenty_killed_runs(large, vocabulary, tmp_path):
    assert run_with_kills(large, vocabulary, tmp_path, kills=20, seed=1) > 0


def test_workers_end_with_their_parent(large, vocabulary, tmp_path):
    if not Path("/proc/self/stat").exists():
        pytest.skip("there is no /proc to find the workers in")
    program = (
        "from openba_jax import prepare; from openba_jax.data.text import encoding\n"
        "if __name__ == '__main__': encoding._MOST_THREADS = 1; prepare.run()"
    )
    arguments = command(large, vocabulary, tmp_path / "out", "--workers=2")[3:]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    deadline = time.monotonic() + 30
    workers = []
    while len(workers) < 3 and time.monotonic() < deadline and process.poll() is None:
        workers = children(process.pid)  # Two, and multiprocessing's resource tracker.
    process.kill()
    process.wait()
    assert len(workers) == 3
    while any(process_state(pid) not in ("Z", None) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.05)


def children(parent):
    pids = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if process_state(pid, 1) == str(parent)]


def process_state(pid, field=0):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field]
    except OSError:
        return None


def test_a_dead_worker_is_told(large, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_MOST_THREADS", 1)
    monkeypatch.setattr(encoding, "_work", dies)
    with pytest.raises(UserError, match="a worker process ended before its time"):
        prepare([TextSource("all", [large])], TextGroups(), vocabulary, tmp_path / "out", workers=2)


def dies(chunk):
    signal.raise_signal(signal.SIGKILL)


_TRAINING = """
import sys
import hashlib
import itertools
from openba_jax.data.loader import BatchLoader
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.objectives.mixture import get_mixture

store, model, start = sys.argv[1:]
loader = BatchLoader(get_mixture("ul2"), [store], OpenBAVocabulary(model), 8, 120, 100, seed=3)
for step in itertools.count(int(start)):
    batch = loader.batch(step)
    digest = hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch)))
    print(step, digest.hexdigest(), flush=True)
"""


@pytest.mark.parametrize(
    "kills",
    [3, pytest.param(20, marks=pytest.mark.slow(reason="starts twenty processes"))],
)
def test_killed_readers_see_the_same_batches(large, vocabulary, tmp_path, kills):
    sources = [TextSource("one", [large], 2.0), TextSource("two", [large], 1.0)]
    prepare(sources, TextGroups(100), vocabulary, tmp_path / "store")
    command = [sys.executable, "-c", _TRAINING, str(tmp_path / "store"), str(vocabulary.path)]

    def read(start, count):
        """Some lines of a reader that is then killed."""
        with subprocess.Popen([*command, str(start)], stdout=subprocess.PIPE, text=True) as reader:
            lines = [reader.stdout.readline() for _ in range(count)]
            reader.kill()
        return lines

    counts = np.random.default_rng(kills).integers(1, 17, kills).tolist()
    whole = read(0, sum(counts))
    assert len(set(whole)) == sum(counts)
    assert all(len(line.split()[1]) == 64 for line in whole)
    seen = 0
    for count in counts:
        assert read(seen, count) == whole[seen : seen + count]
        seen += count
