"""Loading a causal language model and patching it, in one call."""

from transformers import AutoModelForCausalLM

from ..patch import FLAGS, patch


class AutoLigerKernelForCausalLM(AutoModelForCausalLM):
    """`AutoModelForCausalLM` whose models come patched, with the handle in `model.liger_handle`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads as `AutoModelForCausalLM.from_pretrained` does, then patches the model.

        Args:
            pretrained_model_name_or_path, model_args, kwargs: as there; the flags of
                `liger_jit.patch` are taken out of kwargs.

        Returns what AutoModelForCausalLM returns. Raises as it and as `liger_jit.patch`.
        """
        flags = {name: kwargs.pop(name) for name in FLAGS if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        # With output_loading_info the model comes with a second value.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.liger_handle = patch(model, **flags)
        return loaded
