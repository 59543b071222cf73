"""For mkdocs: notebooks/start.ipynb, as it was executed, becomes the page notebook.md."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

START = Path(__file__).resolve().parents[2] / "notebooks" / "start.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and its pictures."""
    parts: list[str] = []
    pictures = 0
    for cell in json.loads(START.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"notebook-{pictures}.png"
                files.append(File.generated(config, name, content=base64.b64decode("".join(data["image/png"]))))
                parts.append(f"![what the cell shows]({name})")
                pictures += 1
            else:
                parts.append(f"```text\n{text_of(output).rstrip()}\n```")
    files.append(File.generated(config, "notebook.md", content="\n\n".join(parts) + "\n"))
    return files


def text_of(output: dict[str, Any]) -> str:
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Links to the notebook lead to its page."""
    return markdown.replace("](../notebooks/start.ipynb)", "](notebook.md)")
