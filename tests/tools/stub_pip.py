"""Stands in for pip in the tests of tools/setup_env.sh: records its call, and 'installs' packages of one line.

Copied into a test's environment as ``pip/__main__.py``. ``STUB_RECORD`` names the file that takes one JSON line per
call; ``STUB_MODE`` says what goes wrong.
"""

import json
import os
import re
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

SITE = Path(sysconfig.get_paths()['purelib'])
MODULES = {
    'onedl-mmcv': 'mmcv',
    'onedl-mmengine': 'mmengine',
    'onedl-mmdetection': 'mmdet',
    'onedl-mmsegmentation': 'mmseg',
    'pytest-xdist': 'xdist',
    'import-linter': 'importlinter',
    'opencv-python-headless': 'cv2',
}
TORCH = """
import os
__version__ = '2.13.0'
class version:
    cuda = os.environ.get('STUB_TORCH_CUDA')
class cuda:
    is_available = staticmethod(lambda: 'STUB_GPU' in os.environ)
"""
OPS = """
from pathlib import Path
if not (Path(__file__).parents[1] / '_ext.so').exists():
    raise ImportError('No module named mmcv._ext')
get_compiling_cuda_version = lambda: {!r}
"""


def write(path, text=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def install(name, again, mode):
    module = MODULES.get(name, name)
    if (SITE / module).exists() and not again:
        return
    write(SITE / module / '__init__.py')
    if module == 'torch':
        write(SITE / 'torch' / '__init__.py', TORCH)
        write(SITE / 'torch' / 'utils' / 'cpp_extension.py', "import os\nCUDA_HOME = os.environ.get('STUB_CUDA_HOME')")
    if module == 'torchvision' and mode == 'torchvision of another torch':
        fault = "raise RuntimeError('operator torchvision::nms does not exist')"
        write(SITE / 'torchvision' / '__init__.py', f"import sys\nif 'mmbackbones' not in sys.modules:\n    {fault}")
    if module == 'mmengine':
        write(SITE / 'yapf' / '__init__.py', "from pathlib import Path\n(Path.home() / 'grammar').touch()")
    if module == 'mmcv':
        write(SITE / 'mmcv' / '_ext.so')
        built_for = os.environ.get('STUB_TORCH_CUDA') if os.environ['FORCE_CUDA'] == '1' else None
        write(SITE / 'mmcv' / 'ops' / '__init__.py', OPS.format(built_for or 'not available'))
        if mode == 'no display':
            write(SITE / 'cv2' / '__init__.py', "raise ImportError('libGL.so.1: cannot open shared object file')")
            write(SITE / 'mmcv' / '__init__.py', 'import cv2')
        if mode == 'never ops' or (mode == 'stale wheel' and not again):
            shutil.rmtree(SITE / 'mmcv' / 'ops')
        if mode == 'cpu wheel' and not again:
            write(SITE / 'mmcv' / 'ops' / '__init__.py', OPS.format('not available'))


def requirements(arguments):
    """Names that a call of ``pip install`` asks for, and the folder of an editable install or None."""
    names, folder, rest = [], None, iter(arguments)
    for argument in rest:
        if argument == '-r':
            lines = (line.split('#')[0].strip() for line in Path(next(rest)).read_text().splitlines())
            names += [line for line in lines if line]
        elif argument == '-e':
            folder = next(rest)
        elif argument == '-c':
            next(rest)
        elif not argument.startswith('-'):
            names.append(argument)
    return [re.match(r'[\w-]+', name)[0] for name in names], folder


def main(arguments):
    mode = os.environ.get('STUB_MODE')
    if arguments[0] == 'show':
        print('Requires: filelock, nvidia-nccl-cu13' if mode == 'cuda torch' else 'Requires: filelock')
    if arguments[0] != 'install':
        return
    switches = ('FORCE_CUDA', 'CUDA_HOME', 'CUDA_VISIBLE_DEVICES', 'CXXFLAGS', 'MAX_JOBS')
    with open(os.environ['STUB_RECORD'], 'a') as record:
        call = dict(arguments=arguments[1:], environ={name: os.environ.get(name) for name in switches})
        record.write(json.dumps(call) + '\n')
    if mode == 'offline':
        sys.exit('WARNING: Retrying after connection broken by NewConnectionError\nERROR: No matching distribution')
    if mode == 'dies at requirements' and '-r' in arguments:
        sys.exit('ERROR: disk quota exceeded')
    if mode == 'hangs at requirements' and '-r' in arguments:
        signal.pause()
    names, folder = requirements(arguments[1:])
    for name in names:
        install(name, '--force-reinstall' in arguments, mode)
    if mode == 'cuda torch':
        write(SITE / 'torch' / '__init__.py', 'import libcudart')
    if folder:
        write(SITE / 'project.pth', folder)


main(sys.argv[1:])
