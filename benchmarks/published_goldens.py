"""Writes tests/golden/published/: what published editing methods compute on small random inputs.

    python benchmarks/published_goldens.py --prompt-to-prompt DIR --notebook FILE --pnp DIR --tokenflow DIR

Runs the unedited code of google/prompt-to-prompt, MichalGeyer/pnp-diffusers and omerbt/TokenFlow from their checkouts.
The attention controllers of prompt-to-prompt exist only in its notebooks; FILE is its null_text_w_ptp.ipynb. The README
in the output folder names the commits and describes the files.
"""

import abc
import argparse
import copy
import json
import re
import runpy
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tav_core.checkpoints.tokenizer import clip_tokenizer

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "published"
STUBS = ["cv2", "IPython", "IPython.display", "torchvision.io"]  # packages the checkouts import to show and read images
STUBS += ["kornia", "kornia.geometry", "kornia.geometry.transform", "kornia.utils", "kornia.utils.grid"]

PAIRS = {  # first those of prompt-to-prompt's notebooks
    "lion": ("A painting of a squirrel eating a burger", "A painting of a lion eating a burger"),
    "lasagne": ("A painting of a squirrel eating a burger", "A painting of a squirrel eating a lasagne"),
    "style": ("A painting of a squirrel eating a burger", "A neoclassical painting of a squirrel eating a burger"),
    "fall": ("a photo of a house on a mountain", "a photo of a house on a mountain at fall"),
    "winter": ("a photo of a house on a mountain", "a photo of a house on a mountain at winter"),
    "pea": ("soup", "pea soup"),
    "croutons": ("soup", "pea soup with croutons"),
    "fried": ("potatos", "fried potatos"),
    "smiling": ("a smiling bunny doll", "a smiling bunny doll"),
    "pink": ("pink bear riding a bicycle", "pink bear riding a bicycle"),
    "tiger": ("a cat sitting next to a mirror", "a tiger sitting next to a mirror"),
    "silver": ("a cat sitting next to a mirror", "a silver cat sculpture sitting next to a mirror"),
    "watercolor": ("a cat sitting next to a mirror", "watercolor painting of a cat sitting next to a mirror"),
    "panda": ("a man is skiing", "a panda is skiing"),
    "spider": ("a man is skiing", "spider man is skiing on the beach, cartoon style"),
    "porsche": ("a jeep car is moving on the road", "a porsche car is moving on the beach, cartoon style"),
    "commas": ("a man, a dog and a cat", "a woman, a wolf and a cat"),
    "longer": ("a bowl of soup on the table", "a bowl of lasagne on the table"),  # two tokens for one
    "shorter": ("a bowl of lasagne on the table", "a bowl of soup on the table"),
    "twice longer": ("pizza with rice on a plate", "lasagne with croutons on a plate"),
    "twice shorter": ("lasagne with croutons on a plate", "pizza with rice on a plate"),
    "two tokens": ("lasagne on a plate", "potatos on a plate"),
    "three tokens": ("lasagne on a plate", "croutons on a plate"),
    "repeated": ("a cat and a cat", "a dog and a cat"),
    "inserted": ("the cat and the dog", "the cat and the cat and the dog"),
    "removed": ("the dog and the dog", "the dog"),
    "only soup": ("pea soup with croutons", "soup"),
}
WORDS = [  # a prompt and a word of it, for get_word_inds
    ("a cat and a cat", "cat"),
    ("a cat and a cat", "a"),
    ("pea soup with croutons", "croutons"),
    ("spider man is skiing on the beach, cartoon style", "beach,"),
    ("spider man is skiing on the beach, cartoon style", "beach"),
]
EDITS = {  # method, pair, cross_replace_steps, the steps to record, words and factors of the equalizer
    "replace": ("replace", "lion", 0.8, (3, 8), None),
    "replace_word": ("replace", "lion", {"default_": 1.0, "lion": 0.4}, (3, 4), None),
    "replace_last": ("replace", "lasagne", {"default_": 1.0, "lasagne": 0.2}, (1, 2), None),
    "replace_longer": ("replace", "twice longer", 0.8, (3,), None),
    "replace_shorter": ("replace", "twice shorter", 0.8, (3,), None),
    "refine": ("refine", "style", 0.5, (3, 5), None),
    "refine_between": ("refine", "spider", (0.2, 0.6), (1, 3, 6), None),
    "refine_shorter": ("refine", "only soup", 0.8, (3,), None),
    "reweight": ("reweight", "smiling", 0.8, (3, 8), (("smiling",), (5,))),
    "reweight_negative": ("reweight", "pink", 0.8, (3,), (("pink",), (-1,))),
    "reweight_replace": ("reweight replace", "tiger", 0.8, (3,), (("tiger",), (2,))),
    "reweight_refine": ("reweight refine", "croutons", 0.8, (3,), (("croutons",), (3,))),
    "reweight_refine_words": ("reweight refine", "silver", 0.8, (3,), (("silver", "sculpture"), (2, 3))),
}
NUM_STEPS, SELF_REPLACE, HEADS, PIXELS = 10, 0.4, 2, 16

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [8, 16, 16, 16],
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
TIMESTEP = 661
INJECTED = {"none": "", "features": "features", "qk": "qk", "both": "features qk"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def padded(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    return tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids


def mappers(ptp: SimpleNamespace) -> dict:
    cases = []
    for prompts in PAIRS.values():
        source, target = prompts
        indices, alphas = (x[0].tolist() for x in ptp.seq_aligner.get_refinement_mapper(prompts, ptp.tokenizer))
        length = len(ptp.tokenizer.encode(target))
        assert indices[length:] == list(range(length, 77))
        assert set(alphas[length:]) == {1.0}
        case = {"source": source, "target": target}
        case |= {"source_ids": padded(ptp.tokenizer, source), "target_ids": padded(ptp.tokenizer, target)}
        case["refinement"] = {"indices": indices[:length], "alphas": alphas[:length]}
        case["replacement"] = None
        if len(source.split(" ")) == len(target.split(" ")):
            mapper = ptp.seq_aligner.get_replacement_mapper(prompts, ptp.tokenizer)[0]
            case["replacement"] = [[int(i), int(j), mapper[i, j].item()] for i, j in mapper.nonzero()]
        case["words"] = [
            [ptp.utils.get_word_inds(prompt, place, ptp.tokenizer).tolist() for place in range(len(prompt.split(" ")))]
            for prompt in prompts
        ]
        cases.append(case)
    words = [[prompt, word, ptp.utils.get_word_inds(prompt, word, ptp.tokenizer).tolist()] for prompt, word in WORDS]
    return {"cases": cases, "words": words}


def controllers(notebook: Path, ptp: SimpleNamespace) -> SimpleNamespace:
    """Runs the cell of prompt-to-prompt's notebook that defines its controllers."""
    cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    (cell,) = [cell for cell in cells if "class AttentionControlEdit" in cell]
    names = vars(typing) | {"abc": abc, "torch": torch, "nnf": torch.nn.functional, "device": "cpu"}
    names |= {"LOW_RESOURCE": False, "NUM_DDIM_STEPS": NUM_STEPS, "MAX_NUM_WORDS": 77}
    names |= {"ptp_utils": ptp.utils, "seq_aligner": ptp.seq_aligner, "tokenizer": ptp.tokenizer}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "controllers.py")
        path.write_text(cell)
        return SimpleNamespace(**names | runpy.run_path(str(path), names))


def attention_edits(ptp: SimpleNamespace, classes: SimpleNamespace) -> tuple[dict, dict[str, Tensor]]:
    """Applies the controllers to the maps of a source and a target prompt, each with HEADS heads."""
    maps = torch.randn(2 * HEADS, PIXELS, 77, generator=seeded(1)).mul(2).softmax(-1)
    self_maps = torch.randn(2 * HEADS, PIXELS, PIXELS, generator=seeded(2)).mul(2).softmax(-1)
    base, edit = maps.unflatten(0, (2, 1, HEADS))
    tensors, settings = {"in.cross": maps, "in.self": self_maps}, {}
    kinds = {"replace": classes.AttentionReplace, "refine": classes.AttentionRefine}
    for name, (method, pair, cross, steps, weights) in EDITS.items():
        prompts = list(PAIRS[pair])
        arguments = (prompts, NUM_STEPS, copy.copy(cross), SELF_REPLACE)
        if method.startswith("reweight"):
            equalizer = classes.get_equalizer(prompts[1], *weights)
            before = [kinds[kind](*arguments) for kind in method.split()[1:]]
            controller = classes.AttentionReweight(*arguments, equalizer, controller=before[0] if before else None)
            tensors[f"in.{name}.equalizer"] = equalizer[0]
        else:
            controller = kinds[method](*arguments)
        tensors[f"in.{name}.alpha"] = controller.cross_replace_alpha.reshape(NUM_STEPS + 1, 77)
        replaced = controller.replace_cross_attention(base[0].clone(), edit.clone())
        tensors[f"out.{name}.replaced"] = replaced.reshape(HEADS, PIXELS, 77)
        for step in steps:
            controller.cur_step = step
            tensors[f"out.{name}.{step}"] = controller.forward(maps.clone(), True, "up")
        settings[name] = {"method": method, "prompts": prompts, "cross_replace_steps": cross, "steps": steps}
        settings[name] |= {"equalizer": dict(zip(*weights, strict=True))} if weights else {}
    controller = kinds["refine"](list(PAIRS["lion"]), NUM_STEPS, 0.8, SELF_REPLACE)
    for step in (3, 4):
        controller.cur_step = step
        tensors[f"out.self.{step}"] = controller.forward(self_maps.clone(), False, "up")
    settings = {"num_steps": NUM_STEPS, "heads": HEADS, "self_replace_steps": SELF_REPLACE, "edits": settings}
    return settings, {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def random_unet() -> UNet2DConditionModel:
    """Weights large enough that every module shows in the output, small enough that rounding errors hardly grow."""
    unet, generator = UNet2DConditionModel(**UNET).eval(), seeded(3)
    for name, weight in unet.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
        else:
            gain = 1.2 if name.endswith(("to_q.weight", "to_k.weight")) else 0.8
            weight.copy_(gain * noise / weight[0].numel() ** 0.5)
    return unet


def inputs(num_frames: int) -> dict[str, Tensor]:
    """Source, unconditional and conditional rows, `num_frames` of each; the last two start from the same latents."""
    source, edited = torch.randn(2, num_frames, 4, 16, 16, generator=seeded(4))
    prompt_embeds = torch.randn(3, 77, 16, generator=seeded(5))
    return {
        "in.sample": torch.cat([source, edited, edited]),
        "in.timestep": torch.tensor(TIMESTEP),
        "in.encoder_hidden_states": prompt_embeds.repeat_interleave(num_frames, dim=0),
    }


def injections(
    register_qk: Callable, register_features: Callable, register_time: Callable, num_frames: int
) -> tuple[dict, dict[str, Tensor]]:
    """Predicts the noise in float64 with each kind of injection; notes whose forward it replaces and which inject."""
    tensors, modules = inputs(num_frames), {}
    sample, timestep, prompt_embeds = (tensors[f"in.{x}"] for x in ("sample", "timestep", "encoder_hidden_states"))
    for name, kinds in INJECTED.items():
        unet, timesteps = random_unet().double(), torch.tensor([TIMESTEP])
        model = SimpleNamespace(unet=unet)
        register_qk(model, timesteps if "qk" in kinds else timesteps[:0])
        register_features(model, timesteps if "features" in kinds else timesteps[:0])
        register_time(model, TIMESTEP)
        tensors[f"out.{name}"] = unet(sample.double(), timestep, prompt_embeds.double()).sample.float()
        replaced = {name: module for name, module in unet.named_modules() if "forward" in vars(module)}
        injecting = [name for name, module in replaced.items() if TIMESTEP in module.injection_schedule]
        modules[name] = {"replaced": list(replaced), "injecting": injecting}
    return {"num_frames": num_frames, "modules": modules}, tensors


def write(name: str, facts: dict, tensors: dict[str, Tensor] | None = None) -> None:
    text = re.sub(r"\[[^][{}]*\]", lambda values: " ".join(values[0].split()), json.dumps(facts, indent=1))
    (FOLDER / f"{name}.json").write_text(text + "\n")
    if tensors:
        save_file(tensors, FOLDER / f"{name}.safetensors")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-to-prompt", type=Path, required=True, help="checkout of google/prompt-to-prompt")
    parser.add_argument("--notebook", type=Path, required=True, help="its null_text_w_ptp.ipynb")
    parser.add_argument("--pnp", type=Path, required=True, help="checkout of MichalGeyer/pnp-diffusers")
    parser.add_argument("--tokenflow", type=Path, required=True, help="checkout of omerbt/TokenFlow")
    options = parser.parse_args()
    made_with = {package.__name__: package.__version__ for package in (torch, diffusers, transformers)}

    sys.path[:0] = [str(path) for path in (options.prompt_to_prompt, options.pnp, options.tokenflow)]
    sys.modules |= {name: MagicMock() for name in STUBS}
    import pnp_utils
    import ptp_utils
    import seq_aligner
    import tokenflow_utils

    FOLDER.mkdir(exist_ok=True)
    ptp = SimpleNamespace(utils=ptp_utils, seq_aligner=seq_aligner, tokenizer=clip_tokenizer())
    made_with["reference"] = f"google/prompt-to-prompt@{commit(options.prompt_to_prompt)}"
    write("prompt_to_prompt_mappers", {"made_with": made_with} | mappers(ptp))
    settings, tensors = attention_edits(ptp, controllers(options.notebook, ptp))
    notebook = {"notebook": f"{options.notebook.name}@{commit(options.notebook.parent)}"}
    write("prompt_to_prompt_attention", {"made_with": made_with | notebook, "settings": settings}, tensors)

    save_file({f"unet2d.{k}": v for k, v in random_unet().state_dict().items()}, FOLDER / "weights.safetensors")
    facts = {"unet2d_config": UNET, "weights": "published/weights"}
    made_with["reference"] = f"MichalGeyer/pnp-diffusers@{commit(options.pnp)}"
    settings, tensors = injections(
        pnp_utils.register_attention_control_efficient,
        pnp_utils.register_conv_control_efficient,
        pnp_utils.register_time,
        num_frames=1,
    )
    write("plug_and_play", {"made_with": made_with, "settings": settings} | facts, tensors)
    made_with["reference"] = f"omerbt/TokenFlow@{commit(options.tokenflow)}"
    settings, tensors = injections(
        tokenflow_utils.register_extended_attention_pnp,
        tokenflow_utils.register_conv_injection,
        tokenflow_utils.register_time,
        num_frames=3,
    )
    write("tokenflow", {"made_with": made_with, "settings": settings} | facts, tensors)


if __name__ == "__main__":
    main()
