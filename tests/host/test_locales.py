"""The nodes' texts in English and Chinese, and their help pages, as a real server serves them."""

import re

import pytest

from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.locales import FOLDER, LANGUAGES, leaves, stored, texts
from tests.host.server import PACK

NODES = sorted(stored("en"))
HELP = PACK / "web" / "docs"


@pytest.fixture(scope="module")
def nodes(server) -> dict:
    return nodes_of(Client(server))


def test_the_english_texts_are_those_of_the_schemas(nodes):
    assert stored("en") == {name: texts(info) for name, info in nodes.items()}, (
        "If the schemas' texts are meant: python -m tests.host.locales, then translate what changed"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_each_word(language):
    assert leaves(stored(language)).keys() == leaves(stored("en")).keys()
    assert all(leaves(stored(language)).values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_is_taken_for_the_front_ends_own_syntax(language):
    """vue-i18n reads {name}, @:link and one | other in a message."""
    assert not [text for text in leaves(stored(language)).values() if re.search(r"[{}@|]", text)]


def test_the_chinese_words_are_chinese():
    kept = {path[-1] for path in leaves(stored("zh"))}
    assert kept == {"display_name", "description", "name", "tooltip"}
    explained = {place: text for place, text in leaves(stored("zh")).items() if place[-1] in ("description", "tooltip")}
    assert not [text for text in explained.values() if not re.search(r"[\u4e00-\u9fff].*。$", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_hands_out_the_words(server, language):
    served = Client(server).get("/i18n")[language]
    assert {name: served["nodeDefs"][name] for name in NODES} == stored(language)
    assert stored(language, "main")["nodeCategories"].items() <= served["nodeCategories"].items()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NODES)
def test_each_node_has_a_help_page_that_names_every_socket(server, nodes, name, language):
    page = Client(server).request(f"/extensions/tune-a-video/docs/{name}/{language}.md").decode()
    info = nodes[name]
    sockets = [*info["input_order"].get("required", []), *info["input_order"].get("optional", []), *info["output_name"]]
    assert [socket for socket in sockets if f"`{socket}`" not in page] == []
    assert page.startswith(f"# {stored(language)[name]['display_name']}\n")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NODES)
def test_a_help_page_names_the_defaults_of_the_schema(nodes, name, language):
    page = (HELP / name / f"{language}.md").read_text()
    latin = page.translate(str.maketrans("\uff08\uff09\uff0c\uff1b", "(),;"))  # the Chinese page's punctuation
    listed = re.findall(
        r"^- (`.+?)\s?\((?:optional |可选,)?([A-Z_]+)(?:, ?(?:default|默认) ([^;)]+))?", latin, re.MULTILINE
    )
    defaults = {socket: (kind, said) for names, kind, said in listed for socket in re.findall("`(.+?)`", names)}
    for kind in ("required", "optional"):
        for socket, (type_, options) in nodes[name]["input"].get(kind, {}).items():
            assert defaults[socket][0] == (type_ if isinstance(type_, str) else "COMBO")
            if type_ in ("INT", "FLOAT"):
                assert float(defaults[socket][1]) == options["default"]


def test_help_pages_list_an_inputs_values_below_it():
    """A list of its own after a list is shown as more of the same list."""
    item = r"^- .*\n(?:  .*\n)*"
    assert not [page for page in HELP.rglob("*.md") if re.search(rf"{item}\n- ", page.read_text(), re.MULTILINE)]


def test_chinese_help_pages_break_no_sentence_between_two_characters():
    """A line break is shown as a space."""
    han = "[\u4e00-\u9fff]"
    assert not [page for page in HELP.rglob("zh.md") if re.search(rf"{han}\n *(?:{han}|“)", page.read_text())]


def test_help_pages_have_no_tables_which_the_narrow_side_panel_cuts_off():
    assert not [page for page in HELP.rglob("*.md") if re.search(r"^\|", page.read_text(), re.MULTILINE)]


def test_no_page_or_language_is_left_of_a_node_that_is_gone(nodes):
    assert {path.name for path in HELP.iterdir()} == set(nodes)
    assert {path.name for path in FOLDER.iterdir()} == set(LANGUAGES)
