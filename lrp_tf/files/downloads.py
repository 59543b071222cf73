"""Files that Keras downloads: where they come from, where they are cached, and a time limit for a silent server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import keras

from lrp_tf.files.errors import LoadError

TIMEOUT = 10.0  # in seconds; without one a download hangs when packets are dropped


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that Keras downloads once and caches."""

    url: str

    @property
    def cached(self) -> Path:
        """Where Keras keeps the file."""
        home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
        return Path(home) / "models" / self.url.rsplit("/", 1)[-1]

    def check(self) -> None:
        """Ask the server for the file, unless it is cached.

        Raises:
            LoadError: the server refuses, or does not answer within `TIMEOUT` seconds.
        """
        if self.cached.is_file():
            return
        try:
            request = urllib.request.Request(self.url, method="HEAD")
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                return
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", None) or error
            raise LoadError(f"{self.url} cannot be reached ({reason})") from error

    def fetch(self) -> Path:
        """The cached file, downloaded first if necessary.

        Raises:
            LoadError: see `check`.
        """
        self.check()
        with time_limit():
            return Path(keras.utils.get_file(self.cached.name, self.url, cache_subdir="models"))


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Apply `TIMEOUT` to sockets that others open, such as those of Keras."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
IMAGENET = {
    name: Download(f"{_KERAS}{name}/{name}_weights_tf_dim_ordering_tf_kernels.h5") for name in ("vgg16", "vgg19")
}
CLASS_INDEX = Download("https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json")
