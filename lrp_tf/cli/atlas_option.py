"""`lrp-tf explain --atlas`: what draws an atlas of each photograph."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Preprocessing

if TYPE_CHECKING:
    from lrp_tf.concepts import Atlases

TOP = 5  # channels of an atlas
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
        LoadError: an option of atlases without --atlas; --atlas without --gallery.
    """
    if options.atlas is None:
        for name in _MORE:
            if getattr(options, name) is not None:
                raise LoadError(f"{_option(name)} is an option of atlases. Expected --atlas REFERENCE beside it")
    elif not options.gallery:
        raise LoadError("--atlas shows atlases on the page of a gallery. Expected --gallery beside it")


def atlases_of(options: argparse.Namespace, explainer: Explainer, preprocessing: Preprocessing) -> Atlases | None:
    """What draws the atlases that were asked for.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no finished reference, or one of another model or
            preprocessing; a layer that it does not hold, or none was named of several; its image files were moved.
    """
    if options.atlas is None:
        return None
    from lrp_tf.concepts import Atlases, Reference  # it takes a second, and few runs need it

    reference = Reference.load(options.atlas)
    files = reference.images(explainer, preprocessing, options.atlas_images)
    return Atlases(reference, files, layer=options.atlas_layer, top=options.atlas_top or TOP)


def settings_of(options: argparse.Namespace) -> list[object] | None:
    """What has to be the same when a run with atlases is resumed; None without."""
    if getattr(options, "atlas", None) is None:
        return None
    stat = options.atlas.stat()
    return [str(options.atlas), stat.st_size, stat.st_mtime_ns, options.atlas_layer, options.atlas_top or TOP]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
