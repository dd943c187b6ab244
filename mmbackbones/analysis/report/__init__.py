"""The report: results of a set of runs on one page."""
