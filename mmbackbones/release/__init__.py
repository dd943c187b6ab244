"""What leaves the project: exported backbones and published checkpoints."""
