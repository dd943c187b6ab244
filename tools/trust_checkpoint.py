"""Take the plain data out of a checkpoint that holds code, by running that code once: only for files that you trust.

    tools/trust_checkpoint.py SOURCE TARGET --sha256 HEX

The digest says which file is trusted, not which name. It is the author's, or what sha256sum prints for a file whose
origin you know. TARGET holds tensors, numbers and texts alone, and loads everywhere.
"""

from mmbackbones.checkpoints.trust import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(main)
