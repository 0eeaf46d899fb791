import string

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tav_core.jobs.names import file_names

WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"}

prompts = st.lists(
    st.one_of(
        st.text(max_size=80),
        st.sampled_from([*sorted(WINDOWS_DEVICES), "con", "Com¹", "...", "a.", "A", "a", "ß", "SS", "reconstruction"]),
    ),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first draw may load for long
@given(prompts)
def test_names_are_safe_on_windows_and_unique_where_upper_and_lower_case_are_one(prompts):
    names = file_names(prompts, taken=["reconstruction"])
    assert len(names) == len(prompts)
    assert len({name.upper() for name in [*names, "reconstruction"]}) == len(names) + 1
    assert len({name.casefold() for name in [*names, "reconstruction"]}) == len(names) + 1
    for name in names:
        assert name
        assert name.upper() not in WINDOWS_DEVICES
        assert not set(name) & set('<>:"/\\|?*. ' + string.whitespace)
        assert name.isprintable()
        assert len(name) <= 60
        assert len(f"{name}.mp4".encode()) <= 255


def test_a_name_reads_as_its_prompt():
    assert file_names(["A panda is surfing!", "Iron Man, wearing a hat: 2 colours"]) == [
        "a-panda-is-surfing",
        "iron-man-wearing-a-hat-2-colours",
    ]


def test_prompts_of_other_scripts_keep_their_letters():
    assert file_names(["猫が走る", "Ёж на лыжах"]) == ["猫が走る", "ёж-на-лыжах"]


def test_prompts_that_differ_in_punctuation_alone_are_counted():
    assert file_names(["A cat!", "a cat?", "a CAT"]) == ["a-cat", "a-cat-2", "a-cat-3"]
