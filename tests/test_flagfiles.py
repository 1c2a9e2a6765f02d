"""Every published flagfile names flags of the program it is for."""

import json

import pytest
from programs import ROOT, run

# Says the key flags of a program instead of running it.
KEY_FLAGS = """
import json
from absl import flags
from tf_direct_opt.runs import command_line

def say(main):
    module = main.__module__
    print(json.dumps([flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)]))

command_line.run = say
"""


def program_of(path):
    """The program that a flagfile is for."""
    if path.stem == "semi_supervised_table":
        return "experiments/semi_supervised_table.py"
    if path.stem.startswith("semi_supervised"):
        return "examples/train_semi_supervised.py"
    if path.stem.startswith("conv"):
        return "examples/train_conv_vae.py"
    if "--datasets=" in path.read_text():
        return "experiments/compare_estimators.py"
    return f"examples/{'train_structured_vae' if 'structured' in path.stem else 'train_vae'}.py"


@pytest.fixture(scope="module")
def key_flags():
    found = {}

    def of(program):
        if program not in found:
            code, out, err = run(program, prelude=KEY_FLAGS)
            assert code == 0, err
            found[program] = set(json.loads(out))
        return found[program]

    return of


@pytest.mark.parametrize(
    "path", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.stem
)
def test_flagfile_names_flags_of_its_program(path, key_flags):
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    given = dict(line.lstrip("-").split("=") for line in lines)
    assert given.keys() <= key_flags(program_of(path))
    if path.stem.startswith("figure1_"):
        assert given["datasets"] == path.stem.removeprefix("figure1_")
