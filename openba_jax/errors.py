"""The one exception for mistakes that a user can mend, and memory that runs out."""

from __future__ import annotations

import errno
import os
import re

_EXHAUSTED = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|OUT_OF_MEMORY|std::bad_alloc|cannot allocate memory"
    r"|(failed|unable) to allocate|allocation fail|can't start new thread",
    re.IGNORECASE,
)
_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))  # XLA has the same code for both.
_CODES = re.compile(r"^(RESOURCE_EXHAUSTED|INTERNAL|UNKNOWN|ABORTED): ")


class UserError(Exception):
    """A mistake in what the user gave: a file, a flag, a plan, a gin binding.

    The message is one sentence that names the offending thing and what would be right. Mains print
    it without a stack trace and exit with code 2 (see `openba_jax.cli`).
    """


def exhausted(error: BaseException) -> str | None:
    """What ran out of memory, in the words of the exception; None if it says something else.

    XLA reports it under several codes, as C++ does by an exception, Python and numpy by theirs, and
    the system by an error number.
    """
    text = str(error).strip()
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return text.partition("\n")[0] or type(error).__name__
    if any(words in text for words in _DISK):
        return None
    if isinstance(error, UserError) or not isinstance(error, RuntimeError | ValueError | OSError):
        return None
    line = next((line for line in text.splitlines() if _EXHAUSTED.search(line)), None)
    return None if line is None else _CODES.sub("", line.strip())
