"""Checkpoints of plain data."""

from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmbackbones.checkpoints.plain_data import restore_logs, to_plain


def test_to_plain():
    class Code:
        pass

    metadata = OrderedDict(a=dict(version=2))
    weights = OrderedDict(w=nn.Parameter(torch.ones(2)))
    weights._metadata = metadata
    value = dict(
        score=np.float32(0.5),
        whole=np.int64(3),
        array=np.arange(3),
        nested=[(1, Code(), 'a')],
        weights=weights,
        log=HistoryBuffer([1.0, 2.0], [1, 3]),
        names=np.array(['a']),
        **{'module': Code},
    )
    plain, dropped = to_plain(value)
    assert dropped == ['nested.0.1', 'names', 'module']
    assert type(plain['score']) is float and type(plain['whole']) is int and plain['nested'] == [(1, None, 'a')]
    assert torch.equal(plain['array'], torch.arange(3)) and type(plain['weights']['w']) is torch.Tensor
    assert plain['weights']._metadata == metadata
    back = restore_logs(dict(log=plain['log'], bad=dict(values=1, counts=2), worse=[1]))
    assert list(back) == ['log'] and back['log'].mean() == 0.75
