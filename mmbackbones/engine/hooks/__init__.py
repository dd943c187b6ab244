"""Hooks that keep a long training safe: checkpoints, numerics, preemption, hangs."""
