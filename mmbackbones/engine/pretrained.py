"""An initializer that loads published weights into a backbone."""

from mmengine.logging import print_log
from mmengine.model import update_init_info
from torch import nn

from mmbackbones.backbones.base import Backbone
from mmbackbones.checkpoints.layout import find_weights
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.read import MapLocation
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.errors import InputError
from mmbackbones.registry import WEIGHT_INITIALIZERS
from mmbackbones.zoo import weights as _zoo_scheme  # noqa: F401  (zoo:// becomes known)
from mmbackbones.zoo.identify import both_names


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """Load weights that must fit, in any published layout.

    The keys identify the layout: a whole detector, segmentor or OpenMMLab classifier (keys under ``backbone.``), our
    names, or the authors' names, which the module's ``convert_state_dict`` renames. Only keys in the module's
    ``allowed_missing`` may be missing, and only keys in its ``allowed_unexpected`` may be unexpected. A module without
    these attributes must match exactly.

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
        if not self.checkpoint:
            raise InputError(
                f'no pretrained weights for {type(module).__name__}: set model.backbone.init_cfg.checkpoint to their '
                'file or URL, or model.backbone.init_cfg=None to start from random weights'
            )
        weights, notes = find_weights(load_checkpoint(self.checkpoint, self.map_location).content, self.checkpoint)
        try:
            loaded = load_weights(
                module,
                weights,
                name=self.checkpoint,
                prefix=self.prefix,
                allowed_missing=tuple(getattr(module, 'allowed_missing', ())),
                allowed_unexpected=tuple(getattr(module, 'allowed_unexpected', ())),
                notes=notes,
            )
        except InputError as error:
            if isinstance(module, Backbone):
                raise InputError(f'{error}{both_names(weights, module)}') from error
            raise
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Pretrained: load from {self.checkpoint}')
        print_log(loaded, logger='current')
