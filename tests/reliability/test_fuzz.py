"""Whatever is read - annotations, images, masks, overrides, checkpoints, a scan's arguments - ends in a result or in
one of our one-line errors: no other exception, no hang, no blow-up of memory."""

import copy
import io
import json
import math
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from mmdet.datasets import CocoDataset
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset

from mmbackbones.checkpoints.read import read_checkpoint
from mmbackbones.datasets.check.coco import CocoSpec
from mmbackbones.datasets.check.segmentation import SegmentationSpec
from mmbackbones.datasets.shapes import ADE20K_METAINFO, COCO_METAINFO, write_shapes
from mmbackbones.engine.config import load_config
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan
from tests.conftest import ROOT

# Cases of each target in CI, and under --full: 13,500 in all.
CASES = {'annotations': 60, 'image': 50, 'mask': 50, 'overrides': 100, 'checkpoint': 150, 'pickle': 150, 'scan': 150}
FULL_CASES = {
    'annotations': 500,
    'image': 500,
    'mask': 500,
    'overrides': 3000,
    'checkpoint': 3000,
    'pickle': 3000,
    'scan': 3000,
}
HANG = 120  # seconds of one case; usual are milliseconds
MEMORY = 3 << 30  # bytes of address space on top of what the process has

ANN = 'coco/annotations/instances_train2017.json'
CONFIG = ROOT / 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'

junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 300),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([10**30, 1e308, '\ud800', '\0', 'a\nb', '../x', '', 2**31, 65536]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
# Each change of bytes: what, where (a fraction of the length), with which bytes.
damage = st.lists(
    st.tuples(
        st.sampled_from(['overwrite', 'insert', 'cut', 'remove', 'repeat']),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, where, new in changes:
        start = int(where * len(data))
        end = start + len(new)
        data = {
            'overwrite': data[:start] + new + data[end:],
            'insert': data[:start] + new + data[start:],
            'cut': data[:start],
            'remove': data[:start] + data[end:],
            'repeat': data[:end] + data[start:],
        }[what]
    return data


@contextmanager
def bounded() -> Iterator[None]:
    """A hang between two settings of the alarm, or a blow-up of memory, becomes an exception."""

    def stop(*_) -> None:
        raise TimeoutError(f'hangs: no end in {HANG} s')

    pages = int(Path('/proc/self/statm').read_text().split()[0])
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def is_ours(error: InputError) -> None:
    assert '\n' not in str(error) and 0 < len(str(error)) < 1500
    str(error).encode()


class Targets:
    """Each: a strategy, and what must hold of every case that it draws."""

    def __init__(self, folder: Path):
        register_all_modules(init_default_scope=True)
        self.folder = write_shapes(folder / 'shapes', train=3, val=1)
        self.sound = json.loads((self.folder / ANN).read_text())
        self.config = folder / 'config.py'
        self.config.write_text(Config.fromfile(CONFIG).pretty_text)
        self.keys = list(_dotted(Config.fromfile(self.config)._cfg_dict.to_dict()))
        torch.manual_seed(0)
        tensors = {'a.weight': torch.randn(3, 4), 'b': torch.arange(5), 'c': torch.randn(2).half()}
        extras = dict(meta=dict(iter=3, epoch=1, names=('x', 'y')), state_dict=tensors, flags={1, 2}, rate=1e-3)
        self.saved = dict(
            zip=_saved(extras),
            legacy=_saved(extras, _use_new_zipfile_serialization=False),
            safetensors=safetensors.torch.save(tensors),
            nothing=b'',
        )
        self.place = folder

    def annotations(self, case: tuple[list, list | None]) -> None:
        edits, changes = case
        content = copy.deepcopy(self.sound)
        for path, value in edits:
            _set(content, path, value)
        data = json.dumps(content).encode()
        (self.folder / ANN).write_bytes(damaged(data, changes) if changes else data)
        spec = CocoSpec(str(self.folder / ANN), str(self.folder / 'coco/train2017'), COCO_METAINFO['classes'])
        found = spec.check(full=True)
        for fault in found.faults + found.warnings:
            is_ours(InputError(str(fault)))
        if not found.faults:  # then the framework must be able to use it
            dataset = CocoDataset(
                ann_file=spec.ann_file,
                data_prefix=dict(img=spec.img_dir),
                metainfo=COCO_METAINFO,
                filter_cfg=dict(filter_empty_gt=False),
                test_mode=True,
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
                    dict(type='mmdet.PackDetInputs'),
                ],
            )
            for index in range(len(dataset)):
                assert dataset[index]['data_samples'].gt_instances.bboxes.tensor.isfinite().all()

    def _segmentation(self, path: Path, changes: list) -> None:
        sound = path.read_bytes()
        try:
            path.write_bytes(damaged(sound, changes))
            found = SegmentationSpec(
                str(self.folder / 'ade20k/images/training'),
                str(self.folder / 'ade20k/annotations/training'),
                num_labels=4,
                reduce_zero_label=True,
            ).check(full=True)
            for fault in found.faults:
                is_ours(InputError(str(fault)))
            if not found.faults:
                dataset = BaseSegDataset(
                    data_root=str(self.folder / 'ade20k'),
                    metainfo=ADE20K_METAINFO,
                    reduce_zero_label=True,
                    data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='mmseg.LoadAnnotations', reduce_zero_label=True),
                        dict(type='mmseg.PackSegInputs'),
                    ],
                )
                for index in range(len(dataset)):
                    item = dataset[index]
                    assert item['inputs'].shape[1:] == item['data_samples'].gt_sem_seg.shape
        finally:
            path.write_bytes(sound)

    def image(self, changes: list) -> None:
        self._segmentation(self.folder / 'ade20k/images/training/ADE_train_00000002.jpg', changes)

    def mask(self, changes: list) -> None:
        self._segmentation(self.folder / 'ade20k/annotations/training/ADE_train_00000002.png', changes)

    def overrides(self, case: list[tuple[int, str | None, object]]) -> None:
        overrides = {}
        for index, suffix, value in case:
            key = self.keys[index % len(self.keys)]
            overrides[key if suffix is None else f'{key}{suffix}'] = value
        try:
            assert load_config(str(self.config), overrides)['model']
        except InputError as error:
            is_ours(error)

    def checkpoint(self, case: tuple[str, list]) -> None:
        name, changes = case
        self._load(damaged(self.saved[name], changes), '.safetensors' if name == 'safetensors' else '.pth')

    def pickle(self, changes: list) -> None:
        """Changes within the pickle, in an archive whose checksums are right again."""
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(self.saved['zip'])) as whole, zipfile.ZipFile(target, 'w') as archive:
            for member in whole.namelist():
                data = whole.read(member)
                archive.writestr(member, damaged(data, changes) if member.endswith('data.pkl') else data)
        self._load(target.getvalue(), '.pth')

    def _load(self, data: bytes, suffix: str) -> None:
        path = self.place / f'case{suffix}'
        path.write_bytes(data)
        try:
            assert isinstance(read_checkpoint(path).content, dict)
        except InputError as error:
            is_ours(error)

    def scan(self, case: dict) -> None:
        generator = torch.Generator().manual_seed(case['seed'])
        batch, groups, per_group, length, state = case['sizes']
        dim = groups * per_group
        shapes = dict(
            u=(batch, dim, length),
            delta=(batch, dim, length),
            A=(dim, state),
            D=(dim,),
            B=(batch, groups, state, length),
            C=(batch, groups, state, length),
            z=(batch, dim, length),
            delta_bias=(dim,),
        )
        tensors = {
            name: torch.randn(shape, generator=generator).to(case['dtype'])
            for name, shape in shapes.items()
            if name not in case['absent']
        }
        tensors['A'] = -tensors['A'].abs()  # a state that decays
        for name in {'delta', 'delta_bias'} - case['absent']:
            tensors[name] = tensors[name].abs()
        expected = dict(shape=shapes['u'], dtype=case['dtype'])
        order = _order(case['order'], length, generator)
        sound = order is None or _is_sound(order, length)
        for name, change in case['changes']:
            x = tensors.get(name)  # one that an earlier change left a dense tensor
            if isinstance(x, torch.Tensor) and x.device.type == 'cpu' and x.layout == torch.strided:
                tensors[name] = change(tensors[name])
        for name in case['learn']:
            if isinstance(x := tensors.get(name), torch.Tensor) and x.is_floating_point():
                tensors[name] = x.detach().requires_grad_()
        try:
            out, last = selective_scan(
                **tensors,
                delta_softplus=case['softplus'],
                reverse=case['reverse'],
                order=order,
                return_last_state=True,
                backend=case['backend'],
            )
        except InputError as error:
            is_ours(error)
            usable = case['backend'] in ('auto', 'naive', 'chunk', 'cpu')
            assert case['changes'] or not sound or not usable or case['dtype'] == torch.float64
            return
        assert sound or not out.numel()
        if not case['changes']:
            assert tuple(out.shape) == expected['shape'] and out.dtype == expected['dtype']
            assert out.isfinite().all() and last.isfinite().all()
            reference = selective_scan(
                **{name: x.detach() for name, x in tensors.items()},
                delta_softplus=case['softplus'],
                reverse=case['reverse'],
                order=order if sound else None,
                backend='naive',
            )
            tolerance = 1e-4 if case['dtype'] in (torch.float32, torch.float64) else 3e-2
            torch.testing.assert_close(
                out.detach(),
                reference,
                rtol=tolerance,
                atol=tolerance * max(1.0, float(reference.abs().max()) if reference.numel() else 1.0),
            )
        if out.requires_grad:
            out.float().sum().backward()
            for name in case['learn']:
                if isinstance(x := tensors.get(name), torch.Tensor) and x.requires_grad:
                    assert x.grad.shape == x.shape


def _order(case: dict | None, length: int, generator: torch.Generator) -> object:
    """An order of that many positions and of padding, with changes that may spoil it."""
    if case is None:
        return None
    order = torch.randperm(length + case['padding'], generator=generator)
    order[order >= length] = -1
    for index, value in case['changes']:
        order[index : index + 1] = value
    return case['form'](order)


def _is_sound(order: object, length: int) -> bool:
    return (
        isinstance(order, torch.Tensor)
        and order.dtype == torch.int64
        and order.dim() == 1
        and torch.equal(order[order != -1].sort()[0], torch.arange(length))
    )


def _saved(content: dict, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _dotted(node: object, prefix: str = '') -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield f'{prefix}{key}'
        yield from _dotted(value, f'{prefix}{key}.')


def _set(content: dict, path: list[int], value: object) -> None:
    """Replace what lies at the end of a path; each number picks a child."""
    node = content
    for depth, number in enumerate(path):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = keys[number % len(keys)]
        if depth + 1 < len(path) and isinstance(node[key], dict | list) and node[key]:
            node = node[key]
        else:
            node[key] = value
            return


def _to(dtype: torch.dtype) -> Callable:
    return lambda x: x.to(dtype)


SCAN_CHANGES = [
    lambda x: x[..., :-1],
    lambda x: x[:1],
    lambda x: x.squeeze(0),
    lambda x: x[None],
    lambda x: x[..., None],
    lambda x: x.flatten(),
    lambda x: x.transpose(0, -1),
    lambda x: torch.cat((x, x), -1),
    lambda x: x.to('meta'),
    lambda x: x.tolist(),
    lambda x: None,
    lambda x: x.numpy(force=True) if x.dtype != torch.bfloat16 else x,
    lambda x: x[:0],
    lambda x: x[..., :0],
    lambda x: torch.full_like(x, math.nan),
    lambda x: torch.full_like(x, 1e4),
    lambda x: torch.full_like(x, -math.inf),
    lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    lambda x: x[..., :1].expand(x.shape),
    lambda x: x.to_sparse(),
    *map(_to, (torch.complex64, torch.int32, torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float64)),
]
INPUTS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')
STRATEGIES = {
    'annotations': st.tuples(
        st.lists(st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=5), junk), min_size=1, max_size=3),
        st.one_of(st.none(), st.none(), damage),
    ),
    'image': damage,
    'mask': damage,
    'overrides': st.lists(
        st.tuples(
            st.integers(0, 9999),
            st.one_of(
                st.none(),
                st.text(max_size=3),
                st.sampled_from(
                    ['.type', '.0', '.-1', '.', '..', '._delete_', '.x.y', 'e', '[0]', '.99999999999999999999', '.²']
                ),
            ),
            junk,
        ),
        min_size=1,
        max_size=3,
    ),
    'checkpoint': st.tuples(st.sampled_from(['zip', 'legacy', 'safetensors', 'nothing']), damage),
    'pickle': damage,
    'scan': st.fixed_dictionaries(
        dict(
            seed=st.integers(0, 99),
            sizes=st.tuples(*(st.integers(low, high) for low, high in ((0, 2), (1, 2), (1, 3), (0, 9), (1, 5)))),
            dtype=st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64]),
            absent=st.sets(st.sampled_from(['D', 'z', 'delta_bias'])),
            learn=st.sets(st.sampled_from(INPUTS)),
            changes=st.one_of(
                st.just([]), st.lists(st.tuples(st.sampled_from(INPUTS), st.sampled_from(SCAN_CHANGES)), max_size=2)
            ),
            order=st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    dict(
                        padding=st.integers(0, 4),
                        changes=st.one_of(
                            st.just([]),
                            st.lists(
                                st.tuples(
                                    st.integers(0, 12),
                                    st.sampled_from([-1, 0, 1, 3, -2, 9, 2**31, 2**32 + 1, 2**62, -(2**63)]),
                                ),
                                max_size=2,
                            ),
                        ),
                        form=st.sampled_from(
                            [lambda x: x] * 4
                            + [
                                lambda x: x.tolist(),
                                lambda x: x.int(),
                                lambda x: x.float(),
                                lambda x: x[None],
                                lambda x: x[:-1],
                                lambda x: x.repeat_interleave(2)[::2],
                            ]
                        ),
                    )
                ),
            ),
            softplus=st.booleans(),
            reverse=st.booleans(),
            backend=st.sampled_from(['auto', 'naive', 'chunk', 'cpu', 'cpu', 'triton', 'mamba_ssm', 'x']),
        )
    ),
}

DENSE = dict(
    seed=0,
    sizes=(1, 1, 1, 1, 1),
    dtype=torch.float32,
    absent=set(),
    learn=set(),
    order=None,
    softplus=False,
    reverse=False,
)
# What earlier searches found.
FOUND = {
    'a line break in a key': ('overrides', [(0, '\n', None)]),
    'a digit that is no decimal': ('overrides', [(48, '.²', None)]),
    'a length of 3 GB': (
        'checkpoint',
        ('legacy', [('cut', 0.37890625, b'0'), ('overwrite', 0.37890625, b'\0\0\0\xbf')]),
    ),
    **{
        f'sparse {name}, {backend}': ('scan', dict(DENSE, backend=backend, changes=[(name, lambda x: x.to_sparse())]))
        for name in ('u', 'A', 'z')
        for backend in ('naive', 'chunk', 'cpu')
    },
}


@pytest.fixture(scope='module')
def targets(tmp_path_factory) -> Targets:
    return Targets(tmp_path_factory.mktemp('fuzz'))


def search(targets: Targets, name: str, cases: int, **options) -> int:
    done = 0

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
    @given(STRATEGIES[name])
    def one(case):
        nonlocal done
        done += 1
        signal.alarm(HANG)
        getattr(targets, name)(case)

    with bounded():
        one()
    return done


@pytest.mark.promise('fuzz')
@pytest.mark.parametrize('name', STRATEGIES)
def test_every_input_ends_in_a_result_or_in_our_error(targets, name, figure):
    done = search(targets, name, CASES[name], derandomize=True)
    figure(f'{name}: {done} cases')
    assert done >= CASES[name]


@pytest.mark.promise('fuzz')
@pytest.mark.parametrize('name', FOUND)
def test_earlier_finds(targets, name):
    target, case = FOUND[name]
    with bounded():
        getattr(targets, target)(case)


@pytest.mark.full
@pytest.mark.promise('fuzz-thousands')
@pytest.mark.parametrize('name', STRATEGIES)
def test_thousands_of_inputs(targets, name, figure):
    done = search(targets, name, FULL_CASES[name], print_blob=True)
    figure(f'{name}: {done} cases')
    assert done >= FULL_CASES[name]
