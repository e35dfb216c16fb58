"""The student: open_clip's native CLIP with a small ViT, and the parts that only training needs.

`encode_tokens` repeats open_clip's vision transformer with explicit attention: on a CPU in bfloat16
the fused kernel's backward pass was a third of a training step. A test compares both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.embedded_encoder.captions import CONTEXT

VOCABULARY = 49_408
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 8,
        "width": 192,
        "layers": 6,
        "head_width": 64,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 128,
        "heads": 4,
        "layers": 3,
    },
}
PREPROCESS_CFG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SIDE = 8  # patch tokens along one side
TOKEN_BLOCK = 5  # blocks before the tokens that are compared with the teacher's map


def create() -> CLIP:
    """A CLIP model with random weights."""
    return CLIP(**MODEL_CFG)


def attention(block: nn.Module, x: Tensor) -> Tensor:
    """Self-attention of one residual block, (N, L, W) -> (N, L, W)."""
    mha = block.attn
    n, length, width = x.shape
    heads = mha.num_heads
    qkv = F.linear(x, mha.in_proj_weight, mha.in_proj_bias)
    q, k, v = qkv.view(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = F.softmax((q * (width // heads) ** -0.5) @ k.transpose(-1, -2), dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(n, length, width)
    out: Tensor = mha.out_proj(mixed)
    return out


def encode_tokens(visual: nn.Module, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) -> pooled (N, W) and patch tokens of block TOKEN_BLOCK (N, T, W).

    keep: (N, T) indices of the patches to look at; None looks at all.
    """
    x = visual.conv1(x).flatten(2).transpose(1, 2)
    position = visual.positional_embedding
    x = x + position[1:]
    if keep is not None:
        x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
    first = (visual.class_embedding + position[0]).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], 1))
    tokens = x
    for i, block in enumerate(visual.transformer.resblocks, 1):
        x = x + attention(block, block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
        if i == TOKEN_BLOCK:
            tokens = x[:, 1:]
    return visual.ln_post(x[:, 0]), tokens


class TextTower(nn.Module):
    """The model's text tower with a token table cut to the rows that training touches."""

    def __init__(self, clip: CLIP, used: list[int]) -> None:
        super().__init__()
        width = clip.token_embedding.embedding_dim
        self.register_buffer("row", torch.full((VOCABULARY,), 0))
        self.row[torch.tensor(used)] = torch.arange(len(used))
        self.table = nn.Embedding(len(used), width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.register_buffer("mask", clip.attn_mask)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N, D), normalised."""
        length = tokens.shape[1]
        x = self.table(self.row[tokens]) + self.positional_embedding[:length]
        mask = self.mask[:length, :length]
        for block in self.transformer.resblocks:
            y = block.ln_1(x)
            y = block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + y
            x = x + block.mlp(block.ln_2(x))
        x = self.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
        return F.normalize(x @ self.text_projection, dim=1)

    def full_table(self, used: list[int]) -> Tensor:
        """(VOCABULARY, width): rows never trained get the mean of the trained ones."""
        table = self.table.weight.detach()
        full = table.mean(0, keepdim=True).repeat(VOCABULARY, 1)
        full[torch.tensor(used)] = table
        return full

    def clip_state(self, used: list[int], log_scale: Tensor) -> dict[str, Tensor]:
        """The text part of an open_clip CLIP state dict."""
        state = {
            "positional_embedding": self.positional_embedding.detach(),
            "text_projection": self.text_projection.detach(),
            "token_embedding.weight": self.full_table(used),
            "logit_scale": log_scale.detach(),
        }
        state |= {f"transformer.{k}": v for k, v in self.transformer.state_dict().items()}
        return state | {f"ln_final.{k}": v for k, v in self.ln_final.state_dict().items()}


def export(state: dict[str, Tensor], model_cfg: dict[str, Any], folder: Path) -> None:
    """Write an open_clip `local-dir:` folder in float16 and load it back strictly."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    half = {
        k: v.detach().half().contiguous() if v.is_floating_point() else v.contiguous()
        for k, v in state.items()
    }
    save_file(half, str(folder / "open_clip_model.safetensors"), metadata={"format": "pt"})
    open_clip.create_model_and_transforms(f"local-dir:{folder}")
