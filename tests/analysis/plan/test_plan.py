"""plan.py: hours from measurements alone, a command for each that is missing, and whether a suite can answer."""

import json
import runpy
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mmbackbones.analysis.compare.comparison import Arm
from mmbackbones.analysis.compare.pilot import Pilot, Plan
from mmbackbones.analysis.compare.power import Components, power
from mmbackbones.analysis.plan.cost import costs_of, counted_macs, wall_hours
from mmbackbones.analysis.plan.measured import identity_of, read_measurements
from mmbackbones.analysis.plan.show import COLUMNS, answerable, sentences
from mmbackbones.analysis.speed import end_to_end, report
from mmbackbones.analysis.tables import read_csv, write_csv
from mmbackbones.engine.config import ARM_KEY, load_config, parse_options
from mmbackbones.errors import InputError
from mmbackbones.evaluation.predictions import FinishedRun
from mmbackbones.evaluation.records import RECORDS, REQUIRED, append_record, settings_of
from mmbackbones.launch.planned import jobs_of
from tests.conftest import ROOT

SEGMENTOR = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
CONTROLLED = 'configs/controlled/miniature/gated-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'
COCO, ADE20K = 'configs/tasks/mask-rcnn_1x_coco.py', 'configs/tasks/upernet_160k_ade20k-512x512.py'
MAMBAOUT = 'mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512'
tool = runpy.run_path(str(ROOT / 'tools' / 'analysis' / 'plan.py'))['main']


@pytest.fixture
def suite(tmp_path):
    def write(**content):
        path = tmp_path / 'suite.yaml'
        path.write_text(yaml.safe_dump(dict(seeds=[0, 1, 2], **content)))
        return path

    return write


@pytest.fixture
def record(tmp_path):
    """Writes the record of a training, and returns its work dir."""

    def write(name='run', config=SEGMENTOR, backbone='mambaout_mini', options=(), **more):
        overrides = parse_options(['train_cfg.max_iters=100', 'randomness.seed=7', *options])
        content = {
            **dict.fromkeys(REQUIRED),
            'kind': 'train',
            'config': f'{Path(config).stem}_{backbone}.py',
            'settings': settings_of(load_config(config, overrides, backbone)),
            'iterations': 100,
            'train_seconds': 36.0,
            'test_seconds': 18.0,
            'world_size': 1,
            'precision': 'fp32',
            'device': 'x86_64 CPU',
            'date': '2026-11-01',
            'resumed': False,
            **more,
        }
        append_record(tmp_path / name / RECORDS, content)
        return tmp_path / name

    return write


def test_hours_are_measured_seconds_times_planned_iterations(suite, record):
    jobs = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini', 'vmamba_mini']))
    measured, missing = costs_of(jobs, read_measurements([record()]))
    assert (measured.seconds, measured.job.iterations) == (pytest.approx(0.36), 500)
    assert measured.train_hours == pytest.approx(0.36 * 500 / 3600) and measured.test_hours == pytest.approx(0.005)
    assert measured.device_hours() == pytest.approx(3 * (0.05 + 0.005)) and not measured.command and not measured.notes
    assert (missing.seconds, missing.run_hours, missing.device_hours(), missing.peak_mb) == (None,) * 4
    said = '\n'.join(sentences([measured, missing], 1))
    assert 'In all at least 0.165 CPU-hours for 3 of 6 runs' in said and 'Measured on x86_64 CPU' in said
    assert f'python {missing.command}' in said


def test_the_command_for_what_is_missing_measures_it(suite):
    content = dict(
        groups=[
            dict(tasks=[SEGMENTOR], backbones=['vmamba_mini']),
            dict(configs=[CONTROLLED], arms=['ss2d-last2']),
        ],
        cfg_options=['train_dataloader.batch_size=4'],
    )
    jobs = jobs_of(suite(**content))
    assert len(jobs) == 2
    for job in jobs:
        tool_, config, *words = shlex.split(job.command())
        backbone = words[words.index('--backbone') + 1] if '--backbone' in words else None
        options = parse_options(words[words.index('--cfg-options') + 1 :])
        cfg = load_config(config, options, backbone)
        assert tool_ == 'tools/train.py' and cfg.train_cfg.max_iters == 200
        assert identity_of(settings_of(cfg)) == job.identity
    jobs = jobs_of(suite(configs=[SEGMENTOR], groups=[dict(tasks=[ADE20K], backbones=['mambaout_tiny'])]))
    for job, config in zip(jobs, (SEGMENTOR, f'configs/mambaout/{MAMBAOUT}.py')):
        assert job.command() == f'tools/analysis/end_to_end.py {config} --coco DIR --ade20k DIR --csv FILE'
        assert identity_of(settings_of(load_config(config))) == job.identity


def test_what_is_not_the_same_training_is_not_its_measurement(suite, record):
    job = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini']))[0]
    for name, more in {
        'resumed': dict(resumed=True),
        'short': dict(iterations=3),
        'test': dict(kind='test'),
        'gpu': dict(device='NVIDIA H100'),
        'precision': dict(precision='fp16'),
        'batch': dict(options=['train_dataloader.batch_size=4']),
        'model': dict(options=['model.decode_head.channels=32']),
        'other': dict(backbone='vmamba_mini'),
    }.items():
        (cost,) = costs_of([job], read_measurements([record(name, **more)]))
        assert cost.seconds is None, name
    newer = [record('old'), record('new', train_seconds=72.0, date='2026-11-02')]
    assert costs_of([job], read_measurements(newer))[0].seconds == pytest.approx(0.72)


def test_memory_is_the_largest_of_the_log(suite, record):
    place = record()
    log = place / '20261101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps(dict(loss=1.0, memory=memory)) + '\n' for memory in (900, 1200, 1100)))
    jobs = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini']))
    (cost,) = costs_of(jobs, read_measurements([place]))
    assert cost.peak_mb == 1200 and 'The largest measured peak is 1200 MB' in '\n'.join(sentences([cost], 1))


def test_a_record_without_a_time_is_refused(record):
    with pytest.raises(InputError, match=r'train_seconds=-1\.0, which is no time'):
        read_measurements([record(train_seconds=-1.0)])


def test_validation_that_a_short_run_lacks_is_said(suite, record):
    job = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini'], cfg_options=['train_cfg.val_interval=100']))[0]
    (short,) = costs_of([job], read_measurements([record()]))
    assert short.notes == ['from a short training, without validation'] and short.seconds
    (whole,) = costs_of([job], read_measurements([record('whole', options=['train_cfg.val_interval=50'])]))
    assert whole.notes == [] and whole.measurement.kind == 'training'


def test_arms_differ(suite, record):
    jobs = jobs_of(suite(configs=[CONTROLLED], arms=['none', 'ss2d-last2']))
    place = record('arm', CONTROLLED, None, options=[f'{ARM_KEY}=ss2d-last2'])
    assert [cost.seconds for cost in costs_of(jobs, read_measurements([place]))] == [None, pytest.approx(0.36)]


def rows_of_csv(path, **more):
    row = dict.fromkeys(end_to_end.COLUMNS, '') | dict(
        config=MAMBAOUT, task='segmentation', batch=2, iterations=200, precision='fp16', iterations_per_s=4.0,
        peak_mb=9000.0, device='NVIDIA H100', date='2026-11-02',
    )  # fmt: skip
    write_csv(path, end_to_end.COLUMNS, [row | more])
    return path


def test_a_short_training_of_the_backbones_own_file(suite, tmp_path):
    file = suite(tasks=[ADE20K, COCO], backbones=['mambaout_tiny'], gpus=8, multi_scale=True)
    segmentor, detector = costs_of(jobs_of(file), read_measurements([rows_of_csv(tmp_path / 'e.csv')]))
    assert segmentor.train_hours == pytest.approx(160_000 / 4 / 3600) and segmentor.peak_mb == 9000
    assert segmentor.device_hours() == pytest.approx(3 * 8 * 160_000 / 4 / 3600) and segmentor.test_hours is None
    notes = '; '.join(segmentor.notes)
    assert (
        'measured with 1 process(es)' in notes
        and 'from a short training, without validation, the test' in notes
        and 'several' in notes
    )
    assert detector.seconds is None and detector.job.iterations == 12 * 7330  # 117,266 images, 16 at a time


def test_other_tasks_are_not_measured_by_the_files_of_a_backbone(suite, tmp_path):
    """Another crop, schedule, head or data set is another training."""
    names = ('upernet_160k_cityscapes-1024x1024', 'upernet_80k_loveda-1024x1024', 'mask-rcnn_3x_coco')
    tasks = [f'configs/tasks/{name}.py' for name in (*names, 'cascade-mask-rcnn_3x_coco', 'rtmdet-ins_100e_coco')]
    jobs = jobs_of(suite(tasks=tasks, backbones=['mambaout_tiny'], gpus=8))
    measured = read_measurements([rows_of_csv(tmp_path / 'e.csv')])
    assert all(cost.seconds is None and cost.job.own_file is None for cost in costs_of(jobs, measured))
    assert all('tools/train.py' in job.command() for job in jobs)


def test_a_step_counts_at_the_size_of_the_training(suite, tmp_path):
    def costs(size, step='training'):
        row = dict.fromkeys(report.COLUMNS, '') | dict(
            config=MAMBAOUT, part='model', step=step, size=size, batch=2, precision='fp16', images_per_s=10.0,
            process_peak_mb=8000.0,
        )  # fmt: skip
        write_csv(tmp_path / 's.csv', report.COLUMNS, [row], conditions=dict(device='NVIDIA H100', date=''))
        jobs = jobs_of(suite(tasks=[ADE20K], backbones=['mambaout_tiny'], gpus=8))
        return costs_of(jobs, read_measurements([tmp_path / 's.csv']))[0]

    found = costs(512)
    assert found.seconds == pytest.approx(0.2) and 'a step, without validation, loading, the test' in found.notes[-1]
    assert costs(1024).seconds is None and costs(512, 'inference').seconds is None


def test_scaling_by_macs_is_an_option_and_marked(suite, record, tmp_path):
    names = [f'{Path(SEGMENTOR).stem}_{name}' for name in ('mambaout_mini', 'vmamba_mini')]
    jobs = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini', 'vmamba_mini', 'vim_mini']))
    rows = [dict(config=name, recipe=jobs[0].recipe, macs_G=macs) for name, macs in zip(names, (2.0, 3.0))]
    write_csv(tmp_path / 'macs.csv', ('config', 'recipe', 'macs_G'), rows)
    measured = read_measurements([record()])
    assert [cost.scaled for cost in costs_of(jobs, measured)] == ['', '', '']
    known, scaled, unknown = found = costs_of(jobs, measured, macs=counted_macs(tmp_path / 'macs.csv'))
    assert scaled.seconds == pytest.approx(known.seconds * 1.5) and scaled.scaled == f'{names[0]}, times 1.50 by MACs'
    assert not known.scaled and scaled.command and scaled.peak_mb is None and unknown.seconds is None
    said = '\n'.join(sentences(found, 1))
    assert f'~ {names[1]}: from {names[0]}, times 1.50 by MACs' in said and 'its MACs are not counted' in said


def test_runs_at_once_share_the_clock(suite, record):
    (cost,) = costs_of(jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini'])), read_measurements([record()]))
    assert [wall_hours([cost], jobs) / cost.run_hours for jobs in (1, 2, 3, 9)] == pytest.approx([3, 2, 1, 1])


def test_devices_are_not_mixed(suite, record):
    jobs = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini', 'vmamba_mini']))
    measured = read_measurements([record(), record('other', backbone='vmamba_mini', device='aarch64 CPU')])
    with pytest.raises(InputError, match=r'measurements of 2 devices \(aarch64 CPU; x86_64 CPU\): choose one'):
        costs_of(jobs, measured)
    assert [cost.seconds is None for cost in costs_of(jobs, measured, 'X86')] == [False, True]
    with pytest.raises(InputError, match='--device H100: measured is aarch64 CPU, x86_64 CPU'):
        costs_of(jobs, measured, 'H100')


def pilot(found, task='segmentation', metric='mIoU'):
    arm = Arm('conv', [FinishedRun(Path(), Path(), dict(task=task))])
    return Pilot([arm], [Plan(metric, 'scan', 'conv', 'ADE20K val', 2000, found, [])], [], 100, 0)


KNOWN = Components(40.0, 6.0, 0.05, 4, 400, (3, 3), 0.0)


def test_the_smallest_suite_that_can_answer(suite, record):
    costs = costs_of(jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini', 'vmamba_mini'])), [])
    few = answerable(costs, pilot(KNOWN), 0.5, 0.8)
    assert 'smallest suite with a power of 80% has 10 seeds per arm (no measured time)' in few[0]
    assert 'Warning: mIoU, scan - conv, 0.5 points: this suite cannot answer: 3 seed(s) give a power of ' in few[1]
    assert f'{power(KNOWN, 0.5, 2000, 3):.0%}' in few[1]
    enough = answerable(costs, pilot(KNOWN), 1.0, 0.8)
    assert 'has 3 seeds per arm' in enough[0] and not any('Warning' in each for each in enough)
    (images,) = answerable(costs, pilot(KNOWN), 0.3, 0.8)
    assert 'Warning' in images and 'On 2,000 images no number of seeds reaches a power of 80%' in images
    (unknown,) = answerable(costs, pilot(replace(KNOWN, seeds=None, freedom=0)), 0.5, 0.8)
    assert 'Warning' in unknown and 'the number of seeds that can answer is unknown' in unknown
    with pytest.raises(InputError, match='the pilot is of detection, and the suite trains nothing of it'):
        answerable(costs, pilot(KNOWN, 'detection', 'box AP'), 0.5, 0.8)
    measured = costs_of([costs[0].job], read_measurements([record()]))
    price = 10 * measured[0].run_hours
    assert f'has 10 seeds per arm ({price:.3g} CPU-hours)' in answerable(measured, pilot(KNOWN), 0.5, 0.8)[0]


def test_too_few_seeds_are_warned_of_without_a_pilot(suite):
    (job,) = jobs_of(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini']))
    job.seeds = 2
    warning, question = answerable(costs_of([job], []), None, 0.5, 0.8)
    assert warning.startswith('Warning: 2 seed(s) per arm') and '--power' in question


def test_the_tool(suite, record, tmp_path, capsys):
    file = suite(tasks=[SEGMENTOR], backbones=['mambaout_mini', 'vmamba_mini'])
    out = ['--csv', str(tmp_path / 'plan.csv'), '--json', str(tmp_path / 'plan.json')]
    tool([str(file), '--measured', str(record()), '--jobs', '2', *out])
    shown = capsys.readouterr().out
    assert 'CPU-hours' in shown and 'tools/train.py' in shown
    measured, missing = read_csv(tmp_path / 'plan.csv')
    assert tuple(measured) == COLUMNS and float(measured['seconds_per_iteration']) == pytest.approx(0.36)
    assert missing['seconds_per_iteration'] == '' and missing['measure_with'].startswith('tools/train.py')
    plan = json.loads((tmp_path / 'plan.json').read_text())
    assert (plan['kind'], plan['complete'], plan['unit']) == ('plan', False, 'CPU-hours')
    assert plan['device_hours'] == pytest.approx(0.165) and plan['wall_hours'] == pytest.approx(0.11)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--difference', '1'], '--difference goes with --power'),
        (['--images', '9'], '--images goes with --power'),
        (['--power', 'a', 'b', '--difference', '-1'], '--difference -1: expected points above 0'),
        (['--power', 'a', 'b', '--wanted-power', '1.5'], '--wanted-power 1.5: expected a number between'),
        (['--jobs', '0'], '--jobs 0: expected 1 and more'),
        (['--gpus', '-1'], '--gpus -1: expected 0 and more'),
        (['--measured', 'nowhere'], 'nowhere: no such file or folder of measurements'),
        (['--measured', 'pyproject.toml'], r'pyproject\.toml: expected a folder, a records.jsonl or a CSV'),
        (['--measured', 'benchmarks/scan_cpu.csv'], 'no CSV of tools/analysis/end_to_end.py or speed.py'),
        (['--measured', 'tests', '--scale-by-macs', 'benchmarks/scan_cpu.csv'], 'no CSV of tools/analysis/complexity'),
        (['--measured', 'tests', '--power', 'tests'], 'no finished run'),
    ],
)
def test_refusals(suite, monkeypatch, options, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message) as caught:
        tool([str(suite(tasks=[SEGMENTOR], backbones=['mambaout_mini'])), *options])
    assert '\n' not in str(caught.value)


def test_a_csv_that_is_cut_off_is_refused_by_its_line(tmp_path):
    for more in (dict(batch=''), dict(iterations_per_s=0.0), dict(iterations_per_s='nan'), dict(iterations_per_s=-1.0)):
        with pytest.raises(InputError, match=r'e\.csv:2: no whole row'):
            read_measurements([rows_of_csv(tmp_path / 'e.csv', **more)])
