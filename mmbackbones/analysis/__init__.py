"""Analyses of networks, data and runs, one folder per question."""
