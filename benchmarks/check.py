"""What the check on the first batch costs: seconds beside those of building the explainer and of its first call."""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models

import lrp_tf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=[*models.MODELS, "xception"], nargs="+", default=["mnist", "resnet50", "xception"]
    )
    for name in parser.parse_args().model:
        model = keras.applications.Xception(weights=None) if name == "xception" else models.build(name)
        x = models.image(model, 2)
        model(x)  # the first call of the model itself does not count
        begin = time.perf_counter()
        explainer = lrp_tf.Explainer(model, check=False)
        explainer(x)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        found = explainer.check(x, print_fn=None)
        print(
            f"{name}: first call {first:.2f} s, check {time.perf_counter() - begin:.2f} s, holds: {bool(found)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
