"""What TensorFlow's allocators hold at most during a call, above what they held before: from its own profiler.

The memory of the process tells less: the allocators keep what they once had, for instance to build the model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

MIB = 2**20


def growth(function: Callable, x: tf.Tensor) -> float:
    """MiB that `function(x)` adds at its peak, beside weights and inputs. Small blocks do not count."""
    for _ in range(2):
        np.asarray(function(x))
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        np.asarray(function(x))
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    found = 0.0
    for events in _by_allocator(space).values():
        _, name, first = min(events, key=lambda event: event[0])
        before = first["bytes_allocated"] - (first["allocation_bytes"] if name == "MemoryAllocation" else 0)
        found += max(held["bytes_allocated"] for _, _, held in events) - before
    if not found:
        raise RuntimeError("TensorFlow's profiler recorded no allocation.")
    return found / MIB


def _by_allocator(space: Any) -> dict[str, list[tuple[int, str, dict[str, Any]]]]:
    """Allocator -> (time, event, its numbers)."""
    events: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
    for time, name, stats in _memory_events(space):
        events.setdefault(stats["allocator_name"], []).append((time, name, stats))
    return events


def _memory_events(space: Any) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for plane in space.planes:
        names = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name in ("MemoryAllocation", "MemoryDeallocation"):
                    stats = {names[stat.metadata_id]: _value(stat, names) for stat in event.stats}
                    yield line.timestamp_ns * 1000 + event.offset_ps, name, stats


def _value(stat: Any, names: dict[int, str]) -> Any:
    kind = stat.WhichOneof("value")
    return names[stat.ref_value] if kind == "ref_value" else getattr(stat, kind)
