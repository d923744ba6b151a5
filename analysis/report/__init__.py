"""The report of a run: one HTML page that needs nothing else, and figures for a paper."""

from transfergrid.analysis.report.page import Report, write_report

__all__ = ["Report", "write_report"]
