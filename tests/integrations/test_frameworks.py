"""Six lines in anybody's config of mmdet, mmseg and mmpretrain, from another folder and without our runner."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_configs_of_the_frameworks_train_and_ours_are_served_by_their_apis(tmp_path):
    """One process for all, because importing the frameworks is most of the time."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    script = Path(__file__).with_name('stranger.py')
    done = subprocess.run(
        [sys.executable, script, ROOT / 'configs'], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    losses = {key: value for key, value in results.items() if isinstance(value, float)}
    assert set(losses) == {'RetinaNet', 'Faster R-CNN', 'SegFormer', 'UperNet', 'classifier'}
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())
    assert results['detector'] == 'DetDataSample (96, 128)' and results['segmentor'] == 'SegDataSample (96, 128)'
