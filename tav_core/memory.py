"""Estimates how much memory a run needs, by running it on the meta device, and how much is free."""

import functools
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from .borrow import Loan
from .inflate import InflatedUNet, inflate
from .layout import CHUNK, Layout
from .lend import lent

WORKSPACES = 300 * 2**20  # bytes, of CUDA's libraries


def _once_per_shape(estimate: Callable[..., int]) -> Callable[..., int]:
    """Remembers an estimate: it takes seconds, depends on shapes alone, and a run asks for the same one repeatedly."""
    known = {}

    @functools.wraps(estimate)
    def remembered(network: InflatedUNet | AutoencoderKL, *args, **options) -> int:
        config = network.unet.config if isinstance(network, InflatedUNet) else network.config
        shapes = json.dumps(config, sort_keys=True, default=str), getattr(network, "inflation", None), network.dtype
        key = *shapes, *(tuple(each) if isinstance(each, list) else each for each in args), *sorted(options.items())
        if key not in known:
            known[key] = estimate(network, *args, **options)
        return known[key]

    return remembered


@_once_per_shape
def tuning_memory(
    unet: InflatedUNet, latents_shape: tuple[int, ...], *, checkpointing: bool, half: bool = False
) -> int:
    """The bytes that a tuning step needs besides the network's weights: activations, gradients, optimizer state.

    latents_shape: (b, c, f, h, w). half: computed under bf16 or fp16 autocast.
    """
    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        network = _shapes_of(unet, torch.float16 if half else torch.float32)
        trained = network.trainable_parameters().values()
        for parameter in trained:
            parameter.requires_grad_(True)
        network.train()
        if checkpointing:
            network.unet.enable_gradient_checkpointing(_checkpoint_shapes)
        activations = _peak(
            lambda: network(*_inputs(network, latents_shape)).float().square().mean().backward(), network
        )
    count = sum(parameter.numel() for parameter in trained)
    master = 0 if unet.dtype == torch.float32 else 4 * count
    gradients = sum(p.numel() * p.element_size() for p in trained)  # already in the peak, at the network's precision
    activations -= gradients
    casts = 0
    if half:
        activations = round(1.4 * activations)  # autocast leaves the norms, and what they save, in float32
        if not master:  # linear layers save a half-precision copy of their weight
            casts = 2 * sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 2)
    return activations + 12 * count + master + casts


def tuning_bound(unet: InflatedUNet, latents_shape: tuple[int, ...]) -> int:
    """More bytes than `tuning_memory` of a float32 step without checkpointing ever needs, at no cost.

    Twice what linear, convolution and norm layers give, which is 1.6 to 1.9 times the need, and the optimizer's state.
    """
    batch, _, frames, height, width = latents_shape
    outputs = sum(
        _channels_of(module) / 4 ** _level_of(name, len(unet.unet.config.block_out_channels))
        for name, module in unet.unet.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm))
    )
    trained = sum(parameter.numel() for parameter in unet.trainable_parameters().values())
    return round(2 * 4 * outputs * batch * frames * height * width + 16 * trained)


def _channels_of(module: nn.Module) -> int:
    names = ("out_features", "out_channels", "num_channels")
    return next((getattr(module, name) for name in names if hasattr(module, name)), 0) or module.normalized_shape[-1]


def _level_of(name: str, levels: int) -> int:
    """How often a module's output is at least halved, by its path in diffusers."""
    block, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if block == "down_blocks":
        return int(number)
    if block == "up_blocks":
        return max(0, levels - 1 - int(number) - ("upsamplers" in rest))
    return levels - 1 if block == "mid_block" else 0


@_once_per_shape
def inference_memory(
    unet: InflatedUNet, latents_shape: tuple[int, ...], *, structure: bool = False, layout: bool = False
) -> int:
    """The bytes that one prediction needs besides the network's weights; latents_shape: (b, c, f, h, w).

    structure, layout: whether an edit keeps its clip's; what layers compute for the clip is then kept meanwhile.
    """
    with torch.device("meta"), torch.no_grad():
        network = _shapes_of(unet, unet.dtype)
        if not (structure or layout):
            return _peak(lambda: network(*_inputs(network, latents_shape)), network)
        with lent(network) as loan:
            return _peak(lambda: _borrowing(network, loan, latents_shape, structure, layout), network)


def _borrowing(network: InflatedUNet, loan: Loan, latents_shape: tuple[int, ...], structure: bool, layout: bool):
    with loan.recording(structure, layout):
        network(*_inputs(network, (1, *latents_shape[1:])))
    same = Layout(torch.empty(CHUNK, CHUNK), torch.empty(CHUNK), torch.empty(CHUNK), True)
    with loan.lending(structure, same if layout else None):
        network(*_inputs(network, latents_shape))


@_once_per_shape
def decoding_memory(vae: AutoencoderKL, height: int, width: int) -> int:
    """The bytes that decoding one frame needs besides the VAE's weights; height and width of the latents."""
    with torch.device("meta"), torch.no_grad():
        twin = nn.Module.to(AutoencoderKL.from_config(vae.config), vae.dtype)
        latents = torch.empty(1, vae.config.latent_channels, height, width, dtype=vae.dtype)
        return _peak(lambda: twin.decode(latents), twin)


def available_memory(device: torch.device | str) -> int | None:
    """The bytes free on a device; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    free = [_free_of_machine(), _free_of_container()]
    return min((bytes_ for bytes_ in free if bytes_ is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        import psutil  # comes with ComfyUI and with the extra `cli`

        return psutil.virtual_memory().available
    except ImportError:
        return None


def _free_of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The bytes left of this process's cgroup limit, if it has one (Linux, cgroup v2).

    What the kernel keeps of files that were read, such as the checkpoint, counts as used, but is there when needed.
    """
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(facts.get("inactive_file", 0))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def with_losses(needed: int, device: torch.device | str) -> int:
    """The bytes that a process really uses for this many bytes of tensors: allocators waste some, kernels pack copies.

    Both are from measurements on SD 1.5's network: on a CPU (benchmarks/README.md) 1.3 to 1.75 times the count; on an
    H100 (docs/gpu.md) 0.3 GiB more in every inversion and sampling, and 0.89 to 1.02 times in tuning.
    """
    if torch.device(device).type == "cpu":
        return round(1.4 * needed)
    return round(1.1 * needed) + WORKSPACES


def fits(needed: int, device: torch.device | str) -> bool:
    """Whether this many bytes of tensors fit into free memory; False if that is unknown."""
    available = available_memory(device)
    return available is not None and with_losses(needed, device) < available


def _shapes_of(unet: InflatedUNet, dtype: torch.dtype) -> InflatedUNet:
    """The same network without weights, inflated in the same way; added conditions of a prompt weigh nothing."""
    twin = UNet2DConditionModel.from_config(unet.unet.config, addition_embed_type=None, class_embed_type=None)
    twin = nn.Module.to(twin, dtype).requires_grad_(False)
    return inflate(twin, unet.inflation)


def _inputs(unet: InflatedUNet, latents_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    text = torch.empty(latents_shape[0], 77, unet.unet.config.cross_attention_dim)
    return torch.empty(latents_shape), torch.zeros(1, dtype=torch.long), text


def _peak(run: Callable[[], object], network: nn.Module) -> int:
    with _FusedAttention(), LiveBytes(network) as live:
        run()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors, except a network's own weights, and records the peak."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.live = self.peak = 0
        self.storages = {parameter.untyped_storage()._cdata: None for parameter in network.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                self._follow(tensor.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def freed(_) -> None:
            del self.storages[key]
            self.live -= size

        self.storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


class _FusedAttention(TorchFunctionMode):
    """Makes attention save what its fused kernels save; on meta, PyTorch would count the whole score matrix."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention and args[0].ndim == 4:  # what the fused kernels take
            return _FusedAttentionShapes.apply(*args[:3])
        return function(*args, **(kwargs or {}))


class _FusedAttentionShapes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx, _gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _checkpoint_shapes(module: nn.Module, *args):
    def call(*args):
        with _FusedAttention():  # PyTorch does not apply such modes when it recomputes a segment
            return module(*args)

    return checkpoint(call, *args, use_reentrant=False)
