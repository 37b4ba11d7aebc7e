"""What the store of a process group makes of empty texts: they stand for names it does not have."""

from datetime import timedelta

import pytest
import torch.distributed as dist


def file_store(folder):
    return dist.FileStore(str(folder / "store"), 1)


def tcp_store(folder):
    return dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))


def hash_store(folder):
    return dist.HashStore()


@pytest.mark.parametrize("make", [file_store, hash_store, tcp_store])
def test_asking_with_empty_texts_reads_and_never_takes_a_name(tmp_path, make):
    store = dist.PrefixStore("group", make(tmp_path))
    assert store.compare_set("name", "", "") == b""
    assert store.compare_set("name", "", "") == b""
    assert store.compare_set("name", "", "first") == b"first"
    assert store.compare_set("name", "", "") == b"first"
    assert store.compare_set("name", "", "second") == b"first"
    store.set("name", "third")
    assert store.compare_set("name", "", "") == b"third"
