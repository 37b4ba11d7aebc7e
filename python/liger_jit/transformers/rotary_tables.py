"""Tables of rotary embeddings in the forms that Liger Kernel takes, as the operators take them."""

import torch


def of_complex_factors(name, freqs, pairs):
    """Factors [..., pairs] as `functional.complex_rope` takes them.

    They are complex; or real, as a complex buffer is after a model was cast; or real [..., 2 *
    pairs] with the parts of each factor side by side. `name` is for errors.
    """
    width = freqs.shape[-1]
    if width == pairs:
        if freqs.is_complex():
            return freqs
        return torch.stack((freqs, torch.zeros_like(freqs)), dim=-1).flatten(-2)
    if width == 2 * pairs and not freqs.is_complex():
        return freqs
    raise ValueError(
        f"{name} has shape {tuple(freqs.shape)} and dtype {freqs.dtype}; allowed: a last dimension "
        f"of {pairs}, half of the head size, or {2 * pairs} real numbers, parts side by side"
    )


def of_first_tokens(table, tokens):
    """The rows of a table [..., positions, columns] that as many tokens have from the first on."""
    return table[..., :tokens, :] if table.shape[-2] > tokens else table


def of_tokens(table, tokens, heads_dim):
    """cos or sin [.., tokens or more, R] of the tokens; of four dimensions, one, best heads_dim, is
    the heads' and goes."""
    if table.dim() == 4 and heads_dim in (1, 2):
        alone = next((dim for dim in (heads_dim, 3 - heads_dim) if table.shape[dim] == 1), None)
        if alone is None:
            return table
        table = table.squeeze(alone)
    return of_first_tokens(table, tokens)
