"""tools/demo.py: images, folders and videos into painted images and JSON; and every bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api

from mmbackbones.demo import files, inputs
from mmbackbones.demo.cli import main
from mmbackbones.demo.files import write
from mmbackbones.demo.inputs import find
from mmbackbones.demo.model import Model
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import OutputFolder
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> Path:
    """A video of three frames, 64x48 px."""
    path = tmp_path_factory.mktemp('video') / 'clip.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 48))
    for shade in (40, 120, 200):
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    return path


def predictions(folder: Path) -> dict:
    return json.loads((folder / 'predictions.json').read_text())


def test_detections_of_a_folder(models, photos, tmp_path):
    (photos / 'notes.txt').write_text('not an image')
    model, out = models['detection'], tmp_path / 'new' / 'out'
    images, total = write(model, find(photos), OutputFolder(out))
    (photos / 'notes.txt').unlink()
    found = predictions(out)
    assert found['format'] == 'mmbackbones-demo-1' and found['score_threshold'] == 0
    assert found['classes'] == ['circle', 'square', 'triangle'] and found['task'] == 'detection'
    assert images == len(found['images']) == 2
    assert total == sum(len(image['detections']) for image in found['images']) > 0
    for image, photo in zip(found['images'], sorted(photos.iterdir())):
        assert image['file'] == str(photo)
        pixels = Image.open(photo).convert('RGB')
        painted = Image.open(out / image['painted'])
        assert painted.size == pixels.size == (image['width'], image['height'])
        assert painted.tobytes() != pixels.tobytes()
        scores = [one['score'] for one in image['detections']]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
        for one in image['detections']:
            assert one['class'] == found['classes'][one['label']]
            left, top, right, bottom = one['box']
            assert 0 <= left <= right <= pixels.width and 0 <= top <= bottom <= pixels.height
            assert mask_api.decode(one['mask']).shape == (pixels.height, pixels.width)
    assert sorted(path.name for path in tmp_path.rglob('*') if path.is_dir()) == ['new', 'out', 'painted']


def test_the_threshold_holds_for_picture_and_json(models, photos, tmp_path, monkeypatch):
    model = models['detection']
    (photo, *_) = find(photos)
    image = inputs.read(photo.path)
    scores = model.predict(image).pred_instances.scores
    monkeypatch.setattr(model, 'score_threshold', float(scores.median()))
    assert (model.predict(image).pred_instances.scores >= scores.median()).all()
    assert 0 < len(model.predict(image).pred_instances) < len(scores)
    monkeypatch.setattr(model, 'score_threshold', 1.0)
    sample = model.predict(image)
    assert files.describe(model, sample) == dict(detections=[])
    assert np.array_equal(model.paint(image, sample), image)  # red stays red, too


def test_map_of_an_image(models, photos, tmp_path):
    photo = sorted(photos.iterdir())[0]
    write(models['segmentation'], find(photo), OutputFolder(tmp_path / 'out'))
    found = predictions(tmp_path / 'out')
    (image,) = found['images']
    labels = np.asarray(Image.open(tmp_path / 'out' / image['map']))
    assert labels.shape == (image['height'], image['width']) and 'score_threshold' not in found
    shares = {name: (labels == label).mean() for label, name in enumerate(found['classes'])}
    assert image['shares'] == pytest.approx({name: share for name, share in shares.items() if share}, abs=1e-6)
    assert list(image['shares'].values()) == sorted(image['shares'].values(), reverse=True)
    assert 'detections' not in image and Image.open(tmp_path / 'out' / image['painted']).size == labels.shape[::-1]


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_video(models, clip, tmp_path, task):
    assert write(models[task], find(clip), OutputFolder(tmp_path / 'out'))[0] == 3
    found = predictions(tmp_path / 'out')['images']
    assert [(image['frame'], image['seconds']) for image in found] == [(0, 0.0), (1, 0.2), (2, 0.4)]
    video = find(tmp_path / 'out' / found[0]['painted'])
    assert video.rate == 5 and [frame.shape for frame in inputs.frames(video)] == [(48, 64, 3)] * 3
    if task == 'segmentation':
        assert [image['map'] for image in found] == [f'maps/clip/{frame:06}.png' for frame in range(3)]
        assert (tmp_path / 'out' / found[2]['map']).is_file()


def test_equal_names_with_other_suffixes_stay_apart(models, tmp_path):
    for name in ('a.png', 'a.jpg'):
        Image.new('RGB', (40, 36), 'red').save(tmp_path / name)
    assert [picture.name for picture in find(tmp_path)] == ['a.jpg', 'a.png']


@pytest.mark.parametrize('kind', [OSError(28, 'No space left on device'), KeyboardInterrupt(), InputError('too small')])
def test_nothing_stays_half_written(models, photos, tmp_path, monkeypatch, kind):
    def fail(*_):
        raise kind

    monkeypatch.setattr(models['segmentation'], 'paint', fail)
    with pytest.raises(InputError if isinstance(kind, OSError) else type(kind)):
        write(models['segmentation'], find(photos), OutputFolder(tmp_path / 'out'))
    assert not list(tmp_path.iterdir())


def test_an_image_smaller_than_the_network_takes_is_named(models, tmp_path):
    Image.new('RGB', (3, 3)).save(tmp_path / 'dot.png')
    with pytest.raises(InputError, match=r'dot\.png \(3x3 px\): does not fit the network'):
        write(models['segmentation'], find(tmp_path / 'dot.png'), OutputFolder(tmp_path / 'out'))


def bad(tmp_path: Path, photo: Path) -> None:
    """Files for the cases below."""
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'cut').mkdir()
    for name in ('a', 'b'):
        (tmp_path / 'cut' / f'{name}.jpg').write_bytes(photo.read_bytes()[:1500])
    (tmp_path / 'cut' / 'c.jpg').write_bytes(photo.read_bytes())
    (tmp_path / 'text.png').write_text('text')
    (tmp_path / 'none.mp4').write_bytes(b'\0' * 64)
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used' / 'result').write_text('')
    (tmp_path / 'hostile.pth').write_bytes(b'cposix\nsystem\n(S"true"\ntR.')


@pytest.mark.parametrize(
    ('task', 'arguments', 'message'),
    [
        ('detection', 'nowhere.jpg CONFIG CHECKPOINT -o OUT', 'nowhere.jpg: no such file or folder'),
        ('detection', 'text.png CONFIG CHECKPOINT -o OUT', 'text.png: not a readable image'),
        ('detection', 'empty CONFIG CHECKPOINT -o OUT', 'empty: holds no images'),
        ('detection', 'cut CONFIG CHECKPOINT -o OUT', r'cut/a.jpg: truncated: .* \(and 1 more files cannot be read\)'),
        ('detection', 'none.mp4 CONFIG CHECKPOINT -o OUT', 'none.mp4: not a readable video'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o used', 'used: exists and is not empty; nothing was overwritten'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o text.png', 'text.png: the folder cannot be made'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --score-threshold 1.5', '--score-threshold 1.5: expected'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --score-threshold nan', '--score-threshold nan: expected'),
        ('segmentation', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --score-threshold .5', 'for detectors only'),
        ('detection', 'cut/c.jpg CONFIG absent.pth -o OUT', 'checkpoint .*absent.pth: no such file'),
        ('detection', 'cut/c.jpg CONFIG hostile.pth -o OUT', 'hostile.pth: .*trust_checkpoint.py'),
        ('detection', 'cut/c.jpg CONFIG OTHER -o OUT', 'does not fit MaskRCNN; .* keys are in the file'),
        ('detection', 'cut/c.jpg nowhere.py CHECKPOINT -o OUT', 'nowhere.py: no such config file'),
        ('detection', 'cut/c.jpg CONFIG -o OUT', 'expected IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT, got 2 arguments'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --port 80', '--port: of the page, so only with --web'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --device tpu', '--device tpu: expected cpu, cuda or cuda:N'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --backbone a b', '--backbone: 2 names for 1 config'),
        ('detection', 'cut/c.jpg CONFIG CHECKPOINT -o OUT --cfg-options modl.backbone=1', 'no such key'),
        ('detection', '--web CONFIG CHECKPOINT CONFIG', '--web: expected CONFIG CHECKPOINT or'),
        ('detection', '--web CONFIG CHECKPOINT -o OUT', '--out: --web writes no files'),
        ('detection', '--web CONFIG CHECKPOINT --port 0', '--port 0: expected a number from 1 to 65535'),
    ],
)
def test_bad_input(checkpoints, photos, tmp_path, monkeypatch, task, arguments, message):
    monkeypatch.chdir(tmp_path)
    bad(tmp_path, sorted(photos.iterdir())[0])
    before = sorted(tmp_path.rglob('*'))
    config, checkpoint = checkpoints[task]
    words = dict(CONFIG=config, CHECKPOINT=checkpoint, OUT='out', OTHER=checkpoints['segmentation'][1])
    with pytest.raises(InputError, match=message.replace('|', r'\|')):
        main([words.get(word, word) for word in arguments.split()])
    assert sorted(tmp_path.rglob('*')) == before


def test_classes_in_another_order_are_refused(checkpoints, tmp_path):
    config, checkpoint = checkpoints['detection']
    content = torch.load(checkpoint)
    content['meta']['dataset_meta']['classes'] = ('square', 'circle', 'triangle')
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(InputError, match='the same in another order'):
        Model(config, str(tmp_path / 'other.pth'), device='cpu')
    content['meta']['dataset_meta']['classes'] = ('disc', 'square', 'wedge')
    torch.save(content, tmp_path / 'other.pth')
    assert Model(config, str(tmp_path / 'other.pth'), device='cpu').classes == ('disc', 'square', 'wedge')


def test_wrapped_data_sets_and_pipelines_without_a_loader(checkpoints):
    config, checkpoint = checkpoints['segmentation']
    plain = load_config(config).test_dataloader.dataset
    key = 'test_dataloader.dataset'
    wrapped = dict(_delete_=True, type='ConcatDataset', datasets=[plain])
    assert Model(config, checkpoint, device='cpu', overrides={key: wrapped}).classes == plain.metainfo['classes']
    with pytest.raises(InputError, match=r'test_dataloader\.dataset\.pipeline has no LoadImageFromFile'):
        Model(config, checkpoint, device='cpu', overrides={f'{key}.pipeline': [dict(type='PackSegInputs')]})


@pytest.mark.slow
def test_the_command(checkpoints, photos, tmp_path):
    photo = sorted(photos.iterdir())[0]
    command = [sys.executable, 'tools/demo.py', str(photo), *checkpoints['segmentation'], '--device', 'cpu']
    command += ['--out', str(tmp_path / 'out')]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '*** 1 image, in ' in done.stdout and f'painted, with predictions.json, in {tmp_path}/out' in done.stdout
    assert predictions(tmp_path / 'out')['device'] == 'cpu'
