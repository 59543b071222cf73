"""Modules of the extras `evaluate` and `tune`, imported where they are used: `import lrp_tf.evaluate` needs none."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional(module: str, extra: str = "evaluate") -> ModuleType:
    """The module of this name, such as "scipy.stats".

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'Expected {module}, which comes with the extra "{extra}". Received: {error}. '
            f'Remedy: pip install "lrp_tf[{extra}]"',
            name=module,
        ) from error
