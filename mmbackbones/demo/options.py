"""The options of the demo."""

import argparse


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The options of ``tools/demo.py``."""
    found = argparse.ArgumentParser(
        prog=prog,
        description='Show what a checkpoint finds: boxes and masks, or the segmentation map, painted into images, with '
        'the predictions as JSON beside. With --web, a page in the browser that also shows where a token looks.',
        usage='%(prog)s IMAGE|FOLDER|VIDEO CONFIG CHECKPOINT [options]\n'
        '       %(prog)s --web CONFIG CHECKPOINT [CONFIG2 CHECKPOINT2] [options]',
    )
    found.add_argument(
        'arguments',
        nargs='+',
        metavar='ARGUMENT',
        help='an image, a folder of images or a video, then config and checkpoint; with --web one or two pairs of '
        'config and checkpoint. A config is Python code and is executed; a checkpoint is a file, https:// or '
        'hf://owner/name/file',
    )
    found.add_argument(
        '-o', '--out', metavar='OUT', help='new folder for the results (default: work_dirs/demo/<input>_<time>)'
    )
    found.add_argument(
        '--device', metavar='DEVICE', help='cpu, cuda or cuda:N (default: cuda where there is a GPU, else cpu)'
    )
    found.add_argument(
        '--score-threshold',
        type=float,
        metavar='SCORE',
        help='detectors: lowest score of a detection that is painted and kept, 0 to 1 (default: 0.3)',
    )
    found.add_argument(
        '--backbone',
        metavar='NAME',
        nargs='+',
        help="a model of the zoo that replaces the config's backbone, such as vmamba_tiny_s1l8; with --web one per "
        'config',
    )
    found.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override keys of the configs, such as test_dataloader.dataset.pipeline.1.scale=(640,640)',
    )
    found.add_argument('--web', action='store_true', help='a page in the browser instead of files')
    found.add_argument('--port', type=int, metavar='PORT', help='of the page (default: 7860)')
    found.add_argument(
        '--host', metavar='ADDRESS', help='of the page; 0.0.0.0 lets other machines in (default: 127.0.0.1)'
    )
    return found
