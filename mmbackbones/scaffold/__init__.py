"""A new family of backbones: the skeleton of its files, and what they still lack."""
