"""`drasclr completion`: a script that a shell accepts, with every command, and paths where arguments are paths."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ctplatform.cli.completion import PATHS, SHELLS, _actions, completion
from ctplatform.cli.main import main, parser
from ctplatform.errors import ConfigError


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell, capsys):
    pytest.importorskip("shtab")
    main(["completion", shell])
    script = capsys.readouterr().out
    assert "embed" in script
    assert "doctor" in script
    if shell == "bash" and shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_bash_completes_commands_and_options():
    pytest.importorskip("shtab")
    if not shutil.which("bash"):
        pytest.skip("no bash")
    ask = 'COMP_WORDS=(drasclr {}); COMP_CWORD={}; _shtab_drasclr; echo "${{COMPREPLY[@]}}"'
    script = completion(parser(), "bash")

    def answer(*words: str) -> list[str]:
        code = script + "\n" + ask.format(" ".join(words), len(words))
        done = subprocess.run(["bash"], input=code, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert answer("stat") == ["status"]
    assert answer("embed", "--we") == ["--weights"]


def test_paths_are_arguments_of_the_command():
    assert {action.dest for action in _actions(parser())} >= PATHS


def test_without_shtab_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ConfigError, match=r"drasclr\[completion\]"):
        completion(parser(), "bash")
