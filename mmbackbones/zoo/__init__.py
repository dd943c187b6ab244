"""Facts about each model: class, arch, weights, drop path rates, published results."""
