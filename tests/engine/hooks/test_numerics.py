"""NaN and inf are noticed before they reach the weights, named, written down, and follow the policy."""

import copy
import functools
import json

import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmbackbones.engine.hooks.numerics import NumericsHook
from mmbackbones.errors import InputError, NumericalTrouble
from tests.engine.runs import Net, make
from tests.reliability.harness import same_bits

pytestmark = pytest.mark.promise('numerics')


class NanGradient(torch.autograd.Function):
    """A finite output whose gradient is not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float('nan')


class Broken(Net):
    """Goes wrong for the inputs above six."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = torch.stack(inputs)
        wrong = bool((inputs > 6).any())
        hidden = self.body(inputs.masked_fill(inputs > 6, torch.inf) if self.kind == 'loss' else inputs)
        if wrong and self.kind == 'gradient':
            hidden = NanGradient.apply(hidden)
        if wrong and self.kind == 'huge':
            hidden = hidden * 1e25  # finite, though its squares are not: no fault
        return dict(loss_out=self.head(hidden).float().mean())


def dataset():
    return [
        dict(inputs=torch.full((2,), float(i)), data_samples=BaseDataElement(metainfo=dict(img_path=f'{i}.jpg')))
        for i in range(8)
    ]


def train(folder, kind, iters=12, clip=None, wrapper=None, load_from=None, **hook):
    torch.manual_seed(0)
    optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3), **({'clip_grad': dict(max_norm=1.0)} if clip else {}))
    runner = make(
        folder,
        model=Broken(kind),
        iters=iters,
        dataset=dataset(),
        collate='pseudo_collate',
        randomness=dict(seed=0),
        load_from=load_from,
        resume=load_from is not None,
        optim_wrapper=dict(optim_wrapper, **(wrapper or {})),
        hooks=dict(
            numerics=dict(type='mmbackbones.NumericsHook', **hook),
            checkpoint=dict(type='mmbackbones.CheckpointHook', by_epoch=False, interval=1),
        ),
    )
    return runner


def reports(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / 'numerical_trouble').glob('*.json')}


@pytest.mark.parametrize('clip', [False, True])
@pytest.mark.parametrize(
    'kind, what',
    [
        ('loss', r'loss is nan; loss_out is nan, first in the output of body\.0'),
        ('gradient', r'the gradient of body\.0\.weight is not finite'),
    ],
)
def test_stops_and_names_it(tmp_path, kind, what, clip):
    runner = train(tmp_path, kind, clip=clip)
    with pytest.raises(NumericalTrouble, match=rf'^numerical trouble at iteration \d+: {what} .*images') as error:
        runner.train()
    assert error.value.exit_code == 3 and '\n' not in str(error.value)
    ((name, report),) = reports(tmp_path).items()
    assert name == f'iter_{report["iteration"]}.json' and str(tmp_path / 'numerical_trouble' / name) in str(error.value)
    assert '7.jpg' in report['images'] and len(report['images']) == 2 and report['action'] == 'stopped'
    assert report['inputs_finite'] and report['amp_scale'] is None and report['weights_not_finite']['count'] == 0
    if kind == 'gradient':
        second = report['second_pass']['gradients_not_finite']['names']
        assert second == ['body.0.weight', 'body.0.bias', 'body.1.weight', 'body.1.bias']
        assert report['losses']['loss'] == pytest.approx(float(report['losses']['loss_out']))
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())
    assert not (tmp_path / f'iter_{report["iteration"]}.pth').exists()  # nor is the state saved


def test_skips_as_if_it_had_not_been(tmp_path):
    runner = train(tmp_path, 'loss', max_skips=9)
    before = {}

    class Look(NumericsHook):
        priority = 'VERY_LOW'

        def before_train(self, runner):
            pass

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            before.update(copy.deepcopy(runner.model.state_dict()))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            same = all(torch.equal(before[key], value) for key, value in runner.model.state_dict().items())
            assert same == bool((data_batch['inputs'][0] > 6).any() or (data_batch['inputs'][1] > 6).any())

    runner.register_hook(Look())
    runner.train()
    assert runner.iter == 12 and len(reports(tmp_path)) == 3
    assert all(report['action'].startswith('skipped (') for report in reports(tmp_path).values())
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


def test_stops_when_there_were_too_many(tmp_path):
    runner = train(tmp_path, 'gradient', max_skips=1)
    with pytest.raises(NumericalTrouble):
        runner.train()
    assert sorted(report['action'] for report in reports(tmp_path).values()) == ['skipped (1 of 1)', 'stopped']


def test_large_but_finite_is_no_fault(tmp_path):
    train(tmp_path, 'huge').train()
    assert not reports(tmp_path)


@pytest.fixture(
    params=[
        pytest.param(
            'cpu', marks=pytest.mark.skipif(torch.cuda.is_available(), reason='the runner takes the GPU here')
        ),
        pytest.param(
            'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device: FP16 on it')
        ),
    ]
)
def amp_wrapper(request, monkeypatch):
    """mmengine's wrapper insists on CUDA; the scaler itself works on the CPU."""
    if request.param == 'cpu':
        monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
        monkeypatch.setattr(amp, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))
    return dict(
        type='AmpOptimWrapper',
        dtype='float16' if request.param == 'cuda' else 'bfloat16',
        loss_scale=dict(init_scale=16.0, growth_interval=1000),
    )


def test_the_search_for_a_loss_scale_is_no_fault(tmp_path, amp_wrapper):
    runner = train(tmp_path, 'gradient', wrapper=amp_wrapper)
    runner.train()
    assert not reports(tmp_path)
    assert runner.message_hub.get_scalar('train/amp_skipped').current() == 3
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0


def test_a_scale_that_is_never_found_is_one(tmp_path, amp_wrapper):
    runner = train(tmp_path, 'gradient', wrapper=amp_wrapper, max_amp_skips=2)
    runner.model.forward = functools.partial(_always_wrong, runner.model)
    with pytest.raises(
        NumericalTrouble,
        match=r'iteration 3: gradients overflowed in 3 steps in a row, at every loss '
        r'scale down to 2\.0',
    ):
        runner.train()
    assert reports(tmp_path)['iter_3.json']['amp_scale'] == 2.0


def _always_wrong(model, inputs, data_samples=None, mode='tensor'):
    return dict(loss=NanGradient.apply(model.head(model.body(torch.stack(inputs)))).float().mean())


def test_nan_loss_under_amp(tmp_path, amp_wrapper):
    with pytest.raises(NumericalTrouble, match='loss is nan'):
        train(tmp_path, 'loss', wrapper=amp_wrapper).train()
    (report,) = reports(tmp_path).values()
    assert report['amp_scale'] == 8.0


def test_a_resumed_run_goes_on_with_its_loss_scale(tmp_path, amp_wrapper):
    for name in ('whole', 'parts'):
        (tmp_path / name).mkdir()
    train(tmp_path / 'whole', 'gradient', wrapper=amp_wrapper).train()
    train(tmp_path / 'parts', 'gradient', wrapper=amp_wrapper, iters=10).train()
    train(tmp_path / 'parts', 'gradient', wrapper=amp_wrapper, load_from=str(tmp_path / 'parts/iter_10.pth')).train()
    whole, parts = (torch.load(tmp_path / name / 'iter_12.pth', weights_only=True) for name in ('whole', 'parts'))
    assert whole['optimizer']['loss_scaler']['scale'] == 2.0
    for key in ('state_dict', 'optimizer'):
        assert not same_bits(whole[key], parts[key], key)


def test_options_out_of_range():
    with pytest.raises(InputError, match='max_skips=-1'):
        NumericsHook(max_skips=-1)
