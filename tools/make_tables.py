"""Write the generated parts of README and docs: tools/make_tables.py [--check]."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.pages.write import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(lambda argv: main(argv, Path(__file__).resolve().parents[1]))
