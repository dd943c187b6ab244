"""The runner loads strictly, resumes without executing anything, and says what does not fit."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseTTAModel
from torch import nn

from mmbackbones.backbones.mambaout import MambaOut
from mmbackbones.checkpoints.strict import unwrap
from mmbackbones.engine.config import config_hash, load_config
from mmbackbones.engine.runner import Runner
from mmbackbones.errors import InputError
from mmbackbones.registry import RUNNERS
from tests.checkpoints.crafted import GADGETS, Call
from tests.engine.runs import Net, make
from tests.miniatures import DETECTOR


@pytest.fixture
def trained(tmp_path) -> Path:
    (tmp_path / 'first').mkdir()
    make(tmp_path / 'first').train()
    return tmp_path / 'first' / 'iter_4.pth'


def edit(path: Path, change) -> str:
    """Write a changed copy of a checkpoint of ours; returns its path."""
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path.with_name('edited.pth'))
    return str(path.with_name('edited.pth'))


def test_initialization_is_not_logged_parameter_by_parameter(tmp_path, capfd):
    runner = make(tmp_path)
    runner.train()
    MambaOut(arch=dict(depths=(1, 1), dims=(8, 16)), out_indices=(0, 1)).init_weights()
    logged = ''.join(path.read_text() for path in tmp_path.rglob('*.log')) + ''.join(capfd.readouterr())
    assert 'loss: ' in logged
    assert 'nitialization information' not in logged and 'init_weights' not in logged and 'body.0.weight' not in logged
    assert '_dump_init_info' not in vars(runner.model)


def test_is_registered():
    assert RUNNERS.get('mmbackbones.Runner') is Runner


def test_resume_restores_everything_but_the_smoothed_log(tmp_path, trained):
    saved = torch.load(trained, weights_only=False)
    runner = make(tmp_path / 'first', iters=8, load_from=str(trained), resume=True)
    seen = {}
    resume = runner.resume

    def spy(filename):
        resume(filename)
        seen.update(
            copy.deepcopy(
                dict(
                    iter=runner.iter,
                    weights=runner.model.state_dict(),
                    optimizer=runner.optim_wrapper.state_dict(),
                    scheduler=runner.param_schedulers[0].state_dict(),
                    logs=runner.message_hub.log_scalars,
                )
            )
        )

    runner.resume = spy
    runner.train()

    assert seen['iter'] == 4 and runner.iter == 8
    for key, value in saved['state_dict'].items():
        torch.testing.assert_close(seen['weights'][key], value, rtol=0, atol=0)
    for index, state in saved['optimizer']['state'].items():
        for key, value in state.items():
            torch.testing.assert_close(seen['optimizer']['state'][index][key], value, rtol=0, atol=0)
    assert seen['scheduler'] == saved['param_schedulers'][0]
    assert saved['message_hub']['log_scalars'] and not seen['logs']


def test_configuration_text_is_not_executed_on_resume(tmp_path, trained):
    witness = tmp_path / 'witness'
    text = f'import os\nos.system("touch {witness}")'
    Config.fromstring(text, '.py')
    assert witness.exists()  # else this test could not fail
    witness.unlink()
    path = edit(trained, lambda c: c['meta'].update(config=text, cfg=text))
    make(tmp_path / 'first', iters=5, load_from=path, resume=True).train()
    assert not witness.exists()


@pytest.mark.parametrize('use', ['load_from', 'resume', 'test'])
def test_crafted_checkpoint_runs_nothing(tmp_path, trained, use):
    witness = tmp_path / 'witness'

    def change(checkpoint):
        command = f'touch {witness}'
        checkpoint['meta']['dataset_meta'] = {'x': [GADGETS['eval'](command)]}
        checkpoint['message_hub']['runtime_info']['y'] = Call(eval, f'__import__("os").system({command!r})')
        checkpoint['message_hub']['log_scalars']['z'] = GADGETS['exec'](command)

    path = edit(trained, change)
    torch.load(path, weights_only=False)
    witness.unlink()
    runner = make(tmp_path / 'first', iters=5, load_from=path, resume=use == 'resume')
    runner.test() if use == 'test' else runner.train()
    assert not witness.exists()
    assert 'y' not in runner.message_hub.runtime_info


@pytest.mark.parametrize('use', ['load_from', 'resume', 'test'])
def test_another_model_is_refused_with_all_keys(tmp_path, trained, use):

    def change(checkpoint):
        weights = checkpoint['state_dict']
        weights['body.7.weight'] = weights['head.bias'] = torch.zeros(5)
        del weights['body.0.weight']

    path = edit(trained, change)
    runner = make(tmp_path / 'first', load_from=path, resume=use == 'resume')
    with pytest.raises(InputError) as error:
        runner.test() if use == 'test' else runner.train()
    message = str(error.value)
    assert path in message and 'Net' in message and '\n' not in message
    assert 'missing 1: body.0.weight' in message
    assert 'unexpected 1: body.7.weight' in message
    assert 'of another shape: head.bias is [5] in the file and [2] in the model' in message


def test_other_class_count_is_loaded_when_named(tmp_path, trained):
    saved = torch.load(trained, weights_only=False)['state_dict']
    model = Net(classes=5)
    runner = make(
        tmp_path / 'first', model=model, iters=1, load_from=str(trained), cfg=Config(dict(load_from_allow=['head.']))
    )
    loaded = {}
    load = runner.load_or_resume

    def spy():
        load()
        loaded.update({key: value.clone() for key, value in model.state_dict().items()})

    runner.load_or_resume = spy
    runner.train()
    for key in ('body.0.weight', 'body.1.running_mean'):
        torch.testing.assert_close(loaded[key], saved[key], rtol=0, atol=0)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'missing (they keep their initialization): head.{bias,weight}' in log


@pytest.mark.parametrize('use', ['test', 'resume'])
def test_the_allowance_is_for_load_from_alone(tmp_path, trained, use):
    runner = make(
        tmp_path / 'first',
        model=Net(classes=5),
        load_from=str(trained),
        resume=use == 'resume',
        cfg=Config(dict(load_from_allow=['head.'])),
    )
    with pytest.raises(InputError, match=r'head\.'):
        runner.test() if use == 'test' else runner.train()


@pytest.mark.parametrize('key', ['optimizer', 'param_schedulers', 'message_hub', 'meta'])
def test_weights_alone_cannot_be_resumed(tmp_path, trained, key):
    path = edit(trained, lambda checkpoint: checkpoint.pop(key))
    with pytest.raises(InputError, match=f'cannot be resumed, it has no usable {key}.*load_from'):
        make(tmp_path / 'first', load_from=path, resume=True).train()


def test_foreign_object_in_the_optimizer_state_is_not_left_out_silently(tmp_path, trained):
    path = edit(trained, lambda checkpoint: checkpoint['optimizer']['param_groups'][0].update(lr=Path('a')))
    with pytest.raises(InputError, match=r'no usable optimizer\.param_groups\.0\.lr'):
        make(tmp_path / 'first', load_from=path, resume=True).train()


def test_wrapped_models(tmp_path, trained):
    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    saved = torch.load(trained, weights_only=False)['state_dict']
    path = edit(trained, lambda c: c.update(state_dict={f'module.{k}': v for k, v in c['state_dict'].items()}))
    model = Net()
    make(tmp_path / 'first', model=TTA(model)).load_checkpoint(path)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[key], rtol=0, atol=0)
    assert unwrap(nn.DataParallel(model)) is model


def test_released_detector_with_its_authors_key_names(tmp_path):
    """The backbone's part goes through the family's adapter, the rest keeps its names."""
    model = Net()
    model.backbone = MambaOut(arch=dict(depths=(1, 1), dims=(8, 16)), out_indices=(0, 1))
    authors = {}
    for key, value in model.state_dict().items():
        key = re.sub(r'^backbone\.stem', 'backbone.downsample_layers.0', key)
        key = re.sub(r'^backbone\.stages\.(\d)\.downsample', r'backbone.downsample_layers.\1', key)
        key = re.sub(r'^(backbone\.stages\.\d)\.blocks', r'\1', key)
        authors[key] = torch.randn(value.shape).to(value.dtype)
    torch.save(dict(state_dict=authors), tmp_path / 'released.pth')
    runner = make(tmp_path, model=model)
    runner.load_checkpoint(str(tmp_path / 'released.pth'))
    assert torch.equal(model.backbone.stem.conv1.weight, authors['backbone.downsample_layers.0.conv1.weight'])
    assert torch.equal(model.backbone.stages[1].blocks[0].fc1.weight, authors['backbone.stages.1.0.fc1.weight'])
    assert torch.equal(model.head.weight, authors['head.weight'])


def test_the_configuration_is_saved_as_asked_for(tmp_path):
    recipe = load_config(DETECTOR)
    make(tmp_path).save_recipe(replace=True)  # without a recipe mmengine has saved the configuration
    runner = make(tmp_path, recipe=recipe)
    runner.save_recipe(replace=False)
    saved = tmp_path / Path(DETECTOR).name
    assert config_hash(load_config(saved)) == config_hash(recipe)
    assert 'AmpOptimWrapper' in saved.read_text() and 'work_dir' not in saved.read_text()
    recipe['max_time'] = 1
    runner.save_recipe(replace=False)  # by a test: that of the training stays
    assert 'max_time' not in saved.read_text()
    runner.save_recipe(replace=True)
    assert 'max_time' in saved.read_text()


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module._orig_mod.', 'model.'])
def test_checkpoint_of_another_trainer_with_an_average_of_ours(tmp_path, trained, prefix):
    """The hook for averages loads the weights by itself; it gets them under the model's names."""
    saved = torch.load(trained, weights_only=False)['state_dict']
    path = edit(trained, lambda c: c.update(state_dict={prefix + key: x for key, x in c['state_dict'].items()}))
    runner = make(tmp_path / 'first', iters=1, load_from=path, custom_hooks=[dict(type='EMAHook', strict_load=True)])
    runner.call_hook('before_run')
    runner.load_or_resume()
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module.state_dict()
    for key, value in saved.items():
        assert torch.equal(unwrap(runner.model).state_dict()[key], value) and torch.equal(average[key], value)
