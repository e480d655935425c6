"""Every option of every command and script says in its help what happens without it."""

import argparse
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.experiments.test_options import SCRIPTS
from topoprior import cli


class _Asked(Exception):
    """Of a parser that was about to read the command line."""


def _of(name: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def stop(parser, *_, **__):
        raise _Asked(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(_Asked) as asked:
        import_module(name).main([])
    return asked.value.args[0]


def _with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _with_commands(command)


@pytest.mark.parametrize("name", ["topoprior.cli", *SCRIPTS])
def test_every_option_says_its_default(name, monkeypatch):
    for parser in _with_commands(_of(name, monkeypatch)):
        formatter = parser._get_formatter()
        for action in parser._actions:
            said = formatter._expand_help(action) if action.help else ""
            where = f"{parser.prog} {'/'.join(action.option_strings)}: {said!r}"
            assert "(default: None)" not in said, where
            written = said.rpartition("default")[2]
            for mark in ("[", "('"):
                assert mark not in written, f"{where}: Python's own writing"
            takes_a_value = action.option_strings and action.nargs != 0
            if takes_a_value and not action.required:
                assert "default" in said or "without it" in said, where
        text = parser.format_help().replace("-h, --help", "")
        assert "--help" not in text, f"{parser.prog}: help that sends to help"


@pytest.mark.parametrize("name", ["topoprior.cli", *SCRIPTS])
def test_options_are_in_groups(name, monkeypatch):
    for parser in _with_commands(_of(name, monkeypatch)):
        sizes = {group.title: len(group._group_actions) for group in parser._action_groups}
        assert all(sizes), "a group without a title"
        assert max(sizes.values()) <= 14, sizes
        if sum(sizes.values()) > 8:
            assert sum(size > 0 for size in sizes.values()) > 1, sizes


def test_all_commands_are_looked_at(monkeypatch):
    found = {parser.prog for parser in _with_commands(_of("topoprior.cli", monkeypatch))}
    assert {"topoprior train-prior klein", "topoprior train-prior network", "topoprior explore"} <= found
    assert cli._parser().prog == "topoprior"
