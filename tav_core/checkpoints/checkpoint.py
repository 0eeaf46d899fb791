"""Opens a Stable Diffusion checkpoint from disk: a diffusers folder or a .safetensors file. Never goes online."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import TavError
from ..families import family_of_config
from ..layout import Tokens
from ..progress import counted
from ..prompt import Prompt
from ..video.pixels import to_float
from .configs import check, read_config
from .networks import clip_names, diffusers_network, read_weights, text_encoder
from .original import image_config, image_tensors, is_original, is_original_config
from .single_file import open_single_file
from .tokenizer import all_ids, open_tokenizer, token_ids, tokens_of

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ORIGINAL_DDIM = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading"}
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Names of the VAE's attention layers in folders from before diffusers 0.17.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The five parts of Stable Diffusion, frozen and in evaluation mode, all networks on one device in one dtype."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @property
    def family(self) -> str:
        """The model's family: "sd1" or "sd2"."""
        return family_of_config(self.unet.config, "This UNet")

    def to(self, device: torch.device | str) -> "Checkpoint":
        """Moves the networks, in place."""
        for network in (self.unet, self.vae, self.text_encoder):
            network.to(device)
        return self

    @torch.no_grad()
    def encode_prompt(self, prompts: str | list[str]) -> Prompt:
        """Encodes n prompts as StableDiffusionPipeline does: embeds (n, 77, d), padded or truncated to 77 tokens.

        Words with weights, as in `(red:1.3)`, are moved away from the empty prompt, as ComfyUI does.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids, weights = zip(*(token_ids(self.tokenizer, prompt) for prompt in prompts), strict=True)
        embeds, weights = self._encoded(ids), torch.tensor(weights)[..., None].to(self.text_encoder.device)
        if (weights != 1).any():
            empty = self._encoded([token_ids(self.tokenizer, "")[0]])
            weighted = empty + weights * (embeds.float() - empty.float())
            embeds = torch.where(weights == 1, embeds, weighted.to(embeds))
        return Prompt(embeds)

    def _encoded(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.text_encoder(torch.tensor(ids).to(self.text_encoder.device))[0]

    def tokens(self, prompt: str) -> Tokens:
        """The prompt's tokens, as `encode_prompt` encodes them, and their words."""
        return tokens_of(self.tokenizer, prompt)

    def truncated_words(self, prompt: str) -> str:
        """The end of the prompt, beyond 77 tokens, that the model does not see; "" if all of it fits."""
        ids = all_ids(self.tokenizer, prompt)
        return self.tokenizer.decode(ids[self.tokenizer.model_max_length - 2 :])

    @torch.no_grad()
    def encode_video(
        self, frames: Tensor, posterior: bool = False, on_step: Callable | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Encodes frames (f, h, w, 3), float in 0..1 or uint8, to latents (1, 4, f, h/8, w/8): the VAE's mean times
        scaling_factor.

        With `posterior` returns (mean, std), both of that shape and scale. Frames go through the VAE one at a time.
        on_step: called as (step, total, part="encoding") after each.
        """
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        fits = frames.ndim == 4 and frames.shape[3] == 3 and not any(side % factor for side in frames.shape[1:3])
        if not fits or not (frames.is_floating_point() or frames.dtype == torch.uint8):
            raise TavError(
                f"Encoding needs frames (f, h, w, 3), float in 0..1 or uint8, with height and width divisible by "
                f"{factor}, got {tuple(frames.shape)} of {frames.dtype}: resize or crop the clip first."
            )
        pixels = (rearrange(to_float(frame) * 2 - 1, "1 h w c -> 1 c h w") for frame in frames.split(1))
        posteriors = counted(
            (self.vae.encode(frame.to(self.vae.device, self.vae.dtype)).latent_dist for frame in pixels),
            len(frames),
            on_step,
            "encoding",
        )
        mean, std = (
            rearrange(torch.cat(parts) * self.vae.config.scaling_factor, "f c h w -> 1 c f h w")
            for parts in zip(*((p.mean, p.std) for p in posteriors), strict=True)
        )
        return (mean, std) if posterior else mean

    def decode_video(self, latents: Tensor) -> Tensor:
        """Decodes scaled latents (1, 4, f, h, w) to frames (f, 8 h, 8 w, 3) in 0..1, float32 on the CPU."""
        video = None
        for number, frame in enumerate(self.decoded_frames(latents)):
            if video is None:
                video = frame.new_empty(latents.shape[2], *frame.shape)
            video[number] = frame
        return video

    def decoded_frames(self, latents: Tensor) -> Iterator[Tensor]:
        """What `decode_video` gives, one frame (8 h, 8 w, 3) at a time, so that a long video need not fit in memory."""
        if latents.ndim != 5 or latents.shape[0] != 1:
            raise TavError(f"Decoding needs the latents (1, c, f, h, w) of one video, got {tuple(latents.shape)}.")
        latents = rearrange(latents / self.vae.config.scaling_factor, "1 c f h w -> f c h w")
        return (self._decoded(frame) for frame in latents.split(1))

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        pixels = self.vae.decode(latents.to(self.vae.device, self.vae.dtype)).sample.float().cpu()
        return rearrange((pixels / 2 + 0.5).clamp(0, 1), "1 c h w -> h w c")


def load_checkpoint(
    path: str | os.PathLike, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Checkpoint:
    """Opens a diffusers folder or a single .safetensors file of Stable Diffusion 1.x or 2.x.

    device, dtype: by default the CPU and float32. Of a result of the original Tune-A-Video it opens the 2-D part, with
    the tuned query projections. Raises TavError for any other file or folder, saying what it is.
    """
    path, dtype = Path(path).absolute(), dtype or torch.float32
    if path.is_dir():
        parts = _open_folder(path, dtype)
    elif not path.is_file():
        raise TavError(f"There is no checkpoint at {path}: give a .safetensors file or a diffusers folder.")
    elif path.suffix.lower() == ".safetensors":
        parts = open_single_file(path, dtype)
    elif path.suffix.lower() in PICKLES:
        raise _pickle(path.name)
    else:
        raise TavError(f"{path.name} is not a checkpoint: give a .safetensors file or a diffusers folder.")
    _ensure_same_width(parts["unet"], parts["text_encoder"], path.name)
    return Checkpoint(**parts).to(device or "cpu")


def _ensure_same_width(unet: UNet2DConditionModel, text: CLIPTextModel, name: str) -> None:
    given, needed = text.config.hidden_size, unet.config.cross_attention_dim
    if given != needed:
        raise TavError(
            f"The text encoder of {name} gives {given} numbers per token, but its UNet takes {needed}: choose an "
            "intact checkpoint."
        )


def _open_folder(folder: Path, dtype: torch.dtype) -> dict:
    if (folder / "transformer").is_dir():
        family_of_config(read_config(folder / "transformer"), folder.name)
    absent = [f"{part}/" for part in PARTS if not (folder / part).is_dir()]
    if absent and is_original(folder):
        raise TavError(
            f"The folder {folder.name} holds only the UNet tuned by the original Tune-A-Video: also pass its base "
            "checkpoint."
        )
    if absent:
        raise TavError(
            f"The folder {folder.name} has no {', '.join(absent)}: give a diffusers folder or a .safetensors file."
        )
    config = read_config(folder / "unet")
    if original := is_original_config(config):
        config = image_config(config)
    family_of_config(config, folder.name)
    tensors = read_weights(folder / "unet", dtype)
    if original:
        tensors = image_tensors(tensors, folder.name)
    unet = diffusers_network(UNet2DConditionModel, config, tensors, f"The unet/ of {folder.name}")
    tensors = _modern_attention(read_weights(folder / "vae", dtype))
    vae = diffusers_network(AutoencoderKL, read_config(folder / "vae"), tensors, f"The vae/ of {folder.name}")
    config, tensors = read_config(folder / "text_encoder"), clip_names(read_weights(folder / "text_encoder", dtype))
    text = text_encoder(config, tensors, f"The text_encoder/ of {folder.name}")
    schedule = read_config(folder / "scheduler", "scheduler_config.json")
    schedule = check(schedule, DDIMScheduler, f"The scheduler/ of {folder.name}")
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": text,
        "tokenizer": open_tokenizer(folder / "tokenizer", text.config.max_position_embeddings, text.config.vocab_size),
        # The original's settings for inversion and sampling, whatever sampler the folder comes with.
        "scheduler": DDIMScheduler.from_config(schedule, **ORIGINAL_DDIM),
    }


def _modern_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    old = rf"(mid_block\.attentions\.0)\.({'|'.join(OLD_ATTENTION)})\."
    return {re.sub(old, lambda m: f"{m[1]}.{OLD_ATTENTION[m[2]]}.", key): tensor for key, tensor in tensors.items()}


def _pickle(name: str) -> TavError:
    return TavError(
        f"{name} is a pickle, which can run any code when opened: convert it to .safetensors first "
        "(torch.load with weights_only=True, then safetensors.torch.save_file) or download the .safetensors version."
    )
