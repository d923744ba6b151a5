"""One file per command of ``grid``, and the options and output they share."""
