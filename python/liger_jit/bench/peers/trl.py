"""TRL's functions below its trainers."""

from ..stand_ins import take_names_of_absent

take_names_of_absent()

from trl.kernels import ChunkedLogProbFunction  # noqa: E402

VOCABULARY_CHUNK = 32768  # as its trainers cut it


def selective_log_softmax(logits, ids):
    # Not above: it needs Triton, which the other does without.
    from trl.kernels import selective_log_softmax_and_entropy

    return selective_log_softmax_and_entropy(logits, ids)[0]


def linear_log_probs(input, weight, ids):
    outputs = ("log_probs", "entropy")
    return ChunkedLogProbFunction.apply(
        input, weight, None, ids, 1.0, VOCABULARY_CHUNK, None, 1.0, outputs
    )[:2]
