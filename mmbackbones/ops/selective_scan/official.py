"""mamba_ssm's CUDA kernel."""

DEVICES = ('cuda',)
FLOAT64 = False


def available() -> str | None:
    return 'mamba_ssm is not installed'
