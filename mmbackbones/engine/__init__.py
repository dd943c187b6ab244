"""Parts of a run that mmengine lacks: loading of weights, parameter groups, hooks, adaptation to the device."""
