"""The samples with the highest scores, for each channel: kept while samples arrive, ties broken by sample id."""

from __future__ import annotations

import dataclasses

import numpy as np

NONE = -1  # id and position where fewer than n samples have been seen


@dataclasses.dataclass
class Ranking:
    """The n best samples of each channel, the best first.

    What is kept does not depend on the order in which samples arrive: of equal scores the lower id is the better one.

    Attributes:
        score: [C, n]; -Inf where there is no sample.
        sample: int64 [C, n], ids; -1 where there is none.
        place: int32 [C, n], the flat index of the position of the maximum; -1 where there is none.
    """

    score: np.ndarray
    sample: np.ndarray
    place: np.ndarray

    @classmethod
    def empty(cls, channels: int, n: int, dtype: str) -> Ranking:
        """A ranking without samples."""
        size = (channels, n)
        return cls(np.full(size, -np.inf, dtype), np.full(size, NONE, np.int64), np.full(size, NONE, np.int32))

    def add(self, score: np.ndarray, sample: np.ndarray, place: np.ndarray) -> None:
        """Take in more samples: score and place [C, m], sample [m] or [C, m]."""
        # Late in a stream hardly any sample is among the best of a channel.
        rows = np.flatnonzero(score.max(axis=1) >= self.score[:, -1])
        if not rows.size:
            return
        sample = np.broadcast_to(sample, score.shape)
        scores = np.concatenate([self.score[rows], score[rows]], axis=1)
        samples = np.concatenate([self.sample[rows], sample[rows]], axis=1)
        places = np.concatenate([self.place[rows], place[rows]], axis=1)
        best = np.lexsort((samples, -scores))[:, : self.score.shape[1]]
        for kept, values in ((self.score, scores), (self.sample, samples), (self.place, places)):
            kept[rows] = np.take_along_axis(values, best, axis=1)
