"""bfloat16 where it pays: whether the machine computes it faster, and at which steps."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from lrp_tf.core import linear
from lrp_tf.core.graph import Graph, Shape, Step, shape_text
from lrp_tf.core.protocol import Handler

_GPU_CAPABILITY = (8, 0)


class Limits(NamedTuple):
    """From how many multiply-adds for each entry read, written or cast a convolution is faster in bfloat16."""

    sums: float
    shares: float


# On a CPU with avx512_bf16, one image at a time, MobileNet is fastest with these, and ResNet50 within a few per cent
# (docs/speed.md). AMX saves more for each multiply-add, while casts cost the same, so that the same limits are on the
# safe side there. On a GPU nothing was measured.
LIMITS = Limits(60, 30)

# Below this many multiply-adds a sample, the time goes into starting operations.
LEAST_WORK = 5e6


class Choice(NamedTuple):
    """What computes in bfloat16.

    Attributes:
        sums: the steps whose denominators do.
        shares: the steps whose relevance is shared out in it; all of `sums` and more.
        texts: for every step with a kernel, what its rule computes in, and why where that is float32.
    """

    sums: frozenset[Step] = frozenset()
    shares: frozenset[Step] = frozenset()
    texts: dict[Step, str] = {}  # noqa: RUF012


def kind() -> str | None:
    """What computes bfloat16 fast on this machine: "amx_bf16", "avx512_bf16" or "GPU"; or None."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return "GPU" if _capability(gpus[0]) >= _GPU_CAPABILITY else None
    flags = _cpu_flags()
    if flags is None or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return None
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


def obstacle() -> str | None:
    """Why bfloat16 does not pay on this machine, or None."""
    if kind() is not None:
        return None
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return f"its GPU has compute capability {_capability(gpus[0])}, below 8.0"
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return "TF_ENABLE_ONEDNN_OPTS=0 switches TensorFlow's fast convolutions off"
    if _cpu_flags() is None:
        return "what its CPU can do is unknown"
    return "its CPU has neither avx512_bf16 nor amx_bf16"


def _capability(gpu: tf.config.PhysicalDevice) -> tuple[int, int]:
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))


def _cpu_flags() -> set[str] | None:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return None


def where_compiled(fast: str | None, xla: bool) -> str | None:
    """`fast`, unless XLA compiles for a CPU, where it widens bfloat16 to float32: "auto" then chooses nothing.

    Raises:
        ValueError: fast="bfloat16" with XLA on a CPU.
    """
    if not xla or fast not in ("bfloat16", "auto") or tf.config.list_physical_devices("GPU"):
        return fast
    if fast == "bfloat16":
        raise ValueError(
            'fast="bfloat16" would be slower than float32 here: jit_compile compiles with XLA, which widens bfloat16 '
            "to float32 on CPUs. Remedy: leave jit_compile or fast out."
        )
    return None


def counted(graph: Graph, fast: str | None) -> str:
    """For the repr of an explainer: how many steps with a kernel compute in bfloat16; empty without `fast`."""
    if fast is None:
        return ""
    kernels = [step.marks for step in graph.steps if step.linear is not None and step.signals]
    return f", fast={fast!r}: bfloat16 at {sum(marks.bfloat16_shares for marks in kernels)} of {len(kernels)} kernels"


def chosen(graph: Graph, handlers: dict[Step, Handler], fast: str | None) -> Choice:
    """The convolutions whose rule bears bfloat16 and which are faster in it; none, unless `fast` is given.

    Raises:
        ValueError: an unknown `fast`; with "bfloat16", a machine, model or composite where nothing would be faster.
    """
    if fast is None:
        return Choice()
    if fast not in ("bfloat16", "auto"):
        raise ValueError(f'fast expects "bfloat16", "auto" or None. Received: {fast!r}')
    reason = obstacle()
    if reason is not None and fast == "bfloat16":
        raise ValueError(
            f'fast="bfloat16" would be slower than float32 on this machine: {reason}. '
            'Remedy: fast="auto", which computes in float32 here, or leave it out.'
        )
    kernels = {step: rule for step, rule in handlers.items() if step.linear is not None and step.signals}
    if reason is not None:
        return Choice(texts=dict.fromkeys(kernels, f"{graph.dtype}: {reason}"))
    doubts = {step: _doubt(graph, step, rule) for step, rule in kernels.items()}
    shares = frozenset(step for step, doubt in doubts.items() if doubt is None)
    sums = frozenset(
        step for step in shares if "sums" in handlers[step].bears_bfloat16 and intensity(step) >= LIMITS.sums
    )
    if not shares and fast == "bfloat16":
        raise ValueError(_nothing_gained(doubts))
    texts = {step: f"{graph.dtype}: {doubt}" for step, doubt in doubts.items()}
    texts |= {step: "bfloat16" if step in sums else "bfloat16, denominators in float32" for step in shares}
    return Choice(sums, shares, texts)


def _nothing_gained(doubts: dict[Step, str | None]) -> str:
    """Why no step of a model would be faster: for its largest convolution, or the first step."""
    step = max(doubts, key=lambda step: _work(step) if is_plain(step) and _is_known(step) else 0, default=None)
    example = "none with a kernel" if step is None else f"{step.path!r} ({step.operation}): {doubts[step]}"
    return (
        'fast="bfloat16" would make nothing faster: no convolution of this model both bears it under its rule and is '
        f'large enough. Received: {example}. Remedy: fast="auto", which computes in float32 here, or leave it out.'
    )


def _doubt(graph: Graph, step: Step, rule: Handler) -> str | None:
    """Why a step is not faster in bfloat16, or does not bear it; else None."""
    if graph.dtype != "float32":
        return f"the model computes in {graph.dtype}"
    if not is_plain(step):
        return "only plain 2-D convolutions are faster"
    if "shares" not in rule.bears_bfloat16:
        return f"{type(rule).__name__} does not bear bfloat16"
    if not _is_known(step):
        return f"the size of its output is open, {shape_text(step.outputs[0].shape)}"
    if _work(step) < LEAST_WORK:
        return f"{_work(step) / 1e6:.1f} million multiply-adds are too few, below {LEAST_WORK / 1e6:.0f}"
    if intensity(step) < LIMITS.shares:
        return f"{intensity(step):.0f} multiply-adds for each entry are too few, below {LIMITS.shares:.0f}"
    return None


def is_plain(step: Step) -> bool:
    """Whether a step is one 2-D convolution with channels last, neither depthwise nor in groups nor dilated."""
    entry, op = step.linear, step.op
    if entry is None or step.parts or not (entry.convolution and entry.mixes) or len(step.outputs[0].shape) != 3:
        return False
    whole = step.inputs[step.signals[0]].shape[-1] == kernel_shape(step)[-2]
    return whole and not linear.channels_first(op) and max(linear.each(op.dilation_rate, 2)) == 1


def _is_known(step: Step) -> bool:
    return None not in (*step.inputs[step.signals[0]].shape, *step.outputs[0].shape)


def kernel_shape(step: Step) -> Shape:
    """The kernel of a layer, or the tensor that an operation of keras.ops reads as its kernel."""
    if step.entry.kernel is not None:
        return tuple(step.op.kernel.shape)
    (shape,) = (ref.shape for i, ref in enumerate(step.inputs) if i not in step.signals and ref is not step.addend)
    return shape


def _work(step: Step) -> int:
    """Multiply-adds for a sample."""
    return _product(step.outputs[0].shape) * _product(kernel_shape(step)[:-1])


def intensity(step: Step) -> float:
    """Multiply-adds for each entry of input, output and kernel, of a single sample; of a batch it is higher."""
    shapes = step.inputs[step.signals[0]].shape, step.outputs[0].shape, kernel_shape(step)
    return _work(step) / sum(map(_product, shapes))


def _product(shape: Shape) -> int:
    return math.prod(size or 0 for size in shape)  # sizes that are open are refused before
