import itertools

import numpy as np
import pytest
import torch

from tav_core.video.cuts import cut_in
from tav_core.world.draw import draw_clip
from tav_core.world.protocol import clips_to_choose_by


def drawn(clip) -> torch.Tensor:
    return torch.from_numpy(draw_clip(clip.scenes(6))).float() / 255


CLIPS = [drawn(clip) for clip in clips_to_choose_by()]


def test_motion_alone_is_no_cut():
    assert [cut_in(clip) for clip in CLIPS] == [None] * len(CLIPS)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 5), (6, 3), (8, 11)])
def test_a_cut_is_found_between_its_frames(first, second):
    assert cut_in(torch.cat([CLIPS[first][:4], CLIPS[second][:3]])) == 4


def test_flicker_and_single_frames_are_no_cut():
    frames = torch.from_numpy(np.random.default_rng(0).uniform(size=(6, 16, 16, 3)).astype(np.float32))
    assert cut_in(frames) is None
    assert all(cut_in(clip[:1]) is None for clip in itertools.islice(CLIPS, 2))
