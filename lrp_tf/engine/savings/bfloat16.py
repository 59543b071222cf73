"""bfloat16 for the convolutions that bear it: where the machine computes it faster, and at which steps."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from lrp_tf.core.graph import Step
from lrp_tf.core.protocol import Handler

_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_GPU_CAPABILITY = (8, 0)


def obstacle() -> str | None:
    """Why bfloat16 does not pay on this machine, or None."""
    for gpu in tf.config.list_physical_devices("GPU"):
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return None if capability >= _GPU_CAPABILITY else f"its GPU has compute capability {capability}, below 8.0"
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "what its CPU can do is unknown"
    return None if flags & _CPU_FLAGS else "its CPU has neither avx512_bf16 nor amx_bf16"


def chosen(handlers: dict[Step, Handler], fast: str | None) -> set[Step]:
    """The convolutions whose rule has contributions of one sign, so that nothing cancels; none, unless `fast` is given.

    Raises:
        ValueError: an unknown `fast`, a machine where it does not pay, or no such convolution.
    """
    if fast is None:
        return set()
    if fast != "bfloat16":
        raise ValueError(f'fast expects "bfloat16" or None. Received: {fast!r}')
    reason = obstacle()
    if reason is not None:
        raise ValueError(f'fast="bfloat16" would be slower than float32 on this machine: {reason}. Leave it out.')
    found = {s for s, rule in handlers.items() if s.linear is not None and s.linear.convolution and rule.one_sided}
    if not found:
        raise ValueError(
            'fast="bfloat16" concerns convolutions under ZPlus only, as in the presets epsilon_plus and '
            "epsilon_plus_flat. Received: a model and composite without any."
        )
    return found
