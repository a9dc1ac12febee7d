"""seqio registrations: importing this package registers every task and mixture with seqio.

Which files they read is said by gin (`data_files.stores = ...`) or by environment variables, see
`openba_jax.seqio.settings`; it is looked up when a task is used.
"""

from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.seqio import token_store_tasks

for _name in mixture_names():
    # Decoders read rows of inputs and targets, which no feature converter of seqio's makes: T5X
    # gets them through `gin/runs/t5x/native_batches.gin`.
    if get_mixture(_name).layout == "encoder_decoder":
        token_store_tasks.add(get_mixture(_name))
