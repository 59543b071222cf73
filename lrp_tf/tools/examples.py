"""The examples in docstrings: which of their indented blocks are Python."""

from __future__ import annotations

import ast
import inspect
import textwrap


def paragraphs(docstring: str) -> list[str]:
    """The parts of a docstring, in order: blocks indented by four spaces, and what lies between them."""
    parts: list[list[str]] = [[]]
    block = section = False
    blank = True
    for line in inspect.cleandoc(docstring).split("\n"):
        indented = line.startswith("    ")
        if line and not indented:
            section = line.endswith(":") and line[:-1].isalpha()  # "Args:", whose lines are no block
        if line and block != (indented and not section and (blank or block)):
            block = not block
            parts.append([])
        parts[-1].append(line)
        blank = not line
    return ["\n".join(part) for part in parts]


def is_python(part: str) -> bool:
    """Whether a part is an example: an indented block that Python can read, and no TOML."""
    code = textwrap.dedent(part)
    if not part.startswith("    ") or code.startswith("[["):
        return False
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def examples(docstring: str) -> list[str]:
    """The code of the examples of a docstring.

    examples(lrp_tf.heatmap.save.__doc__)
    """
    return [textwrap.dedent(part).strip() for part in paragraphs(docstring) if is_python(part)]


def fenced(docstring: str) -> str:
    """A docstring whose examples stand between fences of Markdown, which name their language."""
    parts = paragraphs(docstring)
    return "\n".join(
        f"```python\n{textwrap.dedent(part).strip()}\n```\n" if is_python(part) else part for part in parts
    )
