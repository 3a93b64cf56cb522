"""Secrets of the monitoring services are made once, and again only where one half of a pair is missing."""

import stat
from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.wheel.monitoring_secrets import PASSWORD, TOKEN, ensure_password, ensure_token
from serving.access import Access
from serving.tokens import Role, add_token, read_tokens


def allowed(token_file: Path, folder: Path) -> bool:
    """Whether a watcher with that token file takes the token that Alertmanager is given."""
    token = (folder / TOKEN).read_text().strip()
    Access(token_file).require(Role.RETRAIN, f"Bearer {token}".encode())
    return True


def test_a_first_start_makes_a_token_and_later_ones_keep_it(tmp_path: Path) -> None:
    token_file = tmp_path / "home/tokens.toml"
    assert ensure_token(tmp_path, token_file)
    assert allowed(token_file, tmp_path)
    assert {name: one.roles for name, one in read_tokens(token_file).items()} == {
        "alertmanager": frozenset({Role.RETRAIN})
    }
    before = (tmp_path / TOKEN).read_bytes(), token_file.read_bytes()
    assert not ensure_token(tmp_path, token_file)
    assert ((tmp_path / TOKEN).read_bytes(), token_file.read_bytes()) == before


def test_where_one_half_is_missing_both_are_made_anew(tmp_path: Path) -> None:
    token_file = tmp_path / "tokens.toml"
    add_token(token_file, "alertmanager", frozenset({Role.RETRAIN}))  # a start that was cut short leaves this
    other = add_token(token_file, "shop", frozenset({Role.INFER}))
    assert ensure_token(tmp_path, token_file)
    assert allowed(token_file, tmp_path)
    token_file.unlink()
    assert ensure_token(tmp_path, token_file)
    assert allowed(token_file, tmp_path)
    (tmp_path / TOKEN).write_text(other)
    assert ensure_token(tmp_path, token_file)
    assert allowed(token_file, tmp_path)


def test_a_token_that_was_put_there_by_hand_is_kept(tmp_path: Path) -> None:
    token_file = tmp_path / "tokens.toml"
    (tmp_path / TOKEN).parent.mkdir()
    (tmp_path / TOKEN).write_text(add_token(token_file, "pager", frozenset({Role.RETRAIN})))
    assert not ensure_token(tmp_path, token_file)
    assert set(read_tokens(token_file)) == {"pager"}


def test_a_password_is_made_once(tmp_path: Path) -> None:
    assert ensure_password(tmp_path)
    before = (tmp_path / PASSWORD).read_text()
    assert len(before.strip()) == 32
    assert not ensure_password(tmp_path)
    assert (tmp_path / PASSWORD).read_text() == before


def test_nobody_but_owner_and_group_may_open_them(tmp_path: Path) -> None:
    token_file = tmp_path / "tokens.toml"
    ensure_token(tmp_path, token_file)
    ensure_password(tmp_path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (TOKEN, PASSWORD)}
    assert all(mode & ~0o640 == 0 for mode in modes)
    assert stat.S_IMODE(token_file.stat().st_mode) & 0o077 == 0


def test_what_cannot_be_read_is_said_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / TOKEN).mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="alertmanager/token cannot be read"):
        ensure_token(tmp_path, tmp_path / "tokens.toml")
    assert not (tmp_path / "tokens.toml").exists()
    (tmp_path / "tokens.toml").write_text("nothing")
    with pytest.raises(ConfigurationError, match="tokens.toml can"):
        ensure_token(tmp_path, tmp_path / "tokens.toml")
