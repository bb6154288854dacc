"""What a step leaves behind: files that are whole or absent.

Every output of the workflow is written beside its final name and renamed into place, so a process
killed at any moment leaves either the old file or the new one. Four kinds of file cover all needs
of the programs, and `write_csv` writes tables for people:

===============  ===========================================  ==============
file             written by                                   read by
===============  ===========================================  ==============
`*.json`         `write_json`                                 `read_json`
`*.jsonl`        `JsonLines` (appended, cut back on resume)   `read_lines`
`*.parquet`      `write_table`                                `read_table`
`*.safetensors`  `save_arrays`                                `load_arrays`
===============  ===========================================  ==============

Equal values give byte-equal files (with equal versions of the libraries): a resumed run can be
compared with an uninterrupted one by its bytes. Nothing is pickled, so no file can run code when
it is read.
"""

from dpg.artifacts.arrays import load_arrays, save_arrays
from dpg.artifacts.json_files import naming, plain, read_json, write_json
from dpg.artifacts.json_lines import JsonLines, read_lines
from dpg.artifacts.tables import csv_text, read_table, write_csv, write_table
from dpg.artifacts.whole import DISK_FAULTS, ArtifactError, atomic_path, naming_fault, write_text

__all__ = [
    "DISK_FAULTS",
    "ArtifactError",
    "JsonLines",
    "atomic_path",
    "csv_text",
    "load_arrays",
    "naming",
    "naming_fault",
    "plain",
    "read_json",
    "read_lines",
    "read_table",
    "save_arrays",
    "write_csv",
    "write_json",
    "write_table",
    "write_text",
]
