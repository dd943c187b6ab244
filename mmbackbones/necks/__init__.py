"""Necks for single-stride backbones."""

from mmbackbones.necks.simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['SimpleFeaturePyramid']
