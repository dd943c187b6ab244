"""Published MACs that follow another rule than ours."""

import pytest

from mmbackbones.analysis.complexity.count import Complexity, count_complexity
from mmbackbones.analysis.complexity.rules import EXPLANATIONS, REMARKS, describe, explain, remark_on
from mmbackbones.engine.config import load_config
from mmbackbones.zoo.published import SETTINGS, match, published_row, published_rows
from tests.conftest import ROOT


def counts_of(path):
    return count_complexity(load_config(str(ROOT / 'configs' / path)))


def reached(path):
    """Family, our count with all steps added, and the published row."""
    family, row, counts = path.split('/')[0], match(ROOT / 'configs' / path).row, counts_of(path)
    names = {'localvim': 'LocalVim', 'mambavision': 'MambaVision', 'ravlt': 'RAVLT', 'vssd': 'VSSD'}
    steps = explain(names[family], counts, row)
    return counts.macs['total'] + sum(step.macs for step in steps), row.macs * 1e9


@pytest.mark.parametrize(
    'path',
    [
        'localvim/native/localvim-tiny_upernet_8xb2-160k_ade20k-512x512.py',
        'localvim/native/localvim-small-searched_upernet_8xb2-160k_ade20k-512x512.py',
        'mambavision/native/mambavision-base_upernet_16xb1-amp-160k_ade20k-512x512.py',
        'ravlt/ravlt-small_upernet_8xb2-amp-160k_ade20k-512x512.py',
        'vssd/native/mask-rcnn_vssd-tiny_fpn_8xb2-1x_coco.py',
    ],
)
def test_the_rule_leads_to_the_published_figure(path):
    counted, published = reached(path)
    assert counted == pytest.approx(published, rel=0.005)


def test_localvim_small_was_published_with_the_searched_orders():
    """The weights do not tell the two apart; the published MACs do, by the padding of the windows."""
    row = published_row('segmentation', 'LocalVim', 'S')
    totals = {}
    for arch in ('searched', 'uniform'):
        counts = counts_of(f'localvim/native/localvim-small-{arch}_upernet_8xb2-160k_ade20k-512x512.py')
        totals[arch] = round((counts.macs['total'] + sum(s.macs for s in explain('LocalVim', counts, row))) / 1e9)
    assert totals['searched'] == row.macs != totals['uniform']


def made_up(**counts):
    return Complexity(
        **{
            **dict(shape=(1, 1), params={}, macs={'total': 0}, submodules={}, operators={}, scans={}, uncounted={}),
            **counts,
        }
    )


def test_steps_by_hand():
    row = published_row('segmentation', 'LocalVim', 'T')
    (step,) = explain('LocalVim', made_up(scans={16: 10, 1: 3}), row)
    assert step.macs == 10 * (4 * 82 - 145) + 3 * (4 * 7 - 10)
    attention = {'backbone.a': 100, 'backbone.a.qkv': 30, 'backbone.a.proj': 10, 'backbone.b': 7, 'backbone.b.proj': 7}
    products, scans = explain('MambaVision', made_up(submodules=attention, scans={8: 2}), row)
    assert (products.macs, scans.macs) == (-60, -2 * 73)
    attention = {'backbone.a': 100, 'backbone.a.qkvo': 30, 'backbone.a.lepe': 9, 'backbone.a.proj': 10, 'backbone.b': 7}
    (products,) = explain('RAVLT', made_up(submodules=attention), row)
    assert products.macs == -51
    block = 'backbone.layers.1.blocks.0.mixer'
    ssd = {block: 100, **{f'{block}.{part}': 5 for part in ('in_proj', 'conv2d', 'norm', 'out_proj')}}
    ssd |= {f'{name}.3.mixer': 50 for name in ('backbone.layers', 'backbone.layers.3.blocks')}
    (step,) = explain('VSSD', made_up(submodules=ssd), published_row('detection', 'VSSD', 'Tiny'))
    assert step.macs == -80 * 3 / 4  # four heads in stage 1


def test_lines():
    row = published_row('segmentation', 'LocalVim', 'T')
    step, total = describe('LocalVim', made_up(macs={'total': 180 * 10**9}, scans={16: 10**7}), row)
    assert step.startswith('+1.8 G: ')
    assert total == 'counted so: 181.8 G, published 181 G, +0.46 %'
    assert describe('LocalVim', made_up(), None) == []
    remark = describe('VMamba', made_up(), published_row('detection', 'VMamba', 'v2 S s2l15'))
    assert len(remark) == 1 and '349 G' in remark[0]


def left_out_of_twins(counts):
    return counts.operators['aten.bmm']


def left_out_of_transnext(counts):
    """768 of 1,024 pooled tokens in two products of each block of three stages, and all resizing but UperNet's own.

    UperNet resizes 4 pooled maps, 3 top-down ones and 3 results, of 512 channels, by four products per value.
    """
    stages = ((2, 72), (2, 144), (15, 288))
    products = sum(2 * 768 * depth * (65536 // 4**i) * dim for i, (depth, dim) in enumerate(stages))
    heads = 4 * 512 * (4 * 1024 + (4096 + 16384 + 65536) + 3 * 65536)
    return products + counts.operators['aten.upsample_bilinear2d'] - heads


@pytest.mark.parametrize(
    ('path', 'left_out'),
    [
        ('twins/twins-svt-small_upernet_8xb2-amp-160k_ade20k-512x512.py', left_out_of_twins),
        ('transnext/transnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', left_out_of_transnext),
    ],
    ids=['Twins', 'TransNeXt'],
)
def test_what_remarks_say_of_attention(path, left_out):
    """The figure in the remark is our count without what the published one leaves out, and comes near the latter."""
    counts, row = counts_of(path), match(ROOT / 'configs' / path).row
    counted = (counts.macs['total'] - left_out(counts)) / 1e9
    assert f' {counted:.0f} G' in REMARKS['segmentation', row.family, row.variant]
    assert counted == pytest.approx(row.macs, rel=0.005)
    assert abs(counts.macs['total'] / 1e9 / row.macs - 1) > 0.03


def test_what_remarks_say_of_the_bias_of_transnext():
    """The authors resize each token's bias of the 800 px square to the pooled tokens of the image, then all tokens."""
    path = 'transnext/mask-rcnn_transnext-tiny_fpn_8xb2-amp-1x_coco.py'
    counts, row = counts_of(path), match(ROOT / 'configs' / path).row
    stages = ((2, 3), (2, 6), (15, 12), (2, 24))  # depth and heads
    whole = sum(4 * depth * heads * (200 // 2**i) ** 2 * 25 * 40 for i, (depth, heads) in enumerate(stages))
    counted = (counts.macs['total'] + whole) / 1e9
    assert f' {counted:.0f} G' in REMARKS['detection', 'TransNeXt', 'Tiny'] and round(counted) == row.macs


def test_what_remarks_say_of_the_classifier_of_twins():
    """768 channels times 1,000 classes, with biases: with them ours are the 88.5 M of the authors' README."""
    counts = counts_of('twins/twins-svt-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
    classifier = 769 * 1000
    assert f' {classifier / 1e6:.2f} M' in REMARKS['segmentation', 'Twins', 'B']
    assert round((counts.params['total'] + classifier) / 1e6, 1) == 88.5


def test_every_remark_has_its_row():
    assert all(published_row(*key) for key in REMARKS)
    assert set(EXPLANATIONS) == {'LocalVim', 'MambaVision', 'RAVLT', 'VSSD'}


@pytest.mark.parametrize('variant', 'TSB')
def test_cascades_of_mambavision_are_published_with_the_figures_of_convnext(variant):
    cascade = SETTINGS['cascade-mask-rcnn-3x']
    theirs, convnext = (
        next(
            row
            for row in published_rows('detection')
            if (row.family, row.variant, row.head, row.recipe) == (family, variant, cascade.head, cascade.recipe)
        )
        for family in ('MambaVision', 'ConvNeXt')
    )
    assert abs(theirs.params - convnext.params) <= 1 and abs(theirs.macs - convnext.macs) <= 1
    assert f'{convnext.params:g} M and {convnext.macs:g} G' in remark_on(theirs)
