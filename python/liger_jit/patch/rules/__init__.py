"""One file a rule: what is looked for in a model, how it is proved, what takes its place."""
