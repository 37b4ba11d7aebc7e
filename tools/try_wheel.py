"""Tries the liger_jit that this Python imports, and says what it is: run it in the environment that
a wheel was installed into.

On the CPU: an operator with its gradients against torch's own, and, where transformers is
installed, a patched Llama's loss and gradients against the model's own. Anything wrong raises.
"""

import platform
from importlib.util import find_spec

import liger_jit
import torch
from liger_jit import library


def tensors(*sizes):
    torch.manual_seed(0)
    return [torch.randn(size, requires_grad=True) for size in sizes]


def try_operator() -> str:
    (x, w), (x_own, w_own) = tensors((3, 40), 40), tensors((3, 40), 40)
    y = liger_jit.functional.rms_norm(x, w)
    own = torch.nn.functional.rms_norm(x_own, (40,), w_own, eps=1e-6)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    (y * weights).sum().backward()
    (own * weights).sum().backward()
    torch.testing.assert_close(y, own)
    torch.testing.assert_close(x.grad, x_own.grad)
    torch.testing.assert_close(w.grad, w_own.grad)
    return "rms_norm and its gradients are torch's"


def try_patch() -> str:
    if not find_spec("transformers"):
        return "no transformers: nothing patched"
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(config.vocab_size, (2, 16))

    def step():
        model.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        return loss.detach(), [each.grad.clone() for each in model.parameters()]

    before = step()
    handle = liger_jit.patch(model)
    torch.testing.assert_close(step(), before)
    roles = sorted({row.role for row in handle.report() if row.patched})
    assert "rms_norm" in roles, str(handle.report())
    handle.unpatch()
    told = f"transformers {transformers.__version__}: a patched Llama's step is the model's own"
    return f"{told}, with {', '.join(roles)}"


def main() -> None:
    print(f"liger_jit {liger_jit.__version__} of {library.BINDING}")
    print(f"torch {torch.__version__}, built with {library.built_with()}", end=", ")
    print(f"Python {platform.python_version()}")
    print(try_operator())
    print(try_patch())
    print("works")


if __name__ == "__main__":
    main()
