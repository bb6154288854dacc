"""`dpg doctor`: what a study needs and a machine lacks, how to fix it, and what it will cost."""

from dpg.doctor.checks import MISSING, PROFILES, Finding, Profile, examine
from dpg.doctor.console import costs, table
from dpg.doctor.forecast import Estimate, estimate
from dpg.doctor.probe import Machine

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
