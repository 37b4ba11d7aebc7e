"""Loading or building a causal language model and patching it, in one call."""

from transformers import AutoModelForCausalLM

from ..patch import FLAGS
from .monkey_patch import _apply_liger_kernel_to_instance


class AutoLigerKernelForCausalLM(AutoModelForCausalLM):
    """`AutoModelForCausalLM` whose models come patched, with the handle in `model.liger_handle`.

    The flags of Liger's functions are taken out of the keywords; those that the model's family
    lacks are dropped, and those left out have the defaults of its function, or of
    `liger_jit.patch` if it has none.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads as `AutoModelForCausalLM.from_pretrained` does, then patches the model.

        Args:
            pretrained_model_name_or_path, model_args, kwargs: as there, and flags.

        Returns what AutoModelForCausalLM returns. Raises as it and as `liger_jit.patch`.
        """
        flags = _flags_out_of(kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        # With output_loading_info the model comes with a second value.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        _apply_liger_kernel_to_instance(model, **flags)
        return loaded

    @classmethod
    def from_config(cls, config, **kwargs):
        """Builds as `AutoModelForCausalLM.from_config` does, then patches the model.

        Args:
            config, kwargs: as there, and flags.

        Returns the model. Raises as AutoModelForCausalLM and as `liger_jit.patch`.
        """
        flags = _flags_out_of(kwargs)
        model = super().from_config(config, **kwargs)
        _apply_liger_kernel_to_instance(model, **flags)
        return model


def _flags_out_of(kwargs: dict) -> dict:
    return {name: kwargs.pop(name) for name in FLAGS if name in kwargs}
