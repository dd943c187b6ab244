"""The loader of all checkpoints that a run reads (pretrained weights, load_from, resume, test).

It also replaces mmengine's loaders, which unpickle a file if safe reading fails. Checkpoints that the frameworks load
by themselves are therefore read by it, too.
"""

from mmengine.runner.checkpoint import CheckpointLoader

from mmbackbones.checkpoints.layout import under_prefix, weights_of
from mmbackbones.checkpoints.read import Checkpoint, MapLocation, read_checkpoint
from mmbackbones.checkpoints.sources import find_file
from mmbackbones.errors import InputError


def load_checkpoint(address: str, map_location: MapLocation = 'cpu') -> Checkpoint:
    """Find a checkpoint, download it if necessary, and read it.

    Args:
        address (str): a path, ``https://…``, ``hf://owner/name/file`` or ``hf://owner/name@revision/file``,
            ``zoo://model``, or one of OpenMMLab's aliases (``torchvision://``, ``open-mmlab://``, ``mmcls://``). Each
            may end in ``#sha256=`` and 64 hex digits, which the file must then have.
        map_location: device of the tensors, as in ``torch.load``; None: the device that they were saved from.

    Returns:
        Checkpoint: the content as plain data, and the places of the objects left out.

    Raises:
        InputError: the file is missing, empty, damaged, not a checkpoint or unsafe, has another SHA-256, or cannot be
            downloaded.
    """
    file = find_file(address)
    try:
        checkpoint = read_checkpoint(file.path, map_location, file.name, file.sha256)
    except InputError as error:
        if not file.downloaded:
            raise
        file.path.unlink(missing_ok=True)
        raise InputError(f'{error}; the cached file was removed, the next run downloads it again') from error
    if file.prefix:
        weights = under_prefix(weights_of(checkpoint.content, address), file.prefix)
        return Checkpoint(dict(state_dict=weights), checkpoint.left_out)
    return checkpoint


def load_from_address(filename: str, map_location: MapLocation = None) -> dict:
    """The content of :func:`load_checkpoint`, for mmengine's loader, which names this function in its log."""
    return load_checkpoint(filename, map_location).content


CheckpointLoader.register_scheme((*CheckpointLoader._schemes, 'hf://', 'zoo://'), load_from_address, force=True)
