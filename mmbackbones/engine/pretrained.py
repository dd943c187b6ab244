"""The initializer that puts published weights into a backbone."""

from collections import OrderedDict

from mmengine.logging import print_log
from mmengine.model import update_init_info
from torch import Tensor, nn

from mmbackbones.backbones.base import Backbone
from mmbackbones.checkpoints.load import MapLocation, load_checkpoint
from mmbackbones.checkpoints.strict import load_strictly, weights_of
from mmbackbones.engine.identify import both_names
from mmbackbones.errors import InputError
from mmbackbones.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """Load weights that must fit, whoever published them.

    The layouts are told apart by their keys: a checkpoint of a whole detector, segmentor or OpenMMLab classifier (keys
    under ``backbone.``), our own names, or those of the authors, which the module's ``convert_state_dict`` renames.
    The module's ``fresh_keys`` may be missing and its ``unused_keys`` in excess; nothing else may. A module without
    these attributes must be matched to the letter.

    Args:
        checkpoint (str): see :func:`mmbackbones.checkpoints.load.load_checkpoint`.
        prefix (str, optional): take only the keys under this prefix.
        map_location: where the tensors go before they are copied into the module.

    Raises:
        InputError: no checkpoint is given, it cannot be read, or it does not fit.
    """

    def __init__(self, checkpoint: str | None, prefix: str | None = None, map_location: MapLocation = 'cpu'):
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        family = type(module).__name__
        if not self.checkpoint:
            raise InputError(
                f'no pretrained weights for {family}: set model.backbone.init_cfg.checkpoint to their '
                'file or URL, or model.backbone.init_cfg=None to start from random weights'
            )
        published = weights_of(load_checkpoint(self.checkpoint, self.map_location), self.checkpoint)
        try:
            weights, layout = self._adapt(published, module)
            loaded = load_strictly(
                module,
                weights,
                name=self.checkpoint,
                fresh=tuple(getattr(module, 'fresh_keys', ())),
                unused=tuple(getattr(module, 'unused_keys', ())),
            )
        except InputError as error:
            if isinstance(module, Backbone):
                raise InputError(f'{error}{both_names(published, module)}') from error
            raise
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Pretrained: load from {self.checkpoint}')
        print_log(f'{family}: loaded {self.checkpoint} ({layout}): {loaded}', logger='current')

    def _adapt(self, weights: OrderedDict[str, Tensor], module: nn.Module) -> tuple[dict[str, Tensor], str]:
        """Bring the keys to the module's names, and say which layout they had."""
        own = module.state_dict()
        prefix, layout = self.prefix and self.prefix.rstrip('.') + '.', 'own names'
        if (
            prefix is None
            and any(key.startswith('backbone.') for key in weights)
            and not any(key.startswith('backbone.') for key in own)
        ):
            prefix = 'backbone.'
        if prefix:
            weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            layout = f'mm checkpoint, {prefix}*'
            if not weights:
                raise InputError(f'checkpoint {self.checkpoint}: no key begins with {prefix!r}')
        needed = [key for key in own if not key.startswith(tuple(getattr(module, 'fresh_keys', ())))]
        if all(key in weights and weights[key].dim() == own[key].dim() for key in needed):
            return weights, layout
        try:
            converted = getattr(module, 'convert_state_dict', dict)(weights)
        except KeyError as error:
            raise InputError(
                f'checkpoint {self.checkpoint} does not fit {type(module).__name__}: it has no '
                f'{error.args[0]}; is it of another model or family?'
            ) from error
        if converted.keys() != weights.keys():
            layout = layout.replace('own names', "authors' names") + ', converted'
        return converted, layout
