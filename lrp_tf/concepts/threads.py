"""How many threads scikit-learn gets for data of a size."""

from __future__ import annotations

import contextlib

from lrp_tf.evaluate.extras import optional

EXTRA = "concepts"
_FEW = 2000  # samples below which one thread is as fast as several, and many times faster where others work too


def threads_for(samples: int) -> contextlib.AbstractContextManager:
    """A context in which scikit-learn fits few samples with one thread, and many with all.

    Raises:
        ImportError: threadpoolctl, which scikit-learn brings, is missing.
    """
    if samples >= _FEW:
        return contextlib.nullcontext()
    return optional("threadpoolctl", EXTRA).threadpool_limits(1)
