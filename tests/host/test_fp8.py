"""A checkpoint in 8 bits as ComfyUI's own Save Checkpoint writes it opens in the shell."""

import torch
from safetensors.torch import load_file, save_file

from tav_core import load_checkpoint
from tests.checkpoints.test_families import in_fp8, quantised
from tests.host.assets import CHECKPOINT
from tests.host.inprocess import core


def test_what_save_checkpoint_writes_of_a_model_in_8_bits_is_that_model(models, tmp_path):
    """Loaded from a file with a factor beside each 8-bit weight; plain 8-bit weights are in test_families.py."""
    tensors = load_file(models / "checkpoints" / CHECKPOINT)
    attention = {name: tensor for name, tensor in tensors.items() if ".transformer_blocks." in name}
    scaled = in_fp8(attention, "weight_scale", comfy_quant=quantised("float8_e4m3fn"))
    save_file(tensors | scaled, tmp_path / "scaled.safetensors")
    with torch.inference_mode():
        loaded = core("comfy.sd").load_checkpoint_guess_config(str(tmp_path / "scaled.safetensors"))
        saver = core("comfy_extras.nodes_model_merging").CheckpointSave()
        saver.output_dir = str(tmp_path)
        saver.save(*loaded[:3], "saved")
    (saved,) = tmp_path.glob("saved*.safetensors")
    written = load_file(saved)
    assert scaled.keys() <= written.keys()
    assert torch.float8_e4m3fn in {tensor.dtype for tensor in written.values()}
    opened = load_checkpoint(saved).unet.state_dict()
    for name in ("attn1.to_q.weight", "attn2.to_k.weight", "ff.net.2.weight"):
        original = f"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.{name}"
        ours = opened[f"down_blocks.0.attentions.0.transformer_blocks.0.{name}"]
        theirs = tensors[original].float()
        assert 0 < (ours - theirs).abs().max() <= theirs.abs().max() / 14  # 3 bits of mantissa
    torch.testing.assert_close(
        opened["conv_in.weight"], tensors["model.diffusion_model.input_blocks.0.0.weight"].float()
    )
