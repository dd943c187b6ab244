"""Every miniature of the zoo, in the quickstart's segmentor, learns two images by heart."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import PixelData

from mmbackbones.backbones.base import Backbone
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine.config import load_config, parse_options
from mmbackbones.engine.device import adapt_to_device
from mmbackbones.launch.suite_file import read_suite
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import TASKS, backbone_config, miniature_names
from tests.conftest import ROOT
from tests.miniatures import miniature

CONTROLLED = [
    training
    for training in read_suite(ROOT / 'configs' / 'suites' / 'controlled_miniature.yaml').trainings
    if training.task == 'segmentation'
]
STEPS = 60
CROP = slice(8, 136)  # of 144 or 160 px


def build(cfg: Config) -> torch.nn.Module:
    adapt_to_device(cfg, 'none')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg.model)


@pytest.fixture(scope='module')
def two_images(tmp_path_factory) -> dict:
    """The same 128x128 px of two images as a batch of mmseg's, every class in both."""
    cfg = miniature('vim_mini', 'segmentation')
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = f'{write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=1)}/ade20k'
    dataset.pipeline = [step for step in dataset.pipeline if not step.type.startswith('Random')]
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(dataset)
    items = (cropped(dataset[index]) for index in range(len(dataset)))
    full = [item for item in items if labels_of(item) >= {0, 1, 2, 3}]
    assert len(full) >= 2
    return pseudo_collate(full[:2])


def cropped(item: dict) -> dict:
    sample = item['data_samples']
    sample.gt_sem_seg = PixelData(data=sample.gt_sem_seg.data[:, CROP, CROP])
    sample.set_metainfo(dict(img_shape=(128, 128), ori_shape=(128, 128)))
    return dict(item, inputs=item['inputs'][:, CROP, CROP].contiguous())


def labels_of(item: dict) -> set[int]:
    return set(item['data_samples'].gt_sem_seg.data.unique().tolist())


def right_pixels(model: torch.nn.Module, batch: dict) -> list[float]:
    """Of each image the mean over its classes of the share of pixels that the model, in test mode, labels right."""
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch)
    shares = []
    for result, sample in zip(results, batch['data_samples']):
        truth, predicted = sample.gt_sem_seg.data, result.pred_sem_seg.data
        classes = [c for c in truth.unique() if c != 255]
        shares.append(sum((predicted[truth == c] == c).float().mean().item() for c in classes) / len(classes))
    return shares


def test_every_backbone_has_a_miniature():
    registered = {f'mmbackbones.{name}' for name, cls in MODELS.module_dict.items() if issubclass(cls, Backbone)}
    for task in TASKS:
        assert registered == {backbone_config(name, task)['type'] for name in miniature_names()}


@pytest.mark.slow
@pytest.mark.parametrize('name', miniature_names())
def test_learns_two_images_by_heart(name, two_images):
    learn_by_heart(miniature(name, 'segmentation'), two_images)


@pytest.mark.full
@pytest.mark.parametrize(
    'training', CONTROLLED, ids=lambda training: training.name.replace('_1xb8-500_shapes-ade20k', '')
)
def test_every_controlled_arm_learns_two_images_by_heart(training, two_images):
    learn_by_heart(load_config(training.config, parse_options(training.options)), two_images)


def learn_by_heart(cfg, two_images):
    model = build(cfg)
    assert max(right_pixels(model, two_images)) < 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS, pct_start=0.1)
    model.train()
    losses = []
    for _ in range(STEPS):
        data = model.data_preprocessor(two_images, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert min(right_pixels(model, two_images)) > 0.9
