"""``python -m mmbackbones COMMAND`` or ``mmbackbones COMMAND``: the commands of ``tools/`` without a checkout."""

import importlib
import sys

from mmbackbones import needs

# Each by the function that does it and what it is for.
COMMANDS = {
    'train': ('mmbackbones.engine.command_line:train', 'train a detector or segmentor and test its last checkpoint'),
    'test': ('mmbackbones.engine.command_line:test', 'test a checkpoint'),
    'demo': ('mmbackbones.demo.cli:main', 'paint what a checkpoint finds in images, or show it in the browser'),
    'suite': ('mmbackbones.launch.command_line:suite', 'train and test every config and seed of a suite file'),
    'quickstart': (
        'mmbackbones.launch.command_line:quickstart',
        'train and test both tasks on generated shapes, on the CPU',
    ),
    'make-shapes': ('mmbackbones.datasets.shapes:main', 'write the generated miniature data sets'),
    'export': ('mmbackbones.release.command_line:export', 'a backbone as ONNX, TorchScript or pt2'),
    'publish': ('mmbackbones.release.command_line:publish', 'a checkpoint as safetensors with a model card'),
    'new-backbone': ('mmbackbones.scaffold.new:main', 'the skeleton of a family of backbones, in a checkout'),
    'check-backbone': ('mmbackbones.scaffold.check:main', 'what a family still lacks, and its tests, in a checkout'),
    'check-gpu': (
        'mmbackbones.analysis.gpu.command_line:main',
        'parity, determinism, speed and a training step on this GPU, as a page to paste',
    ),
    'trust-checkpoint': ('mmbackbones.checkpoints.trust:main', 'keep the plain data of a checkpoint that holds code'),
}
USAGE = 'usage: python -m mmbackbones COMMAND …\n\ncommands, each with its own --help:\n' + '\n'.join(
    f'  {name:17} {purpose}' for name, (_, purpose) in COMMANDS.items()
)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ('-h', '--help'):
        print(USAGE)
        return
    if not argv or argv[0] not in COMMANDS:
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    needs.end_without(command=('-m', 'mmbackbones', *argv))
    from mmbackbones.engine.command import run_command

    sys.argv[0] = f'mmbackbones {argv[0]}'  # what argparse calls the command
    module, _, function = COMMANDS[argv[0]][0].partition(':')
    run_command(getattr(importlib.import_module(module), function), argv[1:])


if __name__ == '__main__':
    main()
