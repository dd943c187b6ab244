"""Write the generated parts of README and docs: tools/make_tables.py [--check]."""

from pathlib import Path

from mmbackbones.analysis.pages.write import main
from mmbackbones.engine.command import run_command

if __name__ == '__main__':
    run_command(lambda argv: main(argv, Path(__file__).resolve().parents[1]))
