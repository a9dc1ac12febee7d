import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from made_up_text import words

from openba_jax.data.loader import BatchLoader
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.data.viewer import describe_samples, show
from openba_jax.objectives.mixture import get_mixture

COLOUR = re.compile(r"\x1b\[\d*m")


@pytest.fixture(scope="module")
def store(tmp_path_factory, vocabulary):
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "a.txt").write_text("\n".join(words(i, 60) for i in range(9)))
    prepare([TextSource("a", [folder / "a.txt"])], TextGroups(40), vocabulary, folder / "store")
    return folder / "store"


def test_samples_are_those_of_training(vocabulary, store):
    loader = BatchLoader(get_mixture("ul2"), [store], vocabulary, 3, 60, 50, seed=5)
    plain = list(describe_samples(loader, vocabulary, 7, colour=False))
    coloured = list(describe_samples(loader, vocabulary, 7, colour=True))
    assert [COLOUR.sub("", text) for text in coloured] == plain
    assert all(COLOUR.search(text) for text in coloured)
    for number, text in enumerate(plain):
        batch = loader.batch(number // 3)
        inputs = batch["encoder_input_tokens"][number % 3]
        targets = batch["decoder_target_tokens"][number % 3]
        title, first, second = text.split("\n")
        task = loader.mixture.tasks[loader.schedule.tasks_at(np.array([number]))[0]]
        assert title.startswith(f"sample {number}: {task.name}; inputs {(inputs > 0).sum()} of 60")
        assert f"targets {(targets > 0).sum()} of 50, {(targets > 0).sum()} with loss" in title
        for line, ids in ((first, inputs), (second, targets)):
            shown = line.split(maxsplit=1)[1]
            assert shown.split() == vocabulary.decode(ids[ids > 0]).split()


def test_the_id_0_of_a_decoder_is_a_token(vocabulary, store, monkeypatch):
    loader = BatchLoader(get_mixture("causal_lm"), [store], vocabulary, 1, 20, 20)
    batch = loader.batch(0)
    assert "inputs 0 and targets 40 of 40, " in next(describe_samples(loader, vocabulary, 1, False))
    batch["decoder_input_tokens"][:, -2:] = 0
    monkeypatch.setattr(loader, "batch", lambda step, rows: batch)
    shown = next(describe_samples(loader, vocabulary, 1, colour=False))
    assert "targets 40 of 40" in shown
    assert shown.endswith("<pad> <pad>")


def test_a_span_has_the_colour_of_its_sentinel(vocabulary):
    ids = np.array([vocabulary.sentinel(1), *vocabulary.encode("ba"), 1])
    assert show(ids, vocabulary, colour=True, spans=True) == (
        "\x1b[33m<extra_id_1>\x1b[0m \x1b[33mba\x1b[0m \x1b[2m</s>\x1b[0m"
    )
    assert show(ids, vocabulary, colour=True).count("\x1b[33m") == 1
    assert show(ids, vocabulary, colour=False) == "<extra_id_1> ba </s>"
    assert show(np.array([5, 0, 5]), vocabulary, colour=False).count("<pad>") == 1


def test_a_text_does_not_command_the_terminal(vocabulary):
    ids = np.array([*vocabulary.encode("ba"), 3 + 0x1B, 3 + 0x9B])  # Byte pieces.
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", show(ids, vocabulary, colour=False))
    assert show(ids, vocabulary, colour=False).startswith("ba\ufffd")


def run_show(vocabulary, store, *more, terminal=False, **environment):
    arguments = [sys.executable, "-m", "openba_jax.prepare", "show", f"--store={store}"]
    arguments += [f"--vocabulary={vocabulary.path}", *more]
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    if not terminal:
        made = subprocess.run(arguments, capture_output=True, env=environment, text=True)
        assert made.returncode == 0, made.stderr
        return made.stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(arguments, stdout=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # The terminal's other end is closed.
            break
        if not block:
            break
        output += block
    os.close(ours)
    assert process.wait() == 0
    return output.decode()


def test_command_line(vocabulary, store):
    plain = run_show(vocabulary, store, "--count=3", "--mixture=span_corruption")
    assert plain.count("sample ") == 3
    assert not COLOUR.search(plain)
    again = run_show(vocabulary, store, "--count=3", "--mixture=span_corruption", "--seed=7")
    assert again.count("sample ") == 3
    assert again != plain
    coloured = run_show(vocabulary, store, "--count=3", "--mixture=span_corruption", terminal=True)
    assert COLOUR.search(coloured)
    assert COLOUR.sub("", coloured).replace("\r\n", "\n") == plain
    assert not COLOUR.search(run_show(vocabulary, store, terminal=True, NO_COLOR="1"))
