"""Tiny models of KerasHub with random weights: backbones and classifiers. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

LENGTH = 12  # of texts, in tokens
PADDED = 3  # tokens at the end of the second text
_VOCABULARY = 40
_IMAGE = (16, 16, 3)

_TEXT = {"vocabulary_size": _VOCABULARY, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
_ENCODER = {**_TEXT, "num_heads": 2, "max_sequence_length": 2 * LENGTH}
_GROUPED = {**_TEXT, "num_query_heads": 4, "num_key_value_heads": 2}
_IMAGES = {"image_shape": _IMAGE, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        make: keras_hub -> the model.
        output: name of the output to explain, for models with several.
        refused: words of the error that is right for this model; empty: it must run.
    """

    make: Callable[[Any], keras.Model]
    output: str | None = None
    refused: str = ""


def _backbone(name: str, **options: Any) -> Callable[[Any], keras.Model]:
    return lambda hub: getattr(hub.models, f"{name}Backbone")(**options)


def _classifier(name: str, backbone: Callable[[Any], keras.Model]) -> Callable[[Any], keras.Model]:
    return lambda hub: getattr(hub.models, name)(backbone=backbone(hub), num_classes=3, preprocessor=None)


_BERT = _backbone("Bert", **_ENCODER)
_ROBERTA = _backbone("Roberta", **_ENCODER)
_DISTIL = _backbone("DistilBert", **_ENCODER)
_ALBERT = _backbone("Albert", **_ENCODER, embedding_dim=8)
_DEBERTA = _backbone("DebertaV3", **_ENCODER, bucket_size=8)
_FNET = _backbone("FNet", **{k: v for k, v in _ENCODER.items() if k != "num_heads"})
_XLM = _backbone("XLMRoberta", **_ENCODER)
_VIT = _backbone("ViT", **{**_IMAGES, "mlp_dim": 32})
_DEIT = _backbone("DeiT", **_IMAGES, intermediate_dim=32)
_RESNET = _backbone(
    "ResNet",
    input_conv_filters=[64],
    input_conv_kernel_sizes=[3],
    stackwise_num_filters=[64, 64],
    stackwise_num_blocks=[2, 2],
    stackwise_num_strides=[1, 2],
    block_type="basic_block",
    image_shape=_IMAGE,
)
_MIT = {
    "layerwise_depths": [1, 1],
    "image_shape": (32, 32, 3),
    "hidden_dims": [8, 16],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
}


def _clip(hub: Any) -> keras.Model:
    vision = hub.models.CLIPVisionEncoder(**_IMAGES, intermediate_dim=32)
    text = hub.models.CLIPTextEncoder(**_ENCODER, embedding_dim=16)
    return hub.models.CLIPBackbone(vision, text, projection_dim=16)


def _clip_text(hub: Any) -> keras.Model:
    return hub.models.CLIPTextEncoder(**_ENCODER, embedding_dim=16)


def _clip_vision(hub: Any) -> keras.Model:
    return hub.models.CLIPVisionEncoder(**_IMAGES, intermediate_dim=32)


def _segformer(hub: Any) -> keras.Model:
    return hub.models.SegFormerBackbone(image_encoder=hub.models.MiTBackbone(**_MIT), projection_filters=16)


def _vit_det(hub: Any) -> keras.Model:
    return hub.models.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=32,
        num_heads=2,
        global_attention_layer_indices=[1],
        patch_size=4,
        num_output_channels=8,
        window_size=2,
        image_shape=_IMAGE,
    )


def _sam(hub: Any) -> keras.Model:
    prompts = hub.layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(4, 4), input_image_size=_IMAGE[:2], mask_in_channels=16
    )
    masks = hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=32,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=8,
    )
    return hub.models.SAMBackbone(image_encoder=_vit_det(hub), prompt_encoder=prompts, mask_decoder=masks)


_MOE = {**_GROUPED, "num_experts": 3, "top_k": 2}
_T5 = _backbone("T5", **_TEXT, num_heads=2, key_value_dim=8)
_BART = _backbone("Bart", **_ENCODER)
_WHISPER = _backbone(
    "Whisper",
    **_TEXT,
    num_heads=2,
    num_mels=8,
    max_encoder_sequence_length=2 * LENGTH,
    max_decoder_sequence_length=LENGTH,
)
MODELS: dict[str, Model] = {
    "BertBackbone": Model(_BERT, "pooled_output"),
    "BertTextClassifier": Model(_classifier("BertTextClassifier", _BERT)),
    "RobertaBackbone": Model(_ROBERTA),
    "RobertaTextClassifier": Model(_classifier("RobertaTextClassifier", _ROBERTA)),
    "XLMRobertaBackbone": Model(_XLM),
    "XLMRobertaTextClassifier": Model(_classifier("XLMRobertaTextClassifier", _XLM)),
    "DistilBertBackbone": Model(_DISTIL),
    "DistilBertTextClassifier": Model(_classifier("DistilBertTextClassifier", _DISTIL)),
    "AlbertBackbone": Model(_ALBERT, "sequence_output"),
    "AlbertTextClassifier": Model(_classifier("AlbertTextClassifier", _ALBERT)),
    "ElectraBackbone": Model(
        _backbone(
            "Electra",
            **{k: v for k, v in _ENCODER.items() if k != "vocabulary_size"},
            vocab_size=_VOCABULARY,
            embedding_dim=8,
        ),
        "sequence_output",
    ),
    "DebertaV3Backbone": Model(_DEBERTA),
    "DebertaV3TextClassifier": Model(_classifier("DebertaV3TextClassifier", _DEBERTA)),
    "FNetBackbone": Model(_FNET, "sequence_output"),
    "FNetTextClassifier": Model(_classifier("FNetTextClassifier", _FNET)),
    "RoformerV2Backbone": Model(_backbone("RoformerV2", **_TEXT, num_heads=2, head_size=8)),
    "XLNetBackbone": Model(_backbone("XLNet", **_TEXT, num_heads=2), refused="size of the batch"),
    "GPT2Backbone": Model(_backbone("GPT2", **_ENCODER)),
    "GPTNeoXBackbone": Model(_backbone("GPTNeoX", **_ENCODER)),
    "OPTBackbone": Model(_backbone("OPT", **_ENCODER)),
    "BloomBackbone": Model(_backbone("Bloom", **_TEXT, num_heads=2)),
    "FalconBackbone": Model(_backbone("Falcon", **_TEXT, num_attention_heads=2)),
    "LlamaBackbone": Model(_backbone("Llama", **_GROUPED)),
    "Llama3Backbone": Model(_backbone("Llama3", **_GROUPED)),
    "MistralBackbone": Model(_backbone("Mistral", **_GROUPED, sliding_window=8)),
    "MixtralBackbone": Model(_backbone("Mixtral", **_MOE)),
    "GemmaBackbone": Model(_backbone("Gemma", **_GROUPED, head_dim=8)),
    "Gemma3Backbone": Model(_backbone("Gemma3", **_GROUPED, head_dim=8, image_size=16)),
    "QwenBackbone": Model(_backbone("Qwen", **_GROUPED)),
    "Qwen3Backbone": Model(_backbone("Qwen3", **_GROUPED, head_dim=8)),
    "QwenMoeBackbone": Model(_backbone("QwenMoe", **_MOE, moe_intermediate_dim=16, shared_expert_intermediate_dim=16)),
    "Phi3Backbone": Model(_backbone("Phi3", **_GROUPED)),
    "T5Backbone": Model(_T5, "decoder_sequence_output"),
    "BartBackbone": Model(_BART, "decoder_sequence_output"),
    "WhisperBackbone": Model(_WHISPER, "decoder_sequence_output"),
    "ViTBackbone": Model(_VIT),
    "ViTImageClassifier": Model(_classifier("ViTImageClassifier", _VIT)),
    "DeiTBackbone": Model(_DEIT),
    "DeiTImageClassifier": Model(_classifier("DeiTImageClassifier", _DEIT)),
    "SwinTransformerBackbone": Model(
        _backbone(
            "SwinTransformer", image_shape=(32, 32, 3), embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4
        )
    ),
    "DINOV2Backbone": Model(_backbone("DINOV2", **_IMAGES, intermediate_dim=32, position_embedding_shape=_IMAGE)),
    "MiTBackbone": Model(_backbone("MiT", **_MIT)),
    "SegFormerBackbone": Model(_segformer),
    "ViTDetBackbone": Model(_vit_det, refused="size of the batch behind its first axis"),
    "ResNetBackbone": Model(_RESNET),
    "ResNetImageClassifier": Model(_classifier("ResNetImageClassifier", _RESNET)),
    "CLIPTextEncoder": Model(_clip_text),
    "CLIPVisionEncoder": Model(_clip_vision),
    "CLIPBackbone": Model(_clip, "vision_logits", "every sample of another"),
    "SAMBackbone": Model(_sam, "image_embeddings", "size of the batch behind its first axis"),
}


def sizes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Sizes for the inputs that the model leaves open, by name."""
    return {
        t.name: tuple(LENGTH if size is None else size for size in t.shape[1:])
        for t in model.inputs
        if None in t.shape[1:]
    }


def inputs(model: keras.Model, seed: int = 0) -> Any:
    """Two random samples, in the structure of the model's inputs. The second text ends in padding."""
    rng = np.random.default_rng(seed)
    found = {}
    for t in model.inputs:
        shape = (2, *(LENGTH if size is None else size for size in t.shape[1:]))
        if "mask" in t.name and "padding" in t.name:
            found[t.name] = np.ones(shape, t.dtype)
            found[t.name][1, -PADDED:] = 0
        elif "token_ids" in t.name or t.name == "token_ids":
            found[t.name] = rng.integers(2, _VOCABULARY, shape).astype(t.dtype)
            found[t.name][1, -PADDED:] = 0
        elif t.dtype.startswith("int"):
            found[t.name] = np.zeros(shape, t.dtype)
        else:
            found[t.name] = rng.normal(size=shape).astype(t.dtype)
    return keras.tree.pack_sequence_as(model.input, [found[t.name] for t in keras.tree.flatten(model.input)])
