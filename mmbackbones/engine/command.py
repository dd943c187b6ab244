"""Exit codes and messages of the commands.

torch and mmengine are imported where they are needed, because every command imports this module before it tells its
options.
"""

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import mmbackbones
from mmbackbones.errors import InputError, TrainingStopped

BUILD_PREFIX = re.compile(r'class `\w+` in [^:]+: ')
# Messages of Python and mmengine for a config with an unknown argument of a constructor or an unknown type.
REFUSED = re.compile(
    r'class `\w+` in |\w+\.__init__\(\) (got an unexpected|missing)|.* is not in the .*registry|'
    r'`cfg` or `default_args` must contain',
    re.DOTALL,
)
CONSTRUCTOR_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)


def run_command(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run a command. Bad input ends it with one line on stderr and exit code 2.

    docs/reliability.md lists the other exit codes.
    """
    exit_code = 0
    try:
        main(argv)
    except InputError as error:
        exit_code = _fail(error)
    except TrainingStopped as error:
        exit_code = _fail(error, error.exit_code)
    except CONSTRUCTOR_ERRORS as error:
        text = str(error.args[0]) if error.args else ''
        if text.startswith('Cannot find None in registry'):
            text = _unknown_layer(error)
        elif not REFUSED.match(text):
            text = refused_by_constructor(error)
        if not text:
            raise
        exit_code = _fail(text)
    finally:
        distributed = _leave_process_group()
    if distributed:
        # The group's threads live as long as a wrapped model, and runner and hooks refer to each other. A thread that
        # calls Python while Python shuts down aborts the process. The exit code would be lost.
        gc.collect()
    if exit_code:
        sys.exit(exit_code)


def _leave_process_group() -> bool:
    """Whether there was one."""
    if 'torch' not in sys.modules:
        return False
    import torch.distributed

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed:
        torch.distributed.destroy_process_group()
    return distributed


def _unknown_layer(error: BaseException) -> str:
    """mmcv's message for an unknown type of norm, convolution or the like does not name it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return f'{frame.f_locals.get("layer_type")!r} is not the type of a known layer ({frame.f_code.co_name} of mmcv)'


def refused_by_constructor(error: BaseException) -> str:
    """What a class of the frameworks says of its arguments when mmengine builds it from a configuration.

    Args:
        error (BaseException): as caught.

    Returns:
        str: class, place and reason, in one line; empty if the error was not raised in such a constructor, or by our
        own code, whose messages are complete.
    """
    from mmengine.registry import build_from_cfg

    calls = list(traceback.walk_tb(error.__traceback__))
    builds = [i for i, (frame, _) in enumerate(calls) if frame.f_code is build_from_cfg.__code__]
    if not builds or builds[-1] + 1 >= len(calls):
        return ''
    constructor = calls[builds[-1] + 1][0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    if constructor.f_code.co_name != '__init__' or Path(last.filename).is_relative_to(
        Path(mmbackbones.__file__).parent
    ):
        return ''
    reason = str(error.args[0]) if error.args and str(error.args[0]) else last.line
    name = type(constructor.f_locals.get('self')).__name__
    return f'{name} does not take its arguments: {reason} ({Path(last.filename).name}, line {last.lineno})'


def _fail(error: Exception | str, exit_code: int = 2) -> int:
    print('error: ' + ' '.join(BUILD_PREFIX.sub('', str(error)).split()), file=sys.stderr, flush=True)
    return exit_code


def say(sentence: str) -> None:
    """Print a sentence in the first process only."""
    if int(os.environ.get('RANK', 0)) == 0:
        print(f'*** {sentence}', flush=True)
