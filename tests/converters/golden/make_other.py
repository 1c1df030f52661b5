"""Write `timm.json`, `torchvision.json`, `open_clip.json`: models of other libraries.

Run by hand in an environment of its own:

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 open_clip_torch==3.3.0
    PYTHONPATH=tests/converters python tests/converters/golden/make_other.py

Of each model the files have the arguments that built it, the config with which
transformers computes the same (nothing where it cannot), the dtype and shape of each
tensor of the state dict, and the outputs of the forward.
"""

import sys
from types import ModuleType

from stored import inputs, store, table
from torch_models import CASES, fill_model


IMAGES = {"pixel_values": {"shape": [2, 3, 16, 16]}}
LARGER = {"pixel_values": {"shape": [2, 3, 32, 32]}}
TEXT = {"input_ids": [[59, 5, 17, 42, 60, 0, 0, 0], [59, 3, 24, 11, 7, 9, 33, 60]]}


def logits(model, images):
    """The outputs of a classifier."""
    return {"logits": model(images)}


def entry(kind, arguments, config, given, forward=logits):
    """All that is stored of one model."""
    import torch

    model = fill_model(kind(**arguments))
    arrays = [torch.from_numpy(x) for x in inputs({"inputs": given}).values()]
    with torch.no_grad():
        outputs = forward(model, *arrays)
    return {
        "arguments": arguments,
        "config": config,
        "inputs": given,
        "tensors": table({name: x.numpy() for name, x in model.state_dict().items()}),
        "outputs": {name: x.tolist() for name, x in outputs.items()},
    }


def vit():
    """The config of the vision transformers."""
    return CASES["vit"] | {"layer_norm_eps": 1e-6}


def convnext(case="convnext", **fields):
    """The config of a ConvNeXt of four stages."""
    four = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "num_stages": 4}
    size = {"image_size": 32, "patch_size": 4, "layer_norm_eps": 1e-6}
    return CASES[case] | four | size | fields


def resnet(kind, hidden_sizes):
    """The config of a ResNet with the layers 2, 1, 1, 1."""
    widths = {"embedding_size": 64, "hidden_sizes": hidden_sizes}
    return CASES[f"resnet_{kind}"] | widths | {"depths": [2, 1, 1, 1]}


def clip(hidden_act):
    """The config of a CLIP model."""
    fields, same = CASES["clip"], {"hidden_act": hidden_act, "layer_norm_eps": 1e-5}
    text = fields["text_config"] | same | {"max_position_embeddings": 8}
    return fields | {
        "text_config": text,
        "vision_config": fields["vision_config"] | same,
    }


def timm_models():
    """A ViT, two ConvNeXts and two ResNets."""
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    from timm.models.vision_transformer import VisionTransformer

    def small(block):
        return lambda **arguments: ResNet(block, **arguments)

    size = {"img_size": 16, "patch_size": 4, "num_classes": 3}
    widths = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
    four = {"num_classes": 3, "depths": [1, 1, 2, 1], "dims": [8, 12, 16, 20]}
    second = four | {"use_grn": True, "ls_init_value": None}
    layers = {"num_classes": 3, "layers": [2, 1, 1, 1]}
    deep = layers | {"channels": [8, 8, 16, 16]}
    basic = layers | {"channels": [8, 12, 16, 20]}
    wide, narrow = [32, 32, 64, 64], [8, 12, 16, 20]
    return {
        "vit": entry(VisionTransformer, size | widths, vit(), IMAGES),
        "convnext": entry(ConvNeXt, four, convnext(), LARGER),
        "convnextv2": entry(ConvNeXt, second, convnext("convnextv2"), LARGER),
        "resnet_bottleneck": entry(
            small(Bottleneck), deep, resnet("bottleneck", wide), LARGER
        ),
        "resnet_basic": entry(
            small(BasicBlock), basic, resnet("basic", narrow), LARGER
        ),
    }


def torchvision_models():
    """A ViT, a ConvNeXt and two ResNets, whose widths are fixed."""
    # Not needed here, and the build for GPUs cannot import it without one.
    for name in ("_meta_registrations", "_autograd_registrations"):
        sys.modules[f"torchvision.{name}"] = ModuleType(name)
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
    from torchvision.models.vision_transformer import VisionTransformer

    def stages(block_setting, **arguments):
        return ConvNeXt([CNBlockConfig(*row) for row in block_setting], **arguments)

    def wide(block):
        return lambda **arguments: ResNet(block, **arguments)

    size = {"image_size": 16, "patch_size": 4, "num_classes": 3}
    widths = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48}
    rows = [[8, 12, 1], [12, 16, 1], [16, 20, 2], [20, None, 1]]
    four = {"block_setting": rows, "layer_scale": 1.0, "num_classes": 3}
    layers = {"layers": [2, 1, 1, 1], "num_classes": 3}
    basic = resnet("basic", [64, 128, 256, 512])
    deep = resnet("bottleneck", [256, 512, 1024, 2048])
    return {
        "vit": entry(VisionTransformer, size | widths, vit(), IMAGES),
        "convnext": entry(stages, four, convnext(), LARGER),
        "resnet_basic": entry(wide(BasicBlock), layers, basic, LARGER),
        "resnet_bottleneck": entry(wide(Bottleneck), layers, deep, LARGER),
    }


def open_clip_models():
    """A CLIP in three forms: as OpenAI's, with a text tower apart, with a ResNet."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    def built(kind):
        return lambda vision_cfg, text_cfg, **arguments: kind(
            vision_cfg=CLIPVisionCfg(**vision_cfg),
            text_cfg=CLIPTextCfg(**text_cfg),
            **arguments,
        )

    def features(model, images, ids):
        return {
            "image_features": model.encode_image(images),
            "text_features": model.encode_text(ids),
            "logits_per_image": model.get_logits(images, ids)[0],
        }

    text = {"context_length": 8, "vocab_size": 61, "width": 32, "heads": 4}
    text |= {"layers": 2, "mlp_ratio": 1.5}
    patches = {"image_size": 16, "patch_size": 4, "width": 40, "head_width": 10}
    patches |= {"layers": 2, "mlp_ratio": 1.4}
    filters = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}
    towers = {"embed_dim": 24, "vision_cfg": patches, "text_cfg": text}
    quick = towers | {"quick_gelu": True}
    given, square = IMAGES | TEXT, {"pixel_values": {"shape": [2, 3, 64, 64]}} | TEXT
    return {
        "vit": entry(built(CLIP), towers, clip("gelu"), given, features),
        "custom_text": entry(
            built(CustomTextCLIP), quick, clip("quick_gelu"), given, features
        ),
        "resnet": entry(
            built(CLIP), towers | {"vision_cfg": filters}, {}, square, features
        ),
    }


if __name__ == "__main__":
    store("torchvision", torchvision_models())
    store("timm", timm_models())
    store("open_clip", open_clip_models())
