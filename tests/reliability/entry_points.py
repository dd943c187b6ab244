"""Every way into train.py and test.py that reads a checkpoint, each in a process of its own, with a crafted file.

entry_points.py FOLDER SHAPES   prints one JSON object: {case: [exit code, last lines]}; gadgets write to FOLDER/ran
"""

import copy
import json
import os
import re
import shutil
import sys
import traceback
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer

from mmbackbones.engine.cli import run_command, test, train
from tests.checkpoints.crafted import GADGETS, Call

CONFIG = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'


def apart(folder: Path, name: str, command, *arguments: object) -> tuple[int, str]:
    """Run a command in a forked process."""
    log = folder / f'{name}.log'
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with log.open('w') as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
                run_command(command, [str(argument) for argument in arguments])
                code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, log.read_text()[-1500:]


# torch refuses these even by an inert name of ours; a file with one of the others loads, and they are data in it.
REFUSED = ('os.system', 'rebuild from type')


def gadgets(witness: Path, refused: bool = False) -> dict[str, object]:
    found = {
        name: make(f'touch {witness}/{name.replace(" ", "_")}')
        for name, make in GADGETS.items()
        if refused or name not in REFUSED
    }
    # What mmengine's own allow-list would let through: getattr on the classes of that list.
    found['getattr of an allowed class'] = Call(getattr, HistoryBuffer, '__init__')
    return found


def craft(base: dict, witness: Path) -> dict:
    """Every gadget at every place of an otherwise valid checkpoint; and the text that mmengine executes on resuming."""
    checkpoint = copy.deepcopy(base)
    text = f'import os\nos.system("touch {witness}/configuration_text")\n'
    checkpoint['meta'].update(config=text, cfg=text, seed=0)
    checkpoint['meta']['dataset_meta'] = dict(checkpoint['meta']['dataset_meta'], nested=[gadgets(witness)])
    checkpoint['message_hub']['runtime_info'].update(gadgets(witness), cfg=text)
    checkpoint['message_hub']['log_scalars'].update(gadgets(witness))
    checkpoint['message_hub']['resumed_keys'].update(gadgets(witness))
    checkpoint['progress']['more'] = gadgets(witness)
    checkpoint['notes'] = [gadgets(witness)]
    return checkpoint


def authors_names(weights: dict) -> dict:
    """The backbone's keys as its authors call them."""
    rules = (
        (r'^backbone\.stem', 'backbone.downsample_layers.0'),
        (r'^backbone\.stages\.(\d)\.downsample', r'backbone.downsample_layers.\1'),
        (r'^(backbone\.stages\.\d)\.blocks', r'\1'),
    )
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def main(folder: Path, shapes: Path) -> None:
    witness = folder / 'ran'
    witness.mkdir()
    data = [f'{split}_dataloader.dataset.data_root={shapes}/ade20k/' for split in ('train', 'test')]
    options = ['--cfg-options', *data, 'train_dataloader.batch_size=2', 'default_hooks.logger.interval=1']
    results = {
        'plain training': apart(
            folder, 'plain', train, CONFIG, '--work-dir', folder / 'plain', *options, 'train_cfg.max_iters=1'
        )
    }
    base = torch.load(folder / 'plain' / 'iter_1.pth')
    crafted = craft(base, witness)
    torch.save(crafted, folder / 'crafted.pth')
    torch.save(dict(crafted, state_dict=authors_names(base['state_dict'])), folder / 'published.pth')
    hostile = craft(base, witness)  # anew, for copying a gadget would run it
    hostile['optimizer']['param_groups'][0].update(gadgets(witness))
    torch.save(hostile, folder / 'hostile.pth')
    hostile['notes'].append(gadgets(witness, refused=True))
    torch.save(hostile, folder / 'refused.pth')
    (folder / 'auto').mkdir()
    shutil.copy(folder / 'crafted.pth', folder / 'auto' / 'iter_1.pth')

    if os.fork() == 0:  # else the test could not fail
        for name in GADGETS:
            try:
                torch.save(gadgets(witness, refused=True)[name], folder / 'one.pth')
                torch.load(folder / 'one.pth', weights_only=False)
            except Exception:
                continue  # some gadgets end in an error, after they have run
        os._exit(0)
    os.wait()
    results['ran without us'] = [0, ' '.join(sorted(path.name for path in witness.iterdir()))]
    for path in witness.iterdir():
        path.unlink()

    train_options = [*options, 'train_cfg.max_iters=2']
    test_options = ['--cfg-options', *data]
    pretrained = folder / 'pretrained.py'
    pretrained.write_text(
        f"_base_ = '{Path(CONFIG).absolute()}'\nmodel = dict(backbone=dict(init_cfg=dict(_delete_=True, "
        f"type='mmbackbones.Pretrained', checkpoint='{folder}/crafted.pth')))\n"
    )
    cases = {
        'load_from': (train, *train_options, f'load_from={folder}/crafted.pth'),
        'resume PATH': (train, '--resume', folder / 'crafted.pth', *train_options),
        'resume auto': (train, '--resume', 'auto', *train_options),
        'resume hostile optimizer': (train, '--resume', folder / 'hostile.pth', *train_options),
        'resume refused': (train, '--resume', folder / 'refused.pth', *train_options),
        'test refused': (test, folder / 'refused.pth', *test_options),
        'pretrained': (train, *train_options),
        'test': (test, folder / 'crafted.pth', *test_options),
        'published layout': (test, folder / 'published.pth', *test_options),
    }
    for name, (command, *arguments) in cases.items():
        work_dir = folder / ('auto' if name == 'resume auto' else name.replace(' ', '_'))
        positional = arguments[:1] if command is test else []
        results[name] = apart(
            folder,
            name.replace(' ', '_'),
            command,
            pretrained if name == 'pretrained' else CONFIG,
            *positional,
            '--work-dir',
            work_dir,
            *arguments[len(positional) :],
        )
    results['ran'] = [0, ' '.join(sorted(path.name for path in witness.iterdir()))]
    print(json.dumps(results))


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:]))
