"""The rules of style in CONTRIBUTING.md that a program can check."""

import ast
import io
import pathlib
import re
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = sorted([*ROOT.glob("sft_jax/**/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("*.py")])
FILES = sorted([*PACKAGE, *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("tests/**/*.py")])
MAX_FUNCTION = 60  # Lines of code: without docstring, comments and blank lines.
MAX_FILE = 400
MAX_WORDS = 25  # Of a sentence.
# What ends a sentence or a paragraph: tables, lists and lines of `Args:` stand for themselves.
_PARAGRAPH = re.compile(r"\n\s*\n|\n\s*(?=[-*|>0-9])|\n(?=\s*\*{0,2}\w+:)|:\n")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
BARE = re.compile(r"^(What|Which|As|How|That|Whether)\b")
ODD = re.compile(r"\b(but for|as for|of which)\b", re.IGNORECASE)


def _place(path, node):
    return f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"


def _nodes(paths):
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def _functions(paths):
    for path, node in _nodes(paths):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield path, node


def _docstrings(paths):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path, node in _nodes(paths):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield path, node, text


def _lines_of_code(path, node):
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    first = node.body[0]
    docstring = range(first.lineno, first.end_lineno + 1) if ast.get_docstring(node) else range(0)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len([n for n in lines if node.lineno <= n <= node.end_lineno and n not in docstring])


def test_no_variable_is_named_after_a_preposition():
    named = []
    for path, node in _nodes(FILES):
        names = [
            getattr(node, "id", None),
            getattr(node, "arg", None) if isinstance(node, ast.arg) else None,
            getattr(node, "attr", None),
        ]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name.lstrip("_"))
        named += [
            f"{_place(path, node)}: {name}"
            for name in names
            if name and (name.lstrip("_") == "of" or name.lstrip("_").startswith("of_"))
        ]
    assert named == []


def test_docstrings_begin_with_a_verb_or_a_noun():
    bare = [
        f"{_place(path, node)}: {text.splitlines()[0]}"
        for path, node, text in _docstrings(FILES)
        if BARE.match(text)
    ]
    assert bare == []


def test_docstrings_and_comments_are_in_plain_english():
    odd = []
    for path in FILES:
        if path.name == pathlib.Path(__file__).name:
            continue
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING) and (
                m := ODD.search(token.string)
            ):
                odd.append(f"{path.relative_to(ROOT).as_posix()}:{token.start[0]}: {m.group()}")
    assert odd == []


def test_sentences_are_short():
    long = [
        f"{_place(path, node)}: {words} words: {sentence[:60]}"
        for path, node, text in _docstrings(FILES)
        for paragraph in _PARAGRAPH.split(text)
        if not paragraph.lstrip().startswith("|")
        for sentence in _SENTENCE.split(paragraph)
        if (words := sum(bool(re.search(r"\w", word)) for word in sentence.split())) > MAX_WORDS
    ]
    assert long == []


def test_functions_fit_on_a_screen():
    long = [
        f"{_place(path, node)}: {node.name}: {count}"
        for path, node in _functions(PACKAGE)
        if node.end_lineno - node.lineno > MAX_FUNCTION
        and (count := _lines_of_code(path, node)) > MAX_FUNCTION
    ]
    assert long == []


def test_files_have_one_purpose():
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in PACKAGE
        if (count := len(path.read_text().splitlines())) > MAX_FILE
    }
    assert long == {}
