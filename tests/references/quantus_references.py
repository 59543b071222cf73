"""Writes quantus.npz: values of Quantus' metrics for the net and maps of quantus_net.py.

    python -m pip install torch==2.13.0 quantus==0.6.0 numpy==2.3.5
    python tests/references/quantus_references.py

(Quantus 0.6.0 calls np.trapz, which NumPy 2.4 no longer has.) Quantus is used through its public interface; none of its
code is copied. It is no dependency of lrp_tf or its tests. What Quantus draws at random is kept beside the values, so
that `test_quantus.py` compares the same sets of features.

One function a metric: it returns what to keep, `name` → values or `name.drawn` → random draws.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import quantus
import quantus_net as net
import torch

PATH = Path(__file__).with_name("quantus.npz")
Found = dict[str, np.ndarray]
REFERENCES: list[Callable[[], Found]] = []


class Torch(torch.nn.Module):
    """A function of NumPy arrays, channels last, as a torch module, channels first."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.function = function
        self.layer = torch.nn.Identity()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.from_numpy(self.function(np.moveaxis(x.numpy(), 1, -1))))


X, MAPS = (np.moveaxis(values, -1, 1) for values in (net.X, net.MAPS))
MASKS = net.MASKS[:, None]
COMMON = {"disable_warnings": True, "return_aggregate": False, "display_progressbar": False}


def reference(function: Callable[[], Found]) -> Callable[[], Found]:
    REFERENCES.append(function)
    return function


def by_sample(maps: np.ndarray) -> np.ndarray:
    """Each map divided by its own largest |R|; Quantus' default takes the largest of the batch."""
    return maps / np.abs(maps).reshape(len(maps), -1).max(axis=1).reshape(-1, *[1] * (maps.ndim - 1))


def values(
    metric: Callable[..., quantus.Metric],
    *,
    model: Callable[[np.ndarray], np.ndarray] = net.logits,
    maps: np.ndarray = MAPS,
    alone: bool = False,
    **options: object,
) -> np.ndarray:
    """A metric's values, one (or a row) a sample; alone: each sample in a batch of its own."""
    parts = [slice(i, i + 1) for i in range(len(X))] if alone else [slice(None)]
    found: list[float] = []
    for part in parts:
        made = metric(**COMMON, **options)
        found += list(
            made(
                model=Torch(model),
                x_batch=X[part].copy(),
                y_batch=net.Y[part],
                a_batch=maps[part].copy(),
                s_batch=MASKS[part].copy(),
                explain_func=explain,
                channel_first=True,
                softmax=False,
            )
        )
    return np.asarray(found, np.float64)


def explain(model: Torch, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.moveaxis(net.explain(np.moveaxis(inputs, 1, -1), targets), -1, 1)


@contextmanager
def recorded(name: str, step: float | None = None) -> Iterator[list[np.ndarray]]:
    """What np.random.<name> returns, call by call; rounded to multiples of a step, so that it is exact in float32."""
    original, drawn = getattr(np.random, name), []

    def record(*args: object, **options: object) -> np.ndarray:
        found = np.asarray(original(*args, **options))
        drawn.append(found if step is None else np.round(found / step) * step)
        return drawn[-1]

    np.random.seed(0)
    with mock.patch.object(np.random, name, record):
        yield drawn


@reference
def faithfulness_correlation() -> Found:
    with recorded("choice") as drawn:
        found = values(quantus.FaithfulnessCorrelation, nr_runs=20, subset_size=12)
    return {"faithfulness_correlation": found, "faithfulness_correlation.drawn": np.array(drawn, np.int16)}


@reference
def sensitivity_n() -> Found:
    """By the paper's definition, for which Quantus' faithfulness correlation is run at each n."""
    kept, parts = {}, []
    for n in (2, 10, 40):
        with recorded("choice") as drawn:
            parts.append(values(quantus.FaithfulnessCorrelation, nr_runs=10, subset_size=n))
        kept[f"sensitivity_n.drawn{n}"] = np.array(drawn, np.int16)
    return {"sensitivity_n": np.mean(parts, axis=0), **kept}


@reference
def faithfulness_estimate() -> Found:
    return {
        "faithfulness_estimate": values(quantus.FaithfulnessEstimate),
        "faithfulness_estimate4": values(quantus.FaithfulnessEstimate, features_in_step=4),
    }


@reference
def monotonicity_correlation() -> Found:
    with recorded("uniform") as drawn:
        found = values(quantus.MonotonicityCorrelation, nr_samples=3, features_in_step=4)
    return {"monotonicity_correlation": found, "monotonicity_correlation.drawn": np.array(drawn)}


@reference
def infidelity() -> Found:
    return {"infidelity": values(quantus.Infidelity, perturb_patch_sizes=[4], n_perturb_samples=1)}


@reference
def irof() -> Found:
    """One picture a batch (Quantus pads those with fewer superpixels by zeros, which counts half a step), one fill."""

    def probabilities(x: np.ndarray) -> np.ndarray:
        powers = np.exp(net.logits(x))
        return powers / powers.sum(axis=1, keepdims=True)

    return {"irof": values(quantus.IROF, model=probabilities, alone=True, perturb_baseline=0.25)}


@reference
def sufficiency() -> Found:
    return {"sufficiency": values(quantus.Sufficiency, threshold=0.88)}


@reference
def flipping() -> Found:
    """The scores of each step, [B, steps], or by how much they fell."""
    morf, lerf = ({"patch_size": 2, "regions_evaluation": 16, "order": order} for order in ("morf", "lerf"))
    return {
        "pixel_flipping": values(quantus.PixelFlipping, features_in_step=4),
        "selectivity": values(quantus.Selectivity, patch_size=2),
        "region_morf": values(quantus.RegionPerturbation, **morf),
        "region_lerf": values(quantus.RegionPerturbation, **lerf),
    }


@reference
def localisation() -> Found:
    return {
        "pointing_game": values(quantus.PointingGame),
        "relevance_mass": values(quantus.RelevanceMassAccuracy),
        "relevance_rank": values(quantus.RelevanceRankAccuracy),
        "top_k_intersection": values(quantus.TopKIntersection, k=10),
        "top_k_intersection_weighted": values(quantus.TopKIntersection, k=10, concept_influence=True),
        "attribution_localisation": values(quantus.AttributionLocalisation),
        "localisation_auc": values(quantus.AUC),
    }


@reference
def random_logit() -> Found:
    options = {"maps": explain(None, X, net.Y), "num_classes": net.CLASSES, "normalise": False}
    with recorded("randint") as drawn:
        found = values(quantus.RandomLogit, similarity_func=quantus.similarity_func.correlation_pearson, **options)
    return {"random_logit": found, "random_logit.drawn": np.array(drawn)[0]}


@reference
def randomisation() -> Found:
    """MPRT and eMPRT of a net whose layers Quantus makes anew; the maps of each stage are kept as `drawn`."""
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.Tanh(), torch.nn.Linear(12, net.CLASSES)]
    model = torch.nn.Sequential(*layers).eval()
    drawn: list[np.ndarray] = []

    def explain(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        x = torch.tensor(inputs, dtype=torch.float32, requires_grad=True)
        model(x)[torch.arange(len(x)), torch.tensor(targets)].sum().backward()
        return (x * x.grad).detach().numpy().astype(np.float64)

    def recorded(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        drawn.append(explain(model, inputs, targets))
        return drawn[-1]

    own = explain(model, X, net.Y)
    given = {"model": model, "x_batch": X.astype(np.float32), "y_batch": net.Y, "a_batch": own, "channel_first": True}
    given |= {"explain_func": recorded, "softmax": True}  # of eMPRT's scores beside its values
    pearson = quantus.similarity_func.correlation_pearson
    options = {"similarity_func": pearson, "normalise": False, "abs": False, "layer_order": "top_down"}
    found = quantus.MPRT(**options, **COMMON)(**given)
    # Quantus' own mean takes in the similarity of the maps to themselves.
    top_down = np.mean([found[name] for name in found if name != "original"], axis=0)
    stages = np.array(drawn[1:])  # first come the maps of the net as it was
    efficient = quantus.EfficientMPRT(normalise=False, **COMMON)(**given)
    kept = {"randomisation.own": own, "randomisation.drawn": stages, "randomisation.last": drawn[-1]}
    return {"randomisation_top_down": top_down, "randomisation_efficient": np.array(efficient), **kept}


@reference
def stability() -> Found:
    """The noise is so small that no prediction changes: Quantus makes such samples NaN."""
    found: Found = {}
    names = {
        "max_sensitivity": (quantus.MaxSensitivity, {}),
        "relative_input_stability": (quantus.RelativeInputStability, {"return_nan_when_prediction_changes": True}),
        "relative_output_stability": (quantus.RelativeOutputStability, {"return_nan_when_prediction_changes": True}),
    }
    for name, (metric, options) in names.items():
        with recorded("uniform", step=2.0**-20) as drawn:
            found[name] = values(
                metric,
                maps=explain(None, X, net.Y),
                nr_samples=5,
                normalise=False,
                abs=False,
                perturb_func=lambda arr, **_: arr + np.random.uniform(-(2.0**-6), 2.0**-6, arr.shape),
                **options,
            )
        found["stability.drawn"] = np.array(drawn)  # the same for each
    return found


@reference
def complexity() -> Found:
    few = np.where(np.abs(MAPS) < 0.5, 1e-7 * MAPS, MAPS)
    return {
        "sparseness": values(quantus.Sparseness, normalise_func=by_sample),
        "complexity": values(quantus.Complexity, normalise_func=by_sample),
        "effective_complexity": values(quantus.EffectiveComplexity, maps=few, normalise_func=by_sample),
    }


@reference
def completeness() -> Found:
    """Of a linear model's contributions, exact for the first two samples."""
    maps = np.moveaxis(net.contributions(net.X, net.Y), -1, 1)
    maps[2:] *= 0.5
    options = {"model": net.linear, "maps": maps, "normalise": False, "perturb_baseline": 0.0}
    return {"completeness": values(quantus.Completeness, **options)}


@reference
def non_sensitivity() -> Found:
    few = np.where(np.abs(MAPS) < 0.25, 1e-7 * MAPS, MAPS)
    return {"non_sensitivity": values(quantus.NonSensitivity, maps=few, normalise_func=by_sample)}


def main() -> None:
    warnings.simplefilter("ignore")
    found: Found = {}
    for function in REFERENCES:
        found |= function()
    packages = ("quantus", "torch", "numpy", "scipy", "scikit-image")
    found["versions"] = np.array([f"{name} {metadata.version(name)}" for name in packages])
    np.savez_compressed(PATH, **found)
    for name, value in found.items():
        if "drawn" not in name:
            print(name, value, file=sys.stderr)
    print(PATH.stat().st_size, "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
