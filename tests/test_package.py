import ast
import graphlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vggish_keras as vk
from tests.conftest import quickest


def python(script, **environment):
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loads_nothing_and_creates_nothing(tmp_path):
    script = (
        "import sys; import vggish_keras\n"
        "print(sorted({'tensorflow', 'keras', 'numpy', 'resampy', 'pooch', 'apache_beam'} & set(sys.modules)))"
    )
    assert python(script, VGGISH_KERAS_HOME=str(tmp_path / "home")) == "[]"
    assert not (tmp_path / "home").exists()


def test_public_names_exist():
    for name in vk.__all__:
        assert getattr(vk, name) is not None
    assert set(vk.__all__) <= set(dir(vk))
    assert vk.resample.resample.__name__ == "resample"
    with pytest.raises(AttributeError, match="Vggish"):
        vk.Vggish  # noqa: B018


def test_version_and_requirements():
    assert importlib.metadata.version("vggish") == vk.__version__
    metadata = importlib.metadata.metadata("vggish")
    assert "setuptools<82,>=68" in metadata.get_all("Requires-Dist")
    assert (Path(vk.__file__).parent / "py.typed").exists()


@pytest.mark.slow
def test_tensorflow_hub_imports_with_the_required_setuptools():
    """It imports pkg_resources, which newer versions of setuptools lack."""
    assert python("import tensorflow_hub; print(tensorflow_hub.__name__)") == "tensorflow_hub"


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it fails

import numpy as np
from click.testing import CliRunner

import vggish_keras as vk
from vggish_keras import embedding_files, framing, plot, resample, segments
from vggish_keras.cli import main
import vggish_keras.corpus

embeddings = vk.Embeddings(0.96 * np.arange(3), np.ones((3, 128), np.float32))
for suffix in embedding_files.SUFFIXES:
    embedding_files.write(f"x{suffix}", [("a.wav", embeddings), ("b.wav", embeddings)])
np.testing.assert_array_equal(embedding_files.read_npz("x.npz", "b.wav").values, embeddings.values)
plot.plot_embeddings("x.png", embeddings, "title", similarity=True)
assert framing.count_examples(31_200, 15_600, "valid") == 2
assert len(np.concatenate(list(resample.read_waveform("x.wav")))) == 16_000


def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    return result.exit_code, result.output


def commands(group, *names):
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


for names in commands(main):
    status, output = run(*names, "--help")
    assert status == 0
    assert output.startswith("Usage: ")
assert run("plot", "x.npz", "--recording", "a.wav", "-o", "y.png") == (0, "wrote y.png\\n")
for arguments in (
    ["embed", "x.wav", "-o", "x.xyz"],
    ["embed", "x.wav", "--hop", "0.005"],
    ["embed", "x.wav", "--segments", "x.npz"],
    ["embed", "x.wav", "--resume"],
    ["predict", "x.keras", "x.wav", "-o", "x.txt"],
    ["predict", "x.keras"],
    ["plot", "x.npz", "-o", "x.bmp"],
    ["plot", "x.wav", "--recording", "a.wav"],
    ["plot", "x.parquet"],
    ["weights", "convert", "x", "x.h5", "--v2"],
    ["beam"],
    ["beam", "--input", "x.wav", "--output", "y", "y.wav"],
    ["export"],
):
    status, output = run(*arguments)
    assert (status, "Error: " in output) == (2, True), (arguments, output)
for name, message in (
    ("missing.wav", "no audio file at missing.wav"),
    ("missing.npz", "no .npz file at missing.npz"),
    ("text.wav", "text.wav cannot be read as audio"),
):
    status, output = run("plot", name)
    assert (status, message in output) == (1, True), output
for classifier, message in (("x.keras", "no classifier at x.keras"), ("x.wav", "x.wav is not a classifier")):
    status, output = run("predict", classifier, "x.wav")
    assert (status, message in output) == (1, True), output
"""


def test_commands_and_modules_that_run_without_tensorflow(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("no audio")
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("environment", "setup", "reason"),
    [
        ({"KERAS_BACKEND": "jax"}, "sys.modules['jax'] = None", "but Keras cannot be imported: "),
        pytest.param(
            {}, "import tensorflow; tensorflow.keras.backend.backend = lambda: 'jax'", "got jax", marks=pytest.mark.slow
        ),
    ],
)
def test_other_backends_of_keras_are_errors(environment, setup, reason):
    script = f"""
import sys
{setup}
import vggish_keras as vk
try:
    vk.VGGish
except ImportError as error:
    print(error)
"""
    message = python(script, TF_USE_LEGACY_KERAS="0", **environment)
    needed = "vggish_keras needs Keras's TensorFlow backend (environment variable KERAS_BACKEND=tensorflow)"
    assert message.startswith(f"{needed}, {reason}")


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("folder", ["vggish_keras", "export", "examples", "benchmarks", "docs"])
def test_advice_to_install_is_quoted_and_names_this_project(folder):
    """An unquoted bracket is a pattern in some shells, and `vggish-keras` is a different project."""
    for path in (ROOT / folder).rglob("*.*"):
        if path.suffix not in (".py", ".md", ".yaml"):
            continue
        for line in path.read_text().splitlines():
            if "pip install" in line and "[" in line.partition("pip install")[2]:
                assert re.search(r'pip install "(vggish|\.|/src)\[[\w,]+\]"', line), f"{path}: {line}"
            assert not re.search(r"install .*vggish-keras", line), f"{path}: {line}"


# === Structure ===

PACKAGE = Path(vk.__file__).parent

# A module imports only modules to its left or above. A room, such as `corpus`, has one place for all of its files.
ORDER = """
    params
    _errors _validation _atomic _lock _fork _hashing _blas _npz _onnx_file _stderr _litert_file _tensorflow _keras
    _registration _read_ahead _text
    decoding audio resample _reader_process framing exported_options class_names
    mel published_files frontend network postprocess weights model
    embeddings embedding_files
    engines embedder sklearn classifier
    segments recordings records dataset hear spectrogram_overview plot smoke_test
    exporting corpus similarity explorer frechet beam
    cli __main__
""".split()  # noqa: SIM905, as a list it would be a line per name


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# The package's own __init__ imports lazily what users ask for, from anywhere.
MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}


def imported_modules(path):
    """The package's modules that a file imports, in functions and for type checkers as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            names = [
                submodule if (submodule := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            if name.startswith("vggish_keras."):
                assert name in MODULES, f"{path}:{node.lineno}: {name} does not exist"
                yield name


@pytest.fixture(scope="module")
def imports():
    return {name: set(imported_modules(path)) for name, path in MODULES.items()}


def room(module):
    return module.split(".")[1]


def test_imports_have_no_cycle(imports):
    graphlib.TopologicalSorter(imports).prepare()


def test_imports_follow_the_order(imports):
    assert {room(name) for name in MODULES} <= set(ORDER)
    wrong = [
        f"{name} imports {imported}"
        for name, all_imported in imports.items()
        for imported in all_imported
        if ORDER.index(room(imported)) > ORDER.index(room(name))
    ]
    assert not wrong, wrong


def test_rooms_are_entered_through_their_init(imports):
    wrong = [
        f"{name} imports {imported}"
        for name, all_imported in imports.items()
        for imported in all_imported
        if imported.count(".") > 1 and room(imported) != room(name)
    ]
    assert not wrong, wrong


def test_functions_are_short():
    lengths = {
        f"{name}.{node.name}": code_lines(node, path.read_text().splitlines())
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    long = {name: lines for name, lines in lengths.items() if lines > 40}
    assert len(long) <= 3, long


def code_lines(function, lines):
    """How many lines the body of a function has, without docstring, comments and empty lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    code = (line.strip() for line in lines[body[0].lineno - 1 : function.end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in code)


# === Start-up time ===


@pytest.mark.timing
@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["weights", "--help"]])
def test_help_answers_at_once(arguments):
    command = [Path(sys.executable).with_name("vggish"), *arguments]

    def run():
        assert b"Usage: vggish" in subprocess.run(command, capture_output=True, check=True).stdout

    assert quickest(run) <= 0.3


@pytest.mark.timing
@pytest.mark.parametrize("name", ["missing.wav", "missing.npz", "all.parquet"])
def test_plot_reports_a_wrong_input_at_once(name):
    command = [Path(sys.executable).with_name("vggish"), "plot", name]

    def run():
        assert name.encode() in subprocess.run(command, capture_output=True, check=False).stderr

    assert quickest(run) <= 0.5


@pytest.mark.timing
def test_import_is_quick():
    script = "import time; start = time.perf_counter(); import vggish_keras; print(time.perf_counter() - start)"
    assert min(float(python(script)) for _ in range(5)) <= 0.1
