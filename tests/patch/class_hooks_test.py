"""What hears of the models that are built leaves a class to those who replace what it inherits."""

import transformers
from liger_jit.transformers import monkey_patch
from tiny_models import build


def test_what_a_class_inherits_is_looked_up_at_each_call(monkeypatch, tmp_path):
    """As a hub's client replaces how all models are loaded."""
    base, seen = transformers.PreTrainedModel, []

    def noting(name, method):
        return lambda *args, **kwargs: (seen.append(name), method(*args, **kwargs))[1]

    with monkeypatch.context() as while_applied:
        while_applied.setattr(base, "post_init", noting("of then", base.post_init))
        monkey_patch.apply_liger_kernel_to_llama()
    try:
        build().save_pretrained(tmp_path)
        assert not seen
        own_load = base.from_pretrained.__func__
        monkeypatch.setattr(base, "post_init", noting("init", base.post_init))
        monkeypatch.setattr(base, "from_pretrained", classmethod(noting("load", own_load)))
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert seen.count("load") == 1 and "init" in seen
    finally:
        monkey_patch.revert_liger_kernel_to_llama()
