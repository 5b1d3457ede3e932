"""The page of export/web in a browser, on the artifact that it runs."""

import csv
import functools
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vggish_keras as vk
from vggish_keras.framing import cut_segments

playwright = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "vggish[test]"')
CHROMIUM, NPM = shutil.which("chromium"), shutil.which("npm")
SCRIPT = Path(__file__).parent.parent / "export" / "web" / "build.py"
SECONDS = 20
pytestmark = pytest.mark.skipif(CHROMIUM is None or NPM is None, reason="chromium or npm is not installed")


@pytest.fixture(scope="module")
def folder(slim, tmp_path_factory):
    output = tmp_path_factory.mktemp("web") / "page"
    command = [sys.executable, SCRIPT, "--weights", slim.v2, "--output", output]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "npm cannot fetch" in result.stderr:
        pytest.skip("npm cannot reach its registry")
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def url(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(url):
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    problems, requests = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        text = "document.getElementById('{}').textContent".format
        page.wait_for_function(f"{text('status')} === 'Ready.' || {text('problem')}", timeout=60_000)
        assert page.text_content("#problem") == ""
        context.set_offline(True)  # once loaded, it needs no network
        yield page
        browser.close()
    assert not problems
    assert all(request.startswith((url, "blob:", "data:")) for request in requests)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    time = np.arange(SECONDS * 16_000) / 16_000
    tone = 0.4 * np.sin(2 * np.pi * 440 * time * (1 + time / 40))
    soundfile.write(folder / "tone.wav", tone, 16_000)
    soundfile.write(folder / "noise.wav", 0.3 * rng.uniform(-1, 1, 32_000), 16_000)
    soundfile.write(folder / "short.wav", tone[:8_000], 16_000)
    (folder / "text.wav").write_text("no audio")
    return folder


def embeddings_in_python(folder, path):
    """By ONNX Runtime on the file of the page, with the page's option: in float32, on the restored weights."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(folder / "vggish.onnx", options, providers=["CPUExecutionProvider"])
    segments = np.stack(list(cut_segments([vk.load_audio(path)], 15_360, "short")))
    return session.run(["embedding"], {"waveform": segments.reshape(-1, 15_600)})[0].reshape(-1, 128)


def open_file(page, path, count):
    page.set_input_files("#file", path)
    page.wait_for_function(
        f"document.getElementById('status').textContent.startsWith('{count} of {count}')", timeout=60_000
    )


def in_page(page):
    with page.expect_download() as download:
        page.click("#save")
    with open(download.value.path(), newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:3] == ["file", "time", "embedding_0"]
    return rows[1:]


@pytest.mark.slow
def test_embeddings_equal_those_in_python(page, folder, sounds):
    open_file(page, sounds / "tone.wav", 20)
    rows = in_page(page)
    assert [row[:2] for row in rows] == [["tone.wav", f"{0.96 * index:.2f}"] for index in range(20)]
    got, expected = np.array([row[2:] for row in rows], float), embeddings_in_python(folder, sounds / "tone.wav")
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_eight_bits_stay_close_to_the_model(folder, embedder, sounds):
    got = embeddings_in_python(folder, sounds / "tone.wav")
    expected = embedder.embed(sounds / "tone.wav").values
    cosines = (got * expected).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.999
    assert (folder / "vggish.onnx").stat().st_size < 80e6


@pytest.mark.slow
def test_a_second_sound_is_compared(page, sounds):
    open_file(page, sounds / "tone.wav", 20)
    open_file(page, sounds / "noise.wav", 2)
    page.wait_for_selector("#comparison:not([hidden])")
    assert page.text_content("#first") == "tone.wav"
    assert page.evaluate("[document.getElementById('cross').width, document.getElementById('cross').height]") == [2, 20]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    open_file(page, sounds / "short.wav", 1)
    assert len(in_page(page)) == 1


@pytest.mark.slow
def test_a_file_that_is_no_audio(page, sounds):
    page.set_input_files("#file", sounds / "text.wav")
    page.wait_for_function("document.getElementById('problem').textContent !== ''")
    assert page.text_content("#problem") == "The browser cannot decode text.wav."


@pytest.mark.slow
def test_microphone(page):
    page.click("#microphone")
    page.wait_for_function("document.getElementById('status').textContent === '2 examples'", timeout=30_000)
    page.click("#microphone")
    assert len(in_page(page)) >= 2


@pytest.mark.timing
def test_page_is_faster_than_the_sound_and_stays_responsive(page, sounds):
    """A frame is drawn at least every 500 ms while the model runs, in its worker, even on a busy machine."""
    page.evaluate(
        """() => {
            window.longest = 0;
            let last = performance.now();
            const step = (now) => { longest = Math.max(longest, now - last); last = now; requestAnimationFrame(step); };
            requestAnimationFrame(step);
        }"""
    )
    start = time.perf_counter()
    open_file(page, sounds / "tone.wav", 20)
    assert time.perf_counter() - start < SECONDS
    assert page.evaluate("longest") < 500


def test_script_refuses(tmp_path, monkeypatch):
    from click.testing import CliRunner

    specification = importlib.util.spec_from_file_location("web_build", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)

    def message(*arguments):
        result = CliRunner().invoke(script.main, [str(argument) for argument in arguments])
        assert result.exit_code == 1
        return result.output

    assert "already exists" in message("--output", tmp_path)
    assert "does not exist" in message("--output", tmp_path / "no" / "web")
    answer = subprocess.CompletedProcess([], 0, '[{"integrity": "sha512-0", "filename": "x.tgz"}]', "")
    with monkeypatch.context() as patch:
        patch.setattr(script.subprocess, "run", lambda *_, **__: answer)
        patch.setattr(script, "export_model", lambda *_: None)
        assert "has the checksum sha512-0, expected sha512-q0y+" in message("--output", tmp_path / "web")
    monkeypatch.setattr(script.shutil, "which", lambda _: None)
    assert "npm, which comes with Node.js, is not installed" in message("--output", tmp_path / "web")
    assert not list(tmp_path.iterdir())
