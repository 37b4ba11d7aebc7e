"""Functions of torch that lazy logits know by what they ask of a tensor."""

import torch


def named(owner, *names: str) -> list:
    return [getattr(owner, name) for name in names]


# What is known without the values. Not `grad_fn`: a hook on that node would never run.
METADATA = {
    *(getattr(torch.Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf",
        "is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized", "is_nested", "itemsize",
    )),
    *named(
        torch.Tensor, "dim", "ndimension", "size", "numel", "nelement", "stride", "is_contiguous",
        "is_floating_point", "is_complex", "element_size", "get_device", "__len__", "__hash__",
    ),
    *named(torch, "is_floating_point", "is_complex", "numel"),
}  # fmt: skip

# Of the memory, which a lazy tensor has beside it, if at all.
OF_MEMORY = {
    *named(
        torch.Tensor, "numpy", "tolist", "item", "__array__", "data_ptr", "untyped_storage",
        "storage", "__reduce_ex__", "__deepcopy__", "__dlpack__", "__repr__", "__format__",
        "__bool__", "__int__", "__float__", "__index__", "__contains__", "share_memory_",
    ),
    torch.Tensor.data.__get__,
}  # fmt: skip
