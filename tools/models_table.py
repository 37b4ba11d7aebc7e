#!/usr/bin/env python
"""Writes docs/models.md: what `patch` does with each class of the installed transformers.

    python tools/models_table.py [PREFIX]   with one: of types that begin so, and only printed

Models have a few thousand parameters and are on meta, where rules prove and no operator runs.
"""

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
import transformers
from liger_jit.patch import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from every_model import (  # noqa: E402
    CLASSES,
    class_named,
    configurations,
    small_model,
    steady_step,
    step,
)
from shown import TEXT_ALONE, WITHOUT_GRADIENT  # noqa: E402

NO_STEP = "no step: "
HEAD = """# What `patch` does with each model

Made by `tools/models_table.py` with transformers {release}: {made} of {causal} causal and
{made_multimodal} of {multimodal} multimodal classes of the Auto mappings, each with a small random
configuration. `rms_norm 5` says that five modules got that role; what was left has its reason,
without the modules' names, and so has what got a role and ran its own forward in a step of the
small model. `tests/patch/every_model_test.py` asks whether a patched step has the
loss and the gradients of the unpatched one, for {steps} causal and {steps_multimodal} multimodal
classes; where no step of a small model can be made, here and there, its error is told. Each model
with a tower is shown a picture or a sound, but for {text_alone}, which are given text alone; of
{without_gradient} the tower has no gradient.

"""


def report_of(kind, name):
    model_class, error = class_named(name), None
    for configuration in configurations(kind, model_class):
        try:
            with torch.device("meta"):
                model = model_class(configuration()).train()
            with patch(model) as handle:
                return handle.report()
        except Exception as one:
            error = one
    raise error


def row_of(kind, name):
    title = name if isinstance(name, str) else name[0]
    try:
        report = report_of(kind, name)
    except Exception as error:
        return title, None, f"not made small: {type(error).__name__}: {short(str(error))}"
    left = {(row.module, row.role, short(row.status)) for row in report if not row.patched}
    told = [f"{module} ({role}): {why}" for module, role, why in sorted(left)]
    own = Counter()
    try:
        own = own_forwards(kind, name)
    except Exception as error:
        told.append(f"{NO_STEP}{type(error).__name__}: {short(str(error))}")
    told += [
        f"{role} {count}: own forward in a plain step: {short(why)}"
        for (role, why), count in own.items()
    ]
    done = Counter(row.role for row in report if row.patched)
    for (role, _), count in own.items():
        done[role] -= count
    patched = ", ".join(f"{role} {count}" for role, count in sorted(done.items()) if count > 0)
    return title, patched, "; ".join(told)


def own_forwards(kind, name):
    """{(role, why): modules with it that ran their own forward in a step of a small model}; raises
    why no small model of the class makes a step by itself."""
    model, _ = small_model(kind, name, steady_step)
    with patch(model) as handle:
        step(model)
        rows = sorted(handle.report(), key=lambda row: (row.role, row.why))
    return Counter((row.role, row.why) for row in rows if row.patched and row.own_calls)


def short(text):
    """On one line, and in a cell of a table."""
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 160 else f"{text[:157]}..."


def listed(kinds):
    return ", ".join(f"`{kind}`" for kind in sorted(kinds))


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefix", nargs="?", default="", help="of model types; prints their rows")
    prefix = parser.parse_args().prefix
    parts, made, steps = {"causal": [], "multimodal": []}, Counter(), Counter()
    for (kind, name), part in sorted(CLASSES.items(), key=lambda item: str(item[0])):
        if not kind.startswith(prefix):
            continue
        title, patched, told = row_of(kind, name)
        made[part] += patched is not None
        steps[part] += patched is not None and NO_STEP not in told
        line = f"| `{kind}` | {title} | {patched or '–'} | {told} |"
        parts[part].append(line)
        print(line, flush=True)
    if prefix:
        return
    text = HEAD.format(
        release=transformers.__version__,
        made=made["causal"],
        causal=len(parts["causal"]),
        made_multimodal=made["multimodal"],
        multimodal=len(parts["multimodal"]),
        steps=steps["causal"],
        steps_multimodal=steps["multimodal"],
        text_alone=listed(TEXT_ALONE),
        without_gradient=listed(WITHOUT_GRADIENT),
    )
    for part, lines in parts.items():
        text += f"## {part.capitalize()}\n\n| type | class | patched | left, and why |\n"
        text += "|---|---|---|---|\n"
        text += "\n".join(lines) + "\n\n"
    (ROOT / "docs/models.md").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
