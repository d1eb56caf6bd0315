"""Whatever the bytes, `decode` gives Audio or an AudioError."""

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caspi.audio import Audio, decode
from caspi.audio.sniffing import sniff
from caspi.errors import AudioError
from tests.audio.conftest import ANY_FORMAT, encode_as

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def recording(name: str) -> bytes:
    rng = np.random.default_rng(0)
    return encode_as((0.1 * rng.normal(size=(24000, 2))).astype(np.float32), 48000, name)


def attempt(encoded: bytes) -> Audio | None:
    try:
        decoded = decode(encoded, source="fuzz", max_duration_s=60)
    except AudioError as error:
        assert str(error).startswith("fuzz: ")
        return None
    assert len(decoded.samples) and np.isfinite(decoded.samples).all()
    assert decoded.duration_s <= 60.01
    return decoded


@pytest.mark.parametrize("name", ANY_FORMAT)
@quick
@given(share=st.floats(0, 1))
def test_cut_anywhere(name, share):
    whole = recording(name)
    attempt(whole[: int(share * len(whole))])


@pytest.mark.parametrize("name", ANY_FORMAT)
@quick
@given(data=st.data())
def test_changed_anywhere(name, data):
    whole = bytearray(recording(name))
    # Half of the changes hit the first bytes, where the headers are.
    places = st.one_of(st.integers(0, min(400, len(whole) - 1)), st.integers(0, len(whole) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    attempt(bytes(whole))


@pytest.mark.parametrize("name", ANY_FORMAT)
@quick
@given(data=st.data())
def test_a_stretch_missing_or_doubled(name, data):
    whole = recording(name)
    start, end = sorted((data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))))
    attempt(whole[:start] + whole[end:])
    attempt(whole[:end] + whole[start:])


@quick
@given(head=st.sampled_from(ANY_FORMAT), length=st.integers(4, 64), rest=st.binary(max_size=3000))
def test_a_true_header_before_anything(head, length, rest):
    attempt(recording(head)[:length] + rest)


@quick
@given(encoded=st.binary(max_size=3000))
def test_anything(encoded):
    attempt(encoded)


@pytest.mark.parametrize("name", ANY_FORMAT)
def test_every_kind_is_recognised_by_its_bytes(name):
    assert sniff(recording(name)) is not None
