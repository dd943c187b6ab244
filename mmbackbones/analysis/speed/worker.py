"""A process that measures one network at one size. Its parent tells it when its turn is."""

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmbackbones.analysis.speed.choices import PRECISIONS
from mmbackbones.analysis.timing import median, peak_memory, process_bytes, seconds_of
from mmbackbones.engine.config import load_config
from mmbackbones.engine.device import adapt_to_device
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import dense_task_of
from mmbackbones.ops.selective_scan.dispatch import ENVIRONMENT

WARM_UP = 64  # px; what is loaded and allocated once is no cost of a size
OBJECTS = 8  # per image in the training of a detector
# On CUDA a time is the mean over calls that take about this long together.
SAMPLE_SECONDS, MOST_REPEATS = 0.3, 50
DTYPES = {name: dtype and getattr(torch, dtype) for name, dtype in PRECISIONS.items()}
OUT_OF_MEMORY = 'out of memory'


@dataclass(frozen=True)
class NetworkCase:
    """The network and the settings of a measurement.

    Attributes:
        config (str): path of a config.
        size (int): side of the square images in pixels.
        part (str): ``'backbone'``, or ``'model'``, the whole detector or segmentor with its post-processing.
        step (str): ``'inference'``, or ``'training'``: forward, loss, backward and a step of AdamW.
        batch (int): number of images.
        backend (str | None): backend of the selective scan; None without a scan.
        attention (str | None): one of :data:`mmbackbones.choices.ATTENTION`; None if the backbone has no choice.
        precision (str): ``'fp32'``, or ``'bf16'`` or ``'fp16'`` by autocast.
        channels_last (bool): memory format of images and weights.
        device (str): ``'cpu'`` or ``'cuda'``.
        threads (int): number of CPU threads.
        memory_gb (float | None): largest memory beyond model and images (CPU) or in total (CUDA); None: all free
            memory.
    """

    config: str
    size: int
    part: str = 'backbone'
    step: str = 'inference'
    batch: int = 1
    backend: str | None = None
    attention: str | None = None
    precision: str = 'fp32'
    channels_last: bool = False
    device: str = 'cpu'
    threads: int = 1
    memory_gb: float | None = None


@dataclass
class NetworkTiming:
    """A case with its time and memory.

    Attributes:
        case (NetworkCase): what was measured.
        tokens (int | None): positions of the backbone's first map, of one image; None if the map was not computed.
        peak (int | None): most bytes held during a step beyond model, optimizer and images; None if unknown.
        process_peak (int | None): most bytes that the process held in total (CUDA: on the device).
        seconds (list[float]): seconds of one step, one entry per round.
        scan_share (float | None): share of a step's time in the operators of the scan, 0 to 1; None without a scan.
        note (str): ``'out of memory'`` if it was.
        ratio (float | None): median time over that of the first row of its group.
    """

    case: NetworkCase
    tokens: int | None = None
    peak: int | None = None
    process_peak: int | None = None
    seconds: list[float] = field(default_factory=list)
    scan_share: float | None = None
    note: str = ''
    ratio: float | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds)


def backbone_config(case: NetworkCase, cfg: Config) -> dict:
    """The backbone's configuration without weights, with the given kind of attention."""
    backbone = {**cfg.model.backbone, 'init_cfg': None}
    return backbone if case.attention is None else {**backbone, 'attention': case.attention}


def build(case: NetworkCase) -> tuple[nn.Module, str]:
    """Backbone or model with random weights, on its device and in its mode, and its task."""
    cfg = load_config(case.config)
    task = dense_task_of(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(0)
    if case.part == 'backbone':
        model = MODELS.build(backbone_config(case, cfg))
    else:
        cfg.model.backbone = backbone_config(case, cfg)
        adapt_to_device(cfg, 'none')
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model = model.to(case.device).train(case.step == 'training')
    return model.to(memory_format=torch.channels_last) if case.channels_last else model, task


class NetworkStep:
    """The step of a case. It can be called on images of any size."""

    def __init__(self, case: NetworkCase):
        self.case = case
        self.model, self.task = build(case)
        self.tokens = None
        backbone = self.model if case.part == 'backbone' else self.model.backbone
        backbone.register_forward_hook(self._note_tokens)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 1e-6) if case.step == 'training' else None
        self.scaler = torch.amp.GradScaler(case.device, enabled=case.precision == 'fp16')

    def _note_tokens(self, module: nn.Module, inputs: tuple, maps: tuple[Tensor, ...]) -> None:
        self.tokens = maps[0].shape[-2] * maps[0].shape[-1]

    def images(self, size: int) -> Tensor:
        """Random images [B, 3, size, size]."""
        x = torch.randn(self.case.batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.case.device)
        return x.to(memory_format=torch.channels_last) if self.case.channels_last else x

    def __call__(self, images: Tensor, samples: list) -> Tensor | None:
        """A step. Returns the loss of one in training."""
        dtype = DTYPES[self.case.precision]
        cast = torch.autocast(self.case.device, dtype, enabled=dtype is not None)
        if self.optimizer is None:
            with torch.inference_mode(), cast:
                self.model(images) if not samples else self.model(images, samples, mode='predict')
            return None
        with cast:
            if samples:
                loss, _ = self.model.parse_losses(self.model(images, samples, mode='loss'))
            else:
                # Behind a norm a plain mean would be constant and leave the weights without gradients.
                loss = sum(x.float().sigmoid().mean() for x in self.model(images))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()

    def samples(self, size: int) -> list:
        """Data samples for the model beside images: their sizes, and targets in training."""
        if self.case.part == 'backbone':
            return []
        make = _detection_sample if self.task == 'detection' else _segmentation_sample
        return [make(size, self.case.device) for _ in range(self.case.batch)]


def _meta(size: int) -> dict:
    shape = (size, size)
    return dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))


def _detection_sample(size: int, device: str):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample, sizes = DetDataSample(metainfo=_meta(size)), random.Random(0)
    corners = [(sizes.uniform(0, size / 2), sizes.uniform(0, size / 2)) for _ in range(OBJECTS)]
    boxes = [(x, y, x + sizes.uniform(size / 8, size / 2), y + sizes.uniform(size / 8, size / 2)) for x, y in corners]
    masks = np.zeros((OBJECTS, size, size), np.uint8)
    for mask, box in zip(masks, boxes):
        left, top, right, bottom = map(int, box)
        mask[top:bottom, left:right] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes), labels=torch.zeros(OBJECTS, dtype=torch.long), masks=BitmapMasks(masks, size, size)
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample.to(device)


def _segmentation_sample(size: int, device: str):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_meta(size))
    sample.gt_sem_seg = PixelData(data=torch.arange(size).remainder(3).expand(1, size, size).contiguous())
    return sample.to(device)


def serve(pipe: Connection, case: NetworkCase) -> None:
    """Build the network, then answer each message: first a :class:`NetworkTiming` with memory, then times."""
    if case.backend:
        os.environ[ENVIRONMENT] = case.backend
    torch.set_num_threads(case.threads)
    try:
        step = NetworkStep(case)
        step(step.images(WARM_UP), step.samples(WARM_UP))
        limit_memory(case)
        images, samples = step.images(case.size), step.samples(case.size)
        pipe.recv()
        row, repeats = NetworkTiming(case), 1
        row.peak = peak_memory(lambda: step(images, samples), case.device)
        row.tokens, row.process_peak = step.tokens, _process_peak(case.device)
        if case.device == 'cuda':
            repeats = math.ceil(SAMPLE_SECONDS / seconds_of(lambda: step(images, samples), 2, 'cuda'))
        if case.backend:
            row.scan_share = scan_share(lambda: step(images, samples), case.device)
        pipe.send(row)
        while True:
            _give_back(case.device)
            pipe.recv()
            # More than one, so that on CUDA a first call brings back the memory given away between turns.
            many = max(2, min(repeats, MOST_REPEATS)) if case.device == 'cuda' else 1
            pipe.send(seconds_of(lambda: step(images, samples), many, case.device))
    except EOFError:  # nothing more to measure
        return
    except InputError as error:
        pipe.send(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        pipe.send(replace(NetworkTiming(case), note=OUT_OF_MEMORY))


def scan_share(call: Callable[[], object], device: str) -> float:
    """Share of our operators in the time of a call, on the processor or on the CUDA device, by torch's profiler."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == 'cuda')
    with profile(activities=activities) as record:
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
    return share_of(record.events(), 'device' if device == 'cuda' else 'cpu')


def share_of(events: Sequence, kind: str) -> float:
    """Share of our operators, with what they call, in the time of all events of torch's profiler.

    Args:
        events: its events, each with the event that it was called from.
        kind: whose time: ``'cpu'`` or ``'device'``.
    """
    whole = sum(getattr(event, f'self_{kind}_time_total') for event in events)
    return sum(getattr(event, f'{kind}_time_total') for event in events if _is_outermost_of_ours(event)) / whole


def _is_outermost_of_ours(event) -> bool:
    names = [event.name]
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    return [name.startswith('mmbackbones::') for name in names] == [True] + [False] * (len(names) - 1)


def limit_memory(case: NetworkCase) -> None:
    """Make allocations beyond the limit of the case fail, so that running out of memory gives a result.

    Without a limit in the case, CUDA itself fails. On a CPU the default limit is 90 % of the free memory.
    """
    if case.device == 'cuda':
        if case.memory_gb:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, case.memory_gb * 1e9 / total))
        return
    available = process_bytes('MemAvailable', '/proc/meminfo')
    limit = case.memory_gb * 1e9 if case.memory_gb else available and 0.9 * available
    held = process_bytes('VmSize')
    if limit and held:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (int(held + limit), hard))


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is PyTorch's or Python's error for a lack of memory."""
    words = ("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc', 'Cannot allocate memory')
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _process_peak(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device == 'cuda' else process_bytes('VmHWM')


def _give_back(device: str) -> None:
    if device == 'cuda':
        torch.cuda.empty_cache()  # for those whose turn is next
