"""Formulas for sources of several cells: contrasts with their parts, and how far the parts add up."""
