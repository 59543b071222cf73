"""The recipe that the options of `lrp-tf explain` write down."""

from __future__ import annotations

import argparse
from typing import Any

from lrp_tf.cli import given
from lrp_tf.cli.composite_option import name_of
from lrp_tf.heatmap.volumes import Slicing
from lrp_tf.recipe import ATLAS_TOP, Recipe

_OF_VOLUMES = ("axis", "slices", "spacing")
_OF_TABLES = ("columns", "drop", "id")


def recipe_of(options: argparse.Namespace, kind: str, slicing: Slicing | None = None) -> Recipe:
    """What is explained under one composite, `options.composite`, as plain data.

    Args:
        kind: one of `recipe.KINDS`.
        slicing: of volumes, see `volumes.slicing_of`.
    """
    plain = ("relevance_filter", "fast", "output", "zero_bias")
    chosen = {name: value for name in plain if (value := getattr(options, name, None)) not in (None, False)}
    preprocess = getattr(options, "preprocess", None)
    paths = {name: getattr(options, name, None) for name in ("classes", "atlas", "atlas_images")}
    return Recipe(
        model=str(options.model or ""),
        composite=name_of(options.composite),
        preprocess=preprocess,
        targets=tuple(options.target),
        contrast=options.contrast,
        look=given.look_of(options),
        size=options.size,
        how=options.resize,
        batch=options.batch,
        max_pixels=options.max_pixels,
        save_relevance=options.save_relevance,
        layers=tuple(options.layers),
        save_layers=options.save_layers,
        kind=kind,
        slicing=slicing,
        atlas_layer=getattr(options, "atlas_layer", None),
        atlas_top=getattr(options, "atlas_top", None) or ATLAS_TOP,
        options=chosen,
        modules=tuple(getattr(options, "modules", ())),
        unsafe=options.unsafe,
        **{name: None if path is None else str(path) for name, path in paths.items()},
    )


def settings_of(options: argparse.Namespace, identity: object) -> dict[str, Any]:
    """What has to be the same when a run is resumed, beside what the recipe says."""
    # As the user wrote them: an --axis that follows from the kind of a file is none.
    more = {name: getattr(options, name, None) for name in (*_OF_VOLUMES, *_OF_TABLES)}
    return more | ({} if identity is None else {"model": identity})
