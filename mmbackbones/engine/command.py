"""How a command ends, and what it says on its way."""

import gc
import os
import re
import sys
from collections.abc import Callable

import torch.distributed

from mmbackbones.errors import InputError, TrainingStopped

BUILD_PREFIX = re.compile(r'class `\w+` in [^:]+: ')
# How Python and mmengine say that a config gives a constructor what it does not take, or names an unknown type.
REFUSED = re.compile(
    r'class `\w+` in |\w+\.__init__\(\) (got an unexpected|missing)|.* is not in the .*registry', re.DOTALL
)


def run_command(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run a command. Bad input ends it with one line on stderr and exit status 2.

    The other exit statuses stand in docs/reliability.md.
    """
    exit_code = 0
    try:
        main(argv)
    except InputError as error:
        exit_code = _fail(error)
    except TrainingStopped as error:
        exit_code = _fail(error, error.exit_code)
    except (TypeError, KeyError, ValueError) as error:
        text = str(error.args[0]) if error.args else ''
        if not REFUSED.match(text):
            raise
        exit_code = _fail(text)
    finally:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.destroy_process_group()
    if distributed:
        # The group's threads live as long as a wrapped model does, and runner and hooks refer to each other. A thread
        # that wants something of Python while Python ends aborts the process, whose exit status would be lost.
        gc.collect()
    if exit_code:
        sys.exit(exit_code)


def _fail(error: Exception | str, exit_code: int = 2) -> int:
    print('error: ' + ' '.join(BUILD_PREFIX.sub('', str(error)).split()), file=sys.stderr, flush=True)
    return exit_code


def say(sentence: str) -> None:
    """Print a sentence, from the first process alone."""
    if int(os.environ.get('RANK', 0)) == 0:
        print(f'*** {sentence}', flush=True)
