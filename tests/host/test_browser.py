"""The real front end in headless Chromium: it opens each workflow, and reads in it what workflows/api holds.
$TAV_SCREENSHOTS names a folder that gets screenshots (docs/, for those that the README shows)."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import clips
from tests.host.assets import CLIP, CLIP_FPS, CLIP_FRAMES
from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.locales import stored
from tests.host.server import PACK
from tests.host.templates import NOTES, layout
from tests.host.workflows import NAMES, workflow

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the extra `test`")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium found; Debian's will do: apt-get install chromium"
)

OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# What a user would have clicked away: the first steps, the map in the corner.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
SIZE = {"width": 1600, "height": 1000}
LIMBS = ([(4, -44), (-2, -10)], [(-2, -10), (-12, 22)], [(-2, -10), (12, 30)], [(-20, -26), (4, -40), (26, -28)])
SCREENSHOTS = os.environ.get("TAV_SCREENSHOTS")
FRONT_END_ONLY = {"video-preview"}  # sent along with a prompt, and no input of a node


@pytest.fixture(scope="module")
def server(new_server):
    """A server of its own, for it is given settings, a clip to look at, and weights that hold nothing."""
    server = new_server()
    server.options = ["--preview-method", "none"]  # as ComfyUI is installed
    clips.encode(server.base / "input" / CLIP, skiing(), fps=CLIP_FPS)
    weights = server.base / "models" / "tune_a_video" / "man-skiing_00001.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    settings = server.base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    with server:
        yield server


def skiing() -> list[np.ndarray]:
    """A drawn skier on a slope, for screenshots that people look at."""
    frames = []
    for place in np.linspace(60, 200, CLIP_FRAMES).astype(int):
        x, y = int(place), int(120 + place / 3)
        frame = np.full((256, 256, 3), (143, 199, 240), np.uint8)
        cv2.fillPoly(frame, [np.array([(0, 122), (256, 207), (256, 256), (0, 256)])], (244, 248, 251))
        cv2.line(frame, (x - 26, y + 18), (x + 34, y + 38), (40, 40, 40), 4)
        for limb in LIMBS:
            cv2.polylines(frame, [np.add(limb, (x, y))], False, (240, 184, 32), 12, cv2.LINE_AA)
        cv2.circle(frame, (x + 8, y - 60), 11, (58, 58, 58), -1, cv2.LINE_AA)
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as manager:
        browser = manager.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


class Page:
    """One tab of the front end, which keeps what went wrong in it."""

    def __init__(self, browser, server):
        self.server, self.tab = server, browser.new_page(viewport=SIZE)
        self.complaints: list[str] = []
        self.tab.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.tab.on("console", self._hear)
        self.tab.on("response", self._look)
        self.open()

    def open(self) -> None:
        self.tab.goto(self.server.address, wait_until="domcontentloaded")
        self.tab.wait_for_function(
            "window.app?.vueAppReady && app.rootGraphInternal && app.graph._nodes.length", timeout=90_000
        )

    def _hear(self, message) -> None:
        said = f"{message.text} ({message.location.get('url')})"
        if message.type in ("error", "warning") and any(name in said for name in ("tune-a-video", *stored("en"))):
            self.complaints.append(said)

    def _look(self, response) -> None:
        if response.status >= 400 and "tune-a-video" in response.url:
            self.complaints.append(f"{response.status} {response.url}")

    def command(self, name: str) -> None:
        self.tab.evaluate("name => app.extensionManager.command.execute(name)", name)

    def browse_templates(self) -> None:
        self.command("Comfy.BrowseTemplates")
        self.tab.get_by_role("dialog").get_by_text("tune-a-video", exact=True).click()
        for name in NAMES:
            self.tab.get_by_test_id(f"template-workflow-{name}").wait_for()

    def choose_template(self, name: str) -> None:
        """As a user does: in the template browser, a click on the image."""
        self.tab.get_by_test_id(f"template-workflow-{name}").click()
        self.wait_for(name)
        self.tab.get_by_role("dialog").wait_for(state="hidden")

    def open_workflow(self, name: str) -> None:
        """The file that the template browser would open, without its dialog, which takes ten times longer."""
        self.fetch_workflow(name)
        self.wait_for(name)

    def fetch_workflow(self, name: str) -> None:
        self.tab.evaluate(
            """async name => {
                const answer = await fetch(`/api/workflow_templates/tune-a-video/${name}.json`);
                await app.loadGraphData(await answer.json(), true, true, name, {openSource: "template"});
            }""",
            name,
        )

    def wait_for(self, name: str) -> None:
        titles = [*NOTES.values(), *(node["_meta"]["title"] for node in workflow(name).values())]
        there = "titles => `${app.graph._nodes.map(node => node.title).sort()}` === `${titles.sort()}`"
        self.tab.wait_for_function(there, arg=titles, timeout=30_000)

    def prompt(self) -> dict:
        """What a click on Run would send."""
        return self.tab.evaluate("async () => (await app.graphToPrompt()).output")

    def boxes(self) -> tuple[dict, dict]:
        """Left, top, right, bottom as drawn: of every node, its title and its pack's badge included, of every group."""
        return self.tab.evaluate(
            """() => {
                app.graph._nodes.forEach(node => node.updateArea());
                const edges = ([x, y, w, h]) => [x, y, x + w, y + h];
                const badge = node => node.badges.some(badge => (badge.call?.(node) ?? badge).visible) ? 20 : 0;
                const box = node => edges(node.boundingRect).map((edge, side) => edge - (side === 1 && badge(node)));
                const nodes = app.graph._nodes.map(node => [node.title, box(node)]);
                const groups = app.graph._groups.map(({title, pos, size}) => [title, edges([...pos, ...size])]);
                return [Object.fromEntries(nodes), Object.fromEntries(groups)];
            }"""
        )

    def load(self, node: str) -> None:
        """Opens a workflow of one node."""
        node = {"id": 1, "type": node, "pos": [200, 200], "size": [300, 100], "flags": {}, "order": 0, "mode": 0}
        graph = {"nodes": [node], "links": [], "groups": [], "version": 0.4, "last_node_id": 1, "last_link_id": 0}
        self.tab.evaluate("async graph => { await app.loadGraphData(graph) }", graph)

    def look_at(self, kind: str) -> None:
        """Fits the view to the one node of a kind."""
        self.tab.evaluate(
            """async kind => {
                const {pos, size} = app.graph._nodes.find(node => node.type === kind);
                app.canvas.ds.fitToBounds([pos[0] - 50, pos[1] - 100, size[0] + 100, size[1] + 150], {zoom: 1});
                app.canvas.setDirty(true);
                await new Promise(requestAnimationFrame);
            }""",
            kind,
        )

    def changes(self, element) -> bool:
        """Whether an element looks otherwise within a few seconds, without another one in its place."""
        before = handle = None
        for _ in range(30):
            try:
                if before is None:
                    handle = element.element_handle()
                    before = handle.screenshot()
                elif handle.screenshot() != before:
                    return True
            except playwright.Error:  # the front end has put another in its place, which begins anew
                before = None
            self.tab.wait_for_timeout(100)
        return False

    def run(self) -> str:
        """Runs the workflow that is open, and says how it ended."""
        return self.tab.evaluate(
            """() => new Promise(resolve => {
                for (const end of ["success", "error", "interrupted"])
                    app.api.addEventListener(`execution_${end}`, ({detail}) =>
                        resolve(detail.exception_message ?? end), {once: true});
                app.queuePrompt(0).then(queued => queued || resolve("refused"));
            })"""
        )

    def add_from_search(self, name: str) -> None:
        """As a user does: a double click on an empty place, the name, Enter, a click where the node shall be."""
        self.tab.evaluate("async () => { await app.loadGraphData({nodes: [], links: [], version: 0.4}) }")
        self.tab.evaluate("() => { app.canvas.ds.reset(); app.canvas.setDirty(true) }")
        search = self.tab.get_by_placeholder("Add a node...")
        for _ in range(5):  # a click that closes what was open before (a search, a menu) opens nothing
            self.tab.mouse.dblclick(700, 500)
            try:
                search.wait_for(timeout=6000)
                break
            except playwright.TimeoutError:
                continue
        search.fill(name)
        self.tab.get_by_role("option").get_by_text("Subgraph Blueprints / Tune-A-Video").wait_for()
        search.press("Enter")
        search.wait_for(state="hidden")
        self.tab.mouse.move(600, 300)
        self.tab.mouse.click(600, 300)
        self.tab.wait_for_function("title => app.graph._nodes.some(node => node.title === title)", arg=name)

    def take_the_miniature(self) -> None:
        """Puts Load Miniature in the place of the checkpoint, and asks for as little as can be run."""
        self.tab.evaluate(
            """() => {
                const old = app.graph._nodes.find(node => node.type === "CheckpointLoaderSimple");
                const miniature = LiteGraph.createNode("LoadMiniature");
                app.graph.add(miniature);
                old.outputs.forEach((output, slot) => {
                    for (const link of [...output.links].map(id => app.graph.getLink(id)))
                        miniature.connect(slot, app.graph.getNodeById(link.target_id), link.target_slot);
                });
                app.graph.remove(old);
                const small = {frames: 3, width: 64, height: 64, steps: 2};
                for (const {name, widget} of app.graph._nodes.flatMap(node => (node.widgets ?? []).map(
                    widget => ({name: widget.name, widget})))) if (name in small) widget.value = small[name];
            }"""
        )

    def surround(self, settings: dict) -> None:
        """Gives the one node that is there what it needs: the miniature and frames of its clip; and saves its video."""
        self.tab.evaluate(
            """settings => {
                const [blueprint] = app.graph._nodes;
                const set = (node, values) => {
                    for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
                };
                const add = (kind, values) => {
                    const node = LiteGraph.createNode(kind);
                    app.graph.add(node);
                    set(node, values);
                    return node;
                };
                const model = add("LoadMiniature", {});
                const clip = add("LoadVideoFrames", {frames: 3, width: 64, height: 64});
                model.connect(3, clip, "clip");
                ["model", "clip", "vae"].forEach((name, slot) => model.connect(slot, blueprint, name));
                ["images", "fps"].forEach((name, slot) => clip.connect(slot, blueprint, name));
                blueprint.connect(0, add("SaveVideo", {filename_prefix: "video/blueprint"}), "video");
                set(blueprint, settings);
            }""",
            settings,
        )

    def help(self, node: str) -> None:
        """Opens a node's help as a user does: the node selected, the i pressed."""
        self.load(node)
        self.tab.evaluate("() => { app.canvas.ds.reset(); app.canvas.setDirty(true) }")
        button = self.tab.get_by_test_id("info-button")
        for _ in range(5):  # a click before the canvas is drawn anew finds nothing
            self.tab.mouse.click(240, 185)  # its title
            self.tab.wait_for_timeout(1000)  # longer than between the clicks of a double click, which edits the title
            if button.is_visible():
                break
        button.click()

    def screenshot(self, name: str) -> None:
        if not SCREENSHOTS:
            return
        self.tab.wait_for_timeout(1500)  # videos show their first frame, and the canvas is drawn
        self.tab.screenshot(path=Path(SCREENSHOTS) / f"{name}.jpg", type="jpeg", quality=75)


@pytest.fixture(scope="module")
def tab(browser, server):
    """One tab for most tests, for opening the front end takes longest."""
    return Page(browser, server)


@pytest.fixture
def page(tab):
    yield tab
    tab.tab.keyboard.press("Escape")
    complaints, tab.complaints = tab.complaints, []
    assert complaints == []


@pytest.fixture(scope="module", params=NAMES)
def name(request, tab) -> str:
    """A workflow's name, with the workflow open."""
    tab.open_workflow(request.param)
    return request.param


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return Client(server).get("/object_info")


def test_the_template_browser_shows_an_image_of_each_workflow_and_opens_it(page):
    page.browse_templates()
    for name in NAMES:
        card = page.tab.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()  # until then it has no image
        image = card.locator("img").first
        assert image.evaluate("async img => { await img.decode(); return img.naturalWidth }") >= 256
        assert (PACK / "workflows" / f"{name}.jpg").stat().st_size < 100_000
    if SCREENSHOTS:
        page.tab.set_viewport_size({"width": 1500, "height": 2560})  # all of them
        page.tab.wait_for_timeout(1000)
        page.tab.get_by_role("dialog").screenshot(path=Path(SCREENSHOTS) / "templates.jpg", type="jpeg", quality=75)
        page.tab.set_viewport_size(SIZE)
    page.choose_template("tune-and-edit")


def test_a_workflow_opens_and_holds_what_its_api_format_holds(page, object_info, name):
    page.screenshot(name)
    assert page.tab.get_by_text("Missing node").count() == 0
    assert page.tab.get_by_text("Missing model").count() == 0  # else a name differs from its link's
    unknown = "() => app.graph._nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
    assert page.tab.evaluate(unknown) == []
    assert by_title(page.prompt(), object_info) == by_title(workflow(name), object_info)


def test_a_workflow_opens_so_large_that_its_text_is_drawn(page, name):
    """Below a zoom of 8 / 14 the front end draws grey boxes; it fits a template into 75 % of the window."""
    zoom, least, text = page.tab.evaluate(
        "() => [app.canvas.ds.scale, app.canvas._lowQualityZoomThreshold, !app.canvas.low_quality]"
    )
    assert zoom >= least > 0.5
    assert text


def test_a_workflow_reads_from_group_to_group(page, name):
    nodes, groups = page.boxes()
    for things in (nodes, groups):
        assert overlapping(things) == []
    homes = {title: [g for g in groups if within(box, groups[g])] for title, box in nodes.items()}
    assert [title for title, home in homes.items() if len(home) != (title not in NOTES.values())] == []
    assert [title.split()[0] for title in groups] == [str(number + 1) for number in range(len(groups))]
    order, prompt = list(groups), workflow(name)
    for node in prompt.values():
        for source in (value[0] for value in node["inputs"].values() if isinstance(value, list)):
            came, goes = (order.index(homes[n["_meta"]["title"]][0]) for n in (prompt[source], node))
            assert came <= goes, f"{prompt[source]['_meta']['title']} lies behind {node['_meta']['title']}"


def test_the_front_end_speaks_chinese(browser, server):
    page = Page(browser, server)
    page.tab.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    try:
        page.open()
        for name, words in stored("zh").items():
            shown = page.tab.evaluate(
                """name => { const node = LiteGraph.createNode(name), slots = [...node.inputs, ...node.outputs];
                   return [node.title, ...slots.map(slot => slot.label ?? slot.localized_name ?? slot.name)] }""",
                name,
            )
            names = [word["name"] for kind in ("inputs", "outputs") for word in words[kind].values()]
            assert shown[0] == words["display_name"]
            assert set(names) <= set(shown), (name, shown)
        page.fetch_workflow("tune-and-edit")
        titles = page.tab.evaluate("Object.fromEntries(app.graph._nodes.map(node => [node.type, node.title]))")
        kinds = titles.keys() & stored("zh").keys()
        assert len(kinds) == 6
        assert {kind: titles[kind] for kind in kinds} == {kind: stored("zh")[kind]["display_name"] for kind in kinds}
    finally:
        page.tab.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        page.tab.close()
    assert page.complaints == []


@pytest.mark.parametrize("node", sorted(stored("en")))
def test_the_info_button_shows_a_nodes_help(page, node):
    page.help(node)
    page.tab.get_by_role("heading", name=stored("en")[node]["display_name"], exact=True).last.wait_for(timeout=30_000)
    page.tab.get_by_role("heading", name="Inputs", exact=True).last.wait_for()


# What a test needs of a workflow, with few steps; the rest of the nodes go.
TUNE_A_LITTLE = """() => {
    const few = {steps: 2, validate_every: 1, gradient_checkpointing: 'off', frames: 4};
    const kept = ['LoadMiniature', 'LoadVideoFrames', 'CLIPTextEncode', 'VAEEncode', 'InflateUNet', 'OneShotTune',
                  'PreviewImage'];
    for (const node of [...app.graph._nodes]) {
        if (!kept.includes(node.type)) app.graph.remove(node);
        for (const widget of node.widgets ?? []) if (widget.name in few) widget.value = few[widget.name];
    }
}"""


def test_a_run_shows_the_chosen_frames_and_the_clip_as_the_network_sees_it(page):
    """In the loader as a video, to play; in One-Shot Tune as an animation, though the host's previews are off."""
    page.open_workflow("try-with-the-miniature")
    page.tab.evaluate(TUNE_A_LITTLE)
    assert page.run() == "success"  # until then each new preview takes the place of the last
    video = page.tab.locator("video[src*=tune_a_video]")
    for kind, shown in (("LoadVideoFrames", video), ("OneShotTune", page.tab.locator("img[src*=tune_a_video]"))):
        shown.wait_for(state="attached")
        page.look_at(kind)
        shown.wait_for()
        if kind == "LoadVideoFrames":
            video.evaluate("video => { video.muted = true; return video.play() }")
        assert page.changes(shown), kind
        box = shown.bounding_box()
        assert min(box["width"], box["height"]) > 100, kind


SEARCHES = {
    "LoadVideoFrames": ["load video", "frame_load_cap", "skip_first_frames", "select_every_nth", "force_rate", "VHS"],
    "InflateUNet": ["inflate", "cross-frame attention", "temporal attention", "tune-a-video"],
    "OneShotTune": ["tune a video", "tuneavideo", "one shot", "finetune", "fine-tune", "train unet", "vid2vid"],
    "SaveTunedWeights": ["save tuned", "export tuned"],
    "LoadTunedWeights": ["load tuned", "load motion"],
    "ApplyTunedWeights": ["apply tuned", "tuned weights"],
    "DDIMInvert": ["ddim inversion", "inversion", "invert", "ddim", "vid2vid"],
    "TAVSample": ["video2video", "vid2vid", "edit video", "text2video", "ddim sampling"],
    "KeepFromSource": ["pnp", "plug and play", "prompt2prompt", "prompt to prompt", "fatezero"],
    "MaskFromWords": ["attention map", "mask from text", "segment"],
    "LoadMiniature": ["miniature", "tiny model", "without download"],
    "LoadExampleClip": ["example video", "demo clip", "openpose"],
    "TAVDDIMSampler": ["ddim sampler", "ddim"],
    "VideoWindows": ["long video", "context windows", "sliding window"],
    "InterpolateVideo": ["frame interpolation", "slow motion", "in-between"],
    "ExtendVideo": ["continue video", "longer video", "seamless loop"],
}


def test_the_front_ends_search_finds_each_node_by_what_people_type(page):
    page.command("Workspace.SearchBox.Toggle")
    search, found, missing = page.tab.get_by_role("combobox", name="Add a node..."), page.tab.get_by_role("option"), []
    for node, queries in SEARCHES.items():
        for query in queries:
            search.fill("qqqzzzqqq")  # until nothing is left of the last results
            playwright.expect(found).to_have_count(0)
            search.fill(query)
            found.first.wait_for()
            first = found.all_inner_texts()[:10]
            if not any(stored("en")[node]["display_name"] in text for text in first):
                missing.append((node, query, first))
    search.press("Escape")  # left open, it would take the next test's double click for its own end
    search.wait_for(state="hidden")
    assert missing == []
    assert set(SEARCHES) == set(stored("en"))


def test_a_blueprint_is_found_by_its_name_and_is_one_node_that_runs(page, server):
    """The first saves the weights that the second loads."""
    few = {"steps": 2, "cfg": 2.5, "seed": 1, "edit": "a red ball is moving on the beach"}
    tuning = {"caption": "a red ball is moving on the grass", "tuning_steps": 1, "weights_name": "blueprint"}
    weights = {"tuned_weights_name": "blueprint_00001.safetensors", "strength": 0.5}
    for name, settings in {"Tune and Edit a Clip": tuning, "Edit with Tuned Weights": weights}.items():
        videos = set((server.base / "output").rglob("*.mp4"))
        page.add_from_search(name)
        page.surround(few | settings)
        assert page.run() == "success"
        assert len(set((server.base / "output").rglob("*.mp4")) - videos) == 1
        given = [
            node["inputs"] for node in page.prompt().values() if node["class_type"] in ("TAVSample", "OneShotTune")
        ]
        assert all(inputs["seed"] == 1 for inputs in given)
        assert all(inputs["steps"] == (1 if "learning_rate" in inputs else 2) for inputs in given)


def test_one_workflow_opens_as_an_app_and_runs_there(page):
    """A form of a clip and two prompts, in both languages, and what was saved beside it."""
    page.open_workflow("tune-and-edit.app")
    for label in layout("tune-and-edit.app")["app"]["inputs"].values():
        page.tab.get_by_text(label, exact=True).wait_for()
    page.take_the_miniature()
    if (skip := page.tab.get_by_text("Skip", exact=True)).is_visible():  # a tour, the first time
        skip.click()
    page.screenshot("app")
    page.tab.get_by_role("button", name="Run", exact=True).last.click()
    page.tab.wait_for_selector("video[src*=man-skiing-app]", state="attached", timeout=120_000)
    page.screenshot("app-after-a-run")
    page.open_workflow("tune-and-edit")  # leaves the app


def test_what_nodes_show_after_a_run_covers_no_other_node(page):
    """Previews, a loss graph, words, videos: each has room in its template."""
    page.open_workflow("try-with-the-miniature")
    page.tab.evaluate(
        """() => { for (const widget of app.graph._nodes.flatMap(node => node.widgets ?? []))
                       if (["steps", "validate_every"].includes(widget.name)) widget.value = 2 }"""
    )
    before = page.boxes()[0]
    assert page.run() == "success"
    page.tab.wait_for_function("app.graph._nodes.find(node => node.type === 'SaveVideo').size[1] > 200")
    page.screenshot("try-with-the-miniature-after-a-run")
    nodes, groups = page.boxes()
    assert nodes != before
    assert overlapping(nodes) == []
    grouped = {name: any(within(box, group) for group in groups.values()) for name, box in nodes.items()}
    assert [name for name, inside in grouped.items() if not inside] == list(NOTES.values())


def test_a_missing_node_would_be_seen(browser, server):
    page = Page(browser, server)
    page.load("NoSuchNode")
    page.tab.get_by_text("Missing node").first.wait_for(timeout=30_000)
    page.tab.close()


def by_title(prompt: dict, object_info: dict) -> dict:
    """A prompt with titles for ids, and with every setting that it leaves at its default."""
    title = {key: node["_meta"]["title"] for key, node in prompt.items()}
    assert len(set(title.values())) == len(title)
    return {title[key]: (node["class_type"], settled(node, title, object_info)) for key, node in prompt.items()}


def settled(node: dict, title: dict, object_info: dict) -> dict:
    info = object_info[node["class_type"]]["input"]
    defaults = {
        name: options["default"]
        for kind in ("required", "optional")
        for name, (_, options) in ((name, [*socket, {}][:2]) for name, socket in info.get(kind, {}).items())
        if "default" in options
    }
    given = {
        name: [title[value[0]], value[1]] if isinstance(value, list) else value
        for name, value in node["inputs"].items()
        if name not in FRONT_END_ONLY
    }
    if node["class_type"] == "SaveVideo":  # its codec is a setting of its format since 0.33
        given["codec"] = given.pop("format.codec", given["codec"])
    return defaults | given


def pairs(things: dict) -> list[tuple[str, str]]:
    names = list(things)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def overlap(a: list, b: list) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def overlapping(boxes: dict) -> list[tuple[str, str]]:
    return [pair for pair in pairs(boxes) if overlap(boxes[pair[0]], boxes[pair[1]])]


def within(inner: list, outer: list) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_the_pack_has_a_workflow_in_both_formats_for_each_use():
    assert {path.stem for path in (PACK / "workflows").glob("*.json")} == set(NAMES)
    assert {path.stem for path in (PACK / "workflows").glob("*.jpg")} == set(NAMES)


def test_only_this_packs_nodes_have_its_texts(server):
    assert sorted(nodes_of(Client(server))) == sorted(stored("en"))
