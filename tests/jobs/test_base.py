"""A checkpoint that is opened once serves job after job, as if each had opened it."""

import pytest
import torch

from tav_core import Lora, TavError, TuneConfig, TunedWeights
from tav_core.jobs.base import open_base
from tav_core.jobs.edit_config import EditConfig
from tav_core.jobs.editing import prepare_edit
from tav_core.jobs.selection import Selection
from tav_core.jobs.tuning import prepare_tuning
from tests.cli.test_cli import files  # noqa: F401  a fixture

CPU = torch.device("cpu")


def test_two_tunings_and_an_edit_of_one_open_checkpoint_are_those_of_its_path(files, tmp_path):  # noqa: F811
    path = files / "sd.safetensors"
    base = open_base(path)
    before = {name: tensor.clone() for name, tensor in base.checkpoint.unet.state_dict().items()}
    made = {}
    for name, checkpoint in (("open", base), ("by path", path)):
        folder, results = tmp_path / name, []
        for prompt in ("a ball", "a rolling ball"):
            output = folder / f"{prompt}.safetensors"
            clip = Selection(files / "ball.mp4", frames=3, size=64)
            config = TuneConfig(num_steps=2, learning_rate=1e-3)
            prepare_tuning(clip, prompt, checkpoint, output, config=config, device=CPU).run()
            results.append(TunedWeights.load(output))
        config = EditConfig(num_steps=2, inversion_steps=2)
        edit = prepare_edit(clip, output, checkpoint, ["a cube"], folder, config=config, device=CPU)
        assert edit.run().edits[0].path.is_file()
        made[name] = results, (folder / "sheet.png").read_bytes(), edit.key
    for weights, same in zip(made["open"][0], made["by path"][0], strict=True):
        assert weights.facts == same.facts
        assert all(torch.equal(tensor, same.tensors[name]) for name, tensor in weights.tensors.items())
    assert made["open"][1:] == made["by path"][1:]
    after = base.checkpoint.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_jobs_say_how_far_encoding_has_come(files, tmp_path):  # noqa: F811
    steps, base, output = [], open_base(files / "sd.safetensors"), tmp_path / "ball.safetensors"

    def on_step(step: int, total: int, *, part: str, **_) -> None:
        steps.append((part, step, total))

    clip, config = Selection(files / "ball.mp4", frames=3, size=64), TuneConfig(num_steps=1)
    prepare_tuning(clip, "a ball", base, output, config=config, device=CPU, on_step=on_step).run()
    config = EditConfig(num_steps=1, inversion_steps=1)
    prepare_edit(clip, output, base, ["a cube"], tmp_path, config=config, device=CPU, on_step=on_step)
    assert steps == 2 * [("encoding", 1, 3), ("encoding", 2, 3), ("encoding", 3, 3)]


def test_loras_are_fused_when_a_checkpoint_is_opened_and_not_later(files):  # noqa: F811
    with pytest.raises(TavError, match="already open; pass the LoRAs when opening it"):
        open_base(open_base(files / "sd.safetensors"), loras=[Lora("lora.safetensors")])
