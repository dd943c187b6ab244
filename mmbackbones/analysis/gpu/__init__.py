"""One look at a GPU: parity, determinism, speed and a training step, as a page to paste."""
