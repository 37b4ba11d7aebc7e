"""How often a patched module did without its replacement."""

import torch


class OwnCalls:
    """Base of what stands for a replacement while it is in its place.

    own_calls: how often the module's own forward was taken all the same, outside of torch.compile;
    calls on several threads may miss a few of each other. reason: why, the last time.
    """

    own_calls = 0
    reason = ""

    def stand_back(self, reason: str) -> None:
        if not torch.compiler.is_compiling():
            self.own_calls += 1
            self.reason = reason
