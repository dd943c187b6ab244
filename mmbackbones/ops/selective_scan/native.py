"""The selective scan on the CPU, in C++."""

DEVICES = ('cpu',)
FLOAT64 = False


def available() -> str | None:
    return 'not built'
