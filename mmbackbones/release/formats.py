"""A backbone as ONNX, TorchScript or torch.export's own file, each checked against PyTorch before it is handed on."""

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mmbackbones.backbones.base import Backbone
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan.dispatch import use_scans
from mmbackbones.release.choices import FORMATS
from mmbackbones.release.scan import PlainScans

TOLERANCE = 1e-4  # absolute, and relative to the value
# Height and width of the image with which a graph for any size is traced. In a small one a map has a side of 1, or one
# window, and torch makes a graph for that alone.
TRACED = (896, 1216)
METADATA = 'mmbackbones.json'  # the name of the metadata within TorchScript and pt2 files


def export_backbone(
    backbone: Backbone, kind: str, size: tuple[int, int], dynamic: bool = False, metadata: dict[str, str] | None = None
) -> bytes:
    """Export a backbone, load the result and compare it with PyTorch.

    The input is ``image``, float32 [1, 3, H, W], already normalized. The outputs are ``map0``, ``map1``, …, each
    [1, C, h, w].
    Selective scans become plain operations, see :mod:`mmbackbones.release.scan`.

    Args:
        backbone: the network with its weights. It is put into eval mode.
        kind: one of ``FORMATS``.
        size: height and width of the image, px.
        dynamic: whether the file takes images of any size. It is then also checked at another size.
        metadata: texts to store in the file.

    Returns:
        bytes: the content of the file.

    Raises:
        InputError: the format has no dynamic size, or the graph holds for some alone; the image is too small;
            a package is missing; or the file does not give PyTorch's maps to ``TOLERANCE``.
    """
    if kind not in FORMATS:
        raise InputError(f'--format {kind}: expected one of {", ".join(FORMATS)}')
    if dynamic and kind == 'torchscript':
        raise InputError(
            '--dynamic: not with torchscript: tracing writes the sizes of the example into the graph; '
            'onnx takes any size'
        )
    backbone.eval()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    images = [image]
    if dynamic:
        images.append(torch.randn(1, 3, size[0] + 37, size[1] + 23, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad(), use_scans(backend='chunk', directional='composed'), _quiet():
        expected = [backbone(each) for each in images]
        program = _trace(backbone, image, dynamic)
        data = WRITERS[kind](program, image, len(expected[0]), metadata or {})
        found = READERS[kind](data)
        for each, maps in zip(images, expected):
            _compare(f'--format {kind}', each, maps, _run(found, each))
    return data


def _run(found: Callable[[Tensor], Sequence[Tensor]], image: Tensor) -> Sequence[Tensor]:
    """The maps of an exported file; a pt2 file refuses sizes for which its graph does not hold."""
    try:
        return found(image)
    except AssertionError as error:
        if 'Guard failed' not in str(error):
            raise
        height, width = image.shape[2:]
        condition = ' '.join(str(error).split())[:100]
        raise InputError(
            f'--dynamic: the pt2 graph of this network does not hold for {height}x{width} ({condition} …); '
            '--format onnx takes any size'
        ) from error


def _trace(backbone: Backbone, image: Tensor, dynamic: bool) -> ExportedProgram:
    with PlainScans(), _eager_attention(backbone):
        if not dynamic:
            return torch.export.export(backbone, (image,))
        free = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        return torch.export.export(backbone, (image.new_zeros(1, 3, *TRACED),), dynamic_shapes=(free,))


def _write_onnx(program: ExportedProgram, image: Tensor, maps: int, metadata: dict[str, str]) -> bytes:
    optimizer = _require('onnxscript.optimizer')
    any_size = bool(program.range_constraints)
    exported = torch.onnx.export(
        program,
        (image,),
        dynamo=True,
        optimize=not any_size,
        verbose=False,
        input_names=['image'],
        output_names=[f'map{index}' for index in range(maps)],
    )
    if any_size:
        # Without the optimizer's rewriting: one of its rules looks through all nodes, up to 20,000, for each node.
        optimizer.fold_constants(exported.model)
        optimizer.remove_unused_nodes(exported.model)
    exported.model.metadata_props.update(metadata)
    return exported.model_proto.SerializeToString()


def _write_torchscript(program: ExportedProgram, image: Tensor, maps: int, metadata: dict[str, str]) -> bytes:
    traced, buffer = torch.jit.trace(program.module(), image, check_trace=False), io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _write_pt2(program: ExportedProgram, image: Tensor, maps: int, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _read_onnx(data: bytes) -> Callable[[Tensor], Sequence[Tensor]]:
    session = _require('onnxruntime').InferenceSession(data, providers=['CPUExecutionProvider'])
    return lambda image: [torch.from_numpy(each) for each in session.run(None, {'image': image.numpy()})]


def _read_torchscript(data: bytes) -> Callable[[Tensor], Sequence[Tensor]]:
    return torch.jit.load(io.BytesIO(data))


def _read_pt2(data: bytes) -> Callable[[Tensor], Sequence[Tensor]]:
    return torch.export.load(io.BytesIO(data)).module()


WRITERS = {'onnx': _write_onnx, 'torchscript': _write_torchscript, 'pt2': _write_pt2}
READERS = {'onnx': _read_onnx, 'torchscript': _read_torchscript, 'pt2': _read_pt2}


def _compare(what: str, image: Tensor, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    height, width = image.shape[2:]
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
            apart = f'{(one - other).abs().max():.2g} apart' if one.shape == other.shape else 'of another shape'
            raise InputError(
                f'{what}: map {index} of an image {height}x{width} is {apart} from PyTorch; nothing was written'
            )


@contextlib.contextmanager
def _eager_attention(backbone: Backbone) -> Iterator[None]:
    """Attention of timm in plain products: ONNX takes no windows in 5-D, TorchScript no mask of torch's fused one."""
    fused = [layer for layer in backbone.modules() if getattr(layer, 'fused_attn', False)]
    for layer in fused:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in fused:
            layer.fused_attn = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log and warn of what is their own affair; the comparison tells whether the result is right."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)


def _require(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition('.')[0]
        raise InputError(
            f"--format onnx needs the package {package} ({error}); pip install 'mmbackbones[export]' brings it"
        ) from error
