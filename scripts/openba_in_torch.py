"""OpenBA in PyTorch, and its scoring of benchmarks as the original's programs do it.

For fixtures and comparisons alone: `scripts/fixtures_scoring.py`, `scripts/benchmarks/scoring.py`,
`scripts/benchmarks/cpu.py`.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional

EOS, PAD = 1, 0


def rotated(x: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Rotary positions from `start` on, `[batch, heads, length, kv]`."""
    length, kv = x.shape[-2:]
    frequencies = 10000.0 ** (-torch.arange(0, kv, 2, dtype=torch.float32) / kv)
    angles = torch.outer(torch.arange(start, start + length, dtype=torch.float32), frequencies)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    half = torch.cat([-x[..., kv // 2 :], x[..., : kv // 2]], -1)
    return x * cos + half * sin


class OpenBA(nn.Module):
    """The network, with the names of Hugging Face's checkpoint; eval mode, float32."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict) -> None:
        super().__init__()
        self.weights, self.config = weights, config
        self.heads, self.kv = config["num_heads"], config["kv_channels"]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        )

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5)

    def split(self, x: torch.Tensor, parts: int) -> list[torch.Tensor]:
        x = x.view(*x.shape[:2], self.heads, parts * self.kv).transpose(1, 2)
        return list(x.chunk(parts, -1))

    def attend(self, q, k, v, visible: torch.Tensor, name: str) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) / self.kv**0.5
        scores = scores.masked_fill(~visible, -10000.0)
        out = scores.softmax(-1) @ v
        return self.linear(out.transpose(1, 2).flatten(2), f"{name}.o")

    def mlp(self, x: torch.Tensor, name: str) -> torch.Tensor:
        a, b = self.linear(x, f"{name}.fc_in").chunk(2, -1)
        return self.linear(functional.silu(a) * b, f"{name}.fc_out")

    def self_attention(self, x: torch.Tensor, visible: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = self.split(self.linear(x, f"{name}.qkv"), 3)
        return self.attend(rotated(q), rotated(k), v, visible, name)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.weights["shared_embedding.weight"][ids]
        visible = mask.bool()[:, None, None, :]
        for layer in range(self.config["num_layers"]):
            name = f"encoder.block.{layer}"
            normed = self.norm(x, f"{name}.input_layernorm")
            x = x + self.self_attention(normed, visible, f"{name}.self_attn")
            x = x + self.mlp(self.norm(x, f"{name}.post_attn_layernorm"), f"{name}.mlp")
        return self.norm(x, "encoder.final_layernorm")

    def forward(self, ids, mask, decoder_ids, decoder_mask) -> torch.Tensor:
        """Logits `[batch, decoder length, vocab]`."""
        memory, seen = self.encode(ids, mask), mask.bool()[:, None, None, :]
        x = self.weights["shared_embedding.weight"][decoder_ids]
        length = decoder_ids.shape[1]
        causal = torch.ones(length, length).tril().bool()
        visible = causal & decoder_mask.bool()[:, None, None, :]
        for layer in range(self.config["num_decoder_layers"]):
            name = f"decoder.block.{layer}"
            normed = self.norm(x, f"{name}.input_layernorm")
            x = x + self.self_attention(normed, visible, f"{name}.self_attn")
            query = self.linear(self.norm(x, f"{name}.post_attn_layernorm"), f"{name}.inter_attn.q")
            k, v = self.split(self.linear(memory, f"{name}.inter_attn.kv"), 2)
            x = x + self.attend(self.split(query, 1)[0], k, v, seen, f"{name}.inter_attn")
            x = x + self.mlp(self.norm(x, f"{name}.post_inter_attn_layernorm"), f"{name}.mlp")
        return self.linear(self.norm(x, "decoder.final_layernorm"), "lm_head")

    @torch.no_grad()
    def generate(self, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
        """The likeliest tokens `[batch, steps]`, with a cache that grows by concatenation, as that
        of Hugging Face's `generate`; no token ends a row.
        """
        memory, seen = self.encode(ids, mask), mask.bool()[:, None, None, :]
        layers = [f"decoder.block.{n}" for n in range(self.config["num_decoder_layers"])]
        read = {
            name: self.split(self.linear(memory, f"{name}.inter_attn.kv"), 2) for name in layers
        }
        past: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        last = torch.zeros(len(ids), 1, dtype=torch.long)
        answer = []
        for step in range(steps):
            x = self.weights["shared_embedding.weight"][last]
            visible = torch.ones(1, step + 1, dtype=torch.bool)
            for name in layers:
                normed = self.norm(x, f"{name}.input_layernorm")
                q, k, v = self.split(self.linear(normed, f"{name}.self_attn.qkv"), 3)
                q, k = rotated(q, step), rotated(k, step)
                if name in past:
                    k, v = (torch.cat(two, 2) for two in zip(past[name], (k, v), strict=True))
                past[name] = k, v
                x = x + self.attend(q, k, v, visible, f"{name}.self_attn")
                normed = self.norm(x, f"{name}.post_attn_layernorm")
                q = self.split(self.linear(normed, f"{name}.inter_attn.q"), 1)[0]
                x = x + self.attend(q, *read[name], seen, f"{name}.inter_attn")
                x = x + self.mlp(self.norm(x, f"{name}.post_inter_attn_layernorm"), f"{name}.mlp")
            logits = self.linear(self.norm(x, "decoder.final_layernorm"), "lm_head")
            last = logits.argmax(-1)
            answer.append(last)
        return torch.cat(answer, 1)


def training_loss(model: OpenBA, ids, mask, decoder_ids, targets) -> torch.Tensor:
    """The cross entropy summed over all targets, of which none is padding."""
    logits = model(ids, mask, decoder_ids, torch.ones_like(decoder_ids))
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


class Tokenizer:
    """As Hugging Face's: blanks beside special tokens go, eos is appended, rows are cut."""

    def __init__(self, pieces) -> None:
        self.pieces, count = pieces, pieces.GetPieceSize()
        self.special = {f"<extra_id_{k}>": count + 99 - k for k in range(100)}
        self.special |= {"<R>": count + 100, "<S>": count + 101, "<X>": count + 102}
        self.pattern = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")

    def ids(self, text: str, limit: int) -> list[int]:
        ids: list[int] = []
        for part in self.pattern.split(text):
            if part in self.special:
                ids.append(self.special[part])
            elif part.strip():
                ids += self.pieces.EncodeAsIds(part.strip())
        return [*ids[: limit - 1], EOS]

    def batch(self, texts: list[str], limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, padded on the left to the longest."""
        rows = [self.ids(text, limit) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids, mask


def candidate(tokenizer: Tokenizer, texts: list[str], limit: int) -> str:
    """The text of the most demonstrations that fits; `texts` have 0, 1, 2, ... of them."""
    fitting = [text for text in texts if len(tokenizer.ids(text, 10**9)) + 2 <= limit]
    return fitting[-1] if fitting else texts[0]


@torch.no_grad()
def logits_of(model, tokenizer, encoder: list[str], decoder: list[str], limits: tuple[int, int]):
    """Logits, and the decoder's ids before the shift."""
    ids, mask = tokenizer.batch(encoder, limits[0])
    labels, decoder_mask = tokenizer.batch(decoder, limits[1])
    shifted = functional.pad(labels[:, :-1], (1, 0))
    return model(ids, mask, shifted, decoder_mask), labels


def perplexity_scores(
    model, tokenizer, texts: list[str], options: list[list[str]], limits, sentinel: int
) -> torch.Tensor:
    """Mean negative log-likelihoods `[questions, options]`: one pass for each option."""
    encoder = [f"<S> {text} <extra_id_0>" for text in texts]
    columns = []
    for option in zip(*options, strict=True):
        logits, labels = logits_of(
            model, tokenizer, encoder, [f"<extra_id_0> {text}" for text in option], limits
        )
        labels = labels.masked_fill(labels == sentinel, 0)
        losses = functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, :-1], reduction="none", ignore_index=0
        )
        columns.append(losses.sum(-1) / (labels[:, :-1] != 0).sum(-1))
    return torch.stack(columns, -1)


def letter_scores(model, tokenizer, texts: list[str], decoder: str, letters: str, limits):
    """Logits of the letters `[questions, letters]`, at the last position before eos."""
    encoder = [f"<S> {text} <extra_id_0>" for text in texts]
    logits, _ = logits_of(
        model, tokenizer, encoder, [f"<extra_id_0> {decoder}"] * len(texts), limits
    )
    ids = [tokenizer.pieces.PieceToId(letter) for letter in letters]
    return logits[:, -1, ids]
