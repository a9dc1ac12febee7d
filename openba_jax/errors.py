"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a flag, a plan, a gin binding.

    The message is one sentence that names the offending thing and what would be right. Mains print
    it without a stack trace and exit with code 2 (see `openba_jax.cli`).
    """
