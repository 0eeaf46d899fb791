"""Videos that the shell makes have their clip's sound."""

import pytest

from tav_core.video.sound import read_sound
from tests.cli.test_cli import editing, files, tav, tuned  # noqa: F401  fixtures
from tests.cli.test_cli_known_frames import adding, known  # noqa: F401  fixtures
from tests.clips import with_sound

RATE = 8000


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """Two seconds, of which the samples at t seconds are t / 4."""
    return with_sound(tmp_path_factory.mktemp("loud") / "loud.mkv", fps=20, rate=RATE)


def heard(path) -> list[float]:
    """The moments of the clip that one hears at each tenth of a second; -1 where it is silent. The last is not exact,
    for AAC rings where a sound is cut off."""
    samples = read_sound(path, 0, 10).samples[0]
    moments = [4 * samples[place].item() for place in range(RATE // 20, len(samples), RATE // 10)]
    return [-1 if abs(moment) < 0.02 else moment for moment in moments]


def test_an_edit_and_the_reconstruction_have_it(tuned, loud, tmp_path):  # noqa: F811
    words = editing(tuned, tmp_path, "a cube", start=20, stride=4)  # four frames, from 1 s to 1.8 s
    words[1] = loud
    outcome = tav(*words)
    assert outcome.code == 0, outcome.err
    for name in ("a-cube.mp4", "reconstruction.mp4"):
        assert heard(tmp_path / name)[:7] == pytest.approx([1.05 + 0.1 * step for step in range(7)], abs=0.1)


def test_what_is_added_has_it_too_at_the_times_of_the_file(files, known, loud, tmp_path):  # noqa: F811
    chosen = {"video": loud, "use": 4, "start": 10, "stride": 4}  # from 0.5 s to 1.3 s
    for command, options, began, tenths in (
        ("interpolate", {}, 0.5, 7),
        ("extend", {"frames": 3}, 0.5, 13),
        ("extend", {"frames": 4, "direction": "backwards"}, -0.3, 15),
    ):
        outcome = tav(*adding(command, files, known, tmp_path / "a.mp4", **chosen, **options))
        assert outcome.code == 0, outcome.err
        moments = [began + 0.05 + 0.1 * tenth for tenth in range(tenths)]
        assert heard(tmp_path / "a.mp4")[:tenths] == pytest.approx([m if m > 0 else -1 for m in moments], abs=0.1)
