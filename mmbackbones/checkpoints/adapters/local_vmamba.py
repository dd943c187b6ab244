"""LocalVMamba: the authors' name of the channel gate."""

from torch import Tensor


def convert_local_vmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the gate. Our own names stay as they are.

    The ``classifier.*`` keys stay in: the backbone allows them as unexpected.
    """
    return {key.replace('.op.multi_scan.attn.', '.op.channel_gate.'): value for key, value in state_dict.items()}
