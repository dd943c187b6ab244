"""What a check has found, and a guard that makes a finding of what a check raises.

Imports nothing that takes seconds.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmbackbones.errors import InputError

OK, FAILED, SKIPPED = 'ok', 'FAILED', 'skipped'


@dataclass
class Finding:
    """A row of the page.

    Attributes:
        check (str): what was looked at.
        status (str): :data:`OK`, :data:`FAILED`, or :data:`SKIPPED` if it cannot be looked at here.
        figures (dict[str, object]): cells by column.
        note (str): reason or remark, in one line.
        details (str): traceback or output, for the end of the page.
    """

    check: str
    status: str = OK
    figures: dict[str, object] = field(default_factory=dict)
    note: str = ''
    details: str = ''


def guarded(check: str, function: Callable[[], Finding | Mapping[str, object]]) -> Finding:
    """Run a check. What it raises becomes a failed finding, so that the checks after it still run.

    Args:
        check: its name.
        function: returns the finding, or the figures of one that is :data:`OK`. An :class:`InputError` says that the
            check is not possible here, in one line: the finding is :data:`SKIPPED`.
    """
    try:
        found = function()
    except InputError as error:
        return Finding(check, SKIPPED, note=str(error))
    except Exception as error:
        return Finding(check, FAILED, note=one_line(error), details=traceback.format_exc())
    return found if isinstance(found, Finding) else Finding(check, figures=dict(found))


def one_line(error: BaseException) -> str:
    """Type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
