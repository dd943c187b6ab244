"""What a checkpoint holds is named."""

import json

import pytest
import torch

from mmbackbones.zoo.identify import identify
from tests.conftest import GOLDEN, golden


@pytest.mark.parametrize('file', sorted(path.name.removesuffix('.xz') for path in GOLDEN.glob('keys_*.json*')))
def test_published_key_lists_are_recognized(file):
    content = json.loads(golden(file).read_text())
    weights = {key: torch.empty(shape, device='meta') for key, shape in content['keys']}
    family, *variant = file.removeprefix('keys_').removesuffix('.json').split('_')
    found = identify(weights).lower().replace('_', '').replace(' ', '')
    expected = family + ''.join(variant).lower()
    # what differs in the image size or the class token alone is named by the shorter of both names
    assert found.startswith(expected) or expected.startswith(found)
