import subprocess
import sys

import pytest

from vggish_keras import exported_options
from vggish_keras.exported_options import OPTIONS_FILE, ExportedOptions


@pytest.mark.parametrize("options", [ExportedOptions(0.96, "valid"), ExportedOptions(0.5, "same")])
def test_round_trip(tmp_path, options):
    exported_options.write_options(tmp_path, options)
    assert exported_options.read_options(tmp_path) == options


def test_folder_without_options(tmp_path):
    assert exported_options.read_options(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "decode"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "list indices"),
        (b"{}", "'hop_seconds' is missing"),
        (b'{"hop_seconds": 0.96}', "'padding' is missing"),
        (b'{"hop_seconds": "0.96", "padding": "valid"}', "hop_seconds must be a number of seconds, got '0.96'"),
        (b'{"hop_seconds": null, "padding": "valid"}', "NoneType"),
        (b'{"hop_seconds": 1e999, "padding": "valid"}', "multiple of 0.01"),
        (b'{"hop_seconds": 1' + b"0" * 400 + b', "padding": "valid"}', "too large"),
        (b'{"hop_seconds": -1, "padding": "valid"}', "the hop must be a positive multiple of 0.01 s"),
        (b'{"hop_seconds": 0.96, "padding": ["same"]}', r"padding must be one of .*, got \['same'\]"),
    ],
)
def test_damaged_file_is_named(tmp_path, content, message):
    file = tmp_path / OPTIONS_FILE
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"vggish\.json does not hold the options of an exported model: .*{message}"):
        exported_options.read_options(tmp_path)


def test_reading_loads_neither_tensorflow_nor_keras(tmp_path):
    exported_options.write_options(tmp_path, ExportedOptions(0.48, "same"))
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from vggish_keras import exported_options
print(exported_options.read_options({str(tmp_path)!r}).hop_seconds)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "0.48\n"
