"""The page of `vggish explore` in a browser: Debian's chromium, or any that is called so."""

import csv
import json
import shutil
import time

import numpy as np
import pytest
import soundfile

import vggish_keras as vk
from tests import published

playwright = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "vggish[test]"')
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

KINDS = ("bell", "high", "low", "noise", "sweep")
PER_KIND = 40
SAMPLE_RATE = 16_000
ODD_NAME = 'noise/"quoted" <script>alert(1)</script>\n.wav'


def sound(kind, rng):
    time = np.arange(20_000) / SAMPLE_RATE
    amplitude = rng.uniform(0.2, 0.5)
    if kind == "noise":
        return amplitude * rng.uniform(-1, 1, len(time))
    hz = {"bell": 1_000, "high": 4_000, "low": 200, "sweep": 300 + 1_500 * time}[kind] * rng.uniform(0.95, 1.05)
    return amplitude * np.sin(2 * np.pi * hz * time) * (np.exp(-5 * time) if kind == "bell" else 1)


def embed(waveform):
    """An embedding that distinguishes the kinds: every 48th value of an example."""
    return published.log_mel_examples(waveform)[:1].reshape(1, 6_144)[:, ::48].astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A page of 200 clips in five kinds, one of them with an odd name."""
    folder, rng, recordings, labels = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), [], {}
    for kind in KINDS:
        (folder / kind).mkdir()
        for index in range(PER_KIND):
            name = ODD_NAME if (kind, index) == ("noise", 0) else f"{kind}/{index}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            waveform = sound(kind, rng)
            soundfile.write(folder / name, waveform, SAMPLE_RATE)
            recordings.append((name, vk.Embeddings(np.zeros(1), embed(waveform))))
            labels[name] = "even" if index % 2 == 0 else "odd"
    vk.explore(
        recordings,
        folder / "map.html",
        audio=folder,
        labels={"parity": labels, "kind": kinds(recordings)},
        layout="pca",
    )
    return folder / "map.html"


def kinds(recordings):
    return {name: name.partition("/")[0] for name, _ in recordings}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = [
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--autoplay-policy=no-user-gesture-required",
        ]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page without a network, and fails on any error in it."""
    contexts, problems = [], []

    def open_page(path, **options):
        context = browser.new_context(offline=True, **{"viewport": {"width": 1200, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: problems.extend([request.url] if request.url.startswith("http") else []))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def place(page, point):
    """The position of a point in the window."""
    return page.evaluate(
        """(point) => {
            const map = document.getElementById("map"), box = map.getBoundingClientRect();
            const {xaxis, yaxis} = map._fullLayout;
            return {
                x: box.left + xaxis._offset + xaxis.d2p(positions[2 * point]),
                y: box.top + yaxis._offset + yaxis.d2p(positions[2 * point + 1]),
            };
        }""",
        point,
    )


def click(page, point):
    position = place(page, point)
    page.mouse.move(position["x"] - 3, position["y"])
    page.mouse.move(**position)
    page.wait_for_selector("#tip:not([hidden])")
    page.mouse.click(**position)


def chosen(page):
    return page.text_content("#chosen h2")


def test_click_plays_the_recording_and_lists_the_same_kind(corpus, open_page):
    page = open_page(corpus)
    page.select_option("#coloring", label="kind")
    for point in (5, 5 + PER_KIND):
        click(page, point)
        page.wait_for_function("document.getElementById('player').currentTime > 0.1")
        kind = chosen(page).partition("/")[0]
        names = page.locator("#nearest button").all_text_contents()
        assert len(names) == 10
        assert {name.partition("/")[0] for name in names} == {kind}
    page.locator("#nearest button").first.click()
    assert chosen(page) == names[0]
    page.wait_for_function("!document.getElementById('player').paused")


def test_tooltip_shows_name_label_and_thumbnail(corpus, open_page):
    page = open_page(corpus)
    page.select_option("#coloring", label="kind")
    position = place(page, 2 * PER_KIND + 1)
    page.mouse.move(position["x"] - 3, position["y"])
    page.mouse.move(**position)
    page.wait_for_selector("#tip:not([hidden])")
    text = page.text_content("#tip div")
    assert text.startswith("low/")
    assert text.endswith("0.00 s, kind: low")
    drawn = page.wait_for_function(
        """() => {
            const canvas = document.querySelector("#tip canvas");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            const rows = [...Array(canvas.height).keys()].map((row) => pixels[4 * (row * canvas.width + 20)]);
            return Math.max(...rows) > 100 && rows.indexOf(Math.max(...rows)) > canvas.height / 2;
        }"""
    )
    assert drawn  # a low tone is bright at the bottom


def test_search_filter_and_keys(corpus, open_page):
    page = open_page(corpus)
    page.fill("#find", "SWEEP/1")
    assert page.text_content("#found h2") == "11 found"
    page.locator("#found button", has_text="sweep/10.wav").click()
    assert chosen(page) == "sweep/10.wav"
    page.fill("#find", "")
    assert page.is_hidden("#found")
    page.focus("#map")
    before = place(page, 4 * PER_KIND + 10)
    moved = False
    for key, axis, sign in (
        ("ArrowLeft", "x", -1),
        ("ArrowRight", "x", 1),
        ("ArrowUp", "y", -1),
        ("ArrowDown", "y", 1),
    ):
        page.evaluate(f"choose({4 * PER_KIND + 10}, false)")
        page.keyboard.press(key)
        after = place(page, page.evaluate("current"))
        if chosen(page) != "sweep/10.wav":
            assert sign * (after[axis] - before[axis]) > 0
            moved = True
    assert moved
    page.wait_for_function("!document.getElementById('player').paused")
    page.keyboard.press(" ")
    page.wait_for_function("document.getElementById('player').paused")
    visible = "document.getElementById('map').data.filter((trace) => trace.visible !== 'legendonly').length"
    shown = page.evaluate(visible)
    page.locator(".legendtoggle").first.click()
    page.wait_for_function(f"{visible} === {shown - 1}")
    page.select_option("#coloring", label="kind")
    page.wait_for_function(f"{visible} === {len(KINDS)}")  # what was hidden is of the other coloring


def test_lasso_is_downloaded(corpus, open_page):
    page = open_page(corpus, accept_downloads=True)
    assert page.is_hidden(".gl-canvas-focus")  # where Plotly draws selected points
    page.click("#mode")
    box = page.locator("#map").bounding_box()
    left, top = box["x"] + 5, box["y"] + 5
    right, bottom = box["x"] + box["width"] - 5, box["y"] + box["height"] - 5
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(*corner, steps=10)
    page.mouse.up()
    page.wait_for_selector("#download:not([disabled])")
    page.click("#mode")  # off, to play recordings
    click(page, 5)
    assert page.is_visible(".gl-canvas-focus")
    assert page.text_content("#download") == "Download 200 (CSV)"
    with page.expect_download() as download:
        page.click("#download")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(KINDS) * PER_KIND
    assert ODD_NAME in {row["file"] for row in rows}
    assert {row["label"] for row in rows} == {"even", "odd"}


def test_odd_names_are_text(corpus, open_page):
    page = open_page(corpus)
    page.fill("#find", "<script>")
    page.locator("#found button").click()
    assert chosen(page) == ODD_NAME
    page.wait_for_function("document.getElementById('player').currentTime > 0.1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_follow_the_reader(corpus, open_page, scheme):
    page = open_page(corpus, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    paper = "document.getElementById('map')._fullLayout.paper_bgcolor"
    assert page.evaluate(background) == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    assert page.evaluate(paper) == {"light": "#ffffff", "dark": "#16181c"}[scheme]
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    page.wait_for_function(f"{paper} === '{'#16181c' if scheme == 'light' else '#ffffff'}'")


def test_phone(corpus, open_page):
    page = open_page(corpus, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("choose(3, false)")
    box = page.locator("#chosen").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert page.locator("#map").bounding_box()["height"] > 400


def test_missing_recordings_are_explained(corpus, open_page, tmp_path):
    shutil.copy(corpus, tmp_path / "map.html")
    page = open_page(tmp_path / "map.html")
    page.evaluate("choose(3, true)")
    page.wait_for_function("document.getElementById('problem').textContent.includes('the file is missing')")


def test_page_without_recordings(open_page, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 128)).astype(np.float32)
    recordings = [(f"{index}.wav", vk.Embeddings(np.zeros(1), values[index : index + 1])) for index in range(3)]
    vk.explore(recordings, tmp_path / "map.html")
    page = open_page(tmp_path / "map.html")
    click(page, 1)
    assert page.text_content("#problem") == "The page was made without recordings."
    assert page.is_hidden("#player")
    assert page.is_hidden("#picture")
    assert page.is_hidden("#tip canvas")


def test_embedded_sound_plays_anywhere(open_page, tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    time = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    soundfile.write(folder / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * time), SAMPLE_RATE)
    recordings = [("a.wav", vk.Embeddings(np.zeros(1), np.ones((1, 128), np.float32)))]
    vk.explore(recordings, tmp_path / "map.html", audio=folder, embed_audio=True)
    shutil.rmtree(folder)
    page = open_page(tmp_path / "map.html")
    click(page, 0)
    page.wait_for_function("document.getElementById('player').currentTime > 0.1")
    assert page.evaluate("document.getElementById('player').duration") == pytest.approx(3, abs=0.05)


def test_examples_beyond_the_stored_sound_are_not_played(open_page, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(42, 128)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", rng.uniform(-0.5, 0.5, 42 * 8_000), 8_000)
    recordings = [("long.wav", vk.Embeddings(np.arange(42.0), values))]
    vk.explore(recordings, tmp_path / "map.html", audio=tmp_path, embed_audio=True, examples=True, layout="pca")
    page = open_page(tmp_path / "map.html")
    page.evaluate("choose(2, true)")
    page.wait_for_function("document.getElementById('player').currentTime > 2.1")
    for late in (38, 40):
        page.evaluate(f"choose({late}, true)")
        assert page.text_content("#problem") == "The page stores only the first 30 s of this recording."
        assert page.evaluate("document.getElementById('player').paused")
    page.evaluate("choose(2, true)")
    assert page.text_content("#problem") == ""
    page.wait_for_function("!document.getElementById('player').paused")


def test_quality_lists_lead_to_their_points(open_page, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 128)).astype(np.float32)
    values[7] = 2 * values[50]
    names = [f"{index}.wav" for index in range(60)]
    recordings = [(name, vk.Embeddings(np.zeros(1), row[np.newaxis])) for name, row in zip(names, values, strict=True)]
    for index, name in enumerate(names):
        samples = np.zeros(20_000) if index == 3 else rng.uniform(-0.3, 0.3, 20_000)
        soundfile.write(tmp_path / name, (20 * samples).clip(-1, 1) if index == 4 else samples, SAMPLE_RATE)
    vk.explore(recordings, tmp_path / "map.html", audio=tmp_path, layout="pca")
    page = open_page(tmp_path / "map.html")
    summaries = page.locator("#quality summary").all_text_contents()
    assert [text.rpartition(": ")[2] for text in summaries] == ["1", "0", "1", "1"]
    for index, expected in ((0, "7.wav"), (2, "3.wav"), (3, "4.wav")):
        page.locator("#quality summary").nth(index).click()
        page.locator("#quality details").nth(index).locator("button").first.click()
        assert chosen(page) == expected


@pytest.mark.timing
def test_ten_thousand_recordings(browser, open_page, tmp_path):
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(20, 128))
    values = (rng.normal(size=(10_000, 128)) + centers[np.arange(10_000) % 20]).astype(np.float32)
    recordings = [
        (f"folder {index % 20}/{index}.wav", vk.Embeddings(np.zeros(1), values[index : index + 1]))
        for index in range(10_000)
    ]
    start = time.perf_counter()
    vk.explore(recordings, tmp_path / "map.html", layout="pca")
    assert time.perf_counter() - start < 30
    assert (tmp_path / "map.html").stat().st_size < 15e6
    start = time.perf_counter()
    page = open_page(tmp_path / "map.html")
    assert time.perf_counter() - start < 6
    assert frames_per_second_of_drag(browser, page) > 15  # without a GPU


def frames_per_second_of_drag(browser, page):
    """The frames that the browser shows while the map is dragged as fast as it follows."""
    box = page.locator("#map").bounding_box()
    center = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*center)
    page.mouse.down()
    ranges = "JSON.stringify([map._fullLayout.xaxis.range, map._fullLayout.yaxis.range])"
    before = page.evaluate(ranges)
    browser.start_tracing(page=page, categories=["devtools.timeline"])
    page.evaluate(
        """async ([x, y]) => {
            for (let frame = 0; frame < 90; frame++) {
                await new Promise(requestAnimationFrame);
                const to = {clientX: x + 150 * Math.sin(frame / 20), clientY: y + 100 * Math.cos(frame / 20)};
                document.querySelector(".dragcover").dispatchEvent(new MouseEvent("mousemove", {bubbles: true, ...to}));
            }
        }""",
        center,
    )
    events = json.loads(browser.stop_tracing())["traceEvents"]
    assert page.evaluate(ranges) != before
    page.mouse.up()
    shown = sorted(event["ts"] for event in events if event["name"] == "AnimationFrame::Presentation")
    return (len(shown) - 1) / (shown[-1] - shown[0]) * 1e6
