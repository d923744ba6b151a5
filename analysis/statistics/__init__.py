"""Formulas: intervals, tests, shrinkage, variance components. No tables."""
