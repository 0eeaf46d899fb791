"""Clips of the drawn world."""

import numpy as np
import pytest

from tav_core.world.clips import PATHS, Clip
from tav_core.world.draw import truth
from tav_core.world.figures import joints
from tav_core.world.scene import Scene, Thing, standing

STAR = Thing("star", "yellow", (0.5, 0.5), 0.12, foot=0.8)


def walker(**fields) -> Thing:
    return Thing("man", "red", (0.5, standing(0.9, 0.13)), 0.13, 0.9, **({"action": "walking"} | fields))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_moves_as_it_says(path):
    clip = Clip(Scene((STAR,), "sea"), (path,))
    scenes = clip.scenes(9)
    centres = np.array([scene.things[0].centre for scene in scenes])
    radii = [scene.things[0].radius for scene in scenes]
    assert np.ptp(centres, axis=0).max() > 0.2 or path in ("still", "approach")
    assert (radii[-1] > 1.4 * radii[0]) == (path == "approach")
    shares = [truth(scene).shares[0] for scene in scenes]
    assert shares[4] > 0.99
    assert (min(shares) < 0.5) == (path == "through")


def test_more_frames_show_the_same_motion_more_finely():
    clip = Clip(Scene((STAR,), "sea"), ("bounce",), pan=0.3)
    few, many = clip.scenes(8), clip.scenes(15)
    assert few == many[::2]


def test_the_camera_pans_and_the_light_fades():
    first, *_, last = Clip(Scene((STAR,), "sea"), ("still",), pan=0.3, dimming=0.2).scenes(8)
    assert last.camera[0] - first.camera[0] == pytest.approx(0.3)
    assert last.light.brightness / first.light.brightness == pytest.approx(0.9 / 1.1)
    assert first.things == last.things


def test_figures_keep_their_feet_on_the_ground_and_face_where_they_walk():
    scenes = Clip(Scene((walker(),), "grass"), ("line",)).scenes(8)
    feet = [joints(scene.things[0])[:, 1].max() for scene in scenes]
    assert np.ptp(feet) < 0.05
    assert {scene.things[0].facing for scene in scenes} == {1}
    assert len({scene.things[0].phase for scene in scenes}) == 8


@pytest.mark.parametrize("path", ["line", "circle"])
def test_a_walker_faces_where_it_goes(path):
    scenes = Clip(Scene((walker(facing=-1),), "grass"), (path,)).scenes(9)
    columns = np.gradient([scene.things[0].centre[0] for scene in scenes])
    found = [scene.things[0].facing for scene in scenes]
    assert [f for f, c in zip(found, columns, strict=True) if abs(c) > 0.02] == [
        int(np.sign(c)) for c in columns if abs(c) > 0.02
    ]
    backwards = Clip(Scene((walker(),), "grass"), (path,), speed=-1.0).scenes(9)
    assert [scene.things[0].centre for scene in backwards] == [scene.things[0].centre for scene in reversed(scenes)]
    assert path != "line" or {scene.things[0].facing for scene in backwards} == {-1}


def test_a_jump_goes_up_and_comes_down():
    scenes = Clip(Scene((walker(action="jumping"),), "grass"), ("still",)).scenes(9)
    lowest = [joints(scene.things[0])[:, 1].max() for scene in scenes]
    assert np.argmin(lowest) == 4
    assert max(lowest) - lowest[4] > 0.03


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="line, arc, bounce"):
        Clip(Scene((STAR,), "sea"), ("zigzag",)).scenes(2)
