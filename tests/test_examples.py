"""The examples, run as a user does, on narrow networks and few steps."""

import ast

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from examples import fine_tune, fine_tune_hub
from tests.test_training import he_initialized
from vggish_keras import params


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def sounds_folder(tmp_path):
    """Sixteen tones of two classes by two recorders."""
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3_000), ("low", 300)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for take in range(8):
            time = np.arange(rng.integers(8_000, 20_000)) / 8_000
            samples = 0.5 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * time)
            soundfile.write(tmp_path / "sounds" / label / f"{'ab'[take % 2]}_{take}.wav", samples, 8_000)
    return tmp_path / "sounds"


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize("data", ["signals", "folder"])
def test_from_data_to_a_prediction_of_the_export(tmp_path, monkeypatch, data, sounds_folder):
    build = fine_tune.build_classifier
    monkeypatch.setattr(fine_tune, "build_classifier", lambda *arguments: he_initialized(build(*arguments)))
    monkeypatch.setattr(params, "LEARNING_RATE", 1e-3)
    folder = [sounds_folder, "--epochs", 6, "--batch-size", 4, "--group", "^[^_]+", "--validation", 0.5]
    options = ["--steps", 12] if data == "signals" else folder
    output = run(fine_tune.main, *options, "--weights", "none", "--output", tmp_path / "out", "--tensorboard")
    right, clips = (int(word) for word in output.splitlines()[-2].split() if word.isdigit())
    assert clips == (30 if data == "signals" else 8)
    assert right >= 0.9 * clips
    prediction = ast.literal_eval(output.splitlines()[-1].partition(": ")[2])
    truth = output.splitlines()[-1].partition(":")[0].split()[-1]
    assert max(prediction, key=prediction.get) == truth
    assert list(prediction) == (["sine", "constant", "noise"] if data == "signals" else ["high", "low"])
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "out" / "logs").rglob("events.*"))


def test_errors_come_before_the_first_step(tmp_path, sounds_folder):
    def message(*arguments):
        result = CliRunner().invoke(fine_tune.main, [str(argument) for argument in arguments])
        assert result.exit_code == 1
        return result.output

    assert "no weights at nowhere" in message("--weights", "nowhere", "--output", tmp_path / "out")
    assert "vggish_model.ckpt is not in the cache" in message("--output", tmp_path / "out")
    assert "finds no group in the name of" in message(sounds_folder, "--group", "speaker")
    (sounds_folder / "empty").mkdir()
    assert "empty" in message(sounds_folder)
    (tmp_path / "out" / "1").mkdir(parents=True)
    assert "give another output" in message("--output", tmp_path / "out")


def test_signals():
    (inputs, labels), *others = fine_tune.signals(3, seed=0)
    assert len(others) == 2
    sine, constant, noise = np.asarray(inputs["waveform"])
    assert np.argmax(np.abs(np.fft.rfft(sine))) / 5 == pytest.approx(
        100 + 900 * np.random.default_rng(0).random(), abs=0.2
    )
    assert np.ptp(constant) == 0
    assert np.std(noise) == pytest.approx(1 / np.sqrt(3), rel=0.01)
    assert labels.numpy().tolist() == [0, 1, 2]
    assert np.any(others[0][0]["waveform"][0] != sine)


def test_through_hub(exported):
    output = run(fine_tune_hub.main, exported, "--frozen")
    assert float(output.splitlines()[-1].partition("%")[0]) > 50
