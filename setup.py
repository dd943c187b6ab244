"""The optional C++ kernel of the selective scan; all else about the package stands in pyproject.toml.

One library per instruction set, loaded through ctypes and therefore good for every version of torch. Where one doesn't
compile, the install goes on without it (``pip install -v`` shows why) and the scan uses what is left.
"""

import platform

from setuptools import Extension, setup

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

setup(
    ext_modules=[
        Extension(
            f'{PACKAGE}.{name}',
            [PACKAGE.replace('.', '/') + '/scan.cpp'],
            language='c++',
            extra_compile_args=f'{FLAGS} {target}'.split(),
            extra_link_args=['-fopenmp'],
            optional=True,
        )
        for name, target in LIBRARIES.items()
    ]
)
