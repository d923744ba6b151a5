"""Graded transfer: probability that moves to the gold choice, with its test, by item, pair and group."""
