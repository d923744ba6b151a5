"""``python -m tests.fuzz --seconds 600 [--seed N] [READER ...]``: see the package's docstring."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.runner import find_readers, fuzz, table


def main() -> None:
    """Fuzz the readers and print the counts; exit status 1 where an input did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("readers", nargs="*", metavar="READER", help="default: all")
    parser.add_argument("--seconds", type=float, default=600.0, help="wall time of all readers together")
    parser.add_argument("--seed", type=int, help="seed of the first round; default: another one each time")
    options = parser.parse_args()
    readers = find_readers(options.readers)
    fuzz(readers, options.seconds, first_seed=options.seed)
    print(table(readers))
    sys.exit(any(reader.broken for reader in readers))


if __name__ == "__main__":
    main()
