"""The tensors of a call are on one device, a meta tensor's too: else an error says which is not."""

import pytest
import torch
from samples import PUBLIC, arguments, operator, tensors_of

OPTIONAL_NUMBERS = ("cross_entropy", "fused_linear_cross_entropy")


def tensors_in(values):
    return [name for name, value in values.items() if isinstance(value, torch.Tensor)]


def refuses(op, values, moved):
    others = [name for name in tensors_in(values) if name != moved]
    # What is first sets the device that the others are measured against.
    blamed = others[0] if tensors_in(values)[0] == moved else moved
    found = values[blamed].device
    wanted = values[moved if blamed != moved else others[0]].device
    said = f"liger_jit::{op}: argument '{blamed}' is on {found}; allowed: the device of .*{wanted}"
    with pytest.raises(ValueError, match=said):
        operator(op)(**values)


@pytest.mark.parametrize("op", PUBLIC)
def test_a_meta_tensor_among_real_ones_and_the_reverse_are_refused(device, op):
    values = arguments(op, device)
    on_meta = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
    assert all(one.is_meta for one in tensors_of(operator(op)(**on_meta)))
    for moved in tensors_in(values) if len(tensors_in(values)) > 1 else []:  # one is no mix
        refuses(op, {**values, moved: on_meta[moved]}, moved)
        refuses(op, {**on_meta, moved: values[moved]}, moved)


@pytest.mark.parametrize("op", OPTIONAL_NUMBERS)
def test_a_number_on_the_cpu_among_tensors_of_another_device_is_refused(op):
    """On a GPU to bring it there would wait; meta tensors promise what holds for real ones."""
    for device in ("meta", *(["cuda"] if torch.cuda.is_available() else [])):
        values = arguments(op, device)
        values["num_items"] = torch.tensor(3.0)
        refuses(op, values, "num_items")
