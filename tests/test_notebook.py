"""The notebook, executed as a reader runs it, with a checkpoint in place of the published one."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason='needs nbclient and ipykernel: pip install ".[notebook]"')
import nbformat

NOTEBOOK = Path(__file__).parent.parent / "examples" / "vggish.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def cells(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def test_no_outputs_are_committed(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
def test_notebook_runs(notebook, slim, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    (install,), (parameters,) = cells(notebook, "install"), cells(notebook, "parameters")
    assert parameters.source == 'weights = "audioset"'
    install.source, parameters.source = "", f"weights = {str(slim.v2)!r}"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    assert len(images) == 2
    assert "accuracy in cross-validation: " in text
    assert float(text.rpartition("exported model: ")[2]) < 1e-4
    assert (tmp_path / "vggish" / "1" / "saved_model.pb").exists()
