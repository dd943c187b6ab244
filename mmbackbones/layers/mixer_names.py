"""The names of the token mixers, which :func:`mmbackbones.layers.token_mixers.build_branch` builds. Imports nothing."""

STATE_FUSED = 'ss1d-state-fused'
SCANS = ('ssm', 'ssm-reversed', 'bissm', 'ss2d', STATE_FUSED)
ATTENTIONS = ('attn', 'causal-attn')
SUMS = ('linear-attn', 'ssd-noncausal')  # linear in the tokens, without an order
TRAINED = ('ttt',)
CONVOLUTIONS = ('s4nd',)
BLOCKWISE = ('block-state',)
MIXING = SCANS + ATTENTIONS + SUMS + TRAINED + CONVOLUTIONS + BLOCKWISE
EXPERTS = ('moe',)  # of each token alone
# Controls with the parameters of a branch, and with its MACs where the two are far apart.
POINTWISE = tuple(f'pointwise:{name}' for name in MIXING + EXPERTS)
POINTWISE_MACS = tuple(f'pointwise-macs:{name}' for name in BLOCKWISE + EXPERTS)
BRANCHES = (*MIXING, *EXPERTS, *POINTWISE, *POINTWISE_MACS, 'none')
