"""What attacks give: kept as floats and as pictures of 8 bits, and judged from both as they are read back from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.evaluate.adversarial.attack import Attack, Attempt, margins
from lrp_tf.evaluate.adversarial.cases import Case
from lrp_tf.evaluate.adversarial.distances import NAMES, distances
from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.adversarial.store import IMAGES, Store

# The columns of attacks.csv.
COLUMNS = (
    "attack", "source", "label", "target", "success_float", "success_png", "margin_float", "margin_png",
    "class_float", "class_png", "logit_target_original", "logit_target_float", "logit_target_png",
    "p_label_original", "p_label_float", "p_target_float", "p_label_png", "p_target_png",
    *NAMES, *(f"{name}_png" for name in NAMES), "predictions", "gradients", "weight", "seconds",
)  # fmt: skip
FAILED = ("attack", "source", "label", "target", "stage", "margin_float", "margin_png", "reason")
LEVELS = 255


class Scale:
    """What pixels of 0 and 255 become in the input of a network: the box in which images are attacked."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 pixels as float32 values of the box."""
        span = np.float32(self.high) - np.float32(self.low)
        found = np.float32(self.low) + pixels.astype(np.float32) / np.float32(LEVELS) * span
        return np.clip(found, np.float32(self.low), np.float32(self.high))

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Values of the box as the nearest uint8 pixels."""
        share = (values.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip(np.rint(share * LEVELS), 0, LEVELS).astype(np.uint8)


def attack(
    store: Store,
    part: str,
    method: Attack,
    network: Network,
    scale: Scale,
    x: np.ndarray,
    cases: Sequence[Case],
    confidence: float,
) -> None:
    """Attack originals x [B, H, W, C], keep what comes out as floats and as pictures, and judge both."""
    done, reasons = _attempts(method, network, x, cases)
    found = np.stack([attempt.x for attempt in done.values()]).astype(np.float32) if done else x[:0]
    store.keep_arrays(part, {"x": found, "case": np.array(list(done), np.int64)})
    paths = [picture(store, method.name, cases[i]) for i in done]
    for path, values in zip(paths, found, strict=True):
        write_picture(path, scale.pixels(values))
    # As read back: what is judged is what others get.
    kept = store.arrays(part)["x"]
    seen = scale.values(np.stack([read_picture(path) for path in paths])) if done else kept
    judged = _judged(network, scale, x, kept, seen, done, cases, confidence) if done else {}
    store.finish(
        part,
        [
            {"attack": method.name, **case._asdict(), **(judged[i] if i in judged else {"reason": reasons[i]})}
            for i, case in enumerate(cases)
        ],
    )


def _attempts(
    method: Attack, network: Network, x: np.ndarray, cases: Sequence[Case]
) -> tuple[dict[int, Attempt], dict[int, str]]:
    """The attempts, and why there is none, by the number of the case."""
    target = np.array([case.target for case in cases])
    try:
        return dict(enumerate(method(network, x, target))), {}
    except ValueError:  # one image may spoil a batch: each by itself
        done, reasons = {}, {}
        for i in range(len(cases)):
            try:
                (done[i],) = method(network, x[i : i + 1], target[i : i + 1])
            except ValueError as error:
                reasons[i] = " ".join(str(error).split())
        return done, reasons


def _judged(
    network: Network,
    scale: Scale,
    x: np.ndarray,
    kept: np.ndarray,
    seen: np.ndarray,
    done: Mapping[int, Attempt],
    cases: Sequence[Case],
    confidence: float,
) -> dict[int, dict[str, Any]]:
    """What is in `COLUMNS` of each attempt, by the number of the case.

    Args:
        x: the originals. kept, seen: adversarial images [len(done), …] as floats, and as their pictures give them.
    """
    target = np.array([cases[i].target for i in done])
    originals, judged = x[list(done)], (("float", confidence), ("png", 0.0))
    before = network.logits(originals), network.probabilities(originals)
    both = [(values, network.logits(values), network.probabilities(values)) for values in (kept, seen)]
    found: dict[int, dict[str, Any]] = {}
    for row, (i, attempt) in enumerate(done.items()):
        case = cases[i]
        found[i] = {
            "logit_target_original": float(before[0][row, case.target]),
            "p_label_original": float(before[1][row, case.label]),
        }
        # The confidence is a reserve that rounding may use up.
        for (suffix, asked), (values, logits, probabilities) in zip(judged, both, strict=True):
            margin = float(margins(logits, target)[row])
            far = distances(x[i], values[row], low=scale.low, high=scale.high)
            found[i] |= {
                f"success_{suffix}": margin > 0 and margin >= asked,
                f"margin_{suffix}": margin,
                f"class_{suffix}": int(logits[row].argmax()),
                f"logit_target_{suffix}": float(logits[row, case.target]),
                f"p_label_{suffix}": float(probabilities[row, case.label]),
                f"p_target_{suffix}": float(probabilities[row, case.target]),
                **{name if suffix == "float" else f"{name}_png": value for name, value in far.items()},
            }
        found[i] |= {name: getattr(attempt, name) for name in ("predictions", "gradients", "weight", "seconds")}
    return found


def failures(rows: Sequence[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """What did not reach its target, as floats or in 8 bits, each with the reason."""
    wanted = f" by {confidence:g}" if confidence else ""
    found = []
    for row in rows:
        if "margin_float" not in row:
            reason, stage = row["reason"], "attack"
        elif not row["success_float"]:
            reason = f"the target's logit is not the largest{wanted}: its margin is {row['margin_float']:.4g}"
            stage = "attack"
        elif not row["success_png"]:
            reason = (
                f"rounding to 8 bits undoes it: the margin falls from {row['margin_float']:.4g} to "
                f"{row['margin_png']:.4g}, and the network says class {row['class_png']}"
            )
            stage = "png"
        else:
            continue
        found.append({**{name: row.get(name) for name in FAILED}, "stage": stage, "reason": reason})
    return found


def stem(name: str, case: Case) -> str:
    """The name of the files of a case, without their ending."""
    return f"{name}_to{case.target}_from{case.label}_image{case.source:05d}"


def picture(store: Store, name: str, case: Case) -> Path:
    """The path of an adversarial image of 8 bits."""
    return store.folder / IMAGES / f"{stem(name, case)}.png"


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 1] or [H, W, 3] as PNG."""
    coded = pixels[..., 0] if pixels.shape[-1] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", coded)
    assert done
    atomic(path, lambda temporary: temporary.write_bytes(data.tobytes()))


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 1] or [H, W, 3] of a PNG that `write_picture` wrote."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise OSError(f"{path}: expected a picture that was written just now. Received: none that can be read")
    return found[..., None] if found.ndim == 2 else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
