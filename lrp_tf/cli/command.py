"""What a command of `lrp-tf` brings to the parser; needs no TensorFlow."""

from __future__ import annotations

import argparse
from collections.abc import Callable

# What adds the options of a command, and its line in --help.
Command = tuple[Callable[[argparse.ArgumentParser], None], str]
