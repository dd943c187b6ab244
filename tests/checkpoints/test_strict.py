"""What is said of keys that do not fit."""

import pytest

from mmbackbones.checkpoints.strict import fold_keys


@pytest.mark.parametrize(
    'keys, text',
    [
        (['a'], 'a'),
        (['a.weight', 'a.bias', 'b'], 'a.{bias,weight}, b'),
        ([f'layers.{i}.{part}' for i in (0, 1, 2, 3, 7, 9, 10) for part in 'ab'], 'layers.{0-3,7,9,10}.{a,b}'),
        (['s.0.x', 's.0.y', 's.1.x'], 's.{0.{x,y},1.x}'),
        (['a', 'a.b'], 'a.{b,}'),
    ],
)
def test_fold_keys(keys, text):
    assert fold_keys(keys) == text
