"""Exit codes and messages of the commands."""

import gc
import os
import re
import sys
from collections.abc import Callable

import torch.distributed

from mmbackbones.errors import InputError, TrainingStopped

BUILD_PREFIX = re.compile(r'class `\w+` in [^:]+: ')
# Messages of Python and mmengine for a config with an unknown argument of a constructor or an unknown type.
REFUSED = re.compile(
    r'class `\w+` in |\w+\.__init__\(\) (got an unexpected|missing)|.* is not in the .*registry', re.DOTALL
)


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
        # The group's threads live as long as a wrapped model, and runner and hooks refer to each other. A thread that
        # calls Python while Python shuts down aborts the process. The exit code would be lost.
        gc.collect()
    if exit_code:
        sys.exit(exit_code)


def _fail(error: Exception | str, exit_code: int = 2) -> int:
    print('error: ' + ' '.join(BUILD_PREFIX.sub('', str(error)).split()), file=sys.stderr, flush=True)
    return exit_code


def say(sentence: str) -> None:
    """Print a sentence in the first process only."""
    if int(os.environ.get('RANK', 0)) == 0:
        print(f'*** {sentence}', flush=True)
