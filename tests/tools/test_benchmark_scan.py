"""The command benchmark_scan."""

import subprocess
import sys

from tests.conftest import ROOT

COMMAND = [sys.executable, str(ROOT / 'tools' / 'analysis' / 'benchmark_scan.py')]


def test_table_and_csv(tmp_path):
    command = [*COMMAND, '--cases', 'vmamba-t-stage4', '--methods', 'chunk', '--rounds', '1']
    result = subprocess.run([*command, '--csv', tmp_path / 'scan.csv'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'vmamba-t-stage4 (1,3072,1000,N=1,G=4)' in result.stdout
    assert 'torch ' in result.stdout
    assert (tmp_path / 'scan.csv').read_text().count('\n') == 3


def test_unknown_case_is_refused():
    result = subprocess.run([*COMMAND, '--cases', 'vim'], capture_output=True, text=True)
    assert result.returncode == 2 and 'invalid choice' in result.stderr
