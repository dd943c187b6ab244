"""Phases that behave badly, for a process of their own. Imports nothing that takes seconds."""

import os
import time

from mmbackbones.analysis.gpu.findings import FAILED, Finding, guarded


def good(settings):
    yield Finding('first', figures=dict(device=settings.device))
    yield guarded('second', lambda: dict(error=0.25))


def raises(settings):
    yield Finding('before')
    print('a library talks')
    raise ValueError('between two checks\nand more')


def dies(settings):
    yield Finding('before')
    os.kill(os.getpid(), 9)


def hangs(settings):
    yield Finding('before', FAILED)
    time.sleep(600)
