"""Activation stores: immutable directories of captured rows; the layout is in `format.md`."""

from interp.store.manage import remove_store, store_info, write_store
from interp.store.manifest import Manifest, find_stores
from interp.store.merge import merge_stores
from interp.store.reader import ShuffledReader
from interp.store.statistics import Statistics
from interp.store.store import ActivationStore, open_store
from interp.store.verify import Problem

__all__ = [
    "ActivationStore",
    "Manifest",
    "Problem",
    "ShuffledReader",
    "Statistics",
    "find_stores",
    "merge_stores",
    "open_store",
    "remove_store",
    "store_info",
    "write_store",
]
