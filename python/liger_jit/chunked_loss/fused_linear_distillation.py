"""A base for losses of one's own between a student's logits and a teacher's."""

from abc import abstractmethod

import torch
import torch.nn.functional as F


class LigerFusedLinearDistillationBase(torch.autograd.Function):
    """A subclass has a static `distillation_loss_fn`, a classmethod `forward(cls, ctx, ...)` that
    hands its arguments on to this one by name, and a static `backward` that takes the first six of
    this one's gradients."""

    @abstractmethod
    def distillation_loss_fn(*args, **kwargs):
        """(student_logits, teacher_logits, target=..., ignore_index=..., beta=..., **loss_kwargs)
        -> the sum of a chunk's losses; logits [tokens, V], divided by the temperature, of the
        layers' dtypes, target [tokens]. It is called for each chunk."""
        raise NotImplementedError("a subclass has its distillation_loss_fn")

    @staticmethod
    def forward(
        cls,
        ctx,
        student_input,
        student_weight,
        teacher_input,
        teacher_weight,
        target,
        student_bias=None,
        teacher_bias=None,
        chunk_size=1024,
        ignore_index=-100,
        weight_hard_loss=0.5,
        weight_soft_loss=0.5,
        beta=0.5,
        compute_ce_loss=True,
        temperature=1.0,
        compiled=True,
        return_soft_hard_loss=False,
        **loss_kwargs,
    ):
        """The loss, or with return_soft_hard_loss (loss, soft loss, hard loss).

        weight_soft_loss times what distillation_loss_fn gives, plus weight_hard_loss times the
        cross entropy of the logits without the temperature, both divided by the tokens that are not
        ignored, at least one.

        Args:
            student_input: [..., H]. student_weight: [V, H]. student_bias: [V].
            teacher_input: [..., H']. teacher_weight: [V', H'], teacher_bias: [V'], with V' no less
                than V: the student's logits are zeros there. They get no gradient.
            target: [...] int64 or ignore_index.
            chunk_size: tokens of a chunk, whose logits exist at a time.
            compute_ce_loss: False leaves the hard loss out.
        """
        states, labels = student_input.flatten(0, -2), target.flatten()
        of_teacher = teacher_input.flatten(0, -2)
        hard_too = compute_ce_loss and (weight_hard_loss != 0 or return_soft_hard_loss)
        sums = _Sums(student_input, student_weight, student_bias)
        count = labels.ne(ignore_index).sum().clamp_min(1)
        share = count.to(sums.losses[0].dtype).reciprocal()
        for rows in torch.arange(len(states)).split(chunk_size):
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
            with torch.no_grad():
                teacher = F.linear(of_teacher[rows], teacher_weight, teacher_bias) / temperature
            leaves = sums.leaves(states[rows])
            with torch.enable_grad():
                logits = F.linear(*leaves)
                student = logits / temperature
                student = F.pad(student, (0, teacher.shape[-1] - student.shape[-1]))
                soft = share * cls.distillation_loss_fn(
                    student,
                    teacher,
                    target=labels[rows],
                    ignore_index=ignore_index,
                    beta=beta,
                    **loss_kwargs,
                )
                hard = torch.zeros_like(soft)
                if hard_too:
                    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
                    hard = share * F.cross_entropy(
                        exact, labels[rows], reduction="sum", ignore_index=ignore_index
                    )
                loss = weight_soft_loss * soft + weight_hard_loss * hard
            sums.add((loss, soft, hard), leaves)
        ctx.gradients = sums.gradients()
        return sums.losses if return_soft_hard_loss else sums.losses[0]

    @staticmethod
    def backward(ctx, grad_output, *grad_losses):
        """Of student_input, student_weight, teacher_input, teacher_weight, target, student_bias."""
        of_input, of_weight, of_bias = (
            one if one is None else one * grad_output.to(one.dtype) for one in ctx.gradients
        )
        return of_input, of_weight, None, None, None, of_bias


class _Sums:
    """Of losses, and of the gradients of a linear layer, over chunks; float32, or float64."""

    def __init__(self, *layer):
        self._layer = layer
        exact = torch.promote_types(layer[0].dtype, torch.float32)
        self.losses = tuple(layer[0].new_zeros((), dtype=exact) for _ in range(3))
        self._of_input = []
        self._of_parameters = [
            torch.zeros_like(one, dtype=exact) if one is not None and one.requires_grad else None
            for one in layer[1:]
        ]

    def leaves(self, states):
        """The layer of a chunk's rows, each with a graph of its own."""
        given = (states, *self._layer[1:])
        return [
            one if one is None else one.detach().requires_grad_(whole.requires_grad)
            for one, whole in zip(given, self._layer, strict=True)
        ]

    def add(self, losses, leaves):
        for total, one in zip(self.losses, losses, strict=True):
            total.add_(one.detach())
        wanted = [one for one in leaves if one is not None and one.requires_grad]
        if not wanted:
            return
        # A loss that does not look at its logits has none.
        made = torch.autograd.grad(losses[0], wanted, materialize_grads=True)
        of_leaf = dict(zip(map(id, wanted), made, strict=True))
        if self._layer[0].requires_grad:
            self._of_input.append(of_leaf[id(leaves[0])])
        for total, leaf in zip(self._of_parameters, leaves[1:], strict=True):
            if total is not None:
                total.add_(of_leaf[id(leaf)])

    def gradients(self):
        """Of the layer's input, weight and bias, or None."""
        of_input = None
        if self._layer[0].requires_grad:
            of_input = torch.zeros_like(self._layer[0])
            if self._of_input:
                of_input = torch.cat(self._of_input).view_as(self._layer[0])
        of_parameters = [
            total if total is None else total.to(one.dtype)
            for total, one in zip(self._of_parameters, self._layer[1:], strict=True)
        ]
        return of_input, *of_parameters
