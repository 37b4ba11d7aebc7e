"""How many modules of each role are fused, in a tiny model of each family of one transformers.

    python tests/patch/fused_roles.py --write

puts what the installed transformers gives into the table beside this file, for its release.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from liger_jit.patch import patch
from liger_jit.patch.families import FAMILY_OF_TYPE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the command
from family_models import class_of, settings_of, small_config

TABLE = Path(__file__).with_suffix(".json")
RELEASE = ".".join(transformers.__version__.split(".")[:2])


def installed_types():
    return [name for name in sorted(FAMILY_OF_TYPE) if name in transformers.CONFIG_MAPPING]


def report_of(model_type):
    """On meta: proofs run on the CPU whatever the weights are on, and no operator has to."""
    model_class = class_of(model_type)
    with torch.device("meta"):
        model = model_class(
            small_config(model_class.config_class, settings_of(model_class.config_class))
        )
    with patch(model) as handle:
        return model, handle.report()


def fused_in(report):
    return dict(sorted((role, done) for role, (done, _) in report.counts.items() if done))


def read_table():
    return json.loads(TABLE.read_text())


def write(table):
    """A line for each family."""
    releases = []
    for release in sorted(table, key=lambda name: [int(part) for part in name.split(".")]):
        lines = [f'  "{name}": {json.dumps(table[release][name])}' for name in table[release]]
        releases.append(f'"{release}": {{\n' + ",\n".join(lines) + "\n}")
    TABLE.write_text("{\n" + ",\n".join(releases) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into the table, for its release")
    options = parser.parse_args()
    found = {name: fused_in(report_of(name)[1]) for name in installed_types()}
    for name, roles in found.items():
        print(name, roles)
    if options.write:
        table = read_table() if TABLE.exists() else {}
        write(table | {RELEASE: found})


if __name__ == "__main__":
    main()
