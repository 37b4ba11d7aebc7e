"""The bench behind `liger-jit bench`: every op that declares cases, and whole training steps.

One line of JSON for each case and provider (`results`); what cannot be measured has a line that
says why. `page` draws the lines, `check` compares them with stored ones.
"""
