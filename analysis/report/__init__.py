"""The report of a run: one HTML page that needs nothing else, and figures for a paper."""
