"""tools/train.py in a process that the kernel kills at one exact place while it saves.

fatal_train.py event N ARGUMENTS...   SIGKILL before the N-th opening, renaming or removal of a checkpoint's files
fatal_train.py bytes N ARGUMENTS...   SIGXFSZ when a file passes N bytes: killed in the middle of writing it
fatal_train.py full N ARGUMENTS...    the same, but the write fails instead, as on a full disk
"""

import os
import re
import resource
import runpy
import signal
import sys
from pathlib import Path

CHECKPOINT_FILE = re.compile(r'\.?((best_.*)?(epoch|iter)_\d+\.pth(\.sha256)?|last_checkpoint)(\.writing)?')


def main() -> None:
    how, number, *arguments = sys.argv[1:]
    left = int(number)

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        if (
            event in ('open', 'os.rename', 'os.remove')
            and isinstance(args[0], str | Path)
            and CHECKPOINT_FILE.fullmatch(Path(args[0]).name)
            and (event != 'open' or 'r' not in str(args[1]))
        ):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if how == 'event':
        sys.addaudithook(watch)
    else:
        if how == 'bytes':
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ['tools/train.py', *arguments]
    runpy.run_path('tools/train.py', run_name='__main__')


if __name__ == '__main__':
    main()
