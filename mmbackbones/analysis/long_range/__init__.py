"""The synthetic long-range task: how far a token mixer sees."""
