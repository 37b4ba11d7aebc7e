"""With which releases liger_jit was tried: docs/compatibility.md has what was run with each."""

TORCH = ("2.11", "2.12", "2.13", "2.14", "2.15")
TRANSFORMERS = ("5.0", "5.5", "5.9", "5.15", "5.17", "5.20", "5.24")
