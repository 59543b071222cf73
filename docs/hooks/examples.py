"""For mkdocstrings: the examples in docstrings are shown as Python."""

from __future__ import annotations

import griffe

from lrp_tf.tools.examples import fenced


class Examples(griffe.Extension):
    """Puts examples between fences, which name their language."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
