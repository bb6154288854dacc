"""The report, one page that shows a whole study; and kept studies, of a few megabytes.

`page` writes the report, and `material` gathers its content. `pages` writes the generations and the
provenance as separate pages. `reference` keeps a finished study in a small folder, and checks
whether it still matches a configuration.
"""
