"""What may never be in a shipped package: anything that turns data into code, or a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("control_service", "sglang_patch", "benchmarks", "proto/turbospec")
# Modules whose readers run code that is in what they read, or that are a way around this list.
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_FUNCTIONS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "pty.spawn",
}
# The one place that runs source: an installed package under its own name, as importing it would.
TORCHVISION = "sglang_patch/cpu/site/torchvision/__init__.py"
ALLOWED = {(TORCHVISION, "exec"), (TORCHVISION, "compile")}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == name), None)


def is_constant(node: ast.expr | None, *values: object) -> bool:
    return isinstance(node, ast.Constant) and any(node.value is value for value in values)


def findings(source: str) -> Iterator[str]:
    """What is forbidden in a source text, by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.split(".")[0] in FORBIDDEN_MODULES:
                yield node.module
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if name in FORBIDDEN_FUNCTIONS)
        elif isinstance(node, ast.Call):
            yield from call_findings(node)


def call_findings(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    if name in FORBIDDEN_CALLS | FORBIDDEN_FUNCTIONS:
        yield name
    # A model's .eval() and re.compile() are attributes of something, not these.
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        yield name
    if keyword(call, "shell") is not None and not is_constant(keyword(call, "shell"), False):
        yield "shell="
    if name in ("torch.load", "np.load", "numpy.load"):
        safe = is_constant(keyword(call, "weights_only"), True) or is_constant(
            keyword(call, "allow_pickle"), False
        )
        if not safe:
            yield name
    if name.endswith("import_module") and call.args and is_constant_in(call.args[0], FORBIDDEN_MODULES):
        yield "import_module"


def is_constant_in(node: ast.expr, names: set[str]) -> bool:
    return isinstance(node, ast.Constant) and node.value in names


def test_no_shipped_module_turns_data_into_code_or_opens_a_shell() -> None:
    files = [path for package in SHIPPED for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = {
        (str(path.relative_to(ROOT)), finding) for path in files for finding in findings(path.read_text())
    }
    assert found - ALLOWED == set()
    assert ALLOWED - found == set(), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    import marshal",
        "eval('1')",
        "exec(code)",
        "__import__('os')",
        "importlib.import_module('pickle')",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.Popen(text, shell=chosen)",
        "os.system('ls')",
        "from os import system",
        "torch.load(path)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_it_would_be_found(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile('x')",
        "yaml.safe_load(text)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(words)",
    ],
)
def test_what_only_looks_like_it_is_not_found(source: str) -> None:
    assert not list(findings(source))
