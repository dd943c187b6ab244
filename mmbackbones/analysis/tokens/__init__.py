"""Sequence length: its distribution, and its effect on scores."""
