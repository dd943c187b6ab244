"""The command long_range."""

import importlib.util

import pytest
import torch

from mmbackbones.analysis.long_range.train import distance_bins
from mmbackbones.analysis.tables import read_csv
from mmbackbones.datasets.long_range import LongRangeTask
from mmbackbones.engine.command import run_command
from mmbackbones.evaluation.records import RECORDS, read_records
from tests.conftest import ROOT


class TestCommand:
    @pytest.fixture(scope='class')
    def command(self):
        spec = importlib.util.spec_from_file_location(
            'long_range_command', ROOT / 'tools' / 'analysis' / 'long_range.py'
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return lambda *argv: run_command(module.main, list(map(str, argv)))

    def test_runs_resumes_and_draws(self, command, tmp_path, capsys):
        out = tmp_path / 'out'
        few = ('--tokens', 16, '--steps', 2, '--images', 16, '--seeds', 0, '--out', out)
        command('--mixers', 'dw3', *few)
        said = capsys.readouterr().out
        assert '[1/2] dw3, seed 0: 1-4: ' in said and '[2/2] dw3, seed 0, cues shuffled: ' in said
        assert 'row tests distance in the image, not sequence length' in said
        assert (
            'stages or to real heads' in said.replace('\n', ' ') and 'bootstrap intervals over the test images' in said
        )
        assert 'did not train' in said

        with (out / RECORDS).open('a') as file:
            file.write('{"kind": "long_range", "half')
        command('--mixers', 'dw3', 'identity', *few)
        printed = capsys.readouterr()
        assert printed.out.count('(done before)') == 2 and '[2/4] identity, seed 0: ' in printed.out
        assert 'half-written line' in printed.err
        records = read_records(out / RECORDS)
        assert [(each['settings']['mixer'], each['settings']['shuffled']) for each in records] == [
            ('dw3', False),
            ('dw3', True),
            ('identity', False),
            ('identity', True),
        ]
        assert all(each['kind'] == 'long_range' and each['versions']['torch'] == torch.__version__ for each in records)

        lines = (out / 'long_range_row.csv').read_text().splitlines()
        assert lines[0].startswith('task,tokens,cue_side,distractors,noise,position,steps,images,mixer,seed,shuffled,')
        assert len(lines) == 1 + 4 * len(distance_bins(LongRangeTask('row', 16)))
        assert (out / 'long_range_row.png').read_bytes().startswith(b'\x89PNG')
        assert all(
            word in (out / 'long_range_row.svg').read_text() for word in ('dw3', 'identity', 'chance, cues shuffled')
        )
        assert '| identity | ' in (out / 'long_range_row.md').read_text()

        command('--mixers', 'identity', *few)
        assert '│ dw3 ' in capsys.readouterr().out  # every mixer that was run is shown
        command('--mixers', 'dw3', *few, '--noise', 2, '--chance-seeds')  # another setting is another table
        said = capsys.readouterr().out
        assert '(done before)' not in said and 'identity' not in said

    def test_longer_trainings_say_what_they_are(self, command, tmp_path, capsys):
        out = tmp_path / 'out'
        few = ('--tokens', 16, 24, '--steps', 2, '--images', 4, '--seeds', 0, '--chance-seeds', '--out', out)
        command('--task', 'routed', '--mixers', 'dw3', *few, '--control', '--curriculum', 'distance', '--batch', 2)
        said = ' '.join(capsys.readouterr().out.split())
        assert '[1/2] image-max, seed 0: ' in said and '[2/2] dw3, seed 0: ' in said
        assert 'routed, 16 x 24 tokens' in said and 'curriculum distance, curriculum share 0.5, batch 2' in said
        control, _ = read_records(out / RECORDS)
        assert control['recipe'].endswith(' curriculum=distance curriculum_share=0.5 batch=2')
        row = read_csv(out / 'long_range_routed.csv')[0]
        assert (row['tokens'], row['mixer'], row['curriculum'], row['batch']) == ('16x24', 'image-max', 'distance', '2')
        assert (row['copies'], row['draw'], row['precision']) == ('1', 'in-turn', 'fp32')

    @pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
    def test_no_device(self, command, tmp_path, capsys):
        with pytest.raises(SystemExit):
            command('--device', 'cuda', '--out', tmp_path / 'out')
        assert '--device cuda: torch sees no CUDA device here' in capsys.readouterr().err

    @pytest.mark.parametrize(
        ('argv', 'message'),
        [
            (('--task', 'column'), "task 'column' unknown"),
            (('--mixers', 'ss2d', 'dw5'), "mixer 'dw5' unknown"),
            (('--mixers', 'dw3', 'dw3'), '--mixers dw3 dw3: a value occurs twice'),
            (('--seeds', '1', '1'), '--seeds 1 1: a value occurs twice'),
            (('--tokens', '129'), '129 tokens per side, expected 16 to 128'),
            (('--distractors', '9'), '9 distractors'),
            (('--noise', 'inf'), 'noise inf'),
            (('--cue-side', 'top'), "cue side 'top' unknown"),
            (('--position', 'rope'), "position 'rope' unknown"),
            (('--steps', '0'), '0 steps'),
            (('--threads', '0'), '--threads 0: expected 1 or more'),
            (('--jobs', '0'), '--jobs 0: expected 1 or more'),
            (('--save-every', '0'), '--save-every 0: expected 1 or more'),
            (('--workers', '2'), '2 workers with images drawn in-turn'),
            (('--tokens', '32', '200'), '200 tokens per side, expected 16 to 128'),
            (('--tokens', '32', '32', '32'), 'tokens 32 32 32, expected a side or rows and columns'),
            (('--curriculum', 'noise'), "curriculum 'noise' unknown"),
            (('--copies', '2'), '2 copies of a cue, expected 1 to 1 here'),
            (('--precision', 'fp16'), 'precision fp16 on a CPU'),
        ],
    )
    def test_bad_usage(self, command, argv, message, tmp_path, capsys):
        with pytest.raises(SystemExit) as caught:
            command(*argv, '--out', tmp_path / 'out')
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ') and message in line
        assert not (tmp_path / 'out').exists()

    def test_out_is_a_file(self, command, tmp_path, capsys):
        (tmp_path / 'file').write_text('')
        with pytest.raises(SystemExit):
            command('--steps', 1, '--out', tmp_path / 'file')
        assert f'error: --out {tmp_path / "file"}: the folder cannot be made' in capsys.readouterr().err
