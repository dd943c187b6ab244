"""The scheme ``zoo://``: ImageNet weights by the name of a model.

Importing this module makes :mod:`mmbackbones.checkpoints` know the scheme.
"""

import functools
import logging

from mmengine.logging import print_log

from mmbackbones.checkpoints.sources import CHECKSUM, RESOLVERS
from mmbackbones.errors import InputError
from mmbackbones.zoo.models import is_non_commercial, license_of_weights, model_row

SCHEME = 'zoo'


def address_of(name: str) -> str:
    """Address of the ImageNet weights of a model, with ``#sha256=…`` where the checksum is known.

    A warning says so if the weights are for non-commercial use only.

    Args:
        name (str): a name of ``models.csv``.

    Raises:
        InputError: no such model, or no file of its weights is known.
    """
    row = model_row(name)
    if not row['weights']:
        raise InputError(
            f'{SCHEME}://{name}: no weights are known ({row["weights_source"]}); give the path of a file, or None to '
            'start from random weights'
        )
    license = license_of_weights(name)
    if is_non_commercial(license):
        _warn_once(f'{SCHEME}://{name}: these weights are for non-commercial use only, {license}')
    return row['weights'] + (f'{CHECKSUM}{row["sha256"]}' if row['sha256'] else '')


@functools.cache
def _warn_once(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


RESOLVERS[SCHEME] = address_of
