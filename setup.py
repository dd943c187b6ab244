"""What pyproject.toml cannot say: the optional C++ kernel of the selective scan, and the configs within the wheel.

The kernel is one library per instruction set, loaded through ctypes and therefore good for every version of torch.
Where one doesn't compile, the install goes on without it (``pip install -v`` shows why) and the scan uses what is left.

``configs/`` becomes ``mmbackbones/configs/`` in a wheel. An editable install reads the checkout's own.
"""

import platform
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

PACKAGE = 'mmbackbones.ops.selective_scan'
# Not -ffast-math: rounding by a magic number and NaN would not survive it.
FLAGS = (
    '-std=c++17 -O3 -g0 -Wno-maybe-uninitialized -fopenmp '
    '-fno-math-errno -fno-trapping-math -fno-signed-zeros -ffp-contract=fast'
)
LIBRARIES = {'_scan_baseline': ''}
if platform.machine().lower() in ('x86_64', 'amd64'):
    LIBRARIES |= {
        '_scan_avx2': '-mavx2 -mfma',
        '_scan_avx512': '-mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mavx2 -mfma',
    }


class BuildWithConfigs(build_py):
    """``build_py`` that puts ``configs/`` into the package."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, 'mmbackbones', 'configs')
            shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left configs that are gone
            shutil.copytree('configs', target, ignore=shutil.ignore_patterns('__pycache__'))


setup(
    cmdclass={'build_py': BuildWithConfigs},
    ext_modules=[
        Extension(
            f'{PACKAGE}.{name}',
            [PACKAGE.replace('.', '/') + '/csrc/scan.cpp'],
            language='c++',
            extra_compile_args=f'{FLAGS} {target}'.split(),
            extra_link_args=['-fopenmp'],
            optional=True,
        )
        for name, target in LIBRARIES.items()
    ],
)
