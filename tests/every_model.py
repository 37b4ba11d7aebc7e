"""Every causal and every multimodal class of the installed transformers, made small.

A class is known by its model type. What cannot be made from sizes alone, by the settings here or
those of `family_models`, is named with its error: in docs/models.md, and where a test skips it.
"""

import inspect

import torch
import transformers
from family_models import OWN, SMALL, layers_of, settings_of, small_config
from model_inputs import inputs_of
from tiny_models import loss_and_gradients
from transformers.models.auto import modeling_auto as auto

CAUSAL = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
# A later mapping names what an earlier one does not.
MULTIMODAL = {
    kind: name
    for mapping in (
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    )
    for kind, name in getattr(auto, mapping, {}).items()
    if kind not in CAUSAL or CAUSAL[kind] != name
}
CLASSES = {
    **{(kind, name): "causal" for kind, name in CAUSAL.items()},
    **{(kind, name): "multimodal" for kind, name in MULTIMODAL.items()},
}
MOST_PARAMETERS = 20_000_000
# What a class calls that which it learns to give.
TARGETS = {"labels", "actions"}


def class_named(name):
    """A mapping may name several classes for a type, of which the first is meant."""
    return getattr(transformers, name if isinstance(name, str) else name[0])


def configurations(kind, model_class):
    """Ways to make the class small, the plainest first."""
    own = config_class_of(kind, model_class)
    settings = settings_of(own)
    if own.model_type not in OWN and not own.sub_configs:
        yield lambda: with_settings(own, flat_settings(own()) | settings)
    yield lambda: small_config(own, settings)
    if not own.sub_configs:
        yield lambda: with_settings(own, flat_settings(own(), layers=False) | settings)


def config_class_of(kind, model_class):
    """A class for the text part of a larger model has that part's."""
    found = model_class.config_class
    part = found.sub_configs.get("text_config") if kind in CAUSAL else None
    takes_part = part is not None and "ForCausalLM" in model_class.__name__
    return part if takes_part and kind not in transformers.CONFIG_MAPPING else found


def flat_settings(usual, layers=True):
    settings = {name: value for name, value in SMALL.items() if is_number(usual, name)}
    return settings | (layers_of(usual) if layers else {})


def with_settings(own, settings):
    """Without those that a class reckons itself."""
    while True:
        try:
            return own(**settings)
        except AttributeError as error:
            name = str(error).split("'")[1] if "has no setter" in str(error) else None
            if name not in settings:
                raise
            settings = {key: value for key, value in settings.items() if key != name}


def is_number(configuration, name):
    try:
        value = getattr(configuration, name, None)
    except Exception:  # what differs from layer to layer
        return False
    # A padding token some releases only give where it is set.
    return name == "pad_token_id" or (isinstance(value, int) and not isinstance(value, bool))


def small_model(kind, name, check=lambda model: None):
    """(a model of that class without dropout, its norms and biases far from their first values;
    what `check` gives for it). The first of its configurations with which both can be had; raises
    what the last one raised."""
    model_class, error = class_named(name), None
    if not TARGETS & inspect.signature(model_class.forward).parameters.keys():
        raise ValueError("its forward takes no labels")
    for configuration in configurations(kind, model_class):
        try:
            torch.manual_seed(1)
            settings = configuration()
            with torch.device("meta"):
                size = sum(p.numel() for p in model_class(settings).parameters())
            if size > MOST_PARAMETERS:
                raise ValueError(f"{size} parameters")
            model = made(model_class, settings)
            return model, check(model)
        except Exception as one:
            error = one
    raise error


def made(model_class, settings):
    model = model_class(settings).float().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            # What begins at zero would keep a gradient from all before it.
            if parameter.dim() == 1 or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def step(model):
    torch.manual_seed(7)
    loss, gradients = loss_and_gradients(model, **inputs_of(model))
    return loss.item(), gradients


def steady_step(model):
    """The model's step, if it is the same one each time."""
    found = step(model)
    if step(model)[0] != found[0]:
        raise ValueError("its step is another one each time")
    return found
