"""Parameters and MACs: against the published tables, against the stock analyzer, and by hand."""

import csv
import logging
import math

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmbackbones.analysis.complexity.count import (
    OLDER_RULE,
    ONE_UNIT,
    SCAN_RULES,
    SHAPES,
    count_complexity,
    count_module,
)
from mmbackbones.analysis.complexity.table import COLUMNS, all_configs, count_configs, to_markdown, write_counts
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import task_of
from mmbackbones.layers.arms import ARMS
from mmbackbones.ops.scan_orders import scan_order, to_sequence
from mmbackbones.ops.selective_scan import selective_scan
from mmbackbones.zoo.models import miniature_names
from mmbackbones.zoo.published import match
from tests.conftest import ROOT
from tests.miniatures import TASKS, miniature

CONFIGS = {
    'detection': 'mask-rcnn_{}_fpn_8xb2-amp-1x_coco.py',
    'segmentation': '{}_upernet_8xb2-amp-160k_ade20k-512x512.py',
}


def config(network: str, task: str, overrides: dict | None = None):
    return load_config(str(ROOT / 'configs' / network.split('-')[0] / CONFIGS[task].format(network)), overrides)


PUBLISHED = {  # million parameters, GMACs
    # MambaOut, CVPR 2025, Tables 2 and 3
    ('mambaout-tiny', 'detection'): (43, 262),
    ('mambaout-tiny', 'segmentation'): (54, 938),
    ('mambaout-small', 'detection'): (65, 354),
    ('mambaout-small', 'segmentation'): (76, 1032),
    ('mambaout-base', 'detection'): (100, 495),
    ('mambaout-base', 'segmentation'): (112, 1178),
    # the authors' assets/performance.md, but for small in Mask R-CNN (see below)
    ('vmamba-tiny-s1l8', 'detection'): (50, 271),
    ('vmamba-tiny-s1l8', 'segmentation'): (62, 949),
    ('vmamba-small-s2l15', 'detection'): (70, 349),
    ('vmamba-small-s2l15', 'segmentation'): (82, 1028),
    ('vmamba-base-s2l15', 'detection'): (108, 485),
    ('vmamba-base-s2l15', 'segmentation'): (122, 1170),
    ('vmamba-tiny-v0', 'detection'): (42, 286),
    ('vmamba-tiny-v0', 'segmentation'): (55, 964),
    ('vmamba-small-v0', 'detection'): (64, 400),
    ('vmamba-base-v0', 'segmentation'): (110, 1226),
}


@pytest.mark.parametrize(('network', 'task'), PUBLISHED)
def test_counts_equal_the_published(network, task):
    counts = count_complexity(config(network, task))
    params, macs = PUBLISHED[network, task]
    assert round(counts.params['total'] / 1e6) == params
    if network.startswith('mambaout'):
        assert counts.macs['total'] / 1e9 == pytest.approx(macs, rel=0.002)
    else:
        assert round(counts.macs['total'] / 1e9) == macs
    assert sum(counts.macs.values()) == pytest.approx(2 * counts.macs['total'], abs=5)  # the modules make up the whole
    assert sum(counts.operators.values()) == counts.macs['total']
    assert sum(counts.params.values()) == 2 * counts.params['total']


@pytest.mark.parametrize('network', ['mambaout_tiny', 'vmamba_tiny_s1l8', 'transnext_tiny'])
def test_counts_of_classifiers_equal_the_published(network):
    task = ROOT / 'configs/tasks/imagenet-224.py'
    counted, row = count_complexity(load_config(task, {}, network)), match(task, backbone=network).row
    assert counted.shape == (224, 224) and set(counted.params) == {'total', 'backbone', 'head'}
    for ours, theirs in ((counted.params['total'] / 1e6, row.params), (counted.macs['total'] / 1e9, row.macs)):
        digits = len(f'{theirs:g}'.partition('.')[2])
        assert round(ours, digits) == theirs


@pytest.mark.parametrize(('size', 'first'), [('tiny', 262), ('small', 357)])
def test_the_older_scan_rule_gives_the_first_printed_numbers(size, first):
    """What VMamba's repository printed for its first nets before it corrected the rule, struck out there."""
    assert round(count_complexity(config(f'vmamba-{size}-v0', 'detection')).total_macs(OLDER_RULE) / 1e9) == first


def test_one_published_row_contradicts_its_neighbours():
    """VMamba-S in Mask R-CNN: 384 G in the authors' repository, 349 G in the paper's Table 2, and here.

    Small differs from tiny-s2l5 by ten blocks of the third stage alone, whose cost is proportional to the pixels; so
    its row follows from the other three of the same table.
    """
    tiny_detector, tiny_segmentor, small_segmentor = 270, 948, 1028
    ten_blocks = (small_segmentor - tiny_segmentor) * (800 * 1280) / (512 * 2048)
    assert tiny_detector + ten_blocks == pytest.approx(PUBLISHED['vmamba-small-s2l15', 'detection'][1], rel=0.005)


def trace_macs(inputs, outputs):
    batch, dim, length = inputs[0].type().sizes()
    return batch * dim * length * SCAN_RULES['9N+1'](inputs[2].type().sizes()[1])


def trace_attention(inputs, outputs):
    *batch, queries, depth = inputs[0].type().sizes()
    keys, width = inputs[2].type().sizes()[-2:]
    return math.prod(batch) * queries * keys * (depth + width)


class Plain(nn.Module):
    """A model's plain forward pass, taking nothing but the image, as tracing demands."""

    def __init__(self, model, shape):
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, image):
        if not hasattr(self.model, 'roi_head'):
            return self.model.decode_head(self.model.extract_feat(image))
        from mmdet.structures import DetDataSample

        sample = DetDataSample(
            metainfo=dict(img_shape=self.shape, ori_shape=self.shape, batch_input_shape=self.shape, scale_factor=(1, 1))
        )
        return self.model(image, [sample], mode='tensor')


def traced(cfg, shape) -> tuple[int, dict[str, int]]:
    """mmengine's analyzer on the whole model, really run: all MACs, and those of its modules."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'init_cfg': None}}).eval()
    analyzer = FlopAnalyzer(Plain(model, shape).eval(), (torch.randn(1, 3, *shape),))
    analyzer.set_op_handle(
        **{'mmbackbones::selective_scan': trace_macs, 'aten::scaled_dot_product_attention': trace_attention}
    )
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    logging.disable(logging.WARNING)  # the tracer warns at every shape read in Python
    try:
        with torch.no_grad():
            counts = analyzer.by_module()
    finally:
        logging.disable(logging.NOTSET)
    return counts[''], counts


ALL_PROPOSALS = {  # random networks suppress most of their proposals, trained ones do not
    'model.test_cfg.rpn.nms.iou_threshold': 1.0,
    'model.test_cfg.rpn.min_bbox_size': -1,
}


@pytest.mark.parametrize('network', ['mambaout_mini', 'vmamba_mini'])
@pytest.mark.parametrize('task', TASKS)
def test_the_sum_equals_the_whole(network, task):
    """Backbone, neck and heads, counted apart and without values, against one traced and computed forward pass."""
    cfg = miniature(network, task, ALL_PROPOSALS if task == 'detection' else None)
    counts = count_complexity(cfg, (160, 224))
    total, modules = traced(cfg, (160, 224))
    assert counts.macs['total'] == pytest.approx(total, rel=1e-4)  # global pooling has no rule here
    assert counts.macs['backbone'] == modules['model.backbone']
    for name in {'neck', 'rpn_head', 'roi_head'} & counts.macs.keys():
        assert counts.macs[name] == modules[f'model.{name}']
    names = [name for name in counts.submodules if name.count('.') == 3]
    assert len(names) > 8
    assert {name: counts.submodules[name] for name in names} == {name: modules[f'model.{name}'] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize('task', CONFIGS)
def test_the_sum_equals_the_whole_at_full_size(task):
    cfg = config('mambaout-tiny', task)
    counts = count_complexity(cfg)
    assert counts.macs['total'] == pytest.approx(traced(cfg, SHAPES[task])[0], rel=1e-5)


def test_counts_by_hand():
    """A stem of two 3x3 convolutions and one block per stage, counted with a pencil."""
    cfg = miniature(
        'mambaout_mini',
        'segmentation',
        {
            'model.backbone.arch': dict(depths=(1,), dims=(8,)),
            'model.backbone.out_indices': (0,),
            'model.decode_head.in_channels': [8],
            'model.decode_head.in_index': [0],
            'model.auxiliary_head': None,
        },
    )
    counts = count_complexity(cfg, (32, 64))
    stem = 16 * 32 * 4 * 27 + 8 * 16 * 8 * 36
    hidden = int(8 / 3 * 8)
    block = 8 * 16 * (8 * 2 * hidden + 8 * 49 + hidden * 8)
    assert counts.macs['backbone'] - stem - block == sum((16 * 32 * 4, 8 * 16 * 8, 8 * 16 * 8, 8 * 16 * 8)) * 5  # norms
    assert counts.shape == (32, 64)


class Scan(nn.Module):
    def forward(self, u: Tensor, A: Tensor, B: Tensor, D: Tensor, order: Tensor | None = None) -> Tensor:
        return selective_scan(u, u, A, B, B, D, order=order)


def test_scan_rules_by_hand():
    counts = count_module(Scan(), *(torch.empty(shape) for shape in ((2, 6, 11), (6, 4), (2, 1, 4, 11), (6,))))
    assert counts.scans == {4: 2 * 6 * 11}
    assert counts.macs['Global'] == {'mmbackbones.selective_scan': 2 * 6 * 11 * (9 * 4 + 1)}
    assert [rule(4) for rule in SCAN_RULES.values()] == [37, 15, 18.5]
    shapes, order = ((2, 6, 10), (6, 4), (2, 1, 4, 10), (6,)), scan_order('w2', 2, 5).order
    counts = count_module(Scan(), *(torch.empty(shape) for shape in shapes), order)
    assert counts.scans == {4: 2 * 6 * 12}
    mixed = count_complexity(miniature('vmamba_mini', 'segmentation'), (64, 64))
    assert mixed.total_macs() == mixed.macs['total']
    assert mixed.total_macs(ONE_UNIT) == pytest.approx(mixed.macs['total'] - mixed.scan_macs() / 2, abs=1)


class Attention(nn.Module):
    def __init__(self, fused: bool, mask: bool = False):
        super().__init__()
        self.fused, self.mask = fused, mask

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = q.new_zeros(q.shape[-2], k.shape[-2]) if self.mask else None
        if self.fused:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (q @ k.transpose(-2, -1) + (0 if mask is None else mask)).softmax(-1) @ v


@pytest.mark.parametrize('mask', [False, True])
@pytest.mark.parametrize('widths', [(8, 8), (8, 4)])
def test_fused_attention_counts_as_plain(mask, widths):
    inputs = torch.randn(2, 3, 5, widths[0]), torch.randn(2, 3, 7, widths[0]), torch.randn(2, 3, 7, widths[1])
    counts = [sum(count_module(Attention(fused, mask), *inputs).macs['Global'].values()) for fused in (False, True)]
    assert counts == [2 * 3 * 5 * 7 * sum(widths)] * 2


def test_multihead_attention_is_not_missed():
    layer = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.empty(1, 10, 16)
    assert sum(count_module(layer, x, x, x).macs['Global'].values()) == 10 * 16 * 4 * 16 + 2 * 10 * 10 * 16


HARMLESS = {  # element-wise, reductions, layout
    '_safe_softmax',
    '_softmax',
    '_to_copy',
    '_unsafe_view',
    '_upsample_bicubic2d_aa',
    'abs',
    'add',
    'add_',
    'alias',
    'arange',
    'avg_pool2d',
    'bitwise_and',
    'bitwise_not',
    'cat',
    'clamp',
    'clamp_min',
    'clone',
    'constant_pad_nd',
    'copy_',
    'cos',
    'cumsum',
    'detach',
    'device',
    'div',
    'elu',
    'empty',
    'eq',
    'exp',
    'expand',
    'fill_',
    'flip',
    'full',
    'gather',
    'ge',
    'gelu',
    'index',
    'index_select',
    'lift_fresh',
    'linalg_vector_norm',
    'linspace',
    'log',
    'log2',
    'lt',
    'masked_fill',
    'masked_fill_',
    'max_pool2d_with_indices',
    'mean',
    'mul',
    'ne',
    'neg',
    'new_empty',
    'new_full',
    'new_zeros',
    'ones_like',
    'permute',
    'pow',
    'promote_types',
    'reciprocal',
    'relu',
    'relu_',
    'remainder',
    'repeat',
    'replication_pad2d',
    'roll',
    'rsqrt',
    'scatter_',
    'select',
    'sigmoid',
    'sign',
    'silu',
    'sin',
    'slice',
    'softplus',
    'sort',
    'split',
    'split_with_sizes',
    'squeeze',
    'stack',
    'sub',
    'sum',
    't',
    'transpose',
    'unbind',
    'unsqueeze',
    'upsample_bicubic2d',
    'view',
    'zeros',
}


@pytest.mark.parametrize('name', miniature_names())
def test_nothing_expensive_goes_uncounted(name):
    found = count_complexity(miniature(name, 'segmentation'), (64, 64)).uncounted
    assert {name.split('.')[1] for name in found} <= HARMLESS


def test_equal_parts_are_counted_once(monkeypatch):
    from mmbackbones.analysis.complexity import count as complexity

    calls = []
    count = complexity._count_part
    monkeypatch.setattr(complexity, '_count_part', lambda *args: calls.append(args[1].__name__) or count(*args))
    cache = {}
    cfgs = [config(name, 'segmentation') for name in ('mambaout-tiny', 'mambaout-small', 'mambaout-base')]
    shared = [count_complexity(cfg, cache=cache) for cfg in cfgs]
    # Tiny and small have equal channels.
    assert calls == ['_backbone', '_segmentor_heads', '_backbone', '_backbone', '_segmentor_heads']
    cfgs[0].model.backbone.drop_path_rate = 0.9
    assert count_complexity(cfgs[0], cache=cache) == shared[0] and len(calls) == len(cache) == 5
    cfgs[0].model.decode_head.channels = 64
    assert count_complexity(cfgs[0], cache=cache).macs['decode_head'] < shared[0].macs['decode_head'] / 5
    assert calls[5:] == ['_segmentor_heads']
    assert shared[1:] == [count_complexity(cfg) for cfg in cfgs[1:]]
    assert count_complexity(cfgs[1], (256, 256), cache).macs['backbone'] == shared[1].macs['backbone'] / 16


def test_table(tmp_path):
    folder = ROOT / 'configs/vmamba'
    paths = [config for config in all_configs(folder) if 'small-s' in config.name]
    rows = {(row['config'], row['recipe']): row for row in count_configs(paths)}
    row = rows['mask-rcnn_vmamba-small-s2l15_fpn_8xb2-amp-1x_coco', 'common']
    assert (row['published_macs_G'], row['params_off_percent']) == (384, 0)
    assert row['macs_off_percent'] == pytest.approx(-9.1, abs=0.1) and '349 G' in row['why_apart']
    assert row['macs_G'] == pytest.approx(row['backbone_macs_G'] + row['neck_macs_G'] + row['heads_macs_G'])
    assert rows['mask-rcnn_vmamba-small-s2l15_fpn_8xb2-1x_coco', 'native']['macs_G'] == row['macs_G']
    without = rows['vmamba-small-s1l20_upernet_8xb2-amp-160k_ade20k-512x512', 'common']
    assert without['published_macs_G'] is None and without['remark'] == 'published for ImageNet only'
    write_counts(tmp_path / 'table.csv', list(rows.values()))
    with (tmp_path / 'table.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*COLUMNS, 'date', 'commit', 'torch', 'timm'] and len(lines) == len(rows)
    assert float(lines[0]['macs_G']) == pytest.approx(next(iter(rows.values()))['macs_G'], abs=5e-4)
    markdown = to_markdown(list(rows.values()))
    assert '### Detection, 800x1280 px' in markdown and '| 384 | -9.1 |' in markdown


def test_all_finds_every_config():
    found = all_configs(ROOT / 'configs')
    folders = {config.config.parent.relative_to(ROOT / 'configs').as_posix() for config in found}
    assert {'vim/native', 'quickstart', 'controlled', 'controlled/miniature'} <= folders
    assert not folders & {'tasks', '_base_/models'}
    assert len(found) == len({(config.name, config.config.parent) for config in found}) > 400
    assert {config.backbone for config in found} - {None} == set(miniature_names())
    assert {config.arm for config in found} - {None} == {arm for arms in ARMS.values() for arm in arms}
    assert all('model' in load_config(config.config) for config in found[::40])


@pytest.mark.full
def test_every_config_is_counted():
    rows = list(count_configs(all_configs(ROOT / 'configs')))
    assert len(rows) > 150 and all(row['macs_G'] > row['backbone_macs_G'] > 0 for row in rows)
    counted = {(row['config'], row['recipe']): (row['params_M'], row['macs_G']) for row in rows}
    assert counted.keys() == {(row['config'], row['recipe']) for row in committed_table()}
    for row in committed_table():
        assert counted[row['config'], row['recipe']] == pytest.approx(
            (float(row['params_M']), float(row['macs_G'])), abs=6e-4
        )


def committed_table() -> list[dict[str, str]]:
    with (ROOT / 'benchmarks/complexity.csv').open() as file:
        return list(csv.DictReader(file))


def test_whatever_is_far_from_a_published_figure_says_why():
    for row in committed_table():
        off = row['then_off_percent'] or row['macs_off_percent']
        assert not off or abs(float(off)) < 1 or row['remark'] or row['why_apart'], row['config']


def test_the_committed_table_has_todays_counts():
    """README and docs are generated from that table. Here three of its rows, under ``full`` all."""
    committed = {(row['config'], row['recipe']): row for row in committed_table()}
    names = (
        'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py',
        'vmamba/vmamba-tiny-s1l8_upernet_8xb2-amp-160k_ade20k-512x512.py',
        'deit/deit-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    )
    for row in count_configs(ROOT / 'configs' / name for name in names):
        line = committed[row['config'], row['recipe']]
        for column in ('params_M', 'macs_G', 'backbone_macs_G', 'scan_macs_G'):
            assert float(line[column]) == pytest.approx(row[column], abs=6e-4), (row['config'], column)


def test_detectors_without_masks_and_of_one_stage():
    boxes = config('mambaout-femto', 'detection')
    masks = count_complexity(boxes, (64, 64))
    boxes.model.update(type='FasterRCNN')
    boxes.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    counted = count_complexity(boxes, (64, 64))
    assert counted.submodules == {key: macs for key, macs in masks.submodules.items() if 'mask_head' not in key}
    stage = config('mambaout-femto', 'detection')
    for name in ('rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
        stage.model.pop(name)
    stage.model.update(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=80, in_channels=256))
    counted = count_complexity(stage, (64, 64))
    assert counted.macs['backbone'] == masks.macs['backbone'] and counted.macs['bbox_head'] > 0


def test_every_stage_of_a_cascade_counts():
    """The heads of three stages, masks of each included, as in the published counts (slow: of whole networks)."""
    one, three = (
        load_config(ROOT / f'configs/tasks/{name}mask-rcnn_3x_coco.py', backbone='mambaout_mini')
        for name in ('', 'cascade-')
    )
    one, three = count_complexity(one, (64, 64)), count_complexity(three, (64, 64))
    masks = [three.submodules[f'roi_head.mask_head.{stage}'] for stage in range(3)]
    boxes = [three.submodules[f'roi_head.bbox_head.{stage}'] for stage in range(3)]
    assert masks == [one.submodules['roi_head.mask_head']] * 3
    convolutions, linear = 4 * 49 * 256 * 256 * 9, 49 * 256 * 1024 + 1024 * (81 + 4 * 80)
    assert boxes[0] == boxes[1] == boxes[2] == 1000 * (convolutions + 4 * 49 * 256 * 2 + linear)
    assert three.macs['roi_head'] == sum(masks) + sum(boxes)


@pytest.mark.slow
@pytest.mark.parametrize(('backbone', 'params', 'macs'), [('convnext_tiny', 86, 741), ('swin_tiny', 86, 745)])
def test_cascades_measure_what_is_published(backbone, params, macs):
    counted = count_complexity(load_config(ROOT / 'configs/tasks/cascade-mask-rcnn_3x_coco.py', backbone=backbone))
    assert counted.params['total'] / 1e6 == pytest.approx(params, abs=0.5)
    assert counted.macs['total'] / 1e9 == pytest.approx(macs, abs=1)


def test_bad_input(tmp_path):
    cfg = config('mambaout-tiny', 'detection')
    with pytest.raises(InputError, match='--shape 0 640: expected positive'):
        count_complexity(cfg, (0, 640))
    cfg.model.roi_head.type = 'PointRendRoIHead'
    assert task_of(cfg) == 'detection'
    with pytest.raises(InputError, match=r'roi_head\.type=PointRendRoIHead: expected StandardRoIHead or Casc'):
        count_complexity(cfg)
    narrow = config('mambaout-femto', 'segmentation')
    narrow.model.decode_head.in_channels = [1, 2, 3, 4]
    with pytest.raises(InputError, match=r'the model cannot run on inputs of \[\(1, 48, 16, 16\).*: Given groups=1'):
        count_complexity(narrow, (64, 64))
    cfg.model = dict(type='DETR', backbone=cfg.model.backbone, bbox_head={}, encoder={})
    with pytest.raises(
        InputError, match=r'model\.type=DETR: expected a roi_head, or a bbox_head that reads maps alone'
    ):
        count_complexity(cfg)
    with pytest.raises(InputError, match='no configs below this folder'):
        all_configs(tmp_path)


class Reader(nn.Module):
    """Reads a map in windows."""

    def forward(self, x: Tensor) -> Tensor:
        return to_sequence(x.flatten(2), scan_order('w7', *x.shape[2:]))


def test_counting_leaves_no_index_maps_without_numbers():
    count_module(Reader(), torch.empty(1, 4, 6, 5))
    assert type(scan_order('w7', 6, 5).order) is Tensor


def test_a_layer_with_two_places_is_counted_once():
    """RTMDet's levels share their convolutions, each in a module of its level."""
    cfg = load_config(ROOT / 'configs/tasks/rtmdet-ins_100e_coco.py', {}, 'mambaout_mini')
    counted = count_complexity(cfg, (64, 64))
    init_default_scope('mmdet')
    head = MODELS.build({**cfg.model.bbox_head, 'train_cfg': None, 'test_cfg': None})
    assert counted.params['bbox_head'] == sum(parameter.numel() for parameter in head.parameters())
