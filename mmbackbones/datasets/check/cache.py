"""Check a data set once and store a clean result.

A clean result in ``$XDG_CACHE_HOME/mmbackbones/datasets`` (default ``~/.cache``) is valid while names, sizes and times
of all files stay the same.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from mmengine.logging import print_log

from mmbackbones.checkpoints.atomic import write_shared
from mmbackbones.datasets.check.files import stamp
from mmbackbones.datasets.check.report import DatasetReport, Fault, plain
from mmbackbones.datasets.check.specs import Spec

CHECK_VERSION = 2  # raise it when the check learns to find more: what is cached is then checked again


def check_spec(spec: Spec, full: bool, cache: bool) -> DatasetReport:
    start = time.perf_counter()
    state = stamp(spec.paths) if cache else None
    report = _recall(spec, state).get('report')
    if report is None or full > report.full:
        report = DatasetReport(**vars(spec.check(full)), name=str(spec), full=full)
        # A faulty result is not kept: what hides a file for a moment leaves no trace in sizes and times.
        if not report.faults:
            _keep(spec, dict(stamp=state, fingerprint=report.fingerprint, report=plain(report)))
    report.seconds = round(time.perf_counter() - start, 3)
    return report


def fingerprint_of(spec: Spec, cache: bool) -> str:
    state = stamp(spec.paths) if cache else None
    entry = _recall(spec, state)
    if not entry:
        entry = dict(stamp=state, fingerprint=spec.fingerprint(), report=None)
        _keep(spec, entry)
    return entry['fingerprint']


def _cache_file(spec: Spec) -> Path:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    paths = {os.path.abspath(path) for path in spec.paths}
    key = hashlib.sha256(repr((CHECK_VERSION, sorted(paths), spec)).encode(errors='surrogatepass')).hexdigest()[:32]
    return Path(root, 'mmbackbones', 'datasets', f'{key}.json')


def _recall(spec: Spec, state: str | None) -> dict:
    if state is None:
        return {}
    try:
        entry = json.loads(_cache_file(spec).read_bytes())
        if entry['stamp'] != state:
            return {}
        if entry['report'] is not None:
            warnings = [
                Fault(**dict(warning, item=warning['item'] and tuple(warning['item'])))
                for warning in entry['report']['warnings']
            ]
            labels = {int(label): count for label, count in entry['report']['labels'].items()}
            entry['report'] = DatasetReport(**dict(entry['report'], warnings=warnings, labels=labels, cached=True))
        return dict(entry, fingerprint=str(entry['fingerprint']))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, damaged, or of another make
        return {}


def _keep(spec: Spec, entry: dict) -> None:
    if entry['stamp'] is None:
        return
    try:
        write_shared(_cache_file(spec), json.dumps(entry).encode())
    except OSError as error:
        print_log(f'Data check: its result cannot be cached ({error})', logger='current')
