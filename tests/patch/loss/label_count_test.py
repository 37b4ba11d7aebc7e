"""The number of labels that count, which the loss gets before it has to start."""

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.patch.loss import label_count
from liger_jit.patch.loss.label_count import IGNORED, LabelCount
from tiny_models import assert_same_step, batch, build, error, loss_and_gradients
from torch.nn import functional as F

VOCABULARY = 97


def test_a_bound_is_given_only_for_what_the_labels_can_have_become():
    count = LabelCount(torch.zeros(12), 0, lambda: 7)
    assert count.bound_for(torch.zeros(12), -100) == 7
    assert count.bound_for(torch.zeros(10), -100) is None
    assert count.bound_for(torch.zeros(13), -100) is None
    assert count.bound_for(torch.zeros(12), 0) is None


def test_the_count_is_of_these_labels_as_they_were():
    labels = torch.zeros(12)
    count = LabelCount(labels, labels._version, lambda: 7)
    assert count.is_of(labels)
    assert not count.is_of(labels.clone())
    assert not count.is_of(None)
    labels[0] = 1
    assert not count.is_of(labels)


def test_on_the_cpu_the_loss_counts_for_itself():
    assert LabelCount.begin(torch.zeros(3, dtype=torch.int64)) is None


@pytest.fixture
def asked(monkeypatch):
    """What the loss is told, and what it should be: (bound, number of labels that count).

    The CPU counts here as a GPU does: where the forward begins.
    """
    told, fused = [], functional.fused_linear_cross_entropy

    of_gpu = label_count.asked_of_gpu

    def counted(labels):
        if labels.is_cuda:
            return of_gpu(labels)
        number = int(labels.ne(IGNORED).sum())
        return lambda: number

    def recorded(states, weight, target, **options):
        ignored = options["ignore_index"]
        if not target.is_meta:
            told.append((options["counted_tokens"], int(target.ne(ignored).sum())))
        return fused(states, weight, target, **options)

    monkeypatch.setattr(label_count, "asked_of_gpu", counted)
    monkeypatch.setattr(functional, "fused_linear_cross_entropy", recorded)
    return told


def labels_of(device, tokens=300):
    """Few count, the first of them in the first place: shifted in a row, it counts no more."""
    labels = torch.full((2, tokens), IGNORED)
    labels[:, :20] = torch.arange(20) + 3
    return labels.to(device)


def shift(labels):
    return F.pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous()


def longer(own):
    """Makes labels of its own inside the forward, as models of images and text do."""

    def forward(self, input_ids, labels, **kwargs):
        ids = torch.cat([input_ids, input_ids], dim=1)
        return own(self, input_ids=ids, labels=torch.cat([labels, input_ids], dim=1), **kwargs)

    return forward


def in_place(own):
    """Un-ignores labels, in the tensor that it was given."""

    def forward(self, input_ids, labels, **kwargs):
        labels.copy_(input_ids)
        return own(self, input_ids=input_ids, labels=labels, **kwargs)

    return forward


def replaced(own):
    def forward(self, input_ids, labels, **kwargs):
        return own(self, input_ids=input_ids, labels=input_ids, **kwargs)

    return forward


def own_loss(own):
    """Computes its loss itself, on labels that it shifts by two."""

    def forward(self, input_ids, labels, **kwargs):
        output = own(self, input_ids=input_ids, **kwargs)
        rows = output.logits[:, :-2].reshape(-1, VOCABULARY)
        output.loss = F.cross_entropy(rows, labels[:, 2:].reshape(-1))
        return output

    return forward


def as_it_is(own):
    return own


LABELS = {
    "labels": lambda labels: {"labels": labels},
    "both": lambda labels: {"labels": labels, "shift_labels": shift(labels)},
    "a shard": lambda labels: {
        "labels": torch.cat([labels[:, :1], torch.full_like(labels[:, 1:], IGNORED)], dim=1),
        "shift_labels": torch.roll(labels, 1, dims=1),
    },
    "another ignored": lambda labels: {
        "labels": labels.masked_fill(labels == IGNORED, 5),
        "ignore_index": 5,
    },
}
BOUNDED = {("labels", "as_it_is"), ("both", "as_it_is"), ("a shard", "as_it_is")}


# The other forwards know labels alone.
CASES = [
    *((given, as_it_is) for given in LABELS),
    *(
        (given, forward)
        for given in ("labels", "another ignored")
        for forward in (longer, in_place, replaced, own_loss)
    ),
]


@pytest.mark.parametrize(("given", "forward"), CASES)
def test_the_loss_is_never_told_too_few(given, forward, asked, device, monkeypatch):
    ids = torch.randint(3, VOCABULARY, (2, 300), device=device)

    def step(model):
        inputs = LABELS[given](labels_of(device))
        return loss_and_gradients(model, input_ids=ids, **inputs)

    model = build(num_hidden_layers=1, max_position_embeddings=640).to(device)
    monkeypatch.setattr(type(model), "forward", forward(type(model).forward))
    expected = step(model)
    patch(model)
    assert_same_step(step(model), expected)
    for bound, right in asked:
        assert bound is None or bound >= right
    known = [bound for bound, _ in asked if bound is not None]
    assert len(known) == ((given, forward.__name__) in BOUNDED)
    if given == "both":
        assert known == [asked[0][1]]


def test_only_shifted_labels_are_no_call_with_labels(asked):
    model = build(num_hidden_layers=1)
    ids = batch()["input_ids"]
    expected = model(input_ids=ids).logits
    patch(model)
    output = model(input_ids=ids, shift_labels=shift(ids))
    assert output.loss is None
    assert error(output.logits, expected) <= 1e-5
    assert not asked


def test_a_gpu_step_leaves_ignored_tokens_out(cuda, asked):
    model = build("Qwen3").to(cuda)
    inputs = {name: value.to(cuda) for name, value in batch(batch_size=2, tokens=400).items()}
    inputs["labels"][:, 130:] = -100
    expected = loss_and_gradients(model, **inputs)
    patch(model)
    assert_same_step(loss_and_gradients(model, **inputs), expected)
    assert asked[0][0] == int(inputs["labels"].ne(-100).sum())
