"""Who may call what: tokens, their file, and a server that follows it."""

import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from driftwheel.cli import app
from driftwheel.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from serving._proto import open_inference_pb2 as pb
from serving.access import Access, Role
from serving.front_door import running
from serving.security import secured
from serving.tokens import add_token, read_tokens, revoke_token
from tests.serving.conftest import Live, connected, prepared_home, rating_request

ROLES = {"asker": {Role.INFER}, "teller": {Role.FEEDBACK}, "both": {Role.INFER, Role.FEEDBACK}, "root": {Role.ADMIN}}


def tokens_in(path: Path) -> dict[str, str]:
    return {name: add_token(path, name, frozenset(roles)) for name, roles in ROLES.items()}


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_file_only_admin_is_closed_and_says_what_to_do() -> None:
    access = Access(None)
    for role in (None, Role.INFER, Role.FEEDBACK):
        access.require(role, b"")
        access.require(role, b"Bearer whatever")
    with pytest.raises(PermissionDeniedError, match="driftwheel token new --role admin"):
        access.require(Role.ADMIN, b"Bearer whatever")


@pytest.mark.parametrize("name", ROLES)
@pytest.mark.parametrize("wanted", Role)
def test_a_token_is_good_for_its_roles_and_admin_for_all(tmp_path: Path, name: str, wanted: Role) -> None:
    path = tmp_path / "tokens.toml"
    access, header = Access(path_with(tokens := tokens_in(path), path)), bearer(tokens[name])
    for _ in range(2):  # the second time it is remembered
        if wanted in ROLES[name] or Role.ADMIN in ROLES[name]:
            access.require(wanted, header)
        else:
            with pytest.raises(PermissionDeniedError, match=f"needs a token for {wanted}, this one is for"):
                access.require(wanted, header)


def path_with(tokens: dict[str, str], path: Path) -> Path:
    assert not any(token in path.read_text() for token in tokens.values()), "tokens must not be stored"
    assert path.stat().st_mode & 0o777 == 0o600
    return path


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer ", b"Bearer dw_wrong", b"Basic YTpi", b"\xff\xfe", b"Bearer " + b"x" * 60_000]
)
def test_no_token_and_wrong_ones_are_refused(tmp_path: Path, header: bytes) -> None:
    tokens_in(tmp_path / "tokens.toml")
    access = Access(tmp_path / "tokens.toml")
    access.require(None, header)
    for role in Role:
        with pytest.raises(UnauthenticatedError) as refused:
            access.require(role, header)
        assert len(refused.value.message) < 200


def test_the_scheme_is_taken_in_any_case_and_the_token_only_whole(tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens.toml", "a", frozenset({Role.INFER}))
    access = Access(tmp_path / "tokens.toml")
    for header in (f"bearer {token}", f"BEARER  {token} "):
        access.require(Role.INFER, header.encode())
    for header in (
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        token,
        f"Bearer {read_tokens(tmp_path / 'tokens.toml')['a'].sha256}",
    ):
        with pytest.raises(UnauthenticatedError):
            access.require(Role.INFER, header.encode())


def test_a_change_is_taken_within_a_second_and_the_file_is_not_looked_at_before(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    old = bearer(add_token(path, "old", frozenset({Role.INFER})))
    access = Access(path, clock=clock)
    access.require(Role.INFER, old)
    new = bearer(add_token(path, "new", frozenset({Role.INFER})))
    revoke_token(path, "old")
    clock.now += 0.9
    access.require(Role.INFER, old)
    clock.now += 0.2
    with pytest.raises(UnauthenticatedError):
        access.require(Role.INFER, old)
    access.require(Role.INFER, new)


def break_syntax(path: Path) -> None:
    path.write_text("[tokens.a")


def break_mode(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize("damage", [break_syntax, break_mode, Path.unlink])
def test_a_faulty_file_leaves_the_tokens_as_they_were_and_is_logged_once(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    token = add_token(path, "a", frozenset({Role.INFER}))
    whole = path.read_bytes()
    access = Access(path, clock=clock)
    damage(path)
    for _ in range(3):
        clock.now += 1.5
        access.require(Role.INFER, bearer(token))
        with pytest.raises(UnauthenticatedError):
            access.require(Role.INFER, b"Bearer dw_wrong")
    logged = "".join(capsys.readouterr())
    assert (logged.count("tokens.refused"), token in logged) == (1, False)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(whole.replace(b"infer", b"feedback"))
    clock.now += 1.5
    access.require(Role.FEEDBACK, bearer(token))


def test_an_emptied_file_closes_everything(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    token = add_token(path, "a", frozenset({Role.ADMIN}))
    access = Access(path, clock=clock)
    revoke_token(path, "a")
    clock.now += 1.5
    for role in Role:
        with pytest.raises(UnauthenticatedError):
            access.require(role, bearer(token))


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[tokens.a", "cannot be used"),
        (f'[tokens.a]\nroles = ["boss"]\nsha256 = "{DIGEST}"', "boss"),
        (f'[tokens.a]\nroles = []\nsha256 = "{DIGEST}"', "tokens.a: .*at least one role"),
        ('[tokens.a]\nroles = ["infer"]\nsha256 = "dw_secret"', "tokens.a: sha256 must be 64"),
        (f'[tokens.a]\nrole = "infer"\nsha256 = "{DIGEST}"', "role"),
        (
            f'[tokens.a]\nroles = ["infer"]\nsha256 = "{DIGEST}"\n[tokens.b]\nroles = ["admin"]\nsha256 = "{DIGEST}"',
            "the same",
        ),
    ],
)
def test_a_faulty_file_is_refused_at_the_start(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=fault) as refused:
        Access(path)
    assert str(path) in refused.value.message
    assert "dw_secret" not in refused.value.message


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.toml"
    tokens_in(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="can be opened by other users") as refused:
        Access(path)
    assert refused.value.hint == f"chmod 600 {path}"


def test_the_file_in_the_home_holds_and_is_settled_before_the_start(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    assert secured(settings).security.token_file is None
    add_token(tmp_path / "tokens.toml", "a", frozenset({Role.INFER}))
    assert secured(settings).security.token_file == tmp_path / "tokens.toml"
    elsewhere = prepared_home(tmp_path / "2", security={"token_file": tmp_path / "gone.toml"})
    with pytest.raises(ConfigurationError, match="there is no token file"):
        secured(elsewhere)


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["--home", str(tmp_path), "token", *words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    token = run("new", "--role", "infer", "--role", "feedback", "--name", "alice").strip()
    access = Access(tmp_path / "tokens.toml")
    access.require(Role.FEEDBACK, bearer(token))
    assert (tmp_path / "tokens.toml").stat().st_mode & 0o777 == 0o600
    assert run("list").split() == ["alice", "feedback,", "infer"]
    with pytest.raises(ConfigurationError, match="a token named alice already"):
        run("new", "--role", "infer", "--name", "alice")
    with pytest.raises(ConfigurationError, match="letters, digits"):
        run("new", "--role", "infer", "--name", "a.b]")
    with pytest.raises(ConfigurationError, match="one of infer, feedback, retrain, console, admin"):
        run("new", "--role", "boss", "--name", "bob")
    run("revoke", "alice")
    assert read_tokens(tmp_path / "tokens.toml") == {}
    with pytest.raises(ConfigurationError, match="no token named alice"):
        run("revoke", "alice")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Live, dict[str, str]]]:
    """A server with a token file."""
    settings = prepared_home(tmp_path_factory.mktemp("guarded"))
    tokens = tokens_in(settings.home / "tokens.toml")
    with running(settings) as (door, address), connected(settings, door, address) as live:
        yield live, tokens


FEEDBACK = {"feedback": [{"prediction_id": "0" * 32, "label": 4}]}


@pytest.mark.system
@pytest.mark.parametrize(
    ("method", "path", "body", "statuses"),
    [
        # without a token, a wrong one, and those of asker, teller, both, root; 400: let in, and then found wrong
        ("GET", "/v2/health/live", None, (200, 200, 200, 200, 200, 200)),
        ("GET", "/v2/models/mf", None, (401, 401, 200, 403, 200, 200)),
        ("POST", "/v1/recommend", {"user_id": 7}, (401, 401, 200, 403, 200, 200)),
        ("POST", "/v1/feedback", {"feedback": "?"}, (401, 401, 403, 400, 400, 400)),
        ("POST", "/v2/repository/models/nix/load", {}, (401, 401, 403, 403, 403, 404)),
    ],
)
def test_http_asks_for_the_right_token(
    guarded, method: str, path: str, body: object, statuses: tuple[int, ...]
) -> None:
    live, tokens = guarded
    sent = [{}, *({"authorization": f"Bearer {token}"} for token in ("dw_wrong", *tokens.values()))]
    answers = [live.http.request(method, path, json=body, headers=headers) for headers in sent]
    assert tuple(answer.status_code for answer in answers) == statuses, [answer.text for answer in answers]
    for answer in answers:
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


def code_of_call(call: Callable[..., object], request: object, token: str | None) -> grpc.StatusCode:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        call(request, timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.system
def test_grpc_asks_for_the_right_token(guarded) -> None:
    live, tokens = guarded
    sent = [None, "dw_wrong", *tokens.values()]
    request = rating_request([7], [10])
    code = grpc.StatusCode
    assert [code_of_call(live.stub.ModelInfer, request, token) for token in sent] == [
        code.UNAUTHENTICATED,
        code.UNAUTHENTICATED,
        code.OK,
        code.PERMISSION_DENIED,
        code.OK,
        code.OK,
    ]
    assert code_of_call(live.stub.ServerLive, pb.ServerLiveRequest(), None) == code.OK
    assert code_of_call(live.stub.ServerReady, pb.ServerReadyRequest(), None) == code.OK


@pytest.mark.system
def test_a_body_that_is_not_allowed_is_not_waited_for(guarded) -> None:
    live, _ = guarded
    with socket.create_connection((live.address.host, live.address.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


@pytest.mark.system
def test_a_running_server_follows_its_token_file(guarded) -> None:
    live, tokens = guarded
    path = live.settings.home / "tokens.toml"
    late = add_token(path, "late", frozenset({Role.INFER}))
    await_status(live, late, 200)
    revoke_token(path, "late")
    await_status(live, late, 401)
    assert code_of_call(live.stub.ModelInfer, rating_request([7], [10]), late) == grpc.StatusCode.UNAUTHENTICATED
    assert code_of_call(live.stub.ModelInfer, rating_request([7], [10]), tokens["asker"]) == grpc.StatusCode.OK


def await_status(live: Live, token: str, wanted: int) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if live.http.get("/v2", headers={"authorization": f"Bearer {token}"}).status_code == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"never answered {wanted}")


@pytest.mark.system
def test_a_server_without_tokens_refuses_admin_and_says_why(live) -> None:
    answer = live.http.post("/v2/repository/models/mf/unload", headers={"authorization": "Bearer dw_guess"})
    assert (answer.status_code, "driftwheel token new" in answer.json()["error"]) == (403, True)
    request = pb.RepositoryModelUnloadRequest(model_name="mf")
    assert code_of_call(live.stub.RepositoryModelUnload, request, None) == grpc.StatusCode.PERMISSION_DENIED
