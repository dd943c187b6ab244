"""Token counts: the paper's facts, the sizes that real pipelines and real backbones give, random choices, bad input."""

import csv
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmbackbones.analysis.tokens import count as tokens
from mmbackbones.analysis.tokens.count import (
    Sizes,
    apply_pipeline,
    block_flops,
    count_tokens,
    network_sizes,
    ratio,
    stages_of,
)
from mmbackbones.analysis.tokens.report import draw, paper_reports, record_of, report_config, write_reports
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import REQUIRED
from tests.conftest import ROOT
from tests.miniatures import miniature

DET = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')
SEG = str(ROOT / 'configs/mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')
VIM = str(ROOT / 'configs/vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py')


def with_data(path: str, root) -> Config:
    return load_config(path, {f'{split}_dataloader.dataset.data_root': f'{root}/' for split in ('train', 'test')})


def test_the_papers_facts():
    """MambaOut, section 3.2 and 3.3: 196 tokens in ImageNet, about 4,000 in COCO and ADE20K, at patches of 16 px;
    thresholds of 2,304 and 4,608 for the widths of ViT-S and ViT-B.
    """
    facts = {(report.data.split()[0], report.stages[0].channels): report.stages[0] for report in paper_reports()}
    assert [int(facts[name, 384].tokens[0]) for name in ('ImageNet', 'COCO', 'ADE20K')] == [196, 4000, 4096]
    assert [facts['COCO', width].threshold for width in (384, 768)] == [2304, 4608]
    assert [facts[name, 384].long_share for name in ('ImageNet', 'COCO', 'ADE20K')] == [0, 1, 1]
    assert facts['COCO', 768].long_share == 0


def test_the_ratio_is_that_of_the_two_terms():
    for length, width in ((196, 384), (4000, 384), (4000, 96)):
        linear, quadratic = 24 * width**2 * length, 4 * width * length**2
        assert block_flops(length, width) == linear + quadratic
        assert ratio(length, width) == pytest.approx(quadratic / linear)
    assert ratio(2304, 384) == 1


def test_real_coco_images_have_about_4000_patches(realdata):
    (stage,) = count_tokens(network_sizes(with_data(VIM, realdata / 'coco_mini')), [(16, 192)])
    assert stage.quantile(0.05) > 3000 and stage.quantile(1) <= 84 * 50
    assert stage.mean == pytest.approx(4000, rel=0.1)


def seen_by_network(cfg: Config, split: str) -> list[tuple[int, int]]:
    """Sizes after the data set's own pipeline and the model's own preprocessor, image after image."""
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    shapes = []
    for sample in dataset:
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        shapes.append(tuple(preprocess(batch, training=split == 'train')['inputs'].shape[-2:]))
    return shapes


@pytest.mark.parametrize(
    ('path', 'data', 'split'),
    [
        (DET, 'coco_mini', 'test'),
        (DET, 'coco_mini', 'train'),
        (SEG, 'ade20k_mini', 'test'),
        (SEG, 'ade20k_mini', 'train'),
    ],
)
def test_sizes_equal_those_of_the_real_pipeline(realdata, path, data, split):
    cfg = with_data(path, realdata / data)
    found = network_sizes(cfg, split)
    expected = Sizes.of(seen_by_network(cfg, split))
    assert np.array_equal(found.hw, expected.hw)
    if (data, split) != ('ade20k_mini', 'train'):  # there all are equal, and nothing is read
        assert np.array_equal(found.weight, expected.weight)


def test_preprocessing_of_tests(realdata):
    cfg = with_data(SEG, realdata / 'ade20k_mini')
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    assert np.array_equal(network_sizes(cfg).hw, Sizes.of(seen_by_network(cfg, 'test')).hw)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert network_sizes(cfg).hw.max() == 512


COCO_LIKE = Sizes.of([(480, 640), (640, 480), (427, 640)], [3, 1, 2])


def test_random_resize_is_the_mean_of_its_choices():
    from mmcv.transforms import RandomResize

    step = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
    found = apply_pipeline(COCO_LIKE, [step])
    assert found.weight.sum() == pytest.approx(6)
    areas = found.hw.prod(axis=1)
    transform = RandomResize(**{key: value for key, value in step.items() if key != 'type'})
    np.random.seed(0)
    drawn = []
    for _ in range(300):
        for (h, w), weight in zip(COCO_LIKE.hw, COCO_LIKE.weight):
            shape = transform(dict(img=np.zeros((h, w), np.uint8)))['img_shape']
            drawn += [shape[0] * shape[1]] * int(weight)
    assert np.average(areas, weights=found.weight) == pytest.approx(np.mean(drawn), rel=0.05)
    order = np.argsort(areas)
    share = np.cumsum(found.weight[order]) / 6
    for q in (0.1, 0.5, 0.9):
        assert areas[order][np.searchsorted(share, q)] == pytest.approx(np.quantile(drawn, q), rel=0.12)


def test_choices_and_crops():
    """The multi-scale recipe of longer schedules: one of eleven sides, or crop and resize."""
    sides = list(range(480, 801, 32))
    choice = dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=[(1333, side) for side in sides], keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(4200, 400)], keep_ratio=True),
                dict(type='RandomCrop', crop_size=(384, 600)),
            ],
        ],
    )
    found = apply_pipeline(Sizes.of([(480, 640)]), [dict(type='LoadImageFromFile'), choice])
    chances = {tuple(size): weight for size, weight in zip(found.hw.tolist(), found.weight)}
    assert chances[384, 533] == pytest.approx(0.5)
    assert chances[800, 1067] == pytest.approx(0.5 / 11)
    assert len(chances) == 12
    wide = apply_pipeline(Sizes.of([(100, 1000)]), [dict(type='Resize', scale=(1333, 800), keep_ratio=True)])
    assert wide.hw.tolist() == [[133, 1333]]
    assert apply_pipeline(COCO_LIKE, [dict(type='Resize', scale=(300, 200))]).hw.tolist() == [[200, 300]]
    square = [dict(type='Resize', scale=(640, 640), keep_ratio=True), dict(type='Pad', size=(640, 640))]
    assert apply_pipeline(COCO_LIKE, square).hw.tolist() == [[640, 640]]
    assert apply_pipeline(Sizes.of([(900, 20)]), [dict(type='Pad', size=(64, 32))]).hw.tolist() == [[900, 64]]
    assert apply_pipeline(Sizes.of([(101, 51)]), [dict(type='Resize', scale_factor=0.5)]).hw.tolist() == [[51, 26]]


@pytest.mark.parametrize(
    'name',
    [
        'mambaout',
        'vim',
        'vmamba',
        'localvim',
        'localvmamba',
        'plainmamba',
        'mambavision',
        'efficientvmamba',
        'mamba',
        'spatialmamba',
        'vssd',
        'mila',
        'hvittt',
        'ravlt',
    ],
)
def test_counts_equal_the_maps_of_the_backbone(name):
    """At sides that no stride divides."""
    cfg = miniature(f'{name}_mini', 'segmentation')
    stages = stages_of(cfg)
    backbone = MODELS.build({**cfg.model.backbone, 'init_cfg': None}).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 75, 109))
    counted = [(int(stage.tokens[0]), stage.channels) for stage in count_tokens(Sizes.of([(75, 109)]), stages)]
    cut = int(name in ('localvmamba', 'efficientvmamba'))
    most, least = (
        list(dict.fromkeys(((x.shape[2] + extra) * (x.shape[3] + extra), x.shape[1]) for x in maps))
        for extra in (cut, 0)
    )
    assert least <= counted <= most and [c for _, c in counted] == [c for _, c in most]
    assert cut or counted == most


def test_quantiles_and_shares():
    (stage,) = count_tokens(Sizes.of([(16, 16), (16, 32), (16, 160)], [5, 4, 1]), [(16, 1)])
    assert [stage.quantile(q) for q in (0, 0.5, 0.51, 0.9, 0.91, 1)] == [1, 1, 2, 2, 10, 10]
    assert stage.mean == 2.3 and stage.threshold == 6 and stage.long_share == 0.1


def test_annotations_alone_of_coco_size(tmp_path):
    """118,287 images of 3,000 sizes with 860,000 objects: neither images nor pycocotools' index are needed."""
    rng = np.random.default_rng(0)
    hw = rng.integers(300, 641, (3000, 2))[rng.integers(0, 3000, 118287)].tolist()
    images = [dict(id=i, file_name=f'{i:012}.jpg', height=h, width=w) for i, (h, w) in enumerate(hw)]
    images.append(dict(id=-1, file_name='small.jpg', height=20, width=400))
    annotations = [dict(id=i, image_id=i % 118000) for i in range(860001)]
    (tmp_path / 'annotations').mkdir()
    for name in ('train', 'val'):
        (tmp_path / f'annotations/instances_{name}2017.json').write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=[]))
        )
    cfg = with_data(DET, tmp_path)
    assert network_sizes(cfg, 'train').weight.sum() == 118000
    assert network_sizes(cfg, 'test').weight.sum() == 118288
    assert len(network_sizes(cfg, 'test').hw) < 1000


def test_report(realdata, tmp_path):
    cfg = with_data(DET, realdata / 'coco_mini')
    reports = report_config(cfg, 'mambaout')
    assert [(stage.stride, stage.channels) for stage in reports[0].stages] == [(4, 96), (8, 192), (16, 384), (32, 576)]
    write_reports(tmp_path / 'tokens.csv', reports + paper_reports())
    with (tmp_path / 'tokens.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + 4 + 6 and rows[0]['images'] == '50' and float(rows[3]['long_share']) == 0
    assert rows[6]['data'] == 'ImageNet 224x224' and rows[6]['median'] == '196'
    figure = draw(reports, 'detection')
    figure.savefig(tmp_path / 'tokens.svg')
    assert len(figure.axes) == 1 and len(figure.axes[0].get_lines()) == 5  # four of ImageNet, one threshold
    assert figure.axes[0].get_title().startswith('mambaout')
    record = record_of(cfg, DET, reports[0], 'test')
    assert not [key for key in REQUIRED if key not in record]
    assert record['kind'] == 'tokens' and record['metrics']['stage1.long_share'] == 1
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (
            lambda cfg: cfg.merge_from_dict({'test_dataloader.dataset.data_root': 'nowhere/'}),
            r'nowhere/annotations/instances_val2017\.json: no readable annotation file',
        ),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Mosaic')), 'step Mosaic: its effect'),
        (lambda cfg: setattr(cfg, 'test_dataloader', None), 'test_dataloader: the config has none'),
    ],
)
def test_bad_input(realdata, break_it, message):
    cfg = with_data(DET, realdata / 'coco_mini')
    break_it(cfg)
    with pytest.raises(InputError, match=message):
        network_sizes(cfg)


def test_bad_data(tmp_path):
    dataset = dict(data_root=str(tmp_path), ann_file='a.json')
    for content, message in (
        ('{', 'not a COCO annotation file'),
        ('{"images": []}', 'no images'),
        ('{"images": [{"id": 1}]}', 'not a COCO annotation file'),
    ):
        (tmp_path / 'a.json').write_text(content)
        with pytest.raises(InputError, match=f'a.json: {message}'):
            tokens.dataset_sizes(dataset)
    folder = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images'))
    with pytest.raises(InputError, match='no such folder of images'):
        tokens.dataset_sizes(folder)
    (tmp_path / 'images').mkdir()
    with pytest.raises(InputError, match=r'no \*\.jpg images'):
        tokens.dataset_sizes(folder)
    (tmp_path / 'images/a.jpg').write_bytes(b'nothing')
    with pytest.raises(InputError, match=r'a\.jpg: not a readable image'):
        tokens.dataset_sizes(folder)
