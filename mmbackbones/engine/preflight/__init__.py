"""What a configuration alone tells about a run, before it starts: settings that cannot work, and maps that do not fit.

:func:`require_workable` reads the configuration only. :func:`try_out` needs the runner: it passes maps without content
through neck and heads, tries the smallest images, and warns of schedules and intervals that do not fit the training.
"""

from mmbackbones.engine.preflight.settings import require_workable
from mmbackbones.engine.preflight.trial import try_out

__all__ = ['require_workable', 'try_out']
