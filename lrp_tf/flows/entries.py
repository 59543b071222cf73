"""Which flow a layer or operation has. A new one is one entry."""

from __future__ import annotations

import keras

from lrp_tf.core.operations import (
    STEPWISE,
    BroadcastSamples,
    Constants,
    EachSample,
    InitialState,
    InputShift,
    MergeTime,
    SplitTime,
)
from lrp_tf.flows.base import Flow, Identity, PassThrough, register
from lrp_tf.flows.functions import Angle, Homogeneous, ProductOver, Ranked, Remainder, Replacement, SoftMaximum
from lrp_tf.flows.moves import Cast, Detached, Gather, InputScaling, Lookup, Move, Pad, Select, normalize, rescale
from lrp_tf.flows.normalization import GroupNorm, LayerNorm
from lrp_tf.flows.pooling import AdaptiveWinnerTakesAll, GlobalWinnerTakesAll, WinnerTakesAll
from lrp_tf.flows.resizing import Resample
from lrp_tf.flows.sums import Affine, Contraction, Negation, Product, Quotient, Share, Winner

# Augmentation does nothing in inference mode.
_AUGMENTATION = """
    AugMix CutMix MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter
    RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
    RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness
    RandomShear RandomTranslation RandomZoom Solarization"""

_ENTRIES: list[tuple[Flow, str]] = [
    # activations and other element-wise functions
    (PassThrough(), "ReLU LeakyReLU PReLU ELU Softmax Masking UnitNormalization RMSNormalization"),
    (
        PassThrough(),
        "ops.Abs ops.Absolute ops.Arctan ops.Arcsinh ops.Arctanh ops.Cbrt ops.Ceil ops.Clip ops.Cos ops.Cosh",
    ),
    (PassThrough(), "ops.Erf ops.Exp ops.Exp2 ops.Expm1 ops.Floor ops.Log ops.Log10 ops.Log1p ops.Log2 ops.NanToNum"),
    (PassThrough(), "ops.Normalize ops.Power ops.Round ops.Sign ops.Sin ops.Sinh ops.Sqrt ops.Square ops.Tan ops.Tanh"),
    (PassThrough(), "ops.Trunc ops.RMSNorm ops.Mish ops.HardShrink ops.Threshold"),
    # the same values
    (Identity(), "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise"),
    (Identity(), "AlphaDropout ActivityRegularization Identity"),
    (Identity(), _AUGMENTATION),
    (Identity(), "ops.ConvertToTensor ops.StopGradient ops.Copy ops.View"),
    (Cast(), "ops.Cast ops.SaturateCast"),
    # the same values elsewhere
    (Move(), "Flatten Reshape Permute RepeatVector Cropping1D Cropping2D Cropping3D Concatenate"),
    (Move(), "UpSampling1D UpSampling3D"),
    (Move(), "ops.Reshape ops.Transpose ops.Concatenate ops.Squeeze ops.ExpandDims ops.GetItem ops.Stack ops.Split"),
    (Move(), "ops.ArraySplit ops.Hsplit ops.Vsplit ops.Dsplit ops.Hstack ops.Vstack ops.Dstack ops.Unstack ops.Append"),
    (Move(), "ops.Flip ops.Fliplr ops.Flipud ops.Rot90 ops.Roll ops.Repeat ops.Tile ops.Moveaxis ops.Swapaxes"),
    (Move(), "ops.Ravel ops.BroadcastTo ops.Diagonal ops.Rearrange ops.CropImages"),
    (Move(), "ops.DepthToSpace ops.SpaceToDepth"),
    (Gather(moved=(0,)), "ops.Take ops.TakeAlongAxis ops.Slice"),
    (Pad(), "ZeroPadding1D ZeroPadding2D ZeroPadding3D ops.Pad ops.PadImages ops.Tril ops.Triu"),
    (Pad(), "ops.ExtractPatches ops.Unfold"),
    (Move(), "ops.Sort"),
    (Ranked(), "ops.TopK"),
    (Replacement(), "ops.SliceUpdate"),
    (Select(), "ops.Where"),
    (Lookup(), "Embedding ops.OneHot"),
    # sums
    (Share("sum"), "Add ops.Add"),
    (Share("sign"), "ops.Sum ops.Cumsum"),
    (Share("hull"), "Average AveragePooling1D AveragePooling2D AveragePooling3D ops.AveragePool ops.Mean"),
    (Share("hull"), "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D"),
    (
        Share("hull"),
        "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D ops.AdaptiveAveragePool",
    ),
    (Share("difference"), "Subtract ops.Subtract"),
    (Share(), "ops.Average ops.RGBToGrayscale ops.Trace ops.Diff ops.BatchNorm"),
    (Resample(), "Resizing UpSampling2D ops.Resize CenterCrop"),
    (Affine(), "BatchNormalization"),
    (InputScaling(affine=rescale), "Rescaling"),
    (InputScaling(affine=normalize), "Normalization"),
    # products
    (Product(), "Multiply ops.Multiply"),
    (Negation(), "ops.Negative"),
    (Quotient(), "ops.Divide ops.TrueDivide ops.DivideNoNan ops.Reciprocal ops.Rsqrt"),
    (Contraction(), "Dot ops.Dot ops.Matmul ops.Einsum ops.Tensordot ops.Inner ops.Vdot ops.Cross"),
    # other functions of several entries
    (Homogeneous(), "ops.Norm ops.Hypot"),
    (SoftMaximum(), "ops.Logsumexp ops.Logaddexp ops.Logaddexp2"),
    (ProductOver(), "ops.Prod"),
    (Angle(), "ops.Arctan2"),
    (Remainder(), "ops.Mod ops.Fmod ops.FloorDivide"),
    # maxima
    (WinnerTakesAll(), "MaxPooling1D MaxPooling2D MaxPooling3D ops.MaxPool"),
    (GlobalWinnerTakesAll(), "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D ops.Max ops.Amax"),
    (GlobalWinnerTakesAll(smallest=True), "ops.Min ops.Amin"),
    (AdaptiveWinnerTakesAll(), "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D ops.AdaptiveMaxPool"),
    (Winner(), "Maximum Minimum ops.Maximum ops.Minimum"),
    # normalisation
    (LayerNorm(), "LayerNormalization"),
    (GroupNorm(), "GroupNormalization"),
    # no relevance enters
    (Detached(), " ".join(STEPWISE)),
    (Detached(), "ops.OnesLike ops.ZerosLike ops.FullLike ops.Size ops.Var ops.Std"),
]
for _flow, _names in _ENTRIES:
    for _name in _names.split():
        if _name.startswith("ops."):
            register(_name, _flow)
        elif hasattr(keras.layers, _name):  # the oldest Keras that we support lacks some layers
            register(getattr(keras.layers, _name), _flow)
# our own small operations
register(MergeTime, Move())
register(SplitTime, Move(moved=(0,)))
register(InputShift, PassThrough(transparent=True))
register(Constants, Detached())
register(EachSample, Detached())
register(InitialState, Detached())
register(BroadcastSamples, Move())
