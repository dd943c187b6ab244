"""Adapters for published weights: pure functions, state dict in, state dict out, one module per family."""
