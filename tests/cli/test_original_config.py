"""The original's configs; these have its keys, as its own have them."""

from pathlib import Path

import pytest
import yaml

from tav_core import TavError
from tav_core.cli.original_config import read_config

CONFIG = """
pretrained_model_path: "./checkpoints/sd"
output_dir: "./outputs/ball"

train_data:
  video_path: "data/ball.mp4"
  prompt: "a ball is rolling"
  n_sample_frames: 12
  width: 512
  height: 320
  sample_start_idx: 3
  sample_frame_rate: 2

validation_data:
  prompts:
    - "a cube is rolling"
    - "a ball is rolling, cartoon style"
  video_length: 12
  width: 512
  height: 320
  num_inference_steps: 40
  guidance_scale: 12.5
  use_inv_latent: True
  num_inv_steps: 30

learning_rate: 3e-5
train_batch_size: 1
max_train_steps: 300
checkpointing_steps: 1000
validation_steps: 100
trainable_modules:
  - "attn1.to_q"
  - "attn2.to_q"
  - "attn_temp"

seed: 33
mixed_precision: fp16
use_8bit_adam: False
gradient_checkpointing: True
enable_xformers_memory_efficient_attention: True
"""


def write(folder, text=CONFIG, **changes) -> Path:
    """Writes the config, with `section__key=value` changed, or left out where the value is None."""
    content = yaml.safe_load(text)
    for key, value in changes.items():
        *sections, name = key.split("__")
        table = content[sections[0]] if sections else content
        table[name] = value
        if value is None:
            del table[name]
    path = folder / "ball.yaml"
    path.write_text(text if not changes else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_every_setting_arrives_where_it_belongs(tmp_path):
    config = read_config(write(tmp_path))
    assert config.checkpoint == Path("checkpoints/sd")
    assert config.output == Path("outputs/ball")
    assert config.prompt == "a ball is rolling"
    assert config.prompts == ["a cube is rolling", "a ball is rolling, cartoon style"]
    assert config.tuned.as_metadata() == {
        "clip": "ball.mp4",
        "frames": 12,
        "size": [512, 320],
        "start": 3,
        "stride": 2,
        "fit": "stretch",
    }
    assert config.edited == config.tuned
    assert (config.tune.num_steps, config.tune.learning_rate, config.tune.seed) == (300, 3e-5, 33)
    assert (config.tune.mixed_precision, config.tune.gradient_checkpointing) == ("fp16", True)
    assert (config.edit.num_steps, config.edit.inversion_steps, config.edit.guidance_scale) == (40, 30, 12.5)
    assert config.edit.from_inversion


def test_what_has_no_meaning_here_is_listed(tmp_path):
    assert read_config(write(tmp_path)).ignored == [
        "checkpointing_steps",
        "enable_xformers_memory_efficient_attention",
        "train_batch_size",
        "use_8bit_adam",
        "validation_steps",
    ]


def test_what_a_config_leaves_out_is_as_in_the_original(tmp_path):
    sparse = "{train_data: {video_path: a.mp4, prompt: a ball}, validation_data: {prompts: [a cube]}}"
    config = read_config(write(tmp_path, sparse), checkpoint=Path("sd"), output=Path("out"))
    assert (config.tuned.frames, config.tuned.size, config.tuned.stride) == (8, (512, 512), 1)
    assert (config.tune.num_steps, config.tune.learning_rate, config.edit.guidance_scale) == (500, 3e-5, 7.5)
    assert not config.edit.from_inversion
    assert (config.checkpoint, config.output) == (Path("sd"), Path("out"))


def test_what_a_config_leaves_empty_is_as_in_the_original(tmp_path):
    empty = dict.fromkeys(("num_inference_steps", "num_inv_steps", "guidance_scale", "eta", "width"))
    content = yaml.safe_load(CONFIG)
    content["validation_data"] |= empty
    (tmp_path / "ball.yaml").write_text(yaml.safe_dump(content))
    edit = read_config(tmp_path / "ball.yaml").edit
    assert (edit.num_steps, edit.inversion_steps, edit.guidance_scale, edit.eta) == (50, 50, 7.5, 0.0)


def test_validation_videos_may_have_frames_of_their_own(tmp_path):
    edited = read_config(write(tmp_path, validation_data__video_length=6, validation_data__width=256)).edited
    assert (edited.frames, edited.size) == (6, (256, 320))


@pytest.mark.parametrize("beside", ["original/configs", "original", "."])
def test_inputs_are_found_from_where_one_stands_and_from_the_config(tmp_path, monkeypatch, beside):
    """The original is run from its checkout, where configs/ stands beside data/."""
    (tmp_path / "original" / "configs").mkdir(parents=True)
    clip = tmp_path / beside / "data" / "ball.mp4"
    clip.parent.mkdir()
    clip.touch()
    monkeypatch.chdir(tmp_path)
    assert read_config(write(tmp_path / "original" / "configs")).tuned.clip.resolve() == clip.resolve()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_train_step": 5}, "max_train_step"),
        ({"train_data__fps": 5}, r"train_data\.fps"),
        ({"validation_data__steps": 5}, r"validation_data\.steps"),
        ({"trainable_modules": ["attn1"]}, "only the paper's can be tuned: attn1.to_q, attn2.to_q, attn_temp"),
        ({"lr_scheduler": "cosine"}, "lr_scheduler is 'cosine'"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number, got inf"),
        ({"max_train_steps": True}, "max_train_steps must be a number, got True"),
        ({"max_train_steps": 2.5}, "max_train_steps must be a whole number"),
        ({"gradient_checkpointing": "no"}, "gradient_checkpointing must be true or false, got 'no'"),
        ({"output_dir": 5}, "output_dir must be a text, got 5"),
        ({"train_data__prompt": ["a"]}, r"train_data\.prompt must be a text"),
        ({"train_data__width": "x" * 5000}, r"width must be a number, got 'x{50,200}\.\.\.x+'"),
        ({"train_data__prompt": {"\x1b[2J": 1}}, r"got \{'\\x1b\[2J': 1\}"),
        ({"max_train_steps": 0}, "num_steps must be a whole number of at least 1"),
        ({"train_data__prompt": None}, r"does not set train_data\.prompt"),
        ({"validation_data__prompts": "a cube"}, "a list of prompts"),
        ({"output_dir": None}, "does not set output_dir"),
        ({"train_data": 3}, "train_data must be a table"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(TavError, match=message):
        read_config(write(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"- a\n- b", b"a: [", b"\xff\xfe\x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(TavError, match=r"a\.yaml"):
        read_config(tmp_path / "a.yaml")
    with pytest.raises(TavError, match="no config"):
        read_config(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    "key", ["train_data", "validation_data", "trainable_modules", "output_dir", "seed", "lr_scheduler"]
)
def test_a_bomb_of_aliases_is_told_in_a_short_sentence(tmp_path, key):
    """A few lines that stand for 10^9 values."""
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 9)]
    bomb = "[" + ", ".join(line.partition(": ")[2] for line in lines) + "]"
    (tmp_path / "a.yaml").write_text(f"pretrained_model_path: x\n{key}: {bomb}\n")
    with pytest.raises(TavError) as refused:
        read_config(tmp_path / "a.yaml")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("value", ["[" * 5000, "!!float _", "!!int x", '"\x1b"'], ids=lambda value: value[:9])
def test_what_is_no_yaml_is_told(tmp_path, value):
    (tmp_path / "a.yaml").write_text(f"seed: {value}")
    with pytest.raises(TavError, match="cannot be read as YAML") as refused:
        read_config(tmp_path / "a.yaml")
    assert str(refused.value).isprintable()
