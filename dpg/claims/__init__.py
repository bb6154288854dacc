"""The paper's claims, each with a check over results: holds, does not hold, undecided, not tested.

`evidence` reads results and rejects those that cannot support a claim. `verdicts` turns numbers
into a verdict. `paper` is the list of claims, and `page` writes the ledger. Importing this package
loads no drawing library and no jax.
"""

from dpg.claims.estimates import Estimate, Untested
from dpg.claims.evidence import Results
from dpg.claims.page import write
from dpg.claims.paper import CLAIMS
from dpg.claims.verdicts import Claim, Condition, Verdict, verdict_on

__all__ = [
    "CLAIMS",
    "Claim",
    "Condition",
    "Estimate",
    "Results",
    "Untested",
    "Verdict",
    "verdict_on",
    "write",
]
