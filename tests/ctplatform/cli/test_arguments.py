"""Values of options, and names that are nearly right."""

from __future__ import annotations

import argparse

import pytest

from ctplatform.cli.arguments import Parser, above_0, amount, count, job_parser
from ctplatform.cli.main import parser as main_parser


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (count, "3", "0"),
        (count, "1", "-2"),
        (amount, "0", "-1"),
        (amount, "2.5", "inf"),
        (above_0, "0.5", "0"),
    ],
)
def test_numbers_have_limits(kind, good, bad):
    assert kind(good) == float(good)
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        kind(bad)


def test_the_nearest_name_is_suggested(capsys):
    parser = Parser(prog="p")
    parser.add_argument("--workspace")
    parser.add_argument("--stage", choices=("prepare", "pretrain"))
    for arguments, near in ((["--worksapce=x"], "--workspace"), (["--stage", "pretran"], "pretrain")):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(arguments)
        assert ended.value.code == 2
        assert f"did you mean {near}?" in capsys.readouterr().err


def test_a_job_has_the_options_of_the_chain():
    job = job_parser().parse_args(["--from", "split", "--to", "embed", "--redo", "pretrain", "--take-over"])
    assert (job.first, job.last, job.redo, job.take_over) == ("split", "embed", ["pretrain"], True)
    assert (job.recipe, job.address, job.cohort_or_phantom) == ("fast", None, True)


def test_no_option_takes_the_place_of_a_commands_function():
    (commands,) = (a for a in main_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, sub in commands.choices.items():
        taken = {"run", "command"} & {action.dest for action in sub._actions}
        assert not taken, name
        assert callable(sub.get_default("run")), name
