"""What watches over a training: checkpoints, numerics, preemption, hangs."""
