"""How many threads this process works with: those of TensorFlow, of OpenCV, and those that read files."""

from __future__ import annotations

import os

from lrp_tf.files.errors import LoadError

_READERS = 16  # at most: more wait for one another
_limit: list[int] = []  # the last one counts


def limit(count: int) -> None:
    """Work with at most `count` threads of each kind, so that several processes may share a machine.

        threads.limit(4)    # before TensorFlow computes anything

    Raises:
        LoadError: TensorFlow has begun with another number already.
    """
    import cv2
    import tensorflow as tf

    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(count)
    except RuntimeError as error:
        now = threading.get_intra_op_parallelism_threads() or "all"
        raise LoadError(
            f"`threads` {count}: TensorFlow has begun with {now} already. "
            "Expected to be asked before it computes anything. Remedy: a new process",
            "threads",
        ) from error
    cv2.setNumThreads(count)
    _limit.append(count)


def readers() -> int:
    """How many threads read files."""
    return min(os.cpu_count() or 1, _READERS, *_limit[-1:])
