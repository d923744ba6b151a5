"""``python -m transfergrid.cli``: the same as ``grid``."""

from transfergrid.cli import main

main()
