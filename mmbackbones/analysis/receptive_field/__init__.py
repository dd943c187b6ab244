"""The effective receptive field: which pixels the output of one token depends on, and how strongly."""

from mmbackbones.analysis.receptive_field.measure import Field, measure, require_inside, token_at

__all__ = ['Field', 'measure', 'require_inside', 'token_at']
