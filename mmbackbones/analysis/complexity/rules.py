"""Reasons why some published MACs differ from :mod:`mmbackbones.analysis.complexity`: their authors count differently.

A family is here if the network is the same and its published MACs differ by more than 1 % from our count. Its rules
come from the authors' counting scripts if those are public, else from arithmetic. The reason says which.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mmbackbones.analysis.complexity.count import Complexity
from mmbackbones.backbones.vssd import VSSD
from mmbackbones.zoo.published import SETTINGS, PublishedRow


@dataclass(frozen=True)
class CountDifference:
    """A difference between our count and the published one.

    Attributes:
        macs (int): MACs to add to our count.
        reason (str): what the authors count differently.
    """

    macs: int
    reason: str


def _localmamba(counts: Complexity, row: PublishedRow) -> list[CountDifference]:
    """hunto/LocalMamba, segmentation/tools/analysis_tools/mamba_get_flops.py: 4 (5N + 2) per element, ours 9N + 1."""
    other = sum(elements * 4 * (5 * state + 2) for state, elements in counts.scans.items())
    return [
        CountDifference(
            other - counts.scan_macs(),
            'their script counts a scan as 5N + 2 per element, gate included, and all four directions again for '
            'each of the four (hunto/LocalMamba, mamba_get_flops.py)',
        )
    ]


def _unseen_attention(counts: Complexity, row: PublishedRow) -> list[CountDifference]:
    """MACs that a tracing counter without rules for sdpa attention and custom operators leaves out."""
    modules = counts.submodules
    products = sum(
        macs - modules[f'{name}.qkv'] - modules[f'{name}.proj']
        for name, macs in modules.items()
        if f'{name}.qkv' in modules and f'{name}.proj' in modules
    )
    return [
        CountDifference(
            -products, "mmengine's counter has no rule for sdpa attention (by arithmetic; no script is public)"
        ),
        CountDifference(-counts.scan_macs(), 'nor for a scan that is an operator of its own'),
    ]


def _all_products(counts: Complexity, row: PublishedRow) -> list[CountDifference]:
    """MACs of RAVLT's attention, linear and softmax, apart from its projections and its convolution."""
    modules = counts.submodules
    products = sum(
        macs - sum(modules[f'{name}.{part}'] for part in ('qkvo', 'lepe', 'proj'))
        for name, macs in modules.items()
        if f'{name}.qkvo' in modules
    )
    return [
        CountDifference(
            -products,
            'their count has no products of queries, keys and values, neither of the linear attention nor of the '
            'softmax attention (by arithmetic)',
        )
    ]


def _one_head_of_ssd(counts: Complexity, row: PublishedRow) -> list[CountDifference]:
    """MACs that a counter leaves out which counts a product by its first operand, where B and C are all heads'."""
    modules, heads = counts.submodules, VSSD.resolve_arch(row.variant.lower()).num_heads
    missing = 0
    for name in (name.removesuffix('.conv2d') for name in modules if name.endswith('.mixer.conv2d')):
        products = modules[name] - sum(modules[f'{name}.{part}'] for part in ('in_proj', 'conv2d', 'norm', 'out_proj'))
        stage = int(name.partition('layers.')[2].split('.')[0])
        missing += products - products // heads[stage]
    return [
        CountDifference(
            -missing,
            "mmengine's counter multiplies the size of a product's first operand by the second's last side: with B "
            'and C, which all heads share, it counts one head (by arithmetic; their script calls this counter)',
        )
    ]


EXPLANATIONS: dict[str, Callable[[Complexity, PublishedRow], list[CountDifference]]] = {
    'LocalVim': _localmamba,
    'MambaVision': _unseen_attention,
    'VSSD': _one_head_of_ssd,
    'RAVLT': _all_products,
}
PADDED = (
    'their count has all four scans of a block, with what they read, as long as the longest, window padding included; '
    'counted so, ours rounds to theirs (tests/backbones/test_local_vmamba.py)'
)
WITHOUT_PRODUCTS = (
    "without the products of attention, which mmcv's counter did not see, ours has {} G (by arithmetic; no script is "
    'public)'
)
WITH_CLASSIFIER = (
    "the published parameters have the classifier, {} M, which the authors' dense backbone keeps unused "
    '(Meituan-AutoML/Twins, detection/gvt.py); '
)
POOLED_AS_SQUARE = (
    'with the pooled tokens of a 512x512 image, 256 and not 1,024, and without the resizing of the position bias, ours '
    'has {} G (by arithmetic; no script is public)'
)
AXES_AT_ONCE = (
    'counted with the position bias resized as theirs, the whole square and not one axis after the other, ours has '
    '{} G (tests/analysis/complexity/test_rules.py)'
)
# As REMARKS, for rows of other heads and schedules: by head, family and variant.
REMARKS_ON_OTHER_HEADS = {
    ('Cascade Mask R-CNN', 'MambaVision', variant): "the published figures are ConvNeXt's, "
    f'{figures}, to within 1; they are no count of MambaVision'
    for variant, figures in (('T', '86 M and 741 G'), ('S', '108 M and 827 G'), ('B', '146 M and 964 G'))
}
# What no step from our count explains, by task, family and variant of the published row.
REMARKS = {
    **{(task, 'LocalVMamba', variant): PADDED for task in ('detection', 'segmentation') for variant in 'TS'},
    **{
        ('segmentation', 'H-ViT3', variant): 'the published parameters leave out the auxiliary head (by arithmetic)'
        for variant in 'TSB'
    },
    **{
        ('segmentation', 'Twins', variant): WITH_CLASSIFIER.format(classifier) + WITHOUT_PRODUCTS.format(macs)
        for variant, classifier, macs in (('S', 0.51, 904), ('B', 0.77, 1024), ('L', 1.02, 1165))
    },
    **{
        ('detection', 'TransNeXt', variant): AXES_AT_ONCE.format(macs)
        for variant, macs in (('Tiny', 356), ('Small', 514), ('Base', 727))
    },
    **{
        ('segmentation', 'TransNeXt', variant): POOLED_AS_SQUARE.format(macs)
        for variant, macs in (('Tiny', 976), ('Small', 1085), ('Base', 1264))
    },
    (
        'detection',
        'VMamba',
        'v2 S s2l15',
    ): "the authors' paper prints 349 G for it (arXiv 2401.10166, NeurIPS version, tables of 1x and 3x), their "
    'repository 384 G; the other rows agree in both',
    (
        'detection',
        'Swin',
        'S',
    ): "the authors' own table prints 359 G, our count (SwinTransformer/Swin-Transformer-Object-Detection, README); "
    'later papers print 354 G',
    (
        'detection',
        'Swin',
        'B',
    ): "the authors' own Cascade Mask R-CNNs have B 144 G above S (the same README), as our count has; later papers "
    'print 496 G',
    (
        'detection',
        'FocalNet',
        'T',
    ): "counted with first windows of 7, not the 9 of the authors' config, it has 267.6 G and 48.9 M parameters; the "
    "authors' table has 268 G and 48.8 M (microsoft/FocalNet, README)",
    (
        'detection',
        'VSSD',
        'Small',
    ): "the authors' README truncates 59.7 M parameters",
    (
        'segmentation',
        'VSSD',
        'Tiny',
    ): 'without the auxiliary head it has 53.4 M parameters, which round to the published 53 M',
    (
        'segmentation',
        'MambaVision',
        'T',
    ): "the network of the authors' released log has our 62.5 M parameters, not the published 55 M: the table "
    'describes another one',
    (
        'segmentation',
        'MambaVision',
        'S',
    ): "the network of the authors' released config has our 81.8 M parameters, not the published 84 M: the table "
    'describes another one',
    (
        'segmentation',
        'MambaVision',
        'B',
    ): "the network of the authors' released log has our 131.2 M parameters, not the published 126 M",
}


def explain(family: str, counts: Complexity, row: PublishedRow | None) -> list[CountDifference]:
    """Steps from our count towards a published one; empty if both are counted alike.

    Args:
        family: class of the backbone, without scope.
        counts: our counts at the size of the published row.
        row: the published row of the config.
    """
    return EXPLANATIONS[family](counts, row) if family in EXPLANATIONS and row is not None and row.macs else []


def describe(family: str, counts: Complexity, row: PublishedRow | None) -> list[str]:
    """The same as lines to print: every step, the sum, how far it is from the published figure, and what stays open."""
    steps, lines = explain(family, counts, row), []
    total = counts.macs['total']
    for step in steps:
        total += step.macs
        lines.append(f'{step.macs / 1e9:+.1f} G: {step.reason}')
    if steps:
        apart = total / row.macs / 1e7 - 100
        lines.append(f'counted so: {total / 1e9:.1f} G, published {row.macs:g} G, {apart:+.2f} %')
    remark = remark_on(row)
    return [*lines, remark] if remark else lines


def remark_on(row: PublishedRow | None) -> str | None:
    """Other known reasons for a difference from a published figure, or None."""
    if row is None:
        return None
    if (row.head, row.recipe) == (SETTINGS[row.task].head, SETTINGS[row.task].recipe):
        return REMARKS.get((row.task, row.family, row.variant))
    return REMARKS_ON_OTHER_HEADS.get((row.head, row.family, row.variant))
