"""A published checkpoint: inert, without what only its training needs, and the same network."""

import json

import pytest
import torch
from mmengine.config import Config
from safetensors import safe_open

from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.checkpoints.strict import load_weights
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.release import card, command_line, publish
from tests.conftest import ROOT

CONFIG = str(ROOT / 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py')


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return publish._build(load_config(CONFIG)).eval()


@pytest.fixture
def checkpoint(network, tmp_path):
    """As a training leaves it, with averaged weights and objects of code beside."""
    path = tmp_path / 'work' / 'iter_9.pth'
    path.parent.mkdir()
    torch.save(
        dict(
            state_dict=network.state_dict(),
            ema_state_dict={key: value * 0 for key, value in network.state_dict().items()},
            optimizer=dict(state={0: torch.ones(3)}),
            message_hub=dict(log={}),
            meta=dict(iter=9, dataset_meta=dict(classes=('background', 'disc'))),
        ),
        path,
    )
    (path.parent / 'last_checkpoint').write_text(str(path))
    return path


def record(**changes) -> dict:
    return dict(
        kind='train', config='upernet.py', config_hash='abc', recipe='quickstart', data_fingerprint='d1', seed=0,
        versions=dict(torch='2'), device='x86_64 CPU', precision='fp32', scan_backend=None, commit='c0ffee', tta=False,
        date='2026-11-28T00:00:00+00:00', metrics=dict(mIoU=81.25), task='segmentation', iterations=9, images=40,
        train_fingerprint='t1',
    ) | changes  # fmt: skip


def test_published_and_loaded_from_a_hub(checkpoint, network, tmp_path, monkeypatch, capsys):
    """Under the hub's own cache layout, without a network."""
    out = tmp_path / 'published'
    command_line.publish([CONFIG, str(checkpoint), '-o', str(out), '--license', 'apache-2.0'])
    assert 'the card has no scores' in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        'model.safetensors', 'model.safetensors.sha256', 'config.py', 'README.md',
    }  # fmt: skip
    with safe_open(out / 'model.safetensors', 'pt') as file:
        assert set(file.keys()) == network.state_dict().keys()
        assert json.loads(file.metadata()['classes']) == ['background', 'disc']
    text = (out / 'README.md').read_text()
    assert (
        text.startswith('---\n') and 'license: apache-2.0' in text and 'No score is recorded: no records.jsonl' in text
    )
    assert 'left out of the checkpoint: ema_state_dict, message_hub, optimizer' in text

    from huggingface_hub import constants

    hub = tmp_path / 'hub'
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(hub))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    cached = hub / 'models--owner--name'
    (cached / 'refs').mkdir(parents=True)
    (cached / 'refs' / 'main').write_text('0' * 40)
    (cached / 'snapshots').mkdir()
    out.rename(cached / 'snapshots' / ('0' * 40))
    found = load_checkpoint('hf://owner/name/model.safetensors').content

    cfg = Config.fromfile(cached / 'snapshots' / ('0' * 40) / 'config.py')
    torch.manual_seed(1)
    again = publish._build(cfg).eval()
    load_weights(again, found, name='published')
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), network(image))


def test_scores_come_from_the_records(checkpoint, tmp_path):
    (checkpoint.parent / 'records.jsonl').write_text(json.dumps(record()) + '\n')
    facts = publish.publish(CONFIG, str(checkpoint), tmp_path / 'out')
    assert facts.evidence.scores() == [('mIoU', '81.2')] and 'no finished run' in facts.evidence.without
    text = (tmp_path / 'out' / 'README.md').read_text()
    for said in ('| mIoU | 81.2 |', 'There are no intervals', 'test data: d1', 'training data: t1', 'c0ffee', 'seed 0'):
        assert said in text
    assert 'No licence of the weights is declared' in text and '\nlicense:' not in text


@pytest.mark.parametrize('changes', [dict(iterations=4), dict(kind='test', checkpoint='iter_4.pth')])
def test_a_record_of_another_checkpoint_gives_no_score(checkpoint, tmp_path, changes):
    (checkpoint.parent / 'records.jsonl').write_text(json.dumps(record(**changes)) + '\n')
    facts = publish.publish(CONFIG, str(checkpoint), tmp_path / 'out')
    assert facts.evidence.record is None and 'has no test of iter_9.pth' in facts.evidence.without


def test_intervals(checkpoint, tmp_path, monkeypatch):
    """Those of the bootstrap over images, from the saved areas of a training's last test."""
    import numpy as np
    from PIL import Image

    from mmbackbones.evaluation.metrics import AREAS

    final = checkpoint.parent / 'final'
    (final / 'masks').mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f'{i:03}' for i in range(12)]
    for name in ids:
        Image.new('L', (8, 8)).save(final / 'masks' / f'{name}.png')
    intersect = rng.integers(20, 30, (12, 2))
    areas = dict(intersect=intersect, union=intersect + 5, prediction=intersect + 2, label=intersect + 3)
    np.savez(final / 'areas.npz', image_ids=np.array(ids), **{name: areas[name] for name in AREAS})
    score = 100 * float((areas['intersect'].sum(0) / areas['union'].sum(0)).mean())
    line = record(metrics=dict(mIoU=score), settings=dict(test_evaluator=dict(type='mmbackbones.IoUMetric')))
    (checkpoint.parent / 'records.jsonl').write_text(json.dumps(line) + '\n')
    (final / 'run.json').write_text(json.dumps(dict(line, image_ids=ids)))
    found = card.evidence_beside(str(checkpoint), None, 9)
    low, high = found.intervals['mIoU']
    assert low < score < high and high - low < 3
    assert found.scores() == [('mIoU', f'{score:.1f} [{low:.1f}, {high:.1f}]')]


def test_bad_input_leaves_nothing(checkpoint, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(InputError, match='does not fit'):
        publish.publish(CONFIG, str(checkpoint), out, backbone='vmamba_mini')
    with pytest.raises(InputError, match='no such file'):
        publish.publish(CONFIG, str(tmp_path / 'gone.pth'), out)
    with pytest.raises(InputError, match=r'--records .*: has no records\.jsonl'):
        publish.publish(CONFIG, str(checkpoint), out, records=tmp_path)
    with pytest.raises(InputError, match='--license a: b: expected the name of a licence'):
        publish.publish(CONFIG, str(checkpoint), out, license_name='a: b')
    assert {path.name for path in tmp_path.iterdir()} == {'work'}
    out.mkdir()
    with pytest.raises(InputError, match='exists; nothing was overwritten'):
        publish.publish(CONFIG, str(checkpoint), out)
    assert not list(out.iterdir())
