"""The one exception for mistakes that the user can mend."""


class InputError(ValueError):
    """Bad input: a file, configuration key or option. The message is one line that names it and says what is expected.

    Commands print it as ``error: …`` and exit with status 2; every other exception is a bug and keeps its traceback.
    """
