"""The examples, run from their command lines on narrow networks for few steps."""

import ast
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from examples import fine_tune, fine_tune_hub
from tests.documentation import commands
from tests.test_training import he_initialized
from vggish_keras import params

SIGNALS, FOLDER, HUB = commands("docs/fine_tuning.md", "examples")


def run(line, *more):
    """Runs a command of the documentation with additional options."""
    _, _, module, *arguments = shlex.split(line, comments=True)
    command = {"examples.fine_tune": fine_tune, "examples.fine_tune_hub": fine_tune_hub}[module].main
    result = CliRunner().invoke(command, [*arguments, *map(str, more)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def sounds_folder(tmp_path, monkeypatch):
    """Sixteen tones in two classes from two recording devices, where the commands of the documentation expect them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3_000), ("low", 300)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for take in range(8):
            time = np.arange(rng.integers(8_000, 20_000)) / 8_000
            samples = 0.5 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * time)
            soundfile.write(tmp_path / "sounds" / label / f"{'ab'[take % 2]}_{take}.wav", samples, 8_000)
    return tmp_path / "sounds"


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_network", "sounds_folder")
@pytest.mark.parametrize(
    ("line", "more", "clips", "class_names", "output"),
    [
        (SIGNALS, ["--steps", 12], 30, ["sine", "constant", "noise"], "classifier"),
        (
            FOLDER,
            ["--epochs", 6, "--batch-size", 4, "--validation-split", 0.5],
            8,
            ["high", "low"],
            "sounds_classifier",
        ),
    ],
    ids=["signals", "folder"],
)
def test_fine_tuning_ends_with_predictions_of_the_exported_model(monkeypatch, line, more, clips, class_names, output):
    build = fine_tune.build_classifier
    monkeypatch.setattr(fine_tune, "build_classifier", lambda *arguments: he_initialized(build(*arguments)))
    monkeypatch.setattr(params, "LEARNING_RATE", 1e-3)
    *_, accuracy, prediction = run(line, *more, "--weights", "none", "--tensorboard").splitlines()
    right, of = (int(word) for word in accuracy.split() if word.isdigit())
    assert of == clips
    assert right >= 0.9 * clips
    clip, _, scores = prediction.partition(": ")
    scores = ast.literal_eval(scores)
    assert list(scores) == class_names
    assert max(scores, key=scores.get) == clip.split()[-1]
    assert Path(output, "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert list(Path(output, "logs").rglob("events.*"))


def test_errors_are_reported_before_training(tmp_path, sounds_folder):
    def message(*arguments):
        result = CliRunner().invoke(fine_tune.main, [str(argument) for argument in arguments])
        assert result.exit_code == 1
        return result.output

    assert "no weights found at nowhere" in message("--weights", "nowhere", "--output", tmp_path / "out")
    assert "vggish_model.ckpt is not in the cache" in message("--output", tmp_path / "out")
    assert "matches no group in the name of" in message(sounds_folder, "--group", "speaker")
    (sounds_folder / "empty").mkdir()
    assert "empty" in message(sounds_folder)
    (tmp_path / "out" / "1").mkdir(parents=True)
    assert "already exists: choose a different output" in message("--output", tmp_path / "out")


def test_signals_are_a_sine_a_constant_and_noise():
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


@pytest.mark.slow
@pytest.mark.usefixtures("sounds_folder")
def test_fine_tuning_with_hub_keras_layer(monkeypatch, exported):
    Path("vggish").symlink_to(exported.parent)
    monkeypatch.setattr(params, "LEARNING_RATE", 1e-3)
    output = run(HUB, "--frozen", "--epochs", 10)
    assert float(output.splitlines()[-1].partition("%")[0]) > 80
