"""The gin files: which there are for a main, and which macros they have.

Files are read as text and nothing that they name is imported, so this is quick.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from openba_jax.errors import UserError
from openba_jax.paths import local

_PACKAGE = Path(__file__).resolve().parent.parent

ROOT = _PACKAGE if (_PACKAGE / "gin").is_dir() else _PACKAGE.parent
"""The folder that holds `gin/`, which is searched for gin files besides those that flags name: the
package in a wheel, its parent in a checkout.
"""

_WIDEST = 36  # Column of values; longer ones push their comments aside.
_FOLDERS = ("gin/runs/native", "gin/runs/fit", "gin/sweeps", "gin/studies")


class Macro(NamedTuple):
    """A macro of a gin file.

    Attributes:
      name: as `--gin.NAME=VALUE` takes it.
      value: as gin spells it, `%gin.REQUIRED` where there is none yet.
      comment: what stands behind it in the file, or above it.
    """

    name: str
    value: str
    comment: str


def files_for(command: str) -> dict[str, str]:
    """The gin files whose first comment shows how a command is called with them.

    Args:
      command: `openba-train`, say.

    Returns:
      The first sentence of each file, by its path as `--gin_file` takes it.
    """
    found = {}
    for path in _native_files():
        header = _header((ROOT / path).read_text(encoding="utf-8"))
        if any(line.startswith(f"{command} ") for line in header):
            found[path] = " ".join(header).partition(". ")[0].removesuffix(".") + "."
    return found


def files_with(macro: str) -> list[str]:
    """The gin files that have a macro."""
    return [
        path for path in _native_files() if any(macro == m.name for m in macros([path], [], []))
    ]


def macros(files: Sequence[str], bindings: Sequence[str], folders: Sequence[str]) -> list[Macro]:
    """The macros of gin files with what they are bound to at last.

    Args:
      files: in order; what they include counts.
      bindings: `NAME = VALUE`, which come after all files.
      folders: searched for the files, and `ROOT` after them.

    Raises:
      UserError: a file is missing, or gin cannot read a file or a binding.
    """
    found: dict[str, Macro] = {}
    for file in files:
        for macro in _of_file(file, [*folders, str(ROOT)], ()):
            _add(found, macro)
    for binding in bindings:
        for macro in _of_text(binding, binding, [], ()):
            _add(found, macro)
    return list(found.values())


def as_table(rows: Sequence[Macro]) -> str:
    """Lines of name, value and comment, in columns."""
    values = ["(to be given)" if row.value == "%gin.REQUIRED" else row.value for row in rows]
    width = max((len(row.name) for row in rows), default=0)
    wide = min(max(map(len, values), default=0), _WIDEST)
    lines = [
        f"{row.name:{width}}  {value:{wide}}  {row.comment}".rstrip()
        for row, value in zip(rows, values, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines)


def _add(found: dict[str, Macro], macro: Macro) -> None:
    before = found.get(macro.name)
    comment = macro.comment or (before.comment if before else "")
    found[macro.name] = macro._replace(comment=comment)


def _native_files() -> list[str]:
    paths = (path for folder in _FOLDERS for path in sorted((ROOT / folder).glob("*.gin")))
    return [str(path.relative_to(ROOT)) for path in paths]


def _header(text: str) -> list[str]:
    """The lines of the comment that a file begins with, without `#`."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def _of_file(file: str, folders: Sequence[str], above: tuple[str, ...]) -> Iterator[Macro]:
    name = str(local(file))
    if name in above:
        raise UserError(f"gin: {file} includes itself, by {' and '.join(above)}.")
    for folder in folders:
        path = Path(folder) / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            yield from _of_text(text, file, folders, (*above, name))
            return
    raise UserError(f"gin: there is no file {file} in {', '.join(map(str, folders))}.")


def _of_text(
    text: str, where: str, folders: Sequence[str], above: tuple[str, ...]
) -> Iterator[Macro]:
    from gin import config_parser

    class Spelled(str):
        """What gin would look up, as it is spelled."""

        __slots__ = ()
        __repr__ = str.__str__

    class Delegate(config_parser.ParserDelegate):
        """Looks nothing up."""

        def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Spelled:
            return Spelled(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

        def macro(self, macro_name: str) -> Spelled:
            return Spelled(f"%{macro_name}")

    try:
        comments = _comments(text)
        for statement in config_parser.ConfigParser(text, Delegate()):
            if isinstance(statement, config_parser.IncludeStatement):
                yield from _of_file(statement.filename, folders, above)
            elif isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
                name = "/".join(filter(None, (statement.scope, statement.selector)))
                line = statement.location.line_num
                yield Macro(name, repr(statement.value), _comment(comments, line))
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"gin: {where} cannot be read: {why}.") from error


def _comments(text: str) -> dict[int, tuple[str, bool]]:
    """The comments by line, and whether nothing else is on the line."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]: (token.string.lstrip("#").strip(), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _comment(comments: dict[int, tuple[str, bool]], line: int) -> str:
    """The comment behind a line, else that above it, unless the file begins with it."""
    if line in comments:
        return comments[line][0]
    first = line
    while comments.get(first - 1, ("", False))[1]:
        first -= 1
    lines = [comments[number][0] for number in range(first, line)]
    return "" if first == 1 else re.sub(r"\s+", " ", " ".join(lines))
