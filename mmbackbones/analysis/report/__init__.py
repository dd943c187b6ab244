"""The report: what a set of runs showed, on one page."""
