"""Sliceable twins of attention modules whose code ties the width of the heads to the width of the network.

``nn.MultiheadAttention`` and torchvision's window attention reshape their heads to the width of their input, so neither
can lose a head alone. A twin is the same module (same parameters, same names, same function) running code that takes
the number of heads from its weights; only modules that are really cut become one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:

    class _Attributes:
        """Whatever the module's own class has, which comes behind the twin in its bases."""

        def __getattr__(self, name: str) -> Any: ...
else:
    _Attributes = object


class TwinAttention(_Attributes):
    """``nn.MultiheadAttention`` with any number of heads of the width they had in the dense network."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (attended, weights or None) as ``nn.MultiheadAttention`` does, batched or not."""
        if query.ndim == 2:
            inputs = _batched(query, key, value, 0 if self.batch_first else 1)
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            x, weights = self.forward(*inputs, padding, need_weights, attn_mask, average_attn_weights, is_causal)
            return x.squeeze(0 if self.batch_first else 1), None if weights is None else weights.squeeze(0)
        swap = not self.batch_first
        q, k, v = self._project(query, key, value, swap)
        mask = _additive_mask(attn_mask, key_padding_mask, q)
        if is_causal and mask is None:
            mask = torch.full((q.shape[-2], k.shape[-2]), -math.inf, device=q.device, dtype=q.dtype).triu(1)
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            x = F.dropout(weights, drop) @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        x = F.linear(x.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        return (x.transpose(0, 1) if swap else x), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor, swap: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v as [batch, heads, length, width of a head]."""
        heads = self.in_proj_weight.shape[0] // (3 * self.head_dim)
        if query is key and key is value:
            x = query.transpose(0, 1) if swap else query
            packed = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(len(x), -1, 3, heads, self.head_dim)
            q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        weights = self.in_proj_weight.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        made = []
        for source, weight, bias in zip((query, key, value), weights, biases, strict=True):
            x = source.transpose(0, 1) if swap else source
            made.append(F.linear(x, weight, bias).view(len(x), -1, heads, self.head_dim).transpose(1, 2))
        return made[0], made[1], made[2]


class TwinWindowAttention(_Attributes):
    """Shifted-window attention (Liu et al., ICCV 2021 and CVPR 2022) over 2 or 3 axes with any number of heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map; ``x`` is [batch, *space, channels]."""
        space, channels = x.shape[1:-1], x.shape[-1]
        fixed = len(space) == 2  # over time too, a window shrinks with the clip
        window = [w if fixed else min(w, n) for w, n in zip(self.window_size, space, strict=True)]
        pad = [-n % w for n, w in zip(space, window, strict=True)]
        padded = [n + p for n, p in zip(space, pad, strict=True)]
        limits = padded if fixed else space
        shift = [0 if n <= w else s for s, n, w in zip(self.shift_size, limits, self.window_size, strict=True)]
        axes = list(range(1, len(space) + 1))
        x = F.pad(x, [0, 0, *(side for p in reversed(pad) for side in (0, p))])
        if sum(shift):
            x = torch.roll(x, [-s for s in shift], axes)
        bias = self.get_relative_position_bias() if fixed else self.get_relative_position_bias(window)
        mask = _shift_mask(padded, window, shift, x.device) if sum(shift) else None
        x = self._attend(_partition(x, window), bias, mask)
        x = _merge(x, padded, window, channels)
        if sum(shift):
            x = torch.roll(x, shift, axes)
        for axis, size in zip(axes, space, strict=True):
            x = x.narrow(axis, 0, size)
        return x.contiguous()

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attended windows [windows, tokens, channels]."""
        count, tokens, _ = x.shape
        cosine = getattr(self, "logit_scale", None)
        offset = self.qkv.bias
        if cosine is not None and offset is not None:  # version 2 has no bias on its keys
            of_q, of_k, of_v = offset.chunk(3)
            offset = torch.cat([of_q, torch.zeros_like(of_k), of_v])
        packed = F.linear(x, self.qkv.weight, offset).view(count, tokens, 3, -1, self.head_dim)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if cosine is None:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2)
        else:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
            scores = scores * cosine.clamp(max=math.log(100.0)).exp()
        scores = scores + bias
        if mask is not None:
            heads = scores.shape[1]
            scores = scores.view(-1, len(mask), heads, tokens, tokens) + mask.unsqueeze(1)
            scores = scores.view(count, heads, tokens, tokens)
        weights = F.dropout(scores.softmax(dim=-1), self.attention_dropout, self.training)
        x = F.linear((weights @ v).transpose(1, 2).flatten(2), self.proj.weight, self.proj.bias)
        return F.dropout(x, self.dropout, self.training)


class TwinGridAttention(_Attributes):
    """Block and grid attention of MaxViT (Tu et al., ECCV 2022) with any number of heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended partitions; ``x`` is [batch, partitions, tokens, channels]."""
        batch, parts, tokens, _ = x.shape
        q, k, v = (
            t.view(batch, parts, tokens, -1, self.head_dim).transpose(2, 3) for t in self.to_qkv(x).chunk(3, dim=-1)
        )
        scores = q @ (k * self.scale_factor).transpose(-1, -2) + self.get_relative_positional_bias()
        attended: Tensor = self.merge((scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3))
        return attended


def _batched(query: Tensor, key: Tensor, value: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three with a batch of one; one tensor stays one."""
    wide = {id(x): x.unsqueeze(axis) for x in (query, key, value)}
    return wide[id(query)], wide[id(key)], wide[id(value)]


def _partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """Return the windows of [batch, *space, channels] as [batch * windows, tokens, channels]."""
    rank = len(window)
    split = [part for n, w in zip(x.shape[1:-1], window, strict=True) for part in (n // w, w)]
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return x.view(len(x), *split, x.shape[-1]).permute(order).reshape(-1, math.prod(window), x.shape[-1])


def _merge(x: Tensor, space: Sequence[int], window: Sequence[int], channels: int) -> Tensor:
    """Return the map [batch, *space, channels] that its windows make."""
    rank = len(window)
    counts = [n // w for n, w in zip(space, window, strict=True)]
    order = [0, *(axis for i in range(rank) for axis in (1 + i, 1 + rank + i)), 2 * rank + 1]
    return x.view(-1, *counts, *window, channels).permute(order).reshape(-1, *space, channels)


def _shift_mask(space: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Return [windows, tokens, tokens]: -100 between tokens that the cyclic shift alone made neighbours."""
    region = torch.zeros([1] * len(space), device=device)
    for axis, (n, w, s) in enumerate(zip(space, window, shift, strict=True)):
        place = torch.arange(n, device=device)
        band = (place >= n - w).float() + (place >= n - s).float()
        if s == 0:
            band = torch.zeros(n, device=device)
        region = region * 3 + band.view([-1 if i == axis else 1 for i in range(len(space))])
    parts = _partition(region.expand(*space).reshape(1, *space, 1), window).squeeze(-1)
    return (parts.unsqueeze(1) != parts.unsqueeze(2)).float() * -100.0


def _additive_mask(mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the masks as one float mask that broadcasts to [batch, heads, length, length]."""
    total = None
    if mask is not None:
        total = _as_float(mask, like)
        if total.ndim == 3:
            total = total.view(len(like), -1, *total.shape[1:])
    if padding is not None:
        wide = _as_float(padding, like)[:, None, None, :]
        total = wide if total is None else total + wide
    return total


def _as_float(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _width_of_mha(module: Any) -> int:
    return int(module.head_dim)


def _width_of_window(module: Any) -> int:
    return int(module.qkv.out_features // (3 * module.num_heads))


_SWIN = "torchvision.models.swin_transformer.ShiftedWindowAttention"
_TWINS: dict[str, tuple[type, Callable[[Any], int], Callable[[Any], bool]]] = {
    "torch.nn.modules.activation.MultiheadAttention": (
        TwinAttention,
        _width_of_mha,
        lambda m: m._qkv_same_embed_dim and m.bias_k is None and not m.add_zero_attn,
    ),
    _SWIN: (TwinWindowAttention, _width_of_window, lambda m: True),
    f"{_SWIN}V2": (TwinWindowAttention, _width_of_window, lambda m: True),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        TwinWindowAttention,
        _width_of_window,
        lambda m: True,
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": (
        TwinGridAttention,
        _width_of_mha,
        lambda m: True,
    ),
}
_made: dict[type, type] = {}


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def has_twin(module: nn.Module) -> bool:
    """Return whether the module has a sliceable twin or is one."""
    if is_twin(module):
        return True
    entry = _TWINS.get(_name(type(module)))
    return entry is not None and bool(entry[2](module))


def is_twin(module: nn.Module) -> bool:
    """Return whether the module is a twin, whose operations are not those of the module it replaces."""
    return type(module) in _made.values()


def become_twin_(module: nn.Module) -> None:
    """Turn an attention module into its sliceable twin, in place; a twin stays one."""
    if is_twin(module):
        return
    original = type(module)
    mixin, width, _ = _TWINS[_name(original)]
    module.head_dim = width(module)  # type: ignore[assignment]
    if mixin is TwinAttention:  # keeps nn.TransformerEncoderLayer off its fused path, which knows only uncut heads
        module._qkv_same_embed_dim = False  # type: ignore[assignment]
    if original not in _made:
        _made[original] = type(f"Twin{original.__name__}", (mixin, original), {})
    module.__class__ = _made[original]


def become_twins_(model: nn.Module) -> None:
    """Turn every attention module that has one into its sliceable twin, in place."""
    for module in model.modules():
        if has_twin(module):
            become_twin_(module)


def twins_among(modules: Mapping[str, nn.Module], touched: Iterable[str]) -> tuple[str, ...]:
    """Return the attention modules with twins that hold any of the ``touched`` layers or tensors."""
    names = list(touched)
    return tuple(
        name
        for name, module in modules.items()
        if has_twin(module) and any(one.startswith(f"{name}.") for one in names)
    )


def adapt_(model: nn.Module) -> None:
    """Set the attributes in which known modules repeat a size of their weights, in place."""
    for module in model.modules():
        if is_twin(module):
            _adapt_twin_(module)
        elif _name(type(module)) == "torchvision.models.vision_transformer.VisionTransformer":
            _adapt_vit_(module)
        elif _name(type(module)) == "torchvision.models.video.mvit.MultiscaleAttention":
            _adapt_mvit_(module)


def _adapt_vit_(module: Any) -> None:
    module.hidden_dim = module.class_token.shape[-1]


def _adapt_mvit_(module: Any) -> None:
    module.num_heads = module.qkv.out_features // (3 * module.head_dim)
    module.output_dim = module.num_heads * module.head_dim


def _adapt_twin_(module: Any) -> None:
    if issubclass(type(module), TwinAttention):
        module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[1]
        module.num_heads = module.in_proj_weight.shape[0] // (3 * module.head_dim)
    elif issubclass(type(module), TwinWindowAttention):
        module.num_heads = module.qkv.out_features // (3 * module.head_dim)
    else:
        module.n_heads = module.to_qkv.out_features // (3 * module.head_dim)
