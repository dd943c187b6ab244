"""The one exception for mistakes that the user can mend."""


class InputError(ValueError):
    """Bad input: a file, configuration key or option. The message is one line that names it and says what is expected.

    Commands print it as ``error: …`` and exit with status 2; every other exception is a bug and keeps its traceback.
    """


class TrainingStopped(RuntimeError):
    """A training ended early by its own decision. The message is one line; commands print it as ``error: …``.

    Attributes:
        exit_code (int): the command's exit status, see docs/reliability.md.
    """

    exit_code = 1


class NumericalTrouble(TrainingStopped):
    """A loss or gradients that are not finite."""

    exit_code = 3


class Preempted(TrainingStopped):
    """The process was told to stop (SIGTERM) and has saved what there was to save."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


HANG_EXIT_CODE = 4  # of a process that the watchdog ends; its main thread cannot raise anything
