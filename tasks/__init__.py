"""seqio registrations. Import `tasks` to register every task and mixture.

Which files they read is said by gin (`tasks.settings.data_files.stores = ...`) or by environment
variables, see `tasks.settings`; it is looked up when a task is used.
"""

from tasks import d_ul2, flan, o_ul2, text_and_flan, ul2

__all__ = ["d_ul2", "flan", "o_ul2", "text_and_flan", "ul2"]
