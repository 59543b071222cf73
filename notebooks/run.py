"""Executes notebooks/start.ipynb in place: make notebook.

It runs in an empty folder. Times and TensorFlow's greetings are left out of the result.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
START = REPOSITORY / "notebooks" / "start.ipynb"
# What TensorFlow writes at its import, whatever the log level.
GREETING = re.compile(r"WARNING: All log messages before absl|[IWE]0000 .*(?:cuda|oneDNN|TensorRT)")


def executed(path: Path = START) -> nbformat.NotebookNode:
    """The notebook with fresh outputs.

    Raises:
        CellExecutionError: a cell fails.
        RuntimeError: a cell writes to standard error, a warning for instance.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where, coalesce_streams=True)
        paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        client.execute(env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_greeting(output)]
            for output in cell.outputs:
                if output.output_type == "stream" and output.name == "stderr":
                    raise RuntimeError(f"Expected no warnings. Received: {output.text}\nIn the cell:\n{cell.source}")
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def is_greeting(output: nbformat.NotebookNode) -> bool:
    if output.output_type != "stream" or output.name != "stderr":
        return False
    return all(GREETING.match(line) for line in output.text.splitlines() if line.strip())


if __name__ == "__main__":
    nbformat.write(executed(), START)
