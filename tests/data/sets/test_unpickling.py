import collections
import io
import pickle
import pickletools
import struct

import numpy as np
import pytest

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.sentiment.unpickling import load_pickle

_VALUES = {
    "float64": np.arange(6.0).reshape(2, 3),
    "order of Fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">i4"),
    "booleans": np.array([True, False]),
    "complex": np.array([1j, 2], np.complex64),
    "bytes": np.array([b"ab", b"c"]),
    "text": np.array([["x", "äé"], ["1", "\U0001f600"]]),
    "objects": np.asfortranarray(np.array([["a", 1], [None, b"x"]], object)),
    "no elements": np.zeros((0, 3)),
    "no dimensions": np.array(3.0),
    "scalars": [np.float64(2.5), np.float32(-np.inf), np.int64(3), np.str_("hé"), np.bytes_(b"q")],
    "containers": [{1, "a"}, frozenset([(1, "b")]), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), []],
    "numbers": [10**40, -5, 70000, 2**33, True, False, None, float("inf"), 1 + 2j],
    "strings": [b"", b"\x00\xff", bytearray(), bytearray(b"xyz"), "", "héllo\n\u4e2d", "'\""],
}


def _assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            _assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tolist() == expected.tolist()
    else:
        assert actual == expected


@pytest.fixture
def load(tmp_path):
    def load(content):
        path = tmp_path / "file.pkl"
        path.write_bytes(content)
        return load_pickle(path)

    return load


@pytest.mark.parametrize("module", ["numpy._core.", "numpy.core."])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_version_of_numpy_is_read(load, protocol, module):
    content = pickle.dumps(_VALUES, protocol)
    old, new = b"numpy._core.", module.encode()
    # Protocols from 4 on write the length of a name before it, and of what follows in a frame.
    for name in (b"multiarray", b"numeric"):
        length = struct.pack("B", len(old + name)), struct.pack("B", len(new + name))
        content = content.replace(length[0] + old + name, length[1] + new + name)
    if protocol < 4:
        content = content.replace(old, new)
    assert module.encode() in content
    _assert_same(load(content), _VALUES)


@pytest.mark.parametrize("protocol", range(6))
def test_large_arrays_are_read_from_the_file(load, protocol):
    array = np.random.default_rng(0).normal(size=(400, 2, 200))
    loaded = load(pickle.dumps({"a": array, "b": [array, array.T]}, protocol))
    _assert_same(loaded, {"a": array, "b": [array, array.T]})
    assert loaded["a"] is loaded["b"][0]
    assert not loaded["a"].flags.writeable
    assert not loaded["a"].flags.owndata


def test_dictionaries_of_all_kinds_become_plain_ones(load):
    ordered, default = collections.OrderedDict(a=1, b=2), collections.defaultdict(list, x=[1])
    for protocol in range(6):
        _assert_same(load(pickle.dumps(ordered, protocol)), {"a": 1, "b": 2})
        _assert_same(load(pickle.dumps(default, protocol)), {"x": [1]})


def test_arrays_of_python_2_are_read(load):
    raw = np.array([1.5, -2.0]).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02K\x00\x85U\x01bt"
        b"Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04(U\x02f8K\x00K\x01tRq\x05(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    text = b"U\x04k\xe9y\n"
    for string in (
        b"U\x10" + raw,
        b"T\x10\x00\x00\x00" + raw,
        b"S" + repr(raw)[1:].encode() + b"\n",
    ):
        loaded = load(b"\x80\x02}" + text + array + string + b"tbs.")
        _assert_same(loaded, {"ké" + "y\n": np.array([1.5, -2.0])})


class _Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def _touch(path):
    """Deed that every hostile pickle below tries to do."""
    open(path, "w").close()


_DTYPE = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00%s\x89\x88tR(K\x03X\x01\x00\x00\x00<%s"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
_NONE = b"NNN"


def _array(dtype, shape, raw, state=_NONE):
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01"
        + shape
        + _DTYPE % (dtype, state)
        + b"\x89"
        + raw
        + b"tb"
    )


def _hostile(sentinel):
    """Pickles by what they do; those that a plain pickle.load obeys leave the file behind."""
    path = str(sentinel)
    shell = f"touch {path}"
    text = pickle.dumps(shell, 0)[:-1].replace(b"p0\n", b"")
    stacked = pickle.dumps(_Call(_touch, path), 4)
    return {
        "os.system": b"cposix\nsystem\n(" + text + b"tR.",
        "builtins.eval": pickle.dumps(_Call(eval, f"open({path!r}, 'w').close()"), 4),
        "builtins.exec of Python 2": b"c__builtin__\nexec\n(" + text + b"tR.",
        "getattr": pickle.dumps(_Call(getattr, {}, "clear"), 2),
        "stack_global": stacked,
        "nested in an array": pickle.dumps(np.array([_Call(_touch, path)], object), 4),
        "nested in a dict": pickle.dumps({"train": [_Call(_touch, path)]}, 5),
        "inst": b"(" + text + b"iposix\nsystem\n.",
        "inst of an admitted name": b"(ibuiltins\nset\n.",
        "obj": b"(cposix\nsystem\n" + text + b"o.",
        "obj of an admitted name": b"(cbuiltins\nset\no.",
        "newobj": b"\x80\x02cposix\nsystem\n" + text + b"\x85\x81.",
        "newobj of an admitted name": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "newobj_ex": b"\x80\x04cnumpy\nndarray\n)}\x92.",
        "another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile_\x93.",
        "numpy.load": b"cnumpy\nload\n(" + text + b"tR.",
        "a call of what is only named": b"cnumpy\nndarray\n(K\x0atR.",
        "build on a function": b"cnumpy\ndtype\n}X\x05\x00\x00\x00alignK\x01sb.",
        "build on a dict": b"}}X\x01\x00\x00\x00aK\x01sb.",
        "build on a finished array": _array(b"f8", b"K\x00\x85", b"C\x00") + b"}b.",
        "a matrix": b"cnumpy\nmatrix\n.",
        "kind of array": b"cnumpy.core.multiarray\n_reconstruct\n"
        + b"(cbuiltins\nset\nK\x00\x85C\x01btR.",
        "dtype with fields": _array(b"f8", b"K\x01\x85", b"C\x08" + b"\0" * 8, b"N(tX\x01\0\0\0a"),
        "dtype of records": _array(b"V8", b"K\x01\x85", b"C\x08" + b"\0" * 8) + b".",
        "dtype of dates": _array(b"M8", b"K\x01\x85", b"C\x08" + b"\0" * 8) + b".",
        "scalar object": b"cnumpy.core.multiarray\nscalar\n("
        + _DTYPE % (b"O8", _NONE)
        + b"C\x08"
        + b"\1" * 8
        + b"tR.",
        "persistent name": b"P" + path.encode() + b"\n.",
        "extension": b"\x80\x02\x82\x01.",
        "buffer from outside": b"\x80\x05\x97.",
        "just a name": b"cnumpy\nndarray\n.",
    }


@pytest.mark.parametrize("name", list(_hostile("x")))
def test_hostile_pickles_are_refused_and_run_nothing(load, tmp_path, name):
    sentinel = tmp_path / "sentinel"
    content = _hostile(sentinel)[name]
    with pytest.raises(DataFileError, match=r"file\.pkl is refused: "):
        load(content)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "stack_global", "inst", "obj"])
def test_the_hostile_pickles_would_do_harm(tmp_path, name):
    sentinel = tmp_path / "sentinel"
    pickle.loads(_hostile(sentinel)[name])
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("os.system", r"posix\.system"),
        ("builtins.eval", r"builtins\.eval"),
        ("inst", r"posix\.system"),
        ("obj", r"posix\.system"),
        ("stack_global", r"\._touch"),
        ("nested in an array", r"\._touch"),
        ("getattr", r"__builtin__\.getattr"),
        ("another codec", r"_codecs\.encode with 'rot13'"),
        ("dtype of dates", "dtype 'M8'"),
    ],
)
def test_a_refusal_names_what_is_asked_for(load, tmp_path, name, requested):
    with pytest.raises(DataFileError, match=requested):
        load(_hostile(tmp_path / "sentinel")[name])


_EIGHT = b"C\x08" + b"\0" * 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_array(b"f8", b"K\x02\x85", _EIGHT), "2 elements of float64 take 16 bytes, got 8"),
        (_array(b"f8", b"J\xff\xff\xff\xff\x85", _EIGHT), "shape of an array"),
        (_array(b"f8", b"X\x01\0\0\0a\x85", _EIGHT), "shape of an array"),
        (_array(b"f8", b"]K\x01a", _EIGHT), "shape of an array"),
        (_array(b"f8", b"K\x00\x8a\x09" + b"\xff" * 8 + b"\x7f\x86", b"C\0"), "byte"),
        (_array(b"f8", b"K\x01\x85", b"]G" + b"\0" * 8 + b"a"), "content of an array is a list"),
        (_array(b"O8", b"K\x01\x85", _EIGHT), "not made of a list"),
        (_array(b"O8", b"K\x02\x85", b"]Na"), "not made of a list"),
        (
            _array(b"O8", b"K\x01\x85", b"]" + _array(b"O8", b"K\x00\x85", b"]") + b"a"),
            "holds an array of objects",
        ),
        (_array(b"U1", b"K\x01\x85", b"C\x04\xff\xff\xff\x7f"), "no character"),
        (b"cnumpy.core.multiarray\nscalar\n(NC\0tR", "dtype of an array is a NoneType"),
        (b"}(]K\x01u", "no key"),
        (b"}(((K\x01tt]u", "no key"),
        (b"}(K\x01u", "shorter"),
        (b"K\x01K\x02a", "list expected, got int"),
        (b"K\x01\x86", "a tuple of 2"),
        (b"h\x05", "used before it is there"),
        (b"cbuiltins\nset\n(K\x01tR", "made of a int"),
        (b"Sabc\n", "quotes"),
        (b"\x80\x07", "protocol 7"),
        (b"(", ""),
        (b"0", ""),
        (b"", ""),
    ],
)
def test_pickles_that_contradict_themselves_are_refused(load, content, message):
    with pytest.raises(DataFileError, match=f"file.pkl is not a whole pickle.*{message}"):
        load(b"\x80\x02" + content + b".")


def test_absurd_lengths_are_refused_before_memory_is_asked_for(load):
    for content in (
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),
        b"\x80\x05\x96" + struct.pack("<Q", (1 << 64) - 1),
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62),
        b"\x80\x02T" + struct.pack("<i", -1),
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 30),
    ):
        with pytest.raises(DataFileError, match="not a whole pickle"):
            load(content + b"abc.")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_anywhere_is_refused(load, protocol):
    content = pickle.dumps({"a": np.arange(3.0), "b": ["text", b"bytes", 1.5, 10**30]}, protocol)
    for end in range(1, len(content) - 1, 7):
        with pytest.raises(DataFileError, match="not a whole pickle"):
            load(content[:end])


def test_files_that_are_no_pickle_are_refused(load, tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    for content in (
        buffer.getvalue(),
        b"<html><body>Not found</body></html>",
        b"\x89HDF\r\n\x1a\n",
    ):
        with pytest.raises(DataFileError, match=r"file\.pkl"):
            load(content)
    with pytest.raises(DataFileError, match="is empty"):
        load(b"")
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "nowhere.pkl")


def test_what_is_nested_without_end_does_no_harm(load):
    assert load(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".") != []
    deep = b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns."
    with pytest.raises(DataFileError, match="no key"):
        load(deep)


def test_every_instruction_is_carried_out_or_refused(load):
    """A new instruction in a later Python is refused until someone thinks about it."""
    from sft_jax.data.sets.sentiment import unpickling

    methods = {name[4:].upper() for name in dir(unpickling._Machine) if name.startswith("_do_")}
    carried_out = methods | unpickling._VALUES | set(unpickling._CONSTANTS) | {"STOP"}
    refused = {opcode.name for opcode in pickletools.opcodes} - carried_out
    assert refused == {
        *("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
        *("NEXT_BUFFER", "READONLY_BUFFER"),
    }
