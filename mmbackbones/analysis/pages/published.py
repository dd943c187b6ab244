"""The generated parts that show the published tables of the zoo: rows of one recipe, and the words of their columns."""

from pathlib import Path

from mmbackbones.analysis.tables import markdown_table
from mmbackbones.zoo.published import AUGMENTATIONS_1X, PRETRAINING_EXTRAS, SETTINGS, published_rows

SCORES = {'detection': ('AP_box', 'AP_mask'), 'segmentation': ('mIoU_ss', 'mIoU_ms')}
SHOWN = {'detection': 'box / mask AP', 'segmentation': 'mIoU single / multi-scale'}


def rows(root: Path, setting: str) -> str:
    """Every published row of a key of ``SETTINGS``, in the order of its first score."""
    wanted = SETTINGS[setting]
    task, every = wanted.task, published_rows(wanted.task)
    shown = [row for row in every if row.head == wanted.head and wanted.recipe in (row.recipe, None)]
    shown.sort(key=lambda row: -row.metrics.get(SCORES[task][0], 0))
    head = ['network', 'token mixer', 'params (M)', 'MACs (G)', SHOWN[task], 'beyond the plain recipe', 'source']
    lines = [
        [row.name, row.token_mixer, _plain(row.params), _plain(row.macs), scores(row.metrics, task)]
        + [row.beyond_plain, row.source]
        for row in shown
    ]
    return markdown_table(head, lines)


def words(root: Path) -> str:
    """What the words of the columns ``pretraining_extras`` and ``augmentation_1x`` mean."""
    columns = {'pretraining': PRETRAINING_EXTRAS, '1x': AUGMENTATIONS_1X}
    return '\n'.join(f'* {column}: {word}: {text}' for column, known in columns.items() for word, text in known.items())


def scores(metrics: dict[str, float], task: str) -> str:
    """``45.1 / 41.0``, a dash for what is not published."""
    return ' / '.join(f'{metrics[name]:.1f}' if name in metrics else '-' for name in SCORES[task])


def _plain(number: float | None) -> str:
    return '' if number is None else f'{number:g}'
