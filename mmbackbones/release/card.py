"""The model card of a published checkpoint: what was trained, on what, and what it scores. Only records give scores."""

from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import draw_counts, interval
from mmbackbones.evaluation.metric_names import key_of, main_metrics, percent
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.evaluation.predictions import Sample, load_run
from mmbackbones.evaluation.records import RECORDS, read_records
from mmbackbones.evaluation.scores import score

RESAMPLES = 1000
TAGS = {'detection': 'object-detection', 'segmentation': 'image-segmentation'}


@dataclass
class Evidence:
    """What the records beside a checkpoint say of it.

    Attributes:
        record (dict | None): record of the training that ended with it, or of its newest test at one scale.
        intervals (dict[str, tuple[float, float]]): 95 % intervals in percent, by label of the metric.
        without (str): why there is no record, or no interval.
    """

    record: dict | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    without: str = ''

    @property
    def summary(self) -> str:
        """One sentence for the user."""
        if self.record is None:
            return f'the card has no scores: {self.without}'
        scores = ', '.join(f'{label} {value}' for label, value in self.scores())
        return f'scores: {scores}' + (f' (no intervals: {self.without})' if self.without else '')

    def scores(self) -> list[tuple[str, str]]:
        """Label and text of each main metric, in percent, with its interval if there is one."""
        rows = []
        for label, value in main_metrics(self.record['metrics'] if self.record else {}).items():
            if value < 0 and key_of(label).startswith('coco/'):
                continue  # COCO's word for a score of no objects
            low, high = self.intervals.get(label, (None, None))
            span = '' if low is None else f' [{low:.1f}, {high:.1f}]'
            rows.append((label, f'{percent(label, value):.1f}{span}'))
        return rows


@dataclass
class Facts:
    """What a card says; see :func:`mmbackbones.release.publish.publish`."""

    name: str
    cfg: Config
    parameters: int
    initial: list[str]
    license_name: str | None
    classes: list[str]
    notes: list[str]
    left_out: list[str]
    evidence: Evidence


def evidence_beside(checkpoint: str, work_dir: Path | None, iterations: object) -> Evidence:
    """Find the record of a checkpoint in its work dir, and compute intervals from the saved predictions.

    Args:
        checkpoint: address of the checkpoint.
        work_dir: folder of the records; None: that of the checkpoint.
        iterations: of the checkpoint's training, as its meta data say; None: they don't.

    Raises:
        InputError: ``work_dir`` is given and has no records.
    """
    folder = work_dir or Path(checkpoint).expanduser().parent
    if '://' in checkpoint and work_dir is None:
        return Evidence(without='the checkpoint is not in a work dir; --records names one')
    if not (folder / RECORDS).is_file():
        if work_dir is not None:
            raise InputError(f'--records {work_dir}: has no {RECORDS}')
        return Evidence(without=f'no {RECORDS} beside the checkpoint')
    records = read_records(folder / RECORDS)
    name, pointer = Path(checkpoint).name, folder / 'last_checkpoint'
    is_last = pointer.is_file() and Path(pointer.read_text().strip()).name == name
    trained = [r for r in records if r['kind'] == 'train' and is_last and iterations in (None, r.get('iterations'))]
    tested = [r for r in records if r['kind'] == 'test' and not r.get('tta') and r.get('checkpoint') == name]
    if not trained and not tested:
        return Evidence(without=f'{folder / RECORDS} has no test of {name}; test it with --work-dir {folder}')
    if not trained:
        return Evidence(tested[-1], without='the predictions of a test are not looked for')
    return _with_intervals(trained[-1], folder)


def _with_intervals(record: dict, folder: Path) -> Evidence:
    try:
        run = load_run(folder)
        if run.record['metrics'] != record['metrics']:
            raise InputError(f'{folder}/final is of another run')
        sample = Sample(run)
        counts = draw_counts(len(sample.image_ids), RESAMPLES, seed=0)
        values = score(run, sample, counts, splits=())
    except InputError as error:
        return Evidence(record, without=str(error))
    return Evidence(record, {metric: interval(found[1:]) for (metric, _, _), found in values.items()})


def write_card(facts: Facts, sha256: str) -> str:
    """The card as Markdown with the front matter of the Hugging Face hub."""
    task, record = dense_task_of(facts.cfg), facts.evidence.record
    front = ['---', 'library_name: mmbackbones', f'pipeline_tag: {TAGS[task]}']
    front += [f'license: {facts.license_name}'] if facts.license_name else []
    front += ['tags:', '- mmbackbones', f'- {task}', '---']
    backbone = facts.cfg.model.get('backbone') or {}
    initial = ', '.join(facts.initial) or 'random'
    lines = [
        *front,
        f'# {facts.name}',
        '',
        f'A network for {task} with the backbone {str(backbone.get("type")).rpartition(".")[2]}, trained and tested '
        'with mmbackbones.',
        '',
        '## Use',
        '',
        '```bash',
        'python -m mmbackbones test config.py model.safetensors',
        '```',
        '',
        'As `load_from` of a training, or as `init_cfg.checkpoint` of a backbone, its address is '
        '`hf://owner/name/model.safetensors`, with the owner and name of this repository.',
        '',
        '## Scores',
        '',
        *_score_lines(facts.evidence),
        '',
        '## Recipe',
        '',
        '`config.py` holds every setting.',
        '',
        f'- recipe: {facts.cfg.get("recipe") or "not named"}',
        f'- initial weights of the config: {initial}',
        f'- parameters: {facts.parameters:,}',
        *([f'- classes: {", ".join(facts.classes)}'] if facts.classes else []),
        *([f'- weights: {"; ".join(facts.notes)}'] if facts.notes else []),
        *([f'- left out of the checkpoint: {", ".join(facts.left_out)}'] if facts.left_out else []),
        f'- SHA-256 of model.safetensors: `{sha256}`',
        '',
        '## Licence',
        '',
        f'The weights are under {facts.license_name}.'
        if facts.license_name
        else 'No licence of the weights is declared. Weights that were fine-tuned carry the terms of the initial '
        'weights and of the data.',
        'The code of mmbackbones is under Apache-2.0.',
    ]
    if record is not None:
        place = lines.index('`config.py` holds every setting.') + 2
        lines[place:place] = _provenance(record)
    return '\n'.join(lines) + '\n'


def _score_lines(evidence: Evidence) -> list[str]:
    if evidence.record is None:
        return [f'No score is recorded: {evidence.without}.']
    rows = [f'| {label} | {text} |' for label, text in evidence.scores()]
    lines = ['| metric | score, % |', '| --- | --- |', *rows, '']
    lines.append(f'{evidence.record.get("images")} images, one scale, the last checkpoint.')
    if evidence.intervals:
        lines.append(f'Brackets: 95 % interval of a bootstrap over the images, {RESAMPLES} resamples, one training.')
    else:
        lines.append(f'There are no intervals: {evidence.without}.')
    return lines


def _provenance(record: dict) -> list[str]:
    versions = ', '.join(f'{name} {version}' for name, version in record['versions'].items())
    return [
        f'- config hash: {record["config_hash"]}, seed {record["seed"]}',
        *([f'- iterations: {record["iterations"]}'] if record.get('iterations') is not None else []),
        f'- precision of the training: {record["precision"]}' if record['kind'] == 'train' else '- tested in fp32',
        f'- fingerprint of the test data: {record["data_fingerprint"]}',
        *(
            [f'- fingerprint of the training data: {record["train_fingerprint"]}']
            if record.get('train_fingerprint')
            else []
        ),
        f'- commit: {record["commit"]}, {record["date"][:10]}, on {record["device"]}',
        f'- versions: {versions}',
    ]
