"""Direct preference optimisation and its variants in plain torch.

Rows are stacked: the first half of the batch are the chosen answers, the second the rejected.
"""

import torch
import torch.nn.functional as torch_functional
from log_prob_reference import chosen_log_probs, logits_of

# Each variant with options that it needs.
VARIANTS = {
    "sigmoid": {},
    "hinge": {},
    "ipo": {},
    "exo_pair": {"label_smoothing": 0.1},
    "nca_pair": {},
    "robust": {"label_smoothing": 0.2},
    "bco_pair": {},
    "sppo_hard": {},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {"discopop_tau": 0.2},
}


def pair_losses(variant, chosen, rejected, beta, label_smoothing=0.0, discopop_tau=0.05):
    """One loss a pair, of log(pi / pi_ref) of its two answers.

    Rafailov et al., arXiv:2305.18290 (sigmoid); SLiC-HF, 2305.10425 (hinge); IPO, 2310.12036; EXO,
    2402.00856, eq. 16; NCA, 2402.05369; robust DPO, 2403.00409; BCO, 2404.04656; SPPO, 2405.00675;
    APO, 2408.06266, eq. 7 and 8; DiscoPOP, 2406.08414, eq. 5.
    """
    log_sigmoid = torch_functional.logsigmoid
    margin = beta * (chosen - rejected)
    won, lost = beta * chosen, beta * rejected  # the rewards
    if variant == "sigmoid":
        return -log_sigmoid(margin)
    if variant == "hinge":
        return (1 - margin).relu()
    if variant == "ipo":
        return (chosen - rejected - 1 / (2 * beta)).square()
    if variant == "exo_pair":
        smoothing = torch.tensor(label_smoothing, dtype=margin.dtype, device=margin.device)
        of_chosen = margin.sigmoid() * (log_sigmoid(margin) - torch.log1p(-smoothing))
        return of_chosen + (-margin).sigmoid() * (log_sigmoid(-margin) - smoothing.log())
    if variant == "nca_pair":
        return -log_sigmoid(won) - (log_sigmoid(-won) + log_sigmoid(-lost)) / 2
    if variant == "robust":
        right, wrong = (1 - label_smoothing) * log_sigmoid(margin), log_sigmoid(-margin)
        return (label_smoothing * wrong - right) / (1 - 2 * label_smoothing)
    if variant == "bco_pair":
        return -log_sigmoid(won) - log_sigmoid(-lost)
    if variant == "sppo_hard":
        return (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()
    if variant == "apo_zero":
        return 1 - won.sigmoid() + lost.sigmoid()
    if variant == "apo_down":
        return won.sigmoid() + 1 - margin.sigmoid()
    if variant == "discopop":
        modulation = (margin / discopop_tau).sigmoid()
        return -log_sigmoid(margin) * (1 - modulation) + (-margin).exp() * modulation
    raise AssertionError(variant)


def sequence_log_probs(logits, target, ignore_index, average):
    """[B]: the log-probability of each row's labels, as a sum or as a mean."""
    counted = target != ignore_index
    log_probs = torch.where(counted, chosen_log_probs(logits, target), 0.0).sum(-1)
    return log_probs / counted.sum(-1) if average else log_probs


def dpo_reference(
    input,
    weight,
    target,
    bias=None,
    ref_input=None,
    ref_weight=None,
    ref_bias=None,
    ignore_index=-100,
    beta=0.1,
    alpha=1.0,
    compute_nll_loss=False,
    average_log_prob=False,
    loss_type="sigmoid",
    label_smoothing=0.0,
    discopop_tau=0.05,
):
    """(loss, chosen and rejected log-probs, their mean logits, NLL, chosen and rejected rewards).

    Of IPO the log-probs are means over tokens, as its authors' followers found to be needed.
    """
    average = average_log_prob or loss_type == "ipo"
    logits = logits_of(input, weight, bias)
    log_probs = sequence_log_probs(logits, target, ignore_index, average)
    pairs = target.shape[0] // 2
    ratios = log_probs
    if ref_input is not None:
        ref_logits = logits_of(ref_input, ref_weight, ref_bias).detach()
        ratios = log_probs - sequence_log_probs(ref_logits, target, ignore_index, average)
    chosen, rejected = ratios[:pairs], ratios[pairs:]
    losses = pair_losses(loss_type, chosen, rejected, beta, label_smoothing, discopop_tau)
    loss = losses.mean()
    nll = torch.zeros_like(loss)
    if compute_nll_loss:
        counted = target[:pairs] != ignore_index
        tokens = torch.where(counted, chosen_log_probs(logits[:pairs], target[:pairs]), 0.0)
        nll = -tokens.sum() / counted.sum()
        loss = loss + alpha * nll
    return (
        loss,
        log_probs[:pairs].detach(),
        log_probs[pairs:].detach(),
        logits[:pairs].mean().detach(),
        logits[pairs:].mean().detach(),
        nll.detach(),
        (beta * chosen).detach(),
        (beta * rejected).detach(),
    )
