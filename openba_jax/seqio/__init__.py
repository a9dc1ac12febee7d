"""seqio registrations: importing this package registers every task and mixture with seqio.

Which files they read is said by gin (`data_files.stores = ...`) or by environment variables, see
`openba_jax.seqio.settings`; it is looked up when a task is used.
"""

from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.seqio import token_store_tasks

for _name in mixture_names():
    token_store_tasks.add(get_mixture(_name))
