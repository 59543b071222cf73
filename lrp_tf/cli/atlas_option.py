"""`lrp-tf explain --atlas`: which of its options belong together."""

from __future__ import annotations

import argparse

from lrp_tf.files.errors import LoadError

_MORE = ("atlas_layer", "atlas_top", "atlas_images")


def refuse_atlas(options: argparse.Namespace) -> None:
    """For files that are no photographs.

    Raises:
        LoadError: atlases were asked for.
    """
    for name in ("atlas", *_MORE):
        if getattr(options, name, None) is not None:
            raise LoadError(f"{_option(name)} is an option of photographs. Expected none beside arrays and tables")


def check_atlas(options: argparse.Namespace) -> None:
    """Refuse what can be refused before the model is asked.

    Raises:
        LoadError: an option of atlases without --atlas; --atlas without --gallery, or with --to of tables.
    """
    if options.atlas is None:
        for name in _MORE:
            if getattr(options, name) is not None:
                raise LoadError(f"{_option(name)} is an option of atlases. Expected --atlas REFERENCE beside it")
    elif not options.gallery:
        raise LoadError("--atlas shows atlases on the page of a gallery. Expected --gallery beside it")
    elif (to := getattr(options, "to", "pictures")) != "pictures":
        raise LoadError(f"--to {to} writes no pictures. Expected it without --atlas")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
