"""The names of the token mixers, which :func:`mmbackbones.layers.token_mixers.build_branch` builds. Imports nothing."""

STATE_FUSED = 'ss1d-state-fused'
SCANS = ('ssm', 'ssm-reversed', 'bissm', 'ss2d', STATE_FUSED)
ATTENTIONS = ('attn', 'causal-attn')
SUMS = ('linear-attn', 'ssd-noncausal')  # linear in the tokens, without an order
TRAINED = ('ttt',)
CONVOLUTIONS = ('s4nd',)
MIXING = SCANS + ATTENTIONS + SUMS + TRAINED + CONVOLUTIONS
POINTWISE = tuple(f'pointwise:{name}' for name in MIXING)
BRANCHES = (*MIXING, *POINTWISE, 'none')
