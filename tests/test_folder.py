"""How the data folder finds its Redis, with the password in a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.redis_server import DURABLE, RedisServer, running

from weir import config, folder
from weir.errors import InvalidSetting, StorageFailed

PASSWORD = "p/a:s@s w%rd"


def settings(server: RedisServer, data: Path, password: str) -> config.Settings:
    file = data / "password"
    file.write_text(password)
    return config.load(data=data, redis_url=server.url, redis_password_file=file)


@pytest.mark.needs("redis-server")
def test_the_password_of_redis_comes_from_its_file(tmp_path: Path) -> None:
    with running({**DURABLE, "requirepass": PASSWORD}) as server:
        with folder.stores(settings(server, tmp_path, f"{PASSWORD}\n")) as stores:
            assert stores.log.tail() == 0
        with (
            pytest.raises(StorageFailed) as refused,
            folder.stores(settings(server, tmp_path, "wrong-one")),
        ):
            pass
        assert "wrong-one" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_password_file_that_holds_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    made = config.load(data=tmp_path, redis_url="redis://127.0.0.1:1", redis_password_file=file)
    with pytest.raises(InvalidSetting, match="WEIR_REDIS_PASSWORD_FILE"), folder.stores(made):
        pass


@pytest.mark.parametrize(("durability", "word"), [("full", ""), ("relaxed", "WEIR_SQLITE_DURABILITY")])
def test_sqlite_is_as_durable_as_it_is_told_to_be(tmp_path: Path, durability: str, word: str) -> None:
    with folder.stores(config.load(data=tmp_path, sqlite_durability=durability)) as stores:
        assert word in "".join(stores.durability().relaxed_because)
        assert bool(stores.durability().relaxed_because) is bool(word)
