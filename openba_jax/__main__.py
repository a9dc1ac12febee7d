"""All commands by one name: `openba COMMAND ...` is `openba-COMMAND ...`.

openba                  lists the commands
openba train --help     shows one of them, as does openba help train
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from pathlib import Path

from openba_jax.cli.arguments import VERSION

COMMANDS = {
    "inspect": "inspect.__main__",
    "sizes": "inspect.sizes",
    "convert": "convert",
    "prepare": "prepare",
    "prepare-ner": "data.ner.__main__",
    "fit": "fit.__main__",
    "train": "train",
    "prune": "prune",
    "score": "pruning.__main__",
    "pipeline": "pipeline",
    "search": "search.__main__",
    "sweep": "sweep",
    "study": "study.__main__",
    "report": "report.__main__",
    "eval": "eval",
    "lm-eval": "harness.command",
    "infer": "infer",
    "chat": "serving.chat",
    "serve": "serving.serve",
}
"""Name of a command -> the module of its main, in the order of the list."""


def summary(command: str) -> str:
    """The first line of what a main says of itself; nothing is imported."""
    path = Path(__file__).parent / f"{COMMANDS[command].replace('.', '/')}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def page() -> str:
    """The list of the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(name)}\n" for name in COMMANDS]
    return (
        f"{VERSION}: compresses language models.\n\nopenba COMMAND ..., or openba-COMMAND ...:\n\n"
        f"{''.join(lines)}\nopenba COMMAND --help shows flags and examples.\n"
    )


def main(argv: list[str]) -> int:
    """Starts a command; returns the exit code where that fails.

    Args:
      argv: the words behind the name of the program.
    """
    asks_for_help = bool(argv) and argv[0] in ("help", "--help", "-h", "--helpfull")
    if asks_for_help and len(argv) > 1:
        argv = [argv[1], "--help"]
    elif asks_for_help or not argv:
        sys.stdout.write(page())
        return 0
    name, *rest = argv
    if name == "--version":
        sys.stdout.write(f"{VERSION}\n")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "openba lists those that there are."
        sys.stderr.write(f"error: there is no command {name}; {hint}\n")
        return 2
    sys.argv = [f"openba-{name}", *rest]
    importlib.import_module(f"openba_jax.{COMMANDS[name]}").run()
    return 0


def run() -> None:
    """Entry point."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
