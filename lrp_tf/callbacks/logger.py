"""`RelevanceLogger`: relevance of the same images, epoch after epoch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from lrp_tf.callbacks import numbers
from lrp_tf.callbacks.places import Folder, Place, TensorBoard
from lrp_tf.composites import Composite
from lrp_tf.engine.diagnosis import RelevanceWarning
from lrp_tf.engine.targets import Targets
from lrp_tf.explainer import Explainer, Explanation
from lrp_tf.rules import Rule

PLACES = ("folder", "tensorboard")


class RelevanceLogger(keras.callbacks.Callback):
    """Heatmaps and numbers of some images at the end of every epoch: what does a model look at while it learns?

        logger = lrp_tf.callbacks.RelevanceLogger(x[:4], log_dir="relevance", target=[3, 8, 1, 0])
        model.fit(x, y, epochs=3, verbose=0, callbacks=[logger])

    A folder gets `epoch-0001.png` with every image beside its map, and `relevance.csv` with a row for each epoch
    and image: the score, where it went (see `Conservation`), the share of |relevance| inside the image's mask, and
    how alike the map is to that of the last epoch that was logged (Pearson's correlation of |relevance|).
    TensorBoard gets the pictures, and the means of these numbers as curves.

    The explainer is built once and follows the weights. Training computes the same numbers with it as without. An
    epoch whose maps are not finite or cannot be written is a warning, and training continues. A second call of `fit`
    continues the count of epochs.

    Args:
        images: [B, ...], as the model takes them. Pictures are drawn of [B, H, W] and [B, H, W, C] of 1, 3 or 4
            channels; others have numbers alone.
        every: log each epoch whose number, counted from 1, this divides.
        composite: as for the Explainer.
        log_dir: folder to write into; it is made.
        to: "folder" or "tensorboard", which needs the extra "tensorboard".
        target: as for the Explainer, one class for each image. None: each sample's top class, which may change while a
            model learns.
        masks: bool [B, ...] of the images without channels, where the evidence is.
        overwrite: begin a folder's table anew. Without it, a table of an earlier training is an error, unless this one
            continues it: `fit(initial_epoch=…)` keeps the rows of the epochs before.
        options: further arguments of the Explainer, options of the preset among them.

    Raises:
        ValueError: no images, other masks, `every` below 1, another `to`. When training begins: what the Explainer
            raises for model, images and targets.
        FileExistsError: when training begins, see `overwrite`. ImportError: TensorBoard is not installed.
    """

    def __init__(
        self,
        images: ArrayLike,
        every: int = 1,
        composite: str | Composite | Rule = "epsilon_plus_flat",
        log_dir: str | os.PathLike[str] = "relevance",
        *,
        to: str = "folder",
        target: Targets = None,
        masks: ArrayLike | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.images = np.array(images)
        if not self.images.size or self.images.ndim < 2:
            raise ValueError(f"Expected a batch of images, [B, ...]. Received: shape {self.images.shape}")
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(f"Expected `every` as a number of epochs, at least 1. Received: {every!r}")
        if to not in PLACES:
            raise ValueError(f"Expected `to` as one of {', '.join(PLACES)}. Received: {to!r}")
        self.every, self.composite, self.target, self.options = int(every), composite, target, options
        shape = self.images.shape
        # A sample of one axis holds features, and one of two is a signal or a picture without channels.
        self._channels = len(shape) > 3
        self._drawn = len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3, 4))
        self.masks = None if masks is None else self._checked(np.asarray(masks))
        self.place: Place
        if to == "folder":
            self.place = Folder(Path(log_dir), self.images, overwrite)
        else:
            self.place = TensorBoard(Path(log_dir), self.images)
        self.explainer: Explainer | None = None
        self._before: np.ndarray | None = None
        self._finished = self._offset = 0
        self._fresh = False

    def _checked(self, masks: np.ndarray) -> np.ndarray:
        shape = self.images.shape[:-1] if self._channels else self.images.shape
        if masks.shape != shape or masks.dtype != bool:
            raise ValueError(
                f"Expected masks as bool {shape}, one for each image and without channels. Received: {masks.dtype} "
                f"{masks.shape}"
            )
        return masks

    # --- what Keras calls ----------------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Explain once, so that mistakes are told before hours of training.

        A model that the first batch builds is explained at the end of the first epoch only.
        """
        self._fresh = True
        if self.model.built:
            self._require_one_target(self._explained())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The first epoch of a training tells whether it begins or continues one."""
        if self._fresh:
            # Keras counts from 0 again where `fit` is called once more without `initial_epoch`.
            self._offset = self._finished if epoch < self._finished else 0
            self.place.begin(epoch + 1 + self._offset)
            self._fresh = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the epoch, if it is one of `every`."""
        number = self._finished = epoch + 1 + self._offset
        if number % self.every:
            return
        try:
            self._log(number)
        except (ValueError, OSError) as error:
            warnings.warn(f"epoch {number} is not logged: {error}", RelevanceWarning, stacklevel=2)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Bring everything to disk."""
        self.place.end()

    # --- one epoch -----------------------------------------------------------------------------

    def _explained(self) -> Explanation:
        if self.explainer is None or self.explainer.model is not self.model:
            self.explainer = Explainer(self.model, self.composite, **self.options)
        return self.explainer.explain(self.images, self.target)

    def _log(self, number: int) -> None:
        found = self._explained()
        self._require_one_target(found)
        relevance = np.asarray(found.relevance, np.float64)
        maps = numbers.positions_of(relevance, self._channels)
        rows = numbers.rows(number, found, maps, self._before, self.masks)
        self.place.write(number, rows, relevance if self._drawn else None)
        self._before = maps

    def _require_one_target(self, found: Explanation) -> None:
        """Raise ValueError where relevance is not that of one target of each image."""
        shape = getattr(found.relevance, "shape", None)
        if shape is None or tuple(shape) != self.images.shape:
            raise ValueError(
                f"Expected a model of one input and one target for each image. Received: target={self.target!r}, "
                f"relevance of shape {shape} for images of shape {self.images.shape}"
            )
