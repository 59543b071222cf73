"""Reference samples of channels that were drawn for one atlas and serve the next, in bounded memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from lrp_tf.concepts.crops import Crop

BYTES = 128_000_000


class Kept:
    """What one channel shows of its reference samples; those that were not asked for the longest give way first.

    Args:
        limit: in bytes of pictures.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._owners: tuple[object, ...] = ()
        self._found: collections.OrderedDict[int, tuple[list[Crop], int]] = collections.OrderedDict()

    def serve(self, *owners: object) -> None:
        """Begin anew, unless the crops that are held were made for the same objects: an explainer, names of classes."""
        if len(owners) != len(self._owners) or any(a is not b for a, b in zip(owners, self._owners, strict=True)):
            self.clear()
            self._owners = owners

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self.bytes, self._owners = 0, ()

    def get(self, channel: int, count: int, make: Callable[[], Sequence[Crop]]) -> Sequence[Crop]:
        """The dimmed crops of a channel; `make` is called where they are not held.

        Args:
            count: of samples. Where a file could not be read, which may pass, there are fewer, which are not held.
        """
        if channel in self._found:
            self._found.move_to_end(channel)
            return self._found[channel][0]
        made = make()
        if len(made) < count:
            return made
        held = []
        for crop in made:  # they are views of whole pictures
            shown = (crop.plain if crop.masked is None else crop.masked).copy()
            held.append(Crop(shown, None if crop.masked is None else shown, crop.label))
        size = sum(crop.plain.nbytes for crop in held)
        self._found[channel] = (held, size)
        self.bytes += size
        while self.bytes > self.limit:
            self.bytes -= self._found.popitem(last=False)[1][1]
        return held
