"""A crafted checkpoint runs nothing, by whichever way it enters."""

import json
import os
import subprocess
import sys

import pytest

from mmbackbones.datasets.shapes import write_shapes
from tests.conftest import ROOT
from tests.reliability.harness import ENVIRONMENT

pytestmark = pytest.mark.promise('crafted-entry-points')
REFUSED = {
    'resume hostile optimizer': '/hostile.pth: cannot be resumed, it has no usable optimizer.param_groups.0.',
    'resume refused': '/refused.pth: names posix.system, which is code; refused',
    'test refused': '/refused.pth: names posix.system, which is code; refused',
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('entry')
    shapes = write_shapes(folder / 'shapes', train=4, val=2)
    done = subprocess.run(
        [sys.executable, '-m', 'tests.reliability.entry_points', str(folder), str(shapes)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    'case',
    ['plain training', 'load_from', 'resume PATH', 'resume auto', 'pretrained', 'test', 'published layout', *REFUSED],
)
def test_crafted_checkpoint(results, case):
    code, text = results[case]
    if case in REFUSED:
        assert code == 2 and REFUSED[case] in text and 'tools/trust_checkpoint.py' in text, text
    else:
        assert code == 0 and '*** mIoU' in text, text


@pytest.mark.slow
def test_nothing_in_them_ran(results):
    assert {'os.system', 'eval', 'exec', 'subprocess'} <= set(results['ran without us'][1].split())
    assert results['ran'][1] == ''
