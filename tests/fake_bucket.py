"""A bucket whose objects are those of a dictionary, for all that epath reads and writes."""

import sys
from typing import ClassVar

import fsspec
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Objects with names: no folders, nothing added to an object, nothing renamed."""

    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    protocol = "gcs"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def open(self, path, mode="rb", **options):
        assert mode in ("r", "rb", "w", "wb", "xb")
        if mode == "xb" and self.exists(path):
            raise FileExistsError(path)
        if mode[0] in "wx" and "locked" in path:
            raise RuntimeError("403: Forbidden")
        return super().open(path, mode, **options)

    def mkdir(self, path, create_parents=True, **options):
        pass

    def mv(self, *args, **options):
        raise NotImplementedError


def install(monkeypatch):
    """Empties the bucket, and lets epath take it for that of the storage service.

    TensorStore, which reads and writes the arrays of checkpoints, does not see it.

    Returns:
      Path of the bucket, without any object.
    """
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setitem(sys.modules, "gcsfs", fsspec)  # To be found, and not used.
    return epath.Path("gs://bucket")
