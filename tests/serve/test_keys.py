"""API keys: the file, its replacement while the endpoint runs, limits, and the command line."""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from starlette.datastructures import Headers

from caspi import cli
from caspi.errors import RequestError
from caspi.inference.api_keys import ApiKey, add_key, check_chosen, hash_key, read_keys, remove_keys
from caspi.inference.exposure import check_exposure
from serve import keys, limits
from serve.errors import ApiError
from serve.keys import Keyring
from serve.limits import Allowance, Allowances


class Clock:
    """`time.monotonic`, turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys, "time", clock)
    monkeypatch.setattr(limits, "time", clock)
    return clock


def knock(keyring: Keyring, key: str) -> ApiKey | None:
    return keyring.authenticate(Headers({"authorization": f"Bearer {key}"}))


def refusal(keyring: Keyring, key: str) -> str | None:
    with pytest.raises(ApiError) as refused:
        knock(keyring, key)
    assert refused.value.status_code == 401
    return refused.value.code


def test_the_file_holds_hashes_and_no_key_and_is_ours_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = add_key(file, "newsroom", requests_per_minute=60)
    content = file.read_text()
    assert key not in content and hash_key(key) in content
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file)[0].requests_per_minute == 60


def test_two_keys_of_a_name_are_one_caller_and_either_is_removed_by_its_id(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    old, new = add_key(file, "newsroom"), add_key(file, "newsroom")
    keyring = Keyring(file=file)
    assert {knock(keyring, key).name for key in (old, new)} == {"newsroom"}  # type: ignore[union-attr]
    remove_keys(file, hash_key(old)[:8])
    assert refusal(Keyring(file=file), old) == "invalid_api_key"
    assert knock(Keyring(file=file), new)


def test_a_replaced_file_counts_without_a_restart(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys.yaml"
    first = add_key(file, "first")
    keyring = Keyring(file=file)
    second = add_key(file, "second")
    remove_keys(file, "first")
    assert knock(keyring, first)  # nobody looked yet
    clock.now += keys.LOOK_EVERY_S
    assert knock(keyring, second)
    assert refusal(keyring, first) == "invalid_api_key"


@pytest.mark.parametrize("content", ["keys: [{name: x}]", "keys: [", None], ids=["wrong", "not yaml", "gone"])
def test_a_bad_file_keeps_the_keys_and_says_so_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    file = tmp_path / "keys.yaml"
    key = add_key(file, "first")
    keyring = Keyring(file=file)
    file.unlink() if content is None else file.write_text(content)
    for _ in range(3):
        clock.now += keys.LOOK_EVERY_S
        assert knock(keyring, key)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_file_that_lists_no_keys_opens_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: []")
    assert not Keyring(file=file).is_open
    assert refusal(Keyring(file=file), "anything") == "invalid_api_key"
    assert Keyring().is_open


def test_json_is_a_key_file_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(f'{{"keys": [{{"name": "a", "sha256": "{hash_key("k" * 40)}"}}]}}')
    assert knock(Keyring(file=file), "k" * 40)


def test_an_endpoint_does_not_start_with_a_file_that_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="key file"):
        Keyring(file=tmp_path / "keys.yaml")


def test_an_expired_key_is_refused_as_such(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    expired = add_key(file, "trial", expires=datetime.now(UTC) - timedelta(seconds=1))
    valid = add_key(file, "trial", expires=datetime.now(UTC) + timedelta(hours=1))
    assert refusal(Keyring(file=file), expired) == "expired_api_key"
    assert knock(Keyring(file=file), valid)


def test_a_key_that_somebody_chose_too_short_is_refused() -> None:
    check_chosen(frozenset({"long-enough-to-be-hard"}))
    with pytest.raises(RequestError, match="5 characters"):
        check_chosen(frozenset({"long-enough-to-be-hard", "short"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_alone_needs_no_keys(host: str) -> None:
    check_exposure(host, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])
def test_an_open_address_wants_keys(host: str) -> None:
    check_exposure(host, has_keys=True)
    check_exposure(host, has_keys=False, allow_anonymous=True)
    with pytest.raises(RequestError, match="open to the network"):
        check_exposure(host, has_keys=False)


def limited(**given: float) -> ApiKey:
    return ApiKey.model_validate({"name": "limited", "sha256": "0" * 64, **given})


def ask(allowance: Allowance) -> None:
    with allowance.request():
        pass


def test_requests_per_minute_refill_steadily(clock: Clock) -> None:
    allowance = Allowance(limited(requests_per_minute=6), share=1)
    for _ in range(6):
        ask(allowance)
    with pytest.raises(ApiError, match="6 requests a minute") as refused:
        ask(allowance)
    assert (refused.value.status_code, dict(refused.value.headers or {})["Retry-After"]) == (429, "10")
    assert allowance.headers()["x-ratelimit-remaining-requests"] == "0"
    assert allowance.headers()["x-ratelimit-reset-requests"] == "1m0s"
    clock.now += 10
    ask(allowance)


def test_audio_is_charged_when_it_is_known_and_delays_the_next_request(clock: Clock) -> None:
    allowance = Allowance(limited(audio_s_per_minute=60), share=1)
    ask(allowance)
    allowance.charge_audio(90)
    with pytest.raises(ApiError, match="60 seconds of audio"):
        ask(allowance)
    assert allowance.headers()["x-ratelimit-remaining-audio-seconds"] == "0"
    clock.now += 31
    ask(allowance)


def test_requests_at_once_are_bounded_and_make_room(clock: Clock) -> None:
    allowance = Allowance(limited(concurrent_requests=1), share=1)
    with allowance.request(), pytest.raises(ApiError, match="1 requests at once"):
        ask(allowance)
    ask(allowance)


def test_each_process_grants_its_share_and_at_least_one(clock: Clock) -> None:
    allowances = Allowances(num_processes=2)
    allowance = allowances.of(limited(requests_per_minute=4))
    for _ in range(2):
        ask(allowance)
    with pytest.raises(ApiError, match="4 requests a minute"):
        ask(allowance)
    ask(Allowances(num_processes=8).of(limited(requests_per_minute=4)))


def test_limits_that_were_changed_in_the_file_begin_anew(clock: Clock) -> None:
    allowances = Allowances(num_processes=1)
    ask(allowances.of(limited(requests_per_minute=1)))
    ask(allowances.of(limited(requests_per_minute=2)))
    assert allowances.of(limited(requests_per_minute=2)) is allowances.of(limited(requests_per_minute=2))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.yaml")
    assert cli.main(["keys", "add", "newsroom", "--file", file, "--requests-per-minute", "60", "--days", "30"]) == 0
    key = capsys.readouterr().out.strip()
    assert re.fullmatch(r"caspi-[\w-]{43}", key)
    assert cli.main(["keys", "list", "--file", file]) == 0
    listed = capsys.readouterr().out
    assert "newsroom" in listed and "60 requests/min, expires 2" in listed and key not in listed
    assert cli.main(["keys", "remove", "newsroom", "--file", file]) == 0
    assert yaml.safe_load(Path(file).read_text()) == {"keys": []}
    assert cli.main(["keys", "remove", "newsroom", "--file", file]) == 2
    assert "has no key" in capsys.readouterr().err


def test_the_command_without_a_file_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CASPI_API_KEYS_FILE", raising=False)
    assert cli.main(["keys", "list"]) == 2
    assert "--file" in capsys.readouterr().err


def test_commands_that_run_together_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: add_key(file, f"caller-{number}"), range(24)))
    assert {key.sha256 for key in read_keys(file)} == set(map(hash_key, made))
