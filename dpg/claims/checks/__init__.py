"""What is compared with what for each claim: functions from results to conditions.

Where the paper says "close" or "reasonable", the limit is ours; it stands in the claim's `method`.
Each function raises `Untested` where a result is missing or proves nothing. `theorem` checks what
is computed without chance, `weights` the images and the norm in the target's head, `texts` what the
generators write, and `downstream` Table 1.
"""

BASELINES = ("sgd", "naive", "embedding", "fasttext", "levenshtein")
HORIZONS = ("long", "middle", "short")
