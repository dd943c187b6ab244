"""Tables are written whole or not at all, and a file that cannot be written ends a command with one line."""

import os
import stat
import threading

import pytest

from mmbackbones.analysis.tables import make_folder, markdown_table, read_csv, rich_table, show, write_csv, write_file
from mmbackbones.errors import InputError

COLUMNS = ('name', 'score', 'note')


def test_csv(tmp_path):
    rows = [dict(name='a', score=1 / 3, note=None), ('b, c', 2, 'x')]
    write_csv(tmp_path / 'new' / 't.csv', COLUMNS, rows, '.3f', dict(device='cpu'))
    assert (tmp_path / 'new' / 't.csv').read_text() == 'name,score,note,device\na,0.333,,cpu\n"b, c",2,x,cpu\n'
    assert read_csv(tmp_path / 'new' / 't.csv')[1] == dict(name='b, c', score='2', note='x', device='cpu')
    write_csv(tmp_path / 't.csv', COLUMNS, [dict(name='a', score=0.1, note='')])
    assert read_csv(tmp_path / 't.csv') == [dict(name='a', score='0.1', note='')]
    with pytest.raises(KeyError):
        write_csv(tmp_path / 't.csv', COLUMNS, [dict(name='a')])
    with pytest.raises(InputError, match=r'none\.csv: no readable CSV file \(No such file'):
        read_csv(tmp_path / 'none.csv')


def test_a_failure_leaves_the_earlier_table(tmp_path, monkeypatch):
    path = tmp_path / 't.csv'
    write_csv(path, COLUMNS, [('a', 1, '')])
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(InputError) as caught:
        write_csv(path, COLUMNS, [('b', 2, '')])
    assert str(caught.value) == f'{path}: cannot be written (No space left on device)'
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['t.csv']


def test_places_that_are_no_files(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file' / 't.csv', tmp_path):
        with pytest.raises(InputError) as caught:
            write_file(path, 'text')
        assert str(caught.value).startswith(f'{path}: cannot be written (') and '\n' not in str(caught.value)
    with pytest.raises(InputError, match=r'--out .*file: cannot be a folder \(File exists\)'):
        make_folder(tmp_path / 'file')
    assert make_folder(tmp_path / 'a' / 'b').is_dir() and make_folder(tmp_path / 'a' / 'b').is_dir()


def test_links_and_pipes_stay_what_they_are(tmp_path):
    (tmp_path / 'real').write_text('old')
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    write_file(tmp_path / 'link', 'new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real').read_text() == 'new'
    os.mkfifo(tmp_path / 'pipe')
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / 'pipe').read_text()))
    reader.start()
    write_file(tmp_path / 'pipe', 'text')
    reader.join()
    assert read == ['text'] and stat.S_ISFIFO(os.stat(tmp_path / 'pipe').st_mode)


def test_markdown_and_terminal(capsys):
    assert markdown_table(('a', 'b'), [(1 / 3, 'x|y'), (None, 2)], '.2f') == (
        '| a | b |\n| --- | --- |\n| 0.33 | x\\|y |\n|  | 2 |\n'
    )
    show(rich_table(('a', 'b'), [(1 / 3, None)], '.2f', title='both'), 'a sentence with [brackets]' + ' and more' * 40)
    out = capsys.readouterr().out
    assert '0.33' in out and 'both' in out
    assert (
        out.splitlines()[-1].startswith('a sentence with [brackets] and more and') and len(out.splitlines()[-1]) > 300
    )
