"""What a reader takes away: one page that shows a whole study, and a study kept small.

`page` writes the report, `material` gathers what it shows. `pages` writes the generations and the
provenance as pages of their own. `reference` keeps a finished study in a few megabytes and says
whether it is still what a configuration would give.
"""
