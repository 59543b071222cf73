"""Earth mover's distance between relevance and the object: how far relevance would have to move."""

from __future__ import annotations

import numpy as np

from lrp_tf.core.counts import is_whole
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.localisation import by_position
from lrp_tf.evaluate.metric import metric

# OpenCV's solver is exact up to rounding in float32, and the fastest one; beyond this many pairs of positions it ends
# early with larger distances, so that a linear program takes its place.
_PAIRS = 16_384


@metric("localisation", better="higher", paper="Clark et al. 2023", needs=("masks",))
def earth_movers_distance(case: Case, *, part: str = "positive", block: int = 1) -> np.ndarray:
    """1 - d / D: d the mean way, as the crow flies, that relevance has to move to lie evenly on the object.

    D is the way from one corner of the picture to the opposite one; 1 is best. Relevance is divided by its sum. The
    distance is exact, up to 1e-6. Pictures of 64 x 64 take minutes each: use blocks there.

    Args:
        part: of the relevance of a position: "positive", or "absolute" as in the paper.
        block: positions are first summed in blocks of so many a side, which the sides must be multiples of. It changes
            d by less than two diagonals of a block.

    Raises:
        ValueError: part "signed", which is no mass; blocks that do not fit.
    """
    if part == "signed":
        raise ValueError("part expects 'positive' or 'absolute': negative relevance is no mass. Received: 'signed'")
    relevance, mask, defined = by_position(case, part)
    assert case.masks is not None  # as Metric checked
    shape = case.masks.shape[1:]
    if not is_whole(block) or block < 1 or any(side % block for side in shape):
        raise ValueError(f"block expects a whole number that divides the sides {shape}. Received: {block!r}")
    places = np.stack(np.meshgrid(*[np.arange(side // block) for side in shape], indexing="ij"), -1) * float(block)
    places = places.reshape(-1, len(shape))
    farthest = float(np.linalg.norm(np.asarray(shape) - 1.0))
    found = np.full(len(case), np.nan)
    for row in np.flatnonzero(defined):
        mass, aim = (_blocks(values[row].reshape(shape), block) for values in (relevance, mask.astype(np.float64)))
        found[row] = 1 - distance(mass / mass.sum(), aim / aim.sum(), places) / (farthest or 1.0)
    return found


def _blocks(values: np.ndarray, block: int) -> np.ndarray:
    sides = [part for side in values.shape for part in (side // block, block)]
    return values.reshape(sides).sum(axis=tuple(range(1, 2 * values.ndim, 2))).ravel()


def distance(mass: np.ndarray, aim: np.ndarray, places: np.ndarray) -> float:
    """The earth mover's distance between two distributions [P] over places [P, dimensions].

    Args:
        mass, aim: not negative, each of sum 1.
    """
    # What lies where it is wanted stays, by the triangle inequality: only the rest has to be moved.
    stays = np.minimum(mass, aim)
    rest = float(1 - stays.sum())
    if rest < 1e-12:
        return 0.0
    sources, sinks = mass > stays, aim > stays
    given, wanted = (mass - stays)[sources] / rest, (aim - stays)[sinks] / rest
    if len(given) * len(wanted) > _PAIRS:
        return rest * _by_program(given, wanted, places[sources], places[sinks])
    import cv2  # heavy

    here = np.concatenate([given[:, None], places[sources]], axis=1).astype(np.float32)
    there = np.concatenate([wanted[:, None], places[sinks]], axis=1).astype(np.float32)
    return rest * float(cv2.EMD(here, there, cv2.DIST_L2)[0])


def _by_program(given: np.ndarray, wanted: np.ndarray, sources: np.ndarray, sinks: np.ndarray) -> float:
    """The same by a linear program."""
    sparse, optimize = optional("scipy.sparse"), optional("scipy.optimize")
    n, m = len(given), len(wanted)
    costs = np.linalg.norm(sources[:, None] - sinks[None], axis=-1).ravel()
    leaves = sparse.kron(sparse.eye_array(n), np.ones((1, m)))
    arrives = sparse.kron(np.ones((1, n)), sparse.eye_array(m))
    # The last equation follows from the others, and rounding would contradict it.
    equations, values = sparse.vstack([leaves, arrives]).tocsr()[:-1], np.concatenate([given, wanted])[:-1]
    found = optimize.linprog(costs, A_eq=equations, b_eq=values, method="highs")
    if found.status != 0:
        raise RuntimeError(f"the linear program of the earth mover's distance failed: {found.message}")
    return float(found.fun)
