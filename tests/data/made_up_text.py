"""Text of made-up words."""

import numpy as np

SYLLABLES = ["ba", "de", "gi", "ko", "lu", "ma", "ne", "pi", "ro", "su", "ta", "we"]


def words(seed: int, count: int) -> str:
    """Some words out of sixty that hang on the seed."""
    rng = np.random.default_rng(seed)
    lexicon = ["".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(60)]
    return " ".join(rng.choice(lexicon, count))
