"""What a configuration alone tells about a run, before it starts: settings that cannot work, and maps that do not fit.

:func:`require_workable` reads the configuration only. The others need the runner. :func:`require_runnable` holds
classes, evaluators and samples together. :func:`try_out` passes maps without content through neck and heads, tries the
smallest images, and warns of schedules and intervals that do not fit the training.
"""

from mmbackbones.engine.preflight.evaluators import require_runnable
from mmbackbones.engine.preflight.settings import require_workable
from mmbackbones.engine.preflight.trial import try_out

__all__ = ['require_runnable', 'require_workable', 'try_out']
