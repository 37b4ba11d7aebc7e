"""Every way in which a tensor can lie in memory: functions that lay a tensor out anew."""

import torch


def padded(value):
    """Rows of a longer buffer. What is between them is no number."""
    if value.dim() == 0:
        return value
    size = value.shape[-1]
    other = float("nan") if value.is_floating_point() else torch.iinfo(value.dtype).max
    buffer = value.new_full((*value.shape[:-1], size + 7), other)
    buffer[..., :size] = value
    return buffer[..., :size]


def expanded(*dims):
    """One element of these dims in place of all: stride 0."""

    def layout(value):
        for dim in dims:
            if -dim <= value.dim() and value.numel():
                value = value.narrow(dim, 0, 1).expand(value.shape)
        return value

    return layout


def reversed_in_memory(value):
    if value.dim() < 2:
        return value
    order = range(value.dim() - 1, -1, -1)
    return value.permute(*order).contiguous().permute(*order)


def heads_second(value):
    """Two of the leading dims change places in memory."""
    if value.dim() < 3:
        return value
    return value.transpose(-2, -3).contiguous().transpose(-2, -3)


def transposed(value):
    return value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.dim() > 1 else value


def offset_by_one_element(value):
    buffer = value.new_empty(value.numel() + 1)
    return buffer[1:].view(value.shape).copy_(value)


def overlapping(value):
    """Each row begins inside the one before it."""
    if value.dim() < 2:
        return value
    strides = list(value.contiguous().stride())
    strides[-2] = max(min(3, value.shape[-1] - 1), 1)
    return value.contiguous().as_strided(value.shape, strides)


LAYOUTS = {
    "padded": padded,
    "all expanded": expanded(-1, -2, -3, -4),
    **{f"expanded {dim}": expanded(dim) for dim in (-1, -2, -3, -4)},
    "leading expanded": expanded(-2, -3, -4),
    "reversed": reversed_in_memory,
    "heads second": heads_second,
    "transposed": transposed,
    "offset": offset_by_one_element,
    "overlapping": overlapping,
}


def lay_out(layout, values, names):
    """The arguments with the tensors named laid out anew; other tensors are copies."""
    return {
        name: LAYOUTS[layout](value) if name in names else plain(value)
        for name, value in values.items()
    }


def plain(value):
    """A contiguous copy."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone(memory_format=torch.contiguous_format)


def on_meta(value):
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def shares_memory_with_itself(value):
    """Whether two of its elements are one in memory."""
    places = torch.zeros((), dtype=torch.long)
    for size, stride in zip(value.shape, value.stride(), strict=True):
        places = places.unsqueeze(-1) + torch.arange(size) * stride
    return places.unique().numel() < places.numel()
