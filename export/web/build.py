"""Make a folder with a web page that embeds recordings in the browser.

    python export/web/build.py --output web
    python -m http.server --directory web        # then open http://localhost:8000

The page runs an ONNX file, whose weights are stored in 8 bits, with onnxruntime-web. npm fetches onnxruntime-web once,
when the folder is made; the page itself loads nothing from elsewhere.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vggish_keras as vk
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import PublishedOrPath

RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE_FILES = ("index.html", "style.css", "app.js", "worker.js", "microphone.js")
_LEVELS = 127


@click.command()
@click.option("--weights", type=PublishedOrPath(), default="audioset", show_default=True, help="As in vggish export.")
@click.option("--output", type=click.Path(path_type=Path), default="web", show_default=True, help="A new folder.")
def main(weights: str, output: Path) -> None:
    """Make a folder with a web page that embeds recordings in the browser."""
    if output.exists():
        raise click.ClickException(f"{output} already exists: choose a different output")
    if not output.absolute().parent.is_dir():
        raise click.ClickException(f"folder {output.absolute().parent} does not exist")
    npm = shutil.which("npm")
    if npm is None:
        raise click.ClickException("npm, which comes with Node.js, is not installed")
    load_tensorflow()
    with tempfile.TemporaryDirectory(dir=output.absolute().parent) as temporary:
        folder = Path(temporary) / "web"
        folder.mkdir()
        export_model(weights, folder / "vggish.onnx")
        copy_runtime(npm, folder)
        for name in PAGE_FILES:
            shutil.copy(Path(__file__).with_name(name), folder)
        folder.rename(output)
    click.echo(f"wrote {output}: python -m http.server --directory {output}")


def copy_runtime(npm: str, folder: Path) -> None:
    """Fetches onnxruntime-web, verifies it, and copies the files that the page needs."""
    with tempfile.TemporaryDirectory() as download:
        command = [npm, "pack", "--json", "--pack-destination", download, RUNTIME]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise click.ClickException(f"npm cannot fetch {RUNTIME}: {result.stderr.strip()}")
        (package,) = json.loads(result.stdout)
        if package["integrity"] != RUNTIME_INTEGRITY:
            raise click.ClickException(
                f"{RUNTIME} has the checksum {package['integrity']}, expected {RUNTIME_INTEGRITY}"
            )
        with tarfile.open(Path(download) / package["filename"]) as archive:
            for name in RUNTIME_FILES:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                (folder / name).write_bytes(file.read())


def export_model(weights: str, path: Path) -> None:
    """Exports the model as the page needs it: weights in 8 bits, and the log-mel spectrogram as a second output."""
    import onnx

    vk.export_onnx(vk.VGGish(None if weights == "none" else weights), path)
    model = onnx.load(path)
    quantize_weights(model.graph)
    add_log_mel(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def quantize_weights(graph: Any) -> None:
    """Stores the kernels of the network as 8-bit integers with a scale per channel, from which they are restored."""
    from onnx import helper, numpy_helper

    axes = {node.input[1]: channel_axis(node) for node in graph.node if node.op_type in ("Conv", "Gemm")}
    kept, restored = [], []
    for tensor in graph.initializer:
        if tensor.name not in axes:
            kept.append(tensor)
            continue
        axis = axes[tensor.name]
        levels, scale = quantized(numpy_helper.to_array(tensor), axis)
        names = [f"{tensor.name}_levels", f"{tensor.name}_scale"]
        kept += [numpy_helper.from_array(array, name) for array, name in zip((levels, scale), names, strict=True)]
        restored.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = [*restored, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def channel_axis(node: Any) -> int:
    """The axis of the output channels in a node's kernel."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def quantized(kernel: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels from -127 to 127 and the step of each channel."""
    others = tuple(other for other in range(kernel.ndim) if other != axis)
    highest = np.abs(kernel).max(axis=others, keepdims=True)
    step = (np.where(highest == 0, 1, highest) / _LEVELS).astype(np.float32)
    return np.rint(kernel / step).astype(np.int8), step.reshape(-1)


def add_log_mel(graph: Any) -> None:
    """Makes the log-mel spectrogram an output: float32 [frames, 64], those of all segments."""
    from onnx import TensorProto, helper

    (log,) = (node for node in graph.node if node.op_type == "Log")
    graph.node.append(helper.make_node("Cast", [log.output[0]], ["log_mel"], to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["frames", 64]))


if __name__ == "__main__":
    main()
