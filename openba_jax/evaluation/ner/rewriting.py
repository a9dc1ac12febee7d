"""The answers that are a sentence with a label behind each word, as an automaton over tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from openba_jax.data.ner.prompts import answer
from openba_jax.inference.prompts import PromptFrame

Node = dict[Any, Any]
"""A node of a trie: token -> node; what stands below `_END` says that a sequence ends here."""

_END = None


class Parts:
    """The tokens of words with labels, as tries.

    A word with its label is a part that is encoded alone: pieces do not reach across the blanks
    between parts, so that the tokens are those of the whole answer.
    """

    def __init__(self, frame: PromptFrame) -> None:
        """Keeps the frame of prompts and answers."""
        self._frame = frame
        first = frame.vocabulary.pieces(frame.vocabulary.encode("a"))[0]
        self._blank = "" if first.startswith("▁") else " "
        self._tries: dict[tuple[str, tuple[str, ...], bool], Node] = {}
        mark = -1
        framed = frame.framed_answer([mark])
        self.leading: list[int] = framed[: framed.index(mark)]

    def trie(self, word: str, labels: tuple[str, ...], first: bool) -> Node:
        """A word with each of some labels; words recur in the sentences of a data set.

        Args:
          word: the word.
          labels: that it may have.
          first: whether it begins the answer.
        """
        key = word, labels, first
        if key not in self._tries:
            before = self._frame.separator if first else self._blank
            encode = self._frame.vocabulary.encode
            texts = (before + answer([word], [label]) for label in labels)
            self._tries[key] = make_trie(map(encode, texts))
        return self._tries[key]


class Rewriting:
    """The words of a sentence in order, each with one of some labels; a `constrained.Automaton`."""

    def __init__(
        self,
        words: Sequence[str],
        labels: Iterable[str],
        trie: Callable[[str, tuple[str, ...], bool], Node],
        leading: Sequence[int],
        end: int,
    ) -> None:
        """Begins.

        Args:
          words: of the sentence.
          labels: that there are.
          trie: the trie of a word, see `Parts.trie`.
          leading: tokens in front of the answer.
          end: the token that ends it.
        """
        self._words = words
        self._labels = tuple(sorted(labels))
        self._trie = trie
        self._end = end
        # Parts, and where in their tries what was read may be: more than one place where the tokens
        # of a label are the beginning of another's.
        self._places = [(-1, make_trie([leading]))] if leading else [(0, self._root(0))]

    def allowed(self) -> list[int]:
        """The tokens that may follow; none where the answer is whole."""
        return sorted({token for _, node in self._places for token in node if token is not _END})

    def read(self, token: int) -> None:
        """Goes on with one of them."""
        places = [(part, node[token]) for part, node in self._places if token in node]
        ended = [part for part, node in places if _END in node]
        self._places = places + [(part + 1, self._root(part + 1)) for part in ended]

    def _root(self, part: int) -> Node:
        """What a part may be; behind the last word there is the end, and nothing behind that."""
        if part < len(self._words):
            return self._trie(self._words[part], self._labels, part == 0)
        return {self._end: {}}


def make_trie(sequences: Iterable[Sequence[int]]) -> Node:
    """The trie of some sequences of tokens."""
    root: Node = {}
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
        node[_END] = {}
    return root
