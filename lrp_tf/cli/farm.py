"""`lrp-tf explain --ray`: what its options ask for, and galleries whose work is done in other processes."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence

from lrp_tf.cli import given
from lrp_tf.cli.ray_options import HERE
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.run import Gallery
from lrp_tf.ray.farm import Pool, ready
from lrp_tf.ray.places import is_remote
from lrp_tf.ray.run import LOST, RayGallery
from lrp_tf.ray.session import session
from lrp_tf.ray.sources import SUFFIXES, Columns, Found, expand, in_stores
from lrp_tf.recipe import Recipe
from lrp_tf.terminal import say

_ALONE: dict[str, object] = {"workers": None, "gpus_per_worker": None, "to": "pictures", "image_column": None}


def is_wanted(options: argparse.Namespace) -> bool:
    """Whether the work is done in other processes.

    Raises:
        LoadError: it is not, and one of its options was given; it is, and so is --shard.
    """
    if getattr(options, "ray", None) is not None:
        if getattr(options, "shard", None) is not None:
            raise LoadError("--ray and --shard both spread the work over processes. Expected one of them")
        return True
    for name, default in _ALONE.items():
        if getattr(options, name, default) != default:
            raise LoadError(f"--{name.replace('_', '-')} is an option of --ray. Expected both, or neither")
    return False


def refuse(options: argparse.Namespace) -> None:
    """For files that are no photographs.

    Raises:
        LoadError: --ray was given, or one of its options.
    """
    if is_wanted(options):
        raise LoadError("--ray explains photographs. Expected image files and a model of pictures; arrays and tables "
                        "are explained without it")  # fmt: skip


def found_of(options: argparse.Namespace) -> list[Found]:
    """The images: those in files and folders of this machine, in stores, and in shards and tables.

    Raises:
        ValueError: see `sources.find`. ExtraError: Ray is not installed.
    """
    ready()
    names = given.image_names(options)
    stores, here = [name for name in names if is_remote(name)], [name for name in names if not is_remote(name)]
    files = list(in_stores(stores))
    if here:
        files += given.files_of(argparse.Namespace(**{**vars(options), "images": here}), suffixes=SUFFIXES)
    return list(expand(files, Columns(options.image_column, options.id)))


def pool_of(options: argparse.Namespace) -> Pool:
    """The processes."""
    address = None if options.ray == HERE else options.ray
    return Pool(options.workers, options.gpus_per_worker or 0.0, getattr(options, "threads", None) or 1, address)


@contextlib.contextmanager
def cluster(options: argparse.Namespace) -> Iterator[None]:
    """One cluster for all composites."""
    several = is_wanted(options) and len(options.composites or []) > 1  # else the run begins one, after all refusals
    with session(*pool_of(options).session()) if several else contextlib.nullcontext():
        yield


def spread(gallery: Gallery, recipe: Recipe, found: Sequence[Found], options: argparse.Namespace) -> RayGallery:
    """The gallery with its work in other processes."""
    lost = lambda: say(LOST, error=True)  # noqa: E731
    return RayGallery.of(gallery, recipe, found, pool=pool_of(options), to=options.to, lost=lost)
