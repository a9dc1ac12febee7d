"""What every main shares: gin flags as T5X spells them, and user errors without stack traces.

The gin surface is T5X's (`t5x/gin_utils.py`): `--gin_file` and `--gin_search_paths` may repeat,
`--gin.NAME=VALUE` is rewritten to `--gin_bindings='NAME = VALUE'`, later bindings win.
"""

from __future__ import annotations

import difflib
import functools
import io
import logging as py_logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from openba_jax.cli import arguments, gin_files, gin_values, host_memory
from openba_jax.errors import UserError, exhausted
from openba_jax.paths import local

# gin raises plain exceptions, which are told apart by what they say.
_GIN_PHRASES = ("Required bindings", "Unable to find value for", "macro", "by Gin")

_MOST_FILES = 3  # That a hint names.

IGNORE_MEMORY = "OPENBA_IGNORE_MEMORY"
"""The environment variable that `--ignore_memory` sets, for this process and those it starts."""

_BROKEN_PIPE = 141  # As a shell reports a program that the signal SIGPIPE ended.


def define_gin_flags() -> None:
    """Defines `--gin_file`, `--gin_bindings`, `--gin_search_paths` and `--macros`."""
    flags.DEFINE_multi_string("gin_file", [], "Path to a gin file; may be given several times.")
    flags.DEFINE_multi_string("gin_bindings", [], "A gin binding; --gin.NAME=VALUE does the same.")
    flags.DEFINE_list("gin_search_paths", ["."], "Comma-separated folders searched for gin files.")
    flags.DEFINE_bool(
        "macros", False, "List the macros of the given gin files, which --gin.MACRO=VALUE sets."
    )


def define_memory_flag() -> None:
    """Defines `--ignore_memory`, for mains that put a model into memory."""
    flags.DEFINE_bool(
        "ignore_memory", False, "Begin even if there is too little memory, as far as one can tell."
    )


def define_process_flags() -> None:
    """Defines what `join_processes` reads."""
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0, on all processes.")
    flags.DEFINE_integer("process_count", None, "How many processes take part.", lower_bound=1)
    flags.DEFINE_integer("process_index", None, "Number of this process, from 0.", lower_bound=0)
    flags.DEFINE_bool("multiprocess", False, "Let JAX find out about the other processes.")


def join_processes() -> None:
    """Meets the other processes of a run, if there are any; before JAX looks for devices.

    Raises:
      UserError: the flags do not go together, or JAX finds no other processes. Where these do not
        come, though, XLA ends the process itself after five minutes.
    """
    values = flags.FLAGS
    named = (values.coordinator_address, values.process_count, values.process_index)
    missing = named.count(None)
    if missing not in ((3,) if values.multiprocess else (0, 3)):
        raise UserError(
            "give --coordinator_address, --process_count and --process_index together, or "
            "--multiprocess alone."
        )
    if missing and not values.multiprocess:
        return
    if values.process_index is not None and values.process_index >= values.process_count:
        raise UserError(
            f"--process_index={values.process_index} is none of {values.process_count} processes; "
            "they count from 0."
        )
    if values.coordinator_address and not values.coordinator_address.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator_address={values.coordinator_address} is not host:port.")
    import jax

    try:
        jax.distributed.initialize(*named)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of the run cannot be joined ({_first_sentence(error)}); without a "
            "cluster that JAX knows, give --coordinator_address and the two that go with it."
        ) from error


def say(text: str) -> None:
    """Prints a line, on the first process alone."""
    import jax

    if jax.process_index() == 0:
        sys.stdout.write(text + "\n")


def parse_gin(complete: bool = True) -> None:
    """Parses the gin files and bindings given by flags, and locks the configuration.

    Configurables must be imported before. After `--gin_search_paths`, `gin_files.ROOT` is searched,
    so that `--gin_file=gin/...` and `include 'gin/...'` work from any working folder.

    Args:
      complete: whether every macro must have a value; without it nothing is locked, and one that
        lacks its value is an error where it is read.

    Raises:
      UserError: a file is missing, a binding names a macro or a scope that nothing reads, or gin
        refuses what a file or a binding says.
    """
    import importlib.util  # noqa: F401  gin uses it and imports importlib alone.

    import gin

    files = [str(local(file)) for file in flags.FLAGS.gin_file]
    for folder in _search_paths():
        gin.add_config_file_search_path(folder)
    root = py_logging.getLogger()
    level = root.level
    # Where a file is not in the first folder but in the next, gin logs an error.
    root.setLevel(py_logging.CRITICAL)
    try:
        gin.parse_config_files_and_bindings(files, [], finalize_config=False)
        _check_macros(flags.FLAGS.gin_bindings)
        for binding in flags.FLAGS.gin_bindings:
            _parse_binding(binding)
        check_scopes(flags.FLAGS.gin_bindings, gin.config_str())
        if complete:
            gin.finalize()
    except (OSError, ValueError, SyntaxError, TypeError, ImportError, AttributeError) as error:
        raise UserError(f"gin: {_first_sentence(error)}") from error
    finally:
        root.setLevel(level)


def _parse_binding(binding: str) -> None:
    """Parses one binding.

    Raises:
      UserError: gin refuses it; the message names it.
    """
    import gin

    try:
        gin.parse_config(binding)
    except (ValueError, SyntaxError, TypeError) as error:
        value = binding.partition("=")[2].strip()
        why = _first_sentence(error)
        if why.startswith("malformed node"):  # The rest is an address of Python's.
            why = "this is no Python value"
        if "surrogates not allowed" in why:
            why = "this is not UTF-8"
        hint = "" if value[:1] in "'\"([{%@0123456789-" else f"; text stands in quotes: '{value}'"
        raise UserError(f"gin: {binding}: {why}{hint}") from error


def _search_paths() -> list[str]:
    return [*(str(local(folder)) for folder in flags.FLAGS.gin_search_paths), str(gin_files.ROOT)]


def _check_macros(bindings: Sequence[str]) -> None:
    """gin takes a misspelt macro for a new one, which nobody reads.

    Raises:
      UserError: a binding names a macro that neither the files nor other bindings know.
    """
    import gin

    known = {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"}
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if not name.isidentifier() or name in known:
            continue
        if any(f"%{name}" in other for other in bindings):
            continue
        hint = "."
        if others := gin_files.files_with(name):
            more = [f"{len(others) - _MOST_FILES} more"] if len(others) > _MOST_FILES else []
            named = " and ".join([*others[:_MOST_FILES], *more])
            hint = f"; {named} {'have' if len(others) > 1 else 'has'} it."
        elif close := difflib.get_close_matches(name, known, 1):
            hint = f"; did you mean {close[0]}?"
        raise UserError(f"no gin file that is given has a macro {name}{hint}")


def check_scopes(bindings: Sequence[str], settings: str) -> None:
    """gin takes a misspelt scope for a new one, which nothing is made with.

    Args:
      bindings: those given by flags, such as `width_1/Stage.mlp = 96`.
      settings: all of the configuration, as gin prints it.

    Raises:
      UserError: nothing is made with the scope of a binding.
    """
    used = set(re.findall(r"@([\w/]+)/[\w.]+", settings))
    known = {"/".join(scope.split("/")[:n]) for scope in used for n in range(1, len(scope) + 1)}
    for binding in bindings:
        scope, slash, _ = binding.partition("=")[0].strip().rpartition("/")
        if slash and scope not in known:
            names = f"known are {', '.join(sorted(known))}" if known else "no gin file has any"
            raise UserError(f"{binding}: there is no scope {scope}; {names}.")


def reject_positional(argv: Sequence[str]) -> None:
    """For mains that take flags alone.

    Raises:
      UserError: there are words that are no flags, which absl passes on and nobody would read.
    """
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; write --NAME=VALUE, in quotes if it has blanks.")


def call_configured(function: Callable[..., object]) -> object:
    """Calls a gin-configurable function; a macro or argument left open becomes a `UserError`.

    gin resolves macros and required arguments only when the function is called; everything else
    that goes wrong inside is passed through untouched.
    """
    try:
        return function()
    except UserError as error:
        # gin appends where in the configuration the call stands.
        raise UserError(_first_sentence(error)) from error
    except (ValueError, RuntimeError, TypeError) as error:
        text = str(error)
        if any(phrase in text for phrase in _GIN_PHRASES):
            raise UserError(f"gin: {_first_sentence(error)}") from error
        raise


def run_configured(function: Callable[..., object], argv: Sequence[str]) -> None:
    """The whole of a main that calls one function with the arguments that gin binds.

    Raises:
      UserError: there are words that are no flags, the processes of the run cannot be joined, gin
        refuses what it is given, or the function raises it.
    """
    reject_positional(argv)
    join_processes()
    import gin

    configured = gin.external_configurable(gin_values.checked(function), function.__name__)
    parse_gin()
    call_configured(configured)


def run_with_gin(
    main: Callable[[Sequence[str]], None], command: str, instead: Sequence[str] = ()
) -> None:
    """`run` for a main that gin configures; defines gin's flags and answers `--macros`.

    Args:
      main: the main.
      command: its name, as gin files show it in their first comment.
      instead: flags of which one may stand in place of a gin file.
    """
    define_gin_flags()
    define_memory_flag()

    @functools.wraps(main)
    def answered(argv: Sequence[str]) -> None:
        files, bindings = flags.FLAGS.gin_file, flags.FLAGS.gin_bindings
        if not (files or bindings or any(flags.FLAGS[name].value for name in instead)):
            found = gin_files.files_for(command)
            width = max(map(len, found), default=0)
            alternatives = "".join(f", or give --{name}" for name in instead)
            lines = [f"\n  {file:{width}}  {what}" for file, what in found.items()]
            raise UserError(
                f"name a gin file with --gin_file{alternatives}; {command} has these, and --macros "
                f"lists what one takes:{''.join(lines)}"
            )
        if flags.FLAGS.macros:
            rows = gin_files.macros(files, bindings, _search_paths())
            sys.stdout.write(gin_files.as_table(rows) or "there are no macros.\n")
            return
        host_memory.keep_freed_memory()
        main(argv)

    run(answered)


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main(argv)` under absl; a `UserError` ends it with one sentence and exit code 2."""

    def guarded(argv: Sequence[str]) -> None:
        # Libraries log backends that are not there and every file they write; users want warnings.
        py_logging.getLogger("jax").setLevel(py_logging.WARNING)
        # When a write fails, those begun beside it fail, too, and nobody waits for them any more.
        py_logging.getLogger("asyncio").setLevel(py_logging.CRITICAL)
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().addFilter(_is_for_users)
        logging.get_absl_handler().setFormatter(_LogLine())
        sys.unraisablehook = _ignore_closed_loop
        if "ignore_memory" in flags.FLAGS and flags.FLAGS.ignore_memory:
            os.environ[IGNORE_MEMORY] = "1"
        try:
            main(argv)
        except BrokenPipeError:
            raise
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
        except Exception as error:
            if (ran_out := exhausted(error)) is not None:
                sys.stderr.write(
                    f"error: there is too little memory ({ran_out}); take a smaller model or "
                    "batch, shorter lengths, or a machine with more.\n"
                )
                sys.exit(2)
            if not isinstance(error, OSError):
                raise
            # No permission, a file where a folder should be, a full disk.
            what = f"{error.filename}: " if error.filename else ""
            # What gin passes on has its text alone, with the number of the error in front.
            why = error.strerror or _first_sentence(error).rpartition("] ")[2]
            sys.stderr.write(f"error: {what}{why}; mend that and start again.\n")
            sys.exit(2)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; start again with the same arguments to resume.\n")
            sys.exit(130)

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return arguments.parse(argv)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)

    arguments.define_version_flag()
    _show_in_help(main.__module__)
    if isinstance(sys.stdout, io.TextIOWrapper):  # What a terminal cannot show is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app.run(guarded, flags_parser=parse)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # Who reads this, `head` say, has what it wants.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)


def _show_in_help(module: str) -> None:
    """Lets --help print what a main is and its flags, however it was started.

    absl asks the module `__main__`, which is a script of a few lines where the main was installed,
    and passes over flags that another module defines.
    """
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    defined = flags.FLAGS.flags_by_module_dict()
    for name in (module, __name__):
        for flag in defined.get(name, ()):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


class _LogLine(py_logging.Formatter):
    """`warning: text`, as the mains' own messages."""

    def format(self, record: py_logging.LogRecord) -> str:
        """The line of a record."""
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _is_for_users(record: py_logging.LogRecord) -> bool:
    """Not what Orbax's threads log of an error, which the main thread then raises itself."""
    return not (record.levelno >= py_logging.ERROR and "orbax" in record.pathname)


def _ignore_closed_loop(unraisable: sys.UnraisableHookArgs) -> None:
    """Prints an exception that could be raised nowhere, unless it is of tensorstore's threads.

    Where a write fails, they report the other writes to an event loop that is closed by then.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _first_sentence(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
