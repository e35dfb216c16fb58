"""Identities are compared as values, and differences are named field by field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcache.errors import IdentityError
from ltcache.records.identity import (
    canonical_json,
    differences,
    differing_classes,
    digest,
    require_equal,
    telling_classes,
)

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


def test_a_text_lets_pass_what_it_names_and_nothing_that_it_contains() -> None:
    assert require_equal("encoder", EXPECTED, FOUND, allow_stale="encoder")
    with pytest.raises(IdentityError):
        require_equal("encoder", EXPECTED, FOUND, allow_stale="encoder.towers.image")


def test_a_refusal_because_of_classes_says_which() -> None:
    one, two = ["fox", "owl", "newt", "bat"], ["fox", "bat", "newt", "owl"]
    with pytest.raises(IdentityError) as caught, telling_classes(one, two):
        require_equal("classes", {"names": "a"}, {"names": "b"}, remedy="extract again")
    lines = str(caught.value).splitlines()
    assert lines[-1] == caught.value.remedy.splitlines()[-1] == "extract again"
    assert lines[-2] == (
        "2 of 4 classes differ: label 1: 'owl' expected, 'bat' found; label 3: 'bat' expected, "
        "'owl' found; both lists have the same names, in another order"
    )
    with pytest.raises(IdentityError) as caught, telling_classes(one, two):
        require_equal("encoder", {"towers": "a"}, {"towers": "b"})
    assert "classes" not in str(caught.value)


def test_differing_classes_are_counted_and_told_apart() -> None:
    many = [str(label) for label in range(9)]
    assert differing_classes(many, many) == ""
    told = differing_classes(many, many[1:])
    assert told.startswith("9 of 9 classes differ: label 0: '0' expected, '1' found")
    assert told.endswith("label 4: '4' expected, '5' found; and 4 more")
    assert "label 1: 'b' expected, no class found" in differing_classes(["a", "b"], ["a"])
    composed, marked = "caf\u00e9", "cafe\u0301"
    assert "'caf\\xe9' expected, 'cafe\\u0301' found" in differing_classes([composed], [marked])
