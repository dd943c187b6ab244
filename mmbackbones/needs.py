"""What to do if this Python lacks the environment, in one sentence.

The commands of ``tools/`` run this file before they import anything, with whatever Python started them. So it needs the
standard library alone and no recent syntax.
"""

import os
import sys
from importlib.util import find_spec
from shlex import quote

PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'mmbackbones')
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def advice(packages: tuple = PACKAGES, command: tuple = ()) -> str:
    """The sentence, or an empty text if the packages are there. Nothing is imported.

    Args:
        packages: names of top-level packages.
        command: the command, which the sentence repeats with the right Python.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if not missing:
        return ''
    lack = f'{sys.executable} (Python {sys.version.split()[0]}) lacks {", ".join(missing)}'
    set_up = os.path.join(ROOT, 'tools', 'setup_env.sh')
    if not os.path.isfile(set_up):  # a wheel
        return f'{lack}; install mmbackbones with its dependencies (docs/install.md)'
    venv = os.environ.get('MMBACKBONES_VENV') or os.path.join(ROOT, '.venv')
    python = _short(os.path.join(venv, 'bin', 'python'))
    call = f'PYTHON={python} bash' if command[:1] and command[0].endswith('.sh') else python
    call = ' '.join((call, *map(quote, command)))
    if os.path.isfile(os.path.join(venv, '.ready')) and not os.path.samefile(venv, sys.prefix):
        return f'{lack}; the environment is ready, call {call}'
    return f'{lack}; make the environment (once, it takes minutes): bash {_short(set_up)}; then call {call}'


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def end_without(packages: tuple = PACKAGES, command: tuple = ()) -> None:
    """With packages missing, end with the sentence and exit code 2. ``command`` is ``sys.argv`` by default."""
    sentence = advice(packages, command or tuple(sys.argv))
    if sentence:
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(2)


def require(packages: tuple) -> None:
    """For ``import mmbackbones``: as :func:`end_without` in ``python -m mmbackbones``, else an error.

    Raises:
        ImportError: packages are missing.
    """
    if sys.argv[:1] == ['-m']:  # so while Python looks for the module that -m names
        end_without(packages, tuple(getattr(sys, 'orig_argv', ('', '-m', 'mmbackbones'))[1:]))
    sentence = advice(packages)
    if sentence:
        raise ImportError(sentence)


if __name__ == '__main__':  # by a launcher in bash: needs.py COMMAND...
    end_without(command=tuple(sys.argv[1:]))
