"""``grid eval``: the sweep over models, sources and targets, and what it reports."""
