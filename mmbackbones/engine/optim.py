"""Parameter groups: one rule for every family, so that no backbone has an advantage through an exception."""

from collections import defaultdict
from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from timm.layers import RmsNorm, RmsNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmbackbones.backbones.base import Backbone
from mmbackbones.errors import InputError
from mmbackbones.registry import OPTIM_WRAPPER_CONSTRUCTORS

# mmengine's own list knows no RMSNorm.
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNorm2d)
OPTIONS = ('norm_decay_mult', 'bias_decay_mult', 'layer_decay_rate', 'custom_keys')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters by learning rate and weight decay.

    Parameters that a backbone's ``no_weight_decay()`` names have no weight decay. ``paramwise_cfg`` takes these keys:

    * ``norm_decay_mult`` (float, default 0): for weights and biases of all norm layers;
    * ``bias_decay_mult`` (float, default 1): for biases elsewhere;
    * ``layer_decay_rate`` (float, default 1): the learning rate of a backbone's layer is multiplied by this rate for
      each layer above it, by its ``get_layer_depth``;
    * ``custom_keys`` (dict): mmengine's ``{substring: dict(lr_mult=…, decay_mult=…)}``, the longest match wins over
      all rules above.

    Raises:
        InputError: an option that is none of these.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = {'norm_decay_mult': 0.0, **(paramwise_cfg or {})}
        for option in paramwise_cfg:
            if option not in OPTIONS:
                raise InputError(f'optim_wrapper.paramwise_cfg.{option}: unknown; known: {", ".join(OPTIONS)}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        groups = defaultdict(list)
        for name, parameter, lr_mult, decay_mult in self._multipliers(module):
            groups[lr_mult, decay_mult].append((name, parameter))
        for (lr_mult, decay_mult), members in sorted(groups.items()):
            group = dict(
                params=members,  # named, so that a checkpoint's optimizer state says what it belongs to
                lr=self.base_lr * lr_mult,
                weight_decay=self.base_wd * decay_mult,
            )
            params.append(group)
            count = sum(parameter.numel() for _, parameter in members)
            print_log(
                f'parameter group: {len(members)} tensors, {count:,} values, lr {group["lr"]:.3g}, '
                f'weight decay {group["weight_decay"]:.3g}',
                logger='current',
            )

    def _multipliers(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, float, float]]:
        rule = self.paramwise_cfg
        custom = sorted(rule.get('custom_keys', {}).items(), key=lambda item: len(item[0]), reverse=True)
        undecayed, depth_of = _backbone_rules(model)
        seen = set()
        for module_name, module in model.named_modules():
            for name, parameter in module.named_parameters(module_name, recurse=False):
                if not parameter.requires_grad or parameter in seen:
                    continue
                seen.add(parameter)
                lr_mult, decay_mult = 1.0, 1.0
                if name in depth_of:
                    layer, num_layers = depth_of[name]
                    lr_mult = rule.get('layer_decay_rate', 1.0) ** (num_layers - 1 - layer)
                if name in undecayed:
                    decay_mult = 0.0
                elif isinstance(module, NORMS):
                    decay_mult = rule['norm_decay_mult']
                elif name.endswith('bias'):
                    decay_mult = rule.get('bias_decay_mult', 1.0)
                for key, multipliers in custom:
                    if key in name:
                        lr_mult = multipliers.get('lr_mult', lr_mult)
                        decay_mult = multipliers.get('decay_mult', decay_mult)
                        break
                yield name, parameter, lr_mult, decay_mult


def _backbone_rules(model: nn.Module) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """Full names that must not decay, and the layer depth of each backbone parameter."""
    undecayed, depth_of = set(), {}
    for module_name, module in model.named_modules():
        if not isinstance(module, Backbone):
            continue
        prefix = f'{module_name}.' if module_name else ''
        undecayed.update(prefix + name for name in module.no_weight_decay())
        for name, _ in module.named_parameters():
            depth_of[prefix + name] = module.get_layer_depth(prefix + name, prefix)
    return undecayed, depth_of
