"""The tables of ``grid analyze``, one file a table."""
