"""What the rules answered about the modules of one model: each question is asked once.

A question is a rule and a group of modules that share its answer. Rules for what is made of several
modules ask here for the answers about these.
"""

import itertools
from collections.abc import Hashable

from torch import nn

from .probe import live_device
from .rule import CompoundRule, P, Proof, Refusal, Rule


class Answers:
    """Of one `patch`; for one thread."""

    def __init__(self):
        self._proved: dict[Hashable, object] = {}
        self._confirmed: dict[Hashable, object] = {}

    def key(self, rule: Rule, module: nn.Module) -> Hashable:
        """Of the answer that holds for this very module, for `at`. It is proved where none does.

        Raises what `rule.group` raises.
        """
        group = rule.name, rule.group(module)
        for number in itertools.count():
            key = group, number
            if key not in self._proved:
                self._proved[key] = self._prove(rule, module)
                return key
            if holds_for(self._proved[key], module):
                return key

    def at(self, key: Hashable) -> object:
        return self._proved[key]

    def proved(self, rule: Rule[P], module: nn.Module) -> P | Refusal:
        """The rule's answer about the module, for which no operator was called."""
        return self.at(self.key(rule, module))

    def confirmed(self, rule: Rule[P], module: nn.Module) -> P | Refusal:
        """The same after the operators were tried where the module lives, if its weights are there.

        Raises what the operators raise, such as RuntimeError where there is no compiler.
        """
        key = self.key(rule, module)
        if key not in self._confirmed:
            answer = self.at(key)
            if not isinstance(answer, Refusal) and live_device(module) is not None:
                parts = (self.confirmed,) if isinstance(rule, CompoundRule) else ()
                answer = rule.confirm(module, answer, *parts)
            self._confirmed[key] = answer
        return self._confirmed[key]

    def _prove(self, rule: Rule[P], module: nn.Module) -> P | Refusal:
        parts = (self.proved,) if isinstance(rule, CompoundRule) else ()
        try:
            answer = rule.prove(module, *parts)
            reason = answer.guard.broken(module) if isinstance(answer, Proof) else None
        except Exception as error:  # what no rule foresaw is no reason to fail
            return Refusal(f"it cannot be probed: {type(error).__name__}: {error}")
        # Hooks may go; nothing else is other now than it was a moment ago.
        is_read_wrong = reason is not None and "hooks" not in reason
        return Refusal(f"what it depends on is misread: {reason}") if is_read_wrong else answer


def holds_for(answer: object, module: nn.Module) -> bool:
    """Whether the answer about one module of a group is that about `module` of the same group."""
    if isinstance(answer, Refusal):
        # Hooks are what one module has and others of its group need not have.
        return "hooks" not in answer.reason
    return not isinstance(answer, Proof) or answer.guard.broken(module) is None
