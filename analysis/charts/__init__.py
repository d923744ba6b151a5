"""Charts as Vega-Lite descriptions: the same for the report, the local view and the figures of a paper."""
