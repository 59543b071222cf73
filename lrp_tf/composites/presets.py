"""The named presets, and the door by which a user adds one."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

from lrp_tf import flows, rules
from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.composite import Composite, Entry
from lrp_tf.composites.convolutional import (
    convolutions,
    dense_like,
    first_convolution,
    first_half_of_convolutions,
    first_quarter_of_convolutions,
)
from lrp_tf.composites.kinds import contractions, max_pooling, products, quotients
from lrp_tf.composites.match import activation, first, last
from lrp_tf.rules.boxes import Bound

Stabilizer = float | rules.Relative
Preset = Callable[..., list[Entry] | Composite]
_F = TypeVar("_F", bound=Preset)


def _preset(convolution: rules.Rule, dense: rules.Rule, ahead: tuple[Entry, ...] = ()) -> list[Entry]:
    return [*ahead, (dense_like(), dense), (convolutions(), convolution), (None, dense)]


def _epsilon(epsilon: Stabilizer = 1e-6, zero_bias: bool = False) -> list[Entry]:
    dense = rules.Epsilon(epsilon, zero_bias)
    return _preset(dense, dense)


def _epsilon_plus(
    epsilon: Stabilizer = 1e-6, stabilizer: Stabilizer = 1e-6, zero_bias: bool = False, when_empty: str = "absorb"
) -> list[Entry]:
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_plus_flat(
    epsilon: Stabilizer = 1e-6, stabilizer: Stabilizer = 1e-6, zero_bias: bool = False, when_empty: str = "absorb"
) -> list[Entry]:
    flat = (first_convolution(), rules.Flat(stabilizer))
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (flat,))


def _epsilon_alpha2_beta1(
    epsilon: Stabilizer = 1e-6, stabilizer: Stabilizer = 1e-6, zero_bias: bool = False, when_empty: str = "absorb"
) -> list[Entry]:
    return _preset(rules.AlphaBeta(2.0, 1.0, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_alpha2_beta1_flat(
    epsilon: Stabilizer = 1e-6, stabilizer: Stabilizer = 1e-6, zero_bias: bool = False, when_empty: str = "absorb"
) -> list[Entry]:
    return [
        (first_convolution(), rules.Flat(stabilizer)),
        *_epsilon_alpha2_beta1(epsilon, stabilizer, zero_bias, when_empty),
    ]


def _epsilon_gamma_box(
    low: Bound,
    high: Bound,
    gamma: float = 0.25,
    epsilon: Stabilizer = 1e-6,
    stabilizer: Stabilizer = 1e-6,
    zero_bias: bool = False,
    when_empty: str = "absorb",
) -> list[Entry]:
    box = (first(), InputZBox(low, high, stabilizer))
    return _preset(rules.Gamma(gamma, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (box,))


def _epsilon_gamma_wsquare(
    gamma: float = 1.0,
    epsilon: Stabilizer = 1e-6,
    stabilizer: Stabilizer = 1e-6,
    zero_bias: bool = False,
    when_empty: str = "absorb",
) -> list[Entry]:
    """For depthwise nets: where few inputs meet and BatchNormalization is folded, w² alone tells how to share."""
    dense = rules.Epsilon(epsilon, zero_bias)
    return [
        (dense_like(), dense),
        (first_quarter_of_convolutions(), rules.WSquare(stabilizer)),
        (convolutions(), rules.Gamma(gamma, stabilizer, zero_bias, when_empty)),
        (None, dense),
    ]


_RELATIVE = rules.Relative(0.25)


def _tutorial(
    low: Bound,
    high: Bound,
    gamma: float = 0.25,
    epsilon: Stabilizer = _RELATIVE,
    stabilizer: Stabilizer = 1e-6,
    zero_bias: bool = False,
    when_empty: str = "absorb",
    flow_epsilon: Stabilizer | None = None,
) -> list[Entry]:
    pooling = flows.MaxAsAverage()
    return [
        (first(), InputZBox(low, high, stabilizer)),
        (first_half_of_convolutions(), rules.Gamma(gamma, stabilizer, zero_bias, when_empty)),
        (convolutions(), rules.Epsilon(epsilon, zero_bias)),
        (None, rules.Zero(stabilizer, zero_bias)),
        (max_pooling(), pooling if flow_epsilon is None else pooling.with_stabilizer(flow_epsilon)),
    ]


def _attn_lrp(
    epsilon: Stabilizer = 1e-9,
    gamma: float | None = None,
    zero_bias: bool = False,
    when_empty: str = "absorb",
    flow_epsilon: Stabilizer | None = None,
) -> Composite:
    """AttnLRP (Achtibat et al. 2024): every product of signals shares half and half, the softmax is expanded."""
    linear = _linear_of_transformers(epsilon, gamma, zero_bias, when_empty)
    softmax: Entry = (activation("softmax"), flows.TaylorSoftmax())
    return _transformer([softmax], "share", linear, epsilon if flow_epsilon is None else flow_epsilon)


def _cp_lrp(
    epsilon: Stabilizer = 1e-9,
    gamma: float | None = None,
    zero_bias: bool = False,
    when_empty: str = "absorb",
    flow_epsilon: Stabilizer | None = None,
) -> Composite:
    """CP-LRP (Ali et al. 2022): the weights of an attention are held, and silu(g) in the gated MLP silu(g) u."""
    linear = _linear_of_transformers(epsilon, gamma, zero_bias, when_empty)
    return _transformer([], "activated", linear, epsilon if flow_epsilon is None else flow_epsilon)


def _transformer(ahead: list[Entry], gates: str, linear: list[Entry], flow_epsilon: Stabilizer) -> Composite:
    """Products by `gates`, see `flows.Product`; a denominator is a signal like others."""
    entries: list[Entry] = [
        (contractions(), flows.Contraction(stabilizer=flow_epsilon, gates=gates)),
        (products(), flows.Product(gates=gates)),
        (quotients(), flows.Quotient(gates="share")),
    ]
    return Composite([*ahead, *entries, *linear], flow_epsilon=flow_epsilon)


def _linear_of_transformers(epsilon: Stabilizer, gamma: float | None, zero_bias: bool, when_empty: str) -> list[Entry]:
    """Epsilon; with `gamma`, Gamma on all but the last."""
    dense = rules.Epsilon(epsilon, zero_bias)
    if gamma is None:
        return [(None, dense)]
    return [(last(), dense), (None, rules.Gamma(gamma, epsilon, zero_bias, when_empty))]


def _gradient() -> list[Entry]:
    return [(None, rules.Jacobian()), (None, flows.Derivative())]


def _guided_backprop() -> list[Entry]:
    return [(activation(name), flows.Guided()) for name in ("relu", "relu6")] + _gradient()


def _deconvnet() -> list[Entry]:
    return [(activation(name), flows.Deconvolved()) for name in ("relu", "relu6")] + _gradient()


PRESETS: dict[str, Preset] = {
    "epsilon": _epsilon,
    "epsilon_plus": _epsilon_plus,
    "epsilon_plus_flat": _epsilon_plus_flat,
    "epsilon_alpha2_beta1": _epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": _epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": _epsilon_gamma_box,
    "epsilon_gamma_wsquare": _epsilon_gamma_wsquare,
    "tutorial": _tutorial,
    "attn_lrp": _attn_lrp,
    "cp_lrp": _cp_lrp,
}
# What LRP is compared with, known to `get` by name: gradients, which conserve nothing. See `lrp_tf.gradients`.
GRADIENTS: dict[str, Preset] = {
    "gradient": _gradient,
    "guided_backprop": _guided_backprop,
    "deconvnet": _deconvnet,
}
# Those made for transformers. Epsilon with a tiny epsilon amplifies rounding in deep convolutional nets.
FOR_TRANSFORMERS = ("attn_lrp", "cp_lrp")
_BUILT_IN = frozenset(PRESETS | GRADIENTS)
_FLOW_EPSILON = "flow_epsilon"  # an option of every preset
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


@overload
def register(name: str, *, overwrite: bool = ...) -> Callable[[_F], _F]: ...
@overload
def register(name: str, function: _F, *, overwrite: bool = ...) -> _F: ...
def register(name: str, function: _F | None = None, *, overwrite: bool = False) -> _F | Callable[[_F], _F]:
    """Make a preset of your own known by name to `get`, `Explainer`, `PRESETS` and the command line.

        @composites.register("gamma_everywhere")
        def gamma_everywhere(gamma=0.25, epsilon=1e-6):
            return [(composites.dense_like(), rules.Epsilon(epsilon)), (None, rules.Gamma(gamma))]

        lrp_tf.Explainer(model, "gamma_everywhere", gamma=0.5)

    A name that a user registered before is replaced silently, as by `keras.saving.register_keras_serializable`, so that
    a cell of a notebook can run twice. A built-in preset is replaced only with `overwrite=True`.
    `lrp-tf --import MODULE` imports the module that registers.

    Args:
        name: letters, digits, "_" and "-".
        function: takes options by keyword and returns a list of entries, (match, rule), or a `Composite`. If `low`
            and `high` are among its options without a default, the preset needs the bounds of the input.
        overwrite: whether a built-in preset may be replaced.

    Returns:
        `function`; without it, a decorator.

    Raises:
        TypeError: no function, or one with positional-only parameters, *args or **kwargs.
        ValueError: a name with other characters, or that of a built-in preset.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d][\w-]*", name):
        raise ValueError(
            "register expects the name of a preset, of letters, digits, _ and -, as in register('gamma_everywhere'). "
            f"Received: {name!r}"
        )
    if name in _BUILT_IN and not overwrite:
        raise ValueError(
            f"{name!r} is a built-in preset. Expected another name. Received: register({name!r}). "
            f"Remedy, if it is to be replaced: register({name!r}, overwrite=True)"
        )

    def keep(function: _F) -> _F:
        if not callable(function) or isinstance(function, Composite):
            raise TypeError(
                "register expects a function that takes options and returns a list of (match, rule) or a Composite. "
                f"Received: {function!r}"
            )
        if closed := [str(p) for p in inspect.signature(function).parameters.values() if p.kind in _OPEN]:
            raise TypeError(
                f"The options of preset {name!r} are the parameters of its function, each given by keyword. Expected "
                f"named parameters. Received: {', '.join(closed)}"
            )
        PRESETS[name] = function
        return function

    return keep if function is None else keep(function)


def _known() -> dict[str, Preset]:
    return GRADIENTS | PRESETS


def needs_bounds(name: str) -> bool:
    """Whether the preset must be given `low` and `high`, the bounds of the model's input."""
    return {"low", "high"} <= set(_required(name))


def _required(name: str) -> list[str]:
    parameters = inspect.signature(_known()[name]).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def get(identifier: str | Composite | rules.Rule, **options: object) -> Composite:
    """A composite from a preset's name, a `Composite`, or one `Rule` for every linear step.

        composites.get("epsilon_gamma_box", low=0.0, high=1.0)

    Args:
        identifier: one of `PRESETS`, or an instance; or a gradient to compare with: "gradient", "guided_backprop" or
            "deconvnet", see `lrp_tf.gradients`.
        **options: of the preset: `epsilon` (of Epsilon), `stabilizer` (of the other rules), `zero_bias`, `when_empty`
            (see `rules.AlphaBeta`), `gamma`; `low` and `high`, the bounds of the model's input as fed, numbers or one
            per channel. Every preset takes `flow_epsilon`, the stabilizer of the built-in flows, see `Composite`.
            Without it, an `epsilon` that is not the default of a built-in preset reaches the flows too.

    Raises:
        ValueError: an unknown name, or bounds that are missing.
        TypeError: neither name, composite nor rule, or an option that the preset does not take.
    """
    if isinstance(identifier, str):
        _check_name(identifier)
        _check_options(identifier, options)
        return _made(identifier, _reaching_flows(identifier, options))
    if options:
        raise TypeError(
            f"Options go with a preset's name, as in get('epsilon', epsilon=0.1); an instance has its own. Expected no "
            f"options beside {identifier!r}. Received: {sorted(options)}"
        )
    if isinstance(identifier, Composite):
        return identifier
    if isinstance(identifier, rules.Rule):
        return Composite([(None, identifier)], repr(identifier))
    hint = f" Did you mean {identifier.__name__}()?" if isinstance(identifier, type) else ""
    raise TypeError(f"Expected a composite's name, a Composite or a Rule. Received: {identifier!r}.{hint}")


def _check_name(name: str) -> None:
    if name in _known():
        return
    near = difflib.get_close_matches(name, _known(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if name.endswith(".toml"):
        hint = f" Remedy: composites.load({name!r})"
    elif ":" in name:
        hint = f" Remedy, if it is the text of a composite: composites.parse({name!r})"
    raise ValueError(f"Unknown composite. Expected one of {[*PRESETS, *GRADIENTS]}. Received: {name!r}.{hint}")


def _check_options(name: str, options: dict[str, object]) -> None:
    known = {**inspect.signature(_known()[name]).parameters, **({_FLOW_EPSILON: None} if name in PRESETS else {})}
    if unknown := sorted(set(options) - set(known)):
        taken = f"the options {', '.join(known)}" if known else "no options"
        raise TypeError(f"Composite {name!r} takes {taken}. Received: {unknown}")
    given = {key for key, value in options.items() if value is not None or key not in ("low", "high")}
    missing = [key for key in _required(name) if key not in given]
    if bounds := [key for key in ("low", "high") if key in missing]:
        raise ValueError(
            f"Composite {name!r} needs {' and '.join(bounds)}, the bounds of the model's input as fed: "
            f"composites.get({name!r}, low=0.0, high=1.0) for images in [0, 1]. Received: {options}"
        )
    if missing:
        raise TypeError(f"Composite {name!r} needs the options {', '.join(missing)}. Received: {options}")


def _reaching_flows(name: str, options: dict[str, object]) -> dict[str, object]:
    """The options, with the caller's `epsilon` for flows as well: one epsilon for all that divides by a signed sum."""
    epsilon = options.get("epsilon")
    if name not in _BUILT_IN or epsilon is None or options.get(_FLOW_EPSILON) is not None:
        return options
    default = inspect.signature(PRESETS[name]).parameters["epsilon"].default
    return options if epsilon == default else {**options, _FLOW_EPSILON: epsilon}


def _made(name: str, options: dict[str, Any]) -> Composite:
    """The composite of a preset; of its function, which need not know `flow_epsilon`, and the options."""
    known = inspect.signature(_known()[name]).parameters
    found = _known()[name](**{key: value for key, value in options.items() if key in known})
    epsilon = options.get(_FLOW_EPSILON)
    if isinstance(found, (list, tuple)):
        return Composite(found, name, flow_epsilon=epsilon)
    if not isinstance(found, Composite):
        raise TypeError(
            f"The function of preset {name!r} returned {found!r}. Expected a list of (match, rule), or a Composite. "
            f"Received: {type(found).__name__}"
        )
    copied = copy.copy(found)  # it may be the user's own
    copied.name = name
    if epsilon is not None:
        copied.flow_epsilon = Composite([], flow_epsilon=epsilon).flow_epsilon
    return copied
