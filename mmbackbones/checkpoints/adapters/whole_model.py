"""Released detectors and segmentors, whose backbone carries its authors' key names."""

from collections.abc import Callable

from torch import Tensor


def convert_whole_model(
    state_dict: dict[str, Tensor], convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], prefix: str = 'backbone.'
) -> dict[str, Tensor]:
    """Apply a family's adapter to the backbone's part of a whole model; neck and heads keep their names.

    Args:
        state_dict (dict): of a detector or segmentor.
        convert (Callable): the adapter, such as ``convert_vmamba`` or a backbone's ``convert_state_dict``.
        prefix (str): what precedes the backbone's own names.
    """
    rest = {key: value for key, value in state_dict.items() if not key.startswith(prefix)}
    backbone = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    return {**{prefix + key: value for key, value in convert(backbone).items()}, **rest}
