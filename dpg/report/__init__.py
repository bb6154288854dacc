"""What a reader takes away: pages beside the figures, and a study kept small as a reference.

`pages` writes what the report shows besides figures, tables and claims; `reference` keeps a
finished study in a few megabytes and says whether it is still what a configuration would give.
"""
