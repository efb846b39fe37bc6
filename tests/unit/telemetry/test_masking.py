"""Passwords do not reach logs and terminals."""

import pytest

from pillarbox.telemetry import masked

SECRET = "hun/t@er2"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://shop:{SECRET}@db.internal:5432/shop",
        f"cannot reach 'postgresql://shop:{SECRET}@db/shop', trying again",
        f"amqp://:{SECRET}@broker",
        f"host=db user=shop password={SECRET} dbname=shop",
        f"host=db password = '{SECRET} more' dbname=shop",
        f"postgresql://db/shop?user=shop&password={SECRET}&sslmode=require",
    ],
)
def test_a_password_is_masked(text: str) -> None:
    assert SECRET not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://shop@db.internal:5432/shop",
        "sqlite:////var/lib/shop.db",
        "order.placed for ann@example.com at 12:30",
        "topic:order k:o-1",
    ],
)
def test_text_without_a_password_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_the_rest_of_a_url_stays_readable() -> None:
    assert masked(f"postgresql://shop:{SECRET}@db:5432/shop?x=1") == "postgresql://shop:***@db:5432/shop?x=1"
