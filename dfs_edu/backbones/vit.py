"""Vision transformer (Dosovitskiy et al., ICLR 2021; timm's) with exits after the blocks of its second half.

A head is LayerNorm, the class token and a linear classifier, as at the transformer's own end. The state of the trunk is
the tokens (B, N, C), channels last.

A cut saves no backward work here. Every block and head starts with a LayerNorm, which normalizes by the mean and the
deviation over all channels, so the gradient of one channel needs those of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, cat, nn

from dfs_edu.backbones.families import family
from dfs_edu.extras import need
from dfs_edu.multiexit import Head as BaseHead

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer  # seconds to import: only where one is built


class Embedding(nn.Module):
    """Turns an image into tokens: its patches and a class token, each with its position."""

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        assert vit.cls_token is not None  # as `cut` has checked
        assert vit.pos_embed is not None
        self.patch_embed, self.norm_pre = vit.patch_embed, vit.norm_pre
        self.cls_token, self.pos_embed = vit.cls_token, vit.pos_embed

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, N, C)
        H, W = self.patch_embed.img_size
        if x.shape[2:] != (H, W):
            raise ValueError(f"images of {x.shape[2]}x{x.shape[3]} pixels: this transformer reads {H}x{W}")
        token = self.cls_token.expand(x.shape[0], -1, -1)
        return self.norm_pre(cat([token, self.patch_embed(x)], 1) + self.pos_embed)


class Head(BaseHead):
    """LayerNorm, class token, linear classifier."""

    def __init__(self, norm: nn.Module, fc: nn.Module):
        super().__init__()
        self.norm, self.fc = norm, fc

    def embed(self, seen: Tensor) -> Tensor:  # (B, N, C) -> (B, C)
        return self.norm(seen)[:, 0]


def cut(
    vit: VisionTransformer, classes: int, exits: Sequence[int] | None = None
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Cut timm's VisionTransformer into stages and heads, which share its weights.

    Args:
        vit: The transformer.
        classes: Number of classes. If the transformer's own classifier has as many, the last exit keeps it.
        exits: Blocks, counted from 0, after which an exit leaves, including the last block; None: all blocks of the
            second half.

    Raises:
        ValueError: Blocks do not exist, are out of order or leave out the last one, or the transformer's classifier
            reads anything but the class token after a LayerNorm.
    """
    depth = len(vit.blocks)
    exits = list(range(depth // 2, depth) if exits is None else exits)
    if exits != sorted(set(exits)) or not exits or exits[0] < 0 or exits[-1] != depth - 1:
        raise ValueError(
            f"exits={exits}: rising numbers of blocks from 0 to {depth - 1}, ending with the last block, {depth - 1}"
        )
    by_token = vit.cls_token is not None and vit.num_prefix_tokens == 1 and vit.global_pool == "token"
    if not by_token or vit.no_embed_class or not isinstance(vit.norm, nn.LayerNorm):
        raise ValueError(
            f"global_pool={vit.global_pool!r}, {vit.num_prefix_tokens} prefix tokens: this transformer does not "
            "classify by a class token alone that has a position; use attach for it"
        )
    first = [0, *(block + 1 for block in exits[:-1])]
    stages = [nn.Sequential(*vit.blocks[a : b + 1]) for a, b in zip(first, exits, strict=True)]
    stages[0].insert(0, Embedding(vit))
    C, eps = vit.embed_dim, vit.norm.eps
    heads = [Head(nn.LayerNorm(C, eps=eps), _classifier(C, classes)) for _ in exits[:-1]]
    own = vit.head if getattr(vit.head, "out_features", None) == classes else _classifier(C, classes)
    return list(stages), [*heads, Head(vit.norm, own)]


def _classifier(channels: int, classes: int) -> nn.Linear:
    fc = nn.Linear(channels, classes)
    nn.init.trunc_normal_(fc.weight, std=0.02)
    nn.init.zeros_(fc.bias)
    return fc


@family("vit-tiny", pixels=224, smallest=1)  # it reads one size, and says so
def vit_tiny(classes: int, pixels: int = 224, patch: int = 16, depth: int = 12, width: int = 192, heads: int = 3):
    """ViT-Ti/16: twelve blocks of 192 channels with three attention heads; exits after blocks 6 to 11, from 0.

    To start from pretrained weights, load them into timm's vit_tiny_patch16_224 and ``cut`` that. Needs timm.

    Args:
        classes: Number of classes.
        pixels: Height and width of the images.
        patch: Height and width of the patch that becomes a token, in pixels.
        depth: Number of blocks.
        width: Number of channels.
        heads: Attention heads per block.

    Raises:
        ValueError: Patches do not tile the image, or attention heads do not share the width evenly.
    """
    if pixels % patch:
        raise ValueError(f"pixels={pixels}, patch={patch}: patches tile the image, so pixels is a multiple of patch")
    if width % heads:
        raise ValueError(f"width={width}, heads={heads}: attention heads share the channels evenly")
    make = need("timm.models.vision_transformer").VisionTransformer
    vit = make(pixels, patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=classes)
    return cut(vit, classes)
