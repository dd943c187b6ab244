"""Sequence length: how long it is, and what a score owes to it."""
