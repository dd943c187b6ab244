"""Write the generated miniature data: tools/make_shapes.py OUT_DIR."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.datasets.shapes import main
from mmbackbones.errors import InputError

if __name__ == '__main__':
    try:
        main()
    except InputError as error:  # run_command does this too, but its import takes longer than the whole command
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
