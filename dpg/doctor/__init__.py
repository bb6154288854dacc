"""`dpg doctor`: what a study needs and a machine lacks, how to mend it, and what it will cost."""

from dpg.doctor.checks import MISSING, PROFILES, Finding, Profile, examine
from dpg.doctor.forecast import Estimate, estimate
from dpg.doctor.probe import Machine
from dpg.doctor.words import costs, table

__all__ = [
    "MISSING",
    "PROFILES",
    "Estimate",
    "Finding",
    "Machine",
    "Profile",
    "costs",
    "estimate",
    "examine",
    "table",
]
