"""Arguments of every main: help and version that end with code 0, and mistakes in one sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from openba_jax.errors import UserError
from openba_jax.version import __version__

VERSION = f"openba_jax {__version__}"

_MISSING = re.compile(r"flag --(\w+)=None: Flag --\1 must have a value")


class _VersionFlag(flags.BooleanFlag):
    """`--version` prints the version and ends, as absl's own `--help` does."""

    def __init__(self) -> None:
        super().__init__("version", False, "Print the version and end.")

    def parse(self, arg: Any) -> None:
        """Prints."""
        if self._parse(arg):
            sys.stdout.write(f"{VERSION}\n")
            sys.exit(0)


def define_version_flag() -> None:
    """Defines `--version`."""
    flags.DEFINE_flag(_VersionFlag(), module_name="absl.app")  # Beside --help.


def rewrite_gin_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrites `--gin.NAME=VALUE` to `--gin_bindings=NAME = VALUE`.

    Raises:
      UserError: an argument starts with `--gin.` and has no `=`.
    """
    rewritten = []
    for argument in arguments:
        if argument.startswith("--gin."):
            name, equals, value = argument.removeprefix("--gin.").partition("=")
            if not equals:
                raise UserError(f"{argument} has no value; write {argument}=VALUE.")
            argument = f"--gin_bindings={name} = {value}"
        rewritten.append(argument)
    return rewritten


def parse(argv: Sequence[str]) -> list[str]:
    """Sets the flags; returns the name of the program and the words that are no flags.

    Raises:
      UserError: a flag is unknown or missing, or its value is of another type.
      SystemExit: of code 0, after help or version.
    """
    try:
        return list(flags.FLAGS(_with_short_help(rewrite_gin_arguments(argv))))
    except flags.Error as error:
        text, help_with = str(error), f"{argv[0].rpartition('/')[2]} --help shows the flags."
        if missing := _MISSING.findall(text):
            named = " and ".join(f"--{name}" for name in missing)
            raise UserError(f"{named} must be given; {help_with}") from error
        lines = "; ".join(line.strip() for line in text.splitlines() if line.strip())
        raise UserError(f"{lines.rstrip('. ')}; {help_with}") from error
    except SystemExit:  # absl ends its help with code 1.
        sys.exit(0)


def _with_short_help(argv: Sequence[str]) -> list[str]:
    """`-h` is `--help`; what stands behind `--` is for others."""
    end = argv.index("--") if "--" in argv else len(argv)
    return ["--help" if word == "-h" else word for word in argv[:end]] + list(argv[end:])
