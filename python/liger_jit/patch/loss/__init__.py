"""The head and the loss: logits that no step computes."""
