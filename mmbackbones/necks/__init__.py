"""Necks for single-stride backbones."""
