"""Texts: configs of the original, prompts, options of the shell, and lists of edits."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml

from tav_core.checkpoints.lora import Lora
from tav_core.cli.options import size_of
from tav_core.cli.original_config import read_config
from tav_core.demo.miniature import MINIATURE
from tav_core.evaluation.paper_table import edited_videos
from tav_core.evaluation.report import as_claims, as_tables, beside, by_variant, read_json
from tav_core.evaluation.report import as_json as as_json_of
from tav_core.jobs.base import ensure_prompt, unseen_words
from tav_core.jobs.control_choice import ControlChoice
from tav_core.jobs.mask_choice import MaskChoice
from tav_core.jobs.names import file_names
from tav_core.layout import align
from tav_core.video.read import read_frames
from tests.cli.test_original_config import CONFIG
from tests.fuzz import material
from tests.fuzz.mutations import DEEP, as_json, of_bytes, of_text, of_value, times
from tests.fuzz.registry import reader

PROMPT = "a (red:1.3) ball is moving BREAK on the grass, [cartoon] style, embedding:sks"
BOMB = "\nb0: &b0 [x, x, x, x, x, x, x, x, x]" + "".join(
    f"\nb{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 9)
)
SNIPPETS = (
    BOMB, BOMB + "\nprompt: *b8", BOMB + "\noutput_dir: *b8", BOMB + "\nseed: *b8", BOMB + "\ntrainable_modules: *b8",
    "\nx: !!python/object/apply:os.system [true]", "\n\t- a", "\nseed: 0x_", "\nseed: 190:20:30", "\nseed: 2001-01-01",
    "\n? [a]\n: b", "\n<<: *missing", "\n<<: [1]", "\n---\na: 1", "\n%YAML 9.9", "\nseed: !!int x",
    "\nseed: !!binary =", "\nseed: !!set {1}", "\nseed: &s [*s]", "\n1: 2", "\nnull: 1", "\n? {a: 1}\n: 2",
    "\nseed: .inf", "\nseed: -.nan", "\nseed: 1" + "0" * 5000, "\noutput_dir: ''", '\noutput_dir: "a\\0b"',
    '\nprompt: "\\ud800"', "\nseed: !!float _", "\noutput_dir: " + "x" * 300,
)  # fmt: skip


@reader
def config(rng: Random, folder: Path) -> Callable[[], object]:
    path, kind = folder / "config.yaml", rng.randrange(4)
    if kind == 0:
        path.write_bytes(times(rng, of_bytes, CONFIG.encode()))
    elif kind == 1:
        path.write_text(times(rng, of_text, CONFIG), encoding="utf-8", errors="surrogatepass")
    elif kind == 2:
        place = CONFIG.index("\n", rng.randrange(len(CONFIG) - 1))
        path.write_text(CONFIG[:place] + rng.choice(SNIPPETS) + CONFIG[place:], encoding="utf-8")
    else:
        content = times(rng, of_value, yaml.safe_load(CONFIG))
        text = yaml.safe_dump(content) if rng.random() < 0.5 else as_json(content)
        path.write_text(text.replace(DEEP, "[" * 3000 + "]" * 3000), encoding="utf-8")
    given = {} if rng.random() < 0.5 else {"checkpoint": MINIATURE, "output": folder / "out"}
    return lambda: read_config(path, **given)


@reader
def manifest(rng: Random, folder: Path) -> Callable[[], object]:
    content = {
        "selection": {"clip": "a.mp4", "frames": 3, "size": [64, 48], "start": 0, "stride": 1, "fit": "crop"},
        "edits": [{"path": "a.mp4", "prompt": "a cat"}, {"path": "b.mp4", "prompt": "a dog"}],
    }
    (folder / "a.mp4").write_bytes(material.clip("mp4"))
    text = as_json(times(rng, of_value, content))
    material.replaced(folder / "manifest.json", text if rng.random() < 0.8 else times(rng, of_bytes, text.encode()))

    def read() -> None:
        for video in edited_videos(folder):
            ensure_prompt(video.prompt, "The prompt")
            read_frames(video.path, video.num_frames, size=video.size)

    return read


@reader
def report(rng: Random, folder: Path) -> Callable[[], object]:
    clips = "line-red-ball-sea", "arc-blue-box-moon"
    places = {f"{clip}/{kind}": 0.5 for clip in clips for kind in ("object", "style")}
    figure = {"mean": 0.5, "std": 0.1, "worst": 0.4, "values": places}
    content = {row: {"iou": figure, "edit_right": figure} for row in ("ideal", "ideal-vae", "full", "frozen")}
    text = as_json(times(rng, of_value, content))
    material.replaced(folder / "eval.json", text if rng.random() < 0.8 else times(rng, of_bytes, text.encode()))
    ours = by_variant(
        (row, *place.split("/", 1)[:1], {place.split("/")[1]: {"iou": 0.5, "edit_right": 1.0}})
        for row in ("ideal", "no-tuning")
        for place in places
    )

    def read() -> None:
        together = beside(ours, read_json(folder / "eval.json"))
        as_tables(together), as_claims(together), as_json_of(together)

    return read


@reader
def prompt(rng: Random, folder: Path) -> Callable[[], object]:
    one, other = (times(rng, of_text, PROMPT) for _ in range(2))

    def read() -> None:
        opened = material.miniature()
        ensure_prompt(one, "The prompt")
        ensure_prompt(other, "The clip's prompt")
        unseen_words(opened, [one])
        opened.encode_prompt(one)
        align(opened.tokens(one), opened.tokens(other))
        opened.tokens(one).find(opened.tokens(other))
        assert all(len(name.encode()) < 255 for name in file_names([one, other, one]))

    return read


@reader
def options(rng: Random, folder: Path) -> Callable[[], object]:
    text = times(rng, of_text, rng.choice(("controlnet:pose:0.8:0:1", "WORD:ball", "style.safetensors:0.8", "512x320")))
    kind = rng.randrange(4)
    if kind == 0:
        return lambda: ControlChoice.parse(text, "pose.mp4").as_metadata()
    if kind == 1:
        return lambda: MaskChoice.parse(text).as_metadata()
    if kind == 2:
        return lambda: Lora.parse(text).as_metadata()
    (folder / "clip.mp4").write_bytes(material.clip("mp4"))
    return lambda: read_frames(folder / "clip.mp4", 3, size=size_of(text))
