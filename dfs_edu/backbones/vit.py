"""Vision transformer (Dosovitskiy et al., ICLR 2021; timm's) with exits after the blocks of its second half.

An exit is LayerNorm, the class token and a linear classifier, as at the transformer's own end. The state of the trunk
is the tokens (B, N, C), channels last.

A cut saves no backward work here. Every reader of a feature, block or head, begins with a LayerNorm, and behind the
mean and the deviation over all channels the gradient of one channel needs those of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, cat, nn

from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer  # seconds to import: only where one is built


class Embedding(nn.Module):
    """A picture as tokens: its patches and a class token, each with its position."""

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        self.patch_embed, self.cls_token, self.pos_embed = vit.patch_embed, vit.cls_token, vit.pos_embed
        self.norm_pre = vit.norm_pre

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, N, C)
        H, W = self.patch_embed.img_size
        if x.shape[2:] != (H, W):
            raise ValueError(f"images of {x.shape[2]}x{x.shape[3]} pixels: this transformer reads {H}x{W}")
        token = self.cls_token.expand(x.shape[0], -1, -1)
        return self.norm_pre(cat([token, self.patch_embed(x)], 1) + self.pos_embed)


class Head(BaseHead):
    def __init__(self, norm: nn.Module, fc: nn.Linear):
        super().__init__()
        self.norm, self.fc = norm, fc

    def embed(self, x: Tensor) -> Tensor:  # (B, N, C) -> (B, C)
        return self.norm(x)[:, 0]


def cut(vit: VisionTransformer, classes: int, exits: Sequence[int] | None = None):
    """Stages and heads from timm's VisionTransformer, whose weights stay where they are.

    exits   the blocks, counted from 0, after which an exit leaves, the last block among them; None: all of the second
            half. The last exit keeps the transformer's own classifier where that has `classes` classes.

    Raises ValueError for blocks that do not exist, are out of order, or leave out the last one, and for a transformer
    whose classifier reads anything but the class token after a LayerNorm.
    """
    depth = len(vit.blocks)
    exits = list(range(depth // 2, depth) if exits is None else exits)
    if exits != sorted(set(exits)) or not exits or exits[0] < 0 or exits[-1] != depth - 1:
        raise ValueError(
            f"exits={exits}: rising numbers of blocks from 0 to {depth - 1}, the last of them {depth - 1}, the end"
        )
    if vit.cls_token is None or vit.num_prefix_tokens != 1 or vit.no_embed_class or vit.global_pool != "token":
        raise ValueError(
            f"global_pool={vit.global_pool!r}, {vit.num_prefix_tokens} prefix tokens: this transformer does not "
            "classify by a class token alone that has a position; use attach for it"
        )
    first = [0, *(block + 1 for block in exits[:-1])]
    stages = [nn.Sequential(*vit.blocks[a : b + 1]) for a, b in zip(first, exits, strict=True)]
    stages[0].insert(0, Embedding(vit))
    C = vit.embed_dim
    heads = [Head(nn.LayerNorm(C, eps=vit.norm.eps), _classifier(C, classes)) for _ in exits[:-1]]
    own = vit.head if getattr(vit.head, "out_features", None) == classes else _classifier(C, classes)
    return stages, [*heads, Head(vit.norm, own)]


def _classifier(channels: int, classes: int) -> nn.Linear:
    fc = nn.Linear(channels, classes)
    nn.init.trunc_normal_(fc.weight, std=0.02)
    nn.init.zeros_(fc.bias)
    return fc


@family("vit-tiny", pixels=224, smallest=1)  # it reads one size, and says so
def vit_tiny(classes: int, pixels: int = 224, patch: int = 16, depth: int = 12, width: int = 192, heads: int = 3):
    """ViT-Ti/16: twelve blocks of 192 channels and three attention heads; exits after blocks 6 to 11, from 0.

    pixels   height and width of the pictures; patch: of a token, in pixels. To start from pretrained weights, load
             them into timm's vit_tiny_patch16_224 and `cut` that.

    Raises ValueError where the patches do not tile the picture, or the attention heads do not share the width evenly.
    """
    from timm.models.vision_transformer import VisionTransformer

    if pixels % patch:
        raise ValueError(f"pixels={pixels}, patch={patch}: patches tile the picture, so pixels is a multiple of patch")
    if width % heads:
        raise ValueError(f"width={width}, heads={heads}: attention heads share the channels evenly")
    vit = VisionTransformer(pixels, patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=classes)
    return cut(vit, classes)
