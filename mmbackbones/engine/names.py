"""The names of runs."""

from pathlib import Path


def run_name(config: str | Path, backbone: str | None = None, arm: str | None = None) -> str:
    """Name of a run: its config's name, and the given backbone and arm."""
    stem = Path(config).name.removesuffix('.py')
    return '_'.join(filter(None, (stem, backbone, arm)))
