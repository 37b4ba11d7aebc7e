"""What one forward asks of the loss belongs to that forward, however it is called and ends."""

import functools
import threading

import pytest
import torch
from liger_jit.patch import entered, patch
from liger_jit.patch.loss.lazy_source import Source
from tiny_models import (
    Checkpointed,
    assert_same_step,
    batch,
    build,
    counted,
    error,
    loss_and_gradients,
)
from torch.utils.checkpoint import checkpoint

THREADS, CALLS = 4, 30


def test_threads_in_one_model_do_not_mix_their_calls():
    model = build(num_hidden_layers=1)
    ids, labels = batch().values()
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels)
        patch(model)
        wrong, start = [], threading.Barrier(THREADS)

        def work(number):
            start.wait()
            with torch.no_grad():
                for call in range(CALLS):
                    if (call + number) % 2:
                        output = model(input_ids=ids, labels=labels)
                        if output.logits is not None or error(output.loss, expected.loss) > 1e-5:
                            wrong.append(("loss", output.loss))
                        continue
                    logits = model(input_ids=ids).logits
                    if type(logits) is not torch.Tensor or error(logits, expected.logits) > 1e-5:
                        wrong.append(("logits", logits))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


class Stop(BaseException):
    """What `except Exception` lets through, as KeyboardInterrupt, GeneratorExit and SystemExit."""


def raising(*args, **named):
    raise Stop


def from_a_layer(model):
    return model.model.layers[0].register_forward_hook(raising)


def from_the_body(model):
    return model.model.register_forward_pre_hook(raising)


def from_the_head(model):
    return model.lm_head.register_forward_pre_hook(raising)


def from_the_model(model):
    return model.register_forward_hook(raising)


@pytest.mark.parametrize("place", [from_a_layer, from_the_body, from_the_head, from_the_model])
@pytest.mark.parametrize("direct", [False, True])
def test_whatever_a_forward_raises_leaves_nothing(place, direct):
    model = build()
    x = torch.randn(2, 3, 32)
    expected = model.lm_head(x)
    patch(model)
    hook = place(model)
    if not (direct and place is from_the_model):
        with pytest.raises(Stop):
            (model.forward if direct else model)(**batch())
    hook.remove()
    assert entered.here.innermost is None
    assert type(model.lm_head(x)) is torch.Tensor
    assert torch.equal(model.lm_head(x), expected)
    assert type(model(input_ids=batch()["input_ids"]).logits) is torch.Tensor


def test_a_loss_function_that_raises_leaves_nothing():
    model = build()
    patch(model)
    model.loss_function = raising
    with pytest.raises(Stop):
        model(**batch())
    assert entered.here.innermost is None


def test_model_forward_is_a_call_like_any_other(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    patch(model)
    with counted(monkeypatch) as calls:
        output = model.forward(**batch())
        assert output.logits is None
        output.loss.backward()
        assert type(model.forward(**batch(), skip_logits=False).logits) is torch.Tensor
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_same_step((output.loss.detach(), gradients), expected)
    assert calls["fused_linear_cross_entropy"] == 1


@pytest.mark.parametrize("options", [{}, {"return_dict": False}, {"return_token_accuracy": True}])
def test_a_step_computes_no_logits(options, monkeypatch):
    model = build()
    patch(model)

    def computed(source):
        raise AssertionError(f"logits of {tuple(source.states.shape)} were computed")

    monkeypatch.setattr(Source, "compute", computed)
    output = model(**batch(), **options)
    output[0].backward()
    assert model.lm_head.weight.grad.any()


def test_a_class_forward_past_the_patch_has_real_logits():
    model = build()
    expected = model(**batch())
    patch(model)
    output = type(model).forward(model, **batch())
    assert type(output.logits) is torch.Tensor
    assert error(output.logits, expected.logits) <= 1e-5


class Once:
    """A hook of the body that calls a model in the middle of a forward, once."""

    def __init__(self, call):
        self.call, self.output = call, None

    def __call__(self, *args):
        if self.output is None:
            self.output = ()
            self.output = self.call()


@pytest.mark.parametrize("inner_labels", [False, True])
@pytest.mark.parametrize("outer_labels", [False, True])
@pytest.mark.parametrize("itself", [False, True])
def test_a_forward_inside_a_forward(itself, outer_labels, inner_labels):
    outer, inner = build(), build("Qwen2")
    inner = outer if itself else inner
    ids, labels = batch().values()
    expected_outer = outer(input_ids=ids, labels=labels)
    expected_inner = inner(input_ids=ids, labels=labels)
    patch(outer)
    patch(inner)
    once = Once(lambda: inner(input_ids=ids, labels=labels if inner_labels else None))
    outer.model.register_forward_hook(once)
    found = outer(input_ids=ids, labels=labels if outer_labels else None)
    for output, expected, labelled in (
        (found, expected_outer, outer_labels),
        (once.output, expected_inner, inner_labels),
    ):
        if labelled:
            assert output.logits is None
            assert error(output.loss, expected.loss) <= 1e-5
        else:
            assert type(output.logits) is torch.Tensor
            assert error(output.logits, expected.logits) <= 1e-5


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_whole_forward_inside_a_checkpoint(use_reentrant):
    def step(model):
        def loss_of(embeddings, labels):
            return model(inputs_embeds=embeddings, labels=labels).loss

        model.zero_grad()
        embeddings = model.model.embed_tokens(batch()["input_ids"])
        loss = checkpoint(loss_of, embeddings, batch()["labels"], use_reentrant=use_reentrant)
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters()}

    model = build()
    expected = step(model)
    patch(model)
    assert_same_step(step(model), expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_head_that_its_model_checkpoints(use_reentrant):
    """Its recomputation is in the backward, where no forward of the model runs."""
    model = build()
    expected = loss_and_gradients(model)
    patch(model)
    # Put where the body's end is, so that the head itself is called in place.
    head, own = model.lm_head, type(model).forward
    model.forward = functools.partial(own, model)
    model._modules["lm_head"] = Checkpointed(head, use_reentrant)
    found = loss_and_gradients(model)
    renamed = {name.replace("lm_head.head", "lm_head"): g for name, g in found[1].items()}
    assert_same_step((found[0], renamed), expected)


def test_logits_that_somebody_kept_are_real_when_the_forward_has_ended():
    model = build()
    ids, labels = batch().values()
    expected = model(input_ids=ids).logits.detach()
    patch(model)
    kept = []
    own = model.loss_function
    model.loss_function = lambda logits, **rest: kept.append(logits) or own(logits, **rest)
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert type(kept[0]) is torch.Tensor
    assert error(kept[0].detach(), expected) <= 1e-5


def test_logits_of_a_forward_that_raised_are_refused():
    model = build()
    patch(model)
    kept, own = [], model.loss_function

    def skipped(logits, **rest):
        kept.append(logits)
        raise KeyError("skipped")

    model.loss_function = skipped
    with pytest.raises(KeyError):
        model(**batch())
    model.lm_head.weight.data.mul_(2.0)  # which no version counts
    with pytest.raises(RuntimeError, match="after the forward that made them raised"):
        kept[0].sum()
    model.loss_function = own
    assert model(**batch()).loss.isfinite()


@pytest.mark.parametrize("asked", [{}, {"return_token_accuracy": True}])
def test_what_a_forward_sets_on_its_output_later_is_there(asked, monkeypatch):
    model = build(num_hidden_layers=1)
    own = type(model).forward

    def forward(self, input_ids, labels, **kwargs):
        output = own(self, input_ids=input_ids, labels=labels, **kwargs)
        output.attentions, output.note = labels, "kept"
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    expected = model(**batch())
    patch(model)
    found = model(**batch(), **asked)
    assert error(found.loss, expected.loss) < 1e-5
    assert torch.equal(found.attentions, expected.attentions)
    assert found.note == "kept"
    assert found.logits is None
    assert ("token_accuracy" in found) == bool(asked)
