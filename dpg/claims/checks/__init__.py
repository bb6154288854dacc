"""The checks of the claims: functions from results to conditions.

Where the paper says "close" or "reasonable", the limit is ours, and the claim's `method` names it.
Each function raises `Untested` if a result is missing or proves nothing. `theorem` checks what is
computed without randomness, `weights` the images and the norm in the target's head, `texts` what
the generators write, and `downstream` Table 1.
"""

BASELINES = ("sgd", "naive", "embedding", "fasttext", "levenshtein")
HORIZONS = ("long", "middle", "short")
