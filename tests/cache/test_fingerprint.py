"""Identities are compared as values, and differences are named field by field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcache.cache.fingerprint import canonical_json, differences, digest, require_equal
from ltcache.errors import IdentityError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_a_value_equals_itself_after_a_trip_through_json(value: object) -> None:
    again = json.loads(json.dumps(value))
    assert digest(again) == digest(value)
    assert differences(value, again) == {}


@given(st.dictionaries(st.text(), st.integers(), min_size=1), st.data())
def test_the_changed_field_is_named(value: dict[str, int], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    changed = {**value, key: value[key] + 1}
    assert digest(changed) != digest(value)
    assert differences({"a": value}, {"a": changed}) == {f"a.{key}": (value[key], value[key] + 1)}


def test_order_does_not_matter_and_tuples_are_lists() -> None:
    assert canonical_json({"b": (1, 2), "a": "é"}) == '{"a":"é","b":[1,2]}'
    assert differences({"x": (1, 2)}, {"x": [1, 2]}) == {}


def test_what_json_cannot_say_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})
    with pytest.raises(TypeError):
        canonical_json({"x": object()})


EXPECTED = {"towers": {"image": "1", "text": "2"}, "dims": {"embedding": 4}}
FOUND = {"towers": {"image": "9", "text": "2"}, "dims": {"embedding": 8}}


def test_a_refusal_names_every_field_and_the_remedy() -> None:
    with pytest.raises(IdentityError) as caught:
        require_equal("encoder", EXPECTED, FOUND, remedy="extract again")
    text = str(caught.value)
    assert "towers.image: expected '1', found '9'" in text
    assert "dims.embedding: expected 4, found 8" in text
    assert text.endswith("extract again")
    assert caught.value.exit_status == 4


def test_only_what_was_named_may_be_stale() -> None:
    assert require_equal("encoder", EXPECTED, FOUND, allow_stale=["encoder"]) == [
        "encoder.dims.embedding",
        "encoder.towers.image",
    ]
    with pytest.raises(IdentityError) as caught:
        require_equal("encoder", EXPECTED, FOUND, allow_stale=["encoder.towers.image"])
    assert set(caught.value.differences) == {"dims.embedding"}
