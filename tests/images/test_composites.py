"""Composites against a plain loop: partners, boxes, shares and pixels."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ltcache.errors import ImageError, UsageError
from ltcache.images import (
    PartnerImages,
    PartnerRows,
    View,
    decode,
    decode_views,
    partner_images,
    paste_box,
)
from ltcache.images.views import draws
from tests.images.test_views import png, preprocessing

COUNTS = (12, 3, 1)


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def table(counts: tuple[int, ...] = COUNTS, contents: list[str] | None = None) -> pa.Table:
    """Return rows in which another split, a failed row and one without a label stand between."""
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    n = len(labels)
    return pa.table(
        {
            "label": [*labels, 1, 2, -1],
            "key": [f"k{n - i:03d}" for i in range(n)] + ["test", "failed", "unlabelled"],
            "uri": [f"{i}.png" for i in range(n)] + ["test", "failed", "unlabelled"],
            "sha256": [*(contents or map(sha, range(n))), sha(90), "", sha(92)],
            "split": ["train"] * n + ["test", "train", "train"],
            "status": ["ok"] * (n + 1) + ["failed", "ok"],
        }
    )


def flat(grey: int) -> bytes:
    return png(Image.new("RGB", (40, 32), (grey, grey, grey)))


def test_partners_are_the_labelled_training_rows_that_have_features() -> None:
    partners = PartnerRows.of(table())
    assert len(partners) == sum(COUNTS)
    assert partners.labels.tolist() == [0] * 12 + [1] * 3 + [2]
    assert partners.keys.to_pylist() == [f"k{i:03d}" for i in [*range(5, 17), 2, 3, 4, 1]]
    assert partners.rows.tolist() == [*range(11, -1, -1), 14, 13, 12, 15]
    assert partners.have(sha(3)) and not partners.have(sha(90)) and not partners.have("")


def test_their_digest_follows_label_and_content_and_not_the_order_of_the_rows() -> None:
    rows = table()
    digest = PartnerRows.of(rows).digest
    assert PartnerRows.of(rows.take(np.arange(len(rows))[::-1])).digest == digest
    others = [
        table((11, 4, 1)), table((12, 3)), table(contents=[sha(i + 1) for i in range(16)]),
    ]  # fmt: skip
    assert len({digest, *(PartnerRows.of(other).digest for other in others)}) == 4


def test_classes_are_drawn_equally_often_and_rows_within_a_class() -> None:
    partners, view, drawn = PartnerRows.of(table()), View("cmo:64", 3), Counter[int]()
    total = 100 * 64
    for image in range(100):
        for number in range(64):
            drawn[partners.draw(view, sha(image), number, (32, 32)).partner] += 1
    expected = np.array([total / 3 / COUNTS[label] for label in partners.labels])
    found = np.array([drawn[row] for row in range(len(partners))])
    # 15 degrees of freedom: above 44.3 once in 10,000 times
    assert ((found - expected) ** 2 / expected).sum() < 44.3


def test_a_draw_is_the_plain_formula() -> None:
    partners, view, size = PartnerRows.of(table()), View("cmo:3", 7), (30, 44)
    members = {
        label: [i for i, y in enumerate(partners.labels) if y == label] for label in (0, 1, 2)
    }
    for image in range(40):
        for number in range(3):
            u = draws(7, sha(image), number, 1)
            rows = members[math.floor(u[0] * 3)]
            cut = math.sqrt(1 - u[2])
            wide, high = math.trunc(44 * cut), math.trunc(30 * cut)
            x, y = math.floor(u[3] * 44), math.floor(u[4] * 30)
            left, right = (min(max(v, 0), 44) for v in (x - wide // 2, x + wide // 2))
            top, bottom = (min(max(v, 0), 30) for v in (y - high // 2, y + high // 2))
            found = partners.draw(view, sha(image), number, size)
            assert found.partner == rows[math.floor(u[1] * len(rows))]
            assert found.box == (left, top, right, bottom)
            assert found.share == pytest.approx(1 - (right - left) * (bottom - top) / (30 * 44))


@pytest.mark.parametrize("size", [(30, 44), (224, 224), (1, 1)])
def test_all_draws_at_once_are_those_of_a_loop_bit_for_bit(size: tuple[int, int]) -> None:
    partners, view = PartnerRows.of(table()), View("cmo:3", 7)
    contents = [sha(image) for image in range(200)]
    found, shares = partners.draw_all(view, contents, size)
    assert found.shape == shares.shape == (200, 3)
    for image, content in enumerate(contents):
        for number in range(3):
            one = partners.draw(view, content, number, size)
            assert (found[image, number], shares[image, number]) == (one.partner, one.share)
    assert partners.draw_all(view, [], size)[0].shape == (0, 3)


def test_the_mean_share_is_that_of_clipped_boxes() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for share, across, down in rng.random((4000, 3)):
        left, top, right, bottom = paste_box((224, 224), share, across, down)
        areas.append((right - left) * (bottom - top) / 224**2)
    side = np.sqrt(1 - rng.random(400_000))
    # of a side s with a uniform centre, s - s^2 / 4 is inside on average
    assert np.mean(areas) == pytest.approx(np.mean((side - side**2 / 4) ** 2), abs=0.02)


def test_the_extremes_of_a_box() -> None:
    assert paste_box((20, 30), 0.0, 0.5, 0.5) == (0, 0, 30, 20)
    left, top, right, bottom = paste_box((20, 30), 1 - 1e-9, 0.5, 0.5)
    assert (right - left) * (bottom - top) == 0
    assert paste_box((20, 30), 0.0, 0.0, 0.0) == (0, 0, 15, 10)


def made(files: dict[str, bytes]) -> tuple[PartnerRows, PartnerImages]:
    contents = [hashlib.sha256(data).hexdigest() for data in files.values()]
    partners = PartnerRows.of(table(contents=contents))

    def read(uri: str) -> bytes:
        if uri not in files:
            raise ImageError("No such file or directory")
        return files[uri]

    return partners, partner_images(partners, read, preprocessing((24, 32)))


def test_labels_and_shares_can_be_read_off_the_pixels() -> None:
    files = {f"{i}.png": flat(10 * i + 5) for i in range(16)}
    partners, images = made(files)
    view, how = View("cmo:8", 1), preprocessing((24, 32))
    for number, data in enumerate(files.values()):
        content = hashlib.sha256(data).hexdigest()
        pixels = decode_views(data, how, [view], content, images).pixels["cmo:8"]
        for k, crop in enumerate(pixels):
            drawn = partners.draw(view, content, k, (24, 32))
            own = 10 * number + 5
            theirs = 10 * int(partners.rows[drawn.partner]) + 5
            if theirs == own:
                assert (crop == own).all()
                continue
            assert set(np.unique(crop)) <= {own, theirs}
            assert (crop == own).mean() == pytest.approx(drawn.share)


def test_a_composite_is_two_centre_crops_and_a_box() -> None:
    rng = np.random.default_rng(2)
    files = {
        f"{i}.png": png(Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)))
        for i in range(16)
    }
    partners, images = made(files)
    view, how = View("cmo:2", 5), preprocessing((24, 32))
    data = files["14.png"]
    content = hashlib.sha256(data).hexdigest()
    found = decode_views(data, how, [View("center"), view], content, images).pixels
    for k in range(2):
        drawn = partners.draw(view, content, k, (24, 32))
        expected = decode(data, how).pixels.copy()
        other = decode(files[partners.uris[drawn.partner].as_py()], how).pixels
        left, top, right, bottom = drawn.box
        for y in range(top, bottom):
            for x in range(left, right):
                expected[:, y, x] = other[:, y, x]
        assert np.array_equal(found["cmo:2"][k], expected)
    assert np.array_equal(found["center"][0], decode(data, how).pixels)  # nothing pasted into it
    more = decode_views(data, how, [View("cmo:4", 5)], content, images).pixels["cmo:4"]
    assert np.array_equal(more[:2], found["cmo:2"])


def test_an_image_that_is_no_partner_has_plain_crops() -> None:
    _, images = made({f"{i}.png": flat(10 * i + 5) for i in range(16)})
    data = flat(200)
    content = hashlib.sha256(data).hexdigest()
    found = decode_views(data, preprocessing((24, 32)), [View("cmo:3")], content, images)
    assert (found.pixels["cmo:3"] == 200).all()


def test_a_partner_that_is_gone_or_another_image_is_an_error() -> None:
    files = {f"{i}.png": flat(10 * i + 5) for i in range(16)}
    _, images = made(files)
    data = files["0.png"]
    content = hashlib.sha256(data).hexdigest()
    view, how = View("cmo:32"), preprocessing((24, 32))
    files["15.png"] = flat(1)
    with pytest.raises(ImageError, match=r"15\.png, which is pasted into it: .*changed"):
        decode_views(data, how, [view], content, images)
    del files["15.png"]
    with pytest.raises(ImageError, match=r"15\.png, which is pasted into it: No such file"):
        decode_views(data, how, [view], content, images)
    with pytest.raises(UsageError, match="training images of a cache"):
        decode_views(data, how, [view], content)
