"""The names of `detection`: each is there, none costs anything before it is used, and type checkers know them all."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import detection

ROOT = Path(__file__).parents[1]


def _imports(path):
    """Names imported from the package, and where from, by the imports of a file."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    found = [(alias.name, node.module) for node in nodes for alias in node.names]
    return [(name, module) for name, module in found if module.split(".")[0] == "detection"]


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_what_type_checkers_import():
    imports = _imports(Path(detection.__file__))
    assert sorted(name for name, _ in imports) == sorted(detection.__all__)
    for name, module in imports:
        assert getattr(detection, name) is getattr(importlib.import_module(module), name)
        assert getattr(detection, name).__name__ == name and not inspect.ismodule(getattr(detection, name))
    assert set(dir(detection)) >= set(detection.__all__)


def test_names_are_imported_when_they_are_used():
    imported = "sorted(m for m in sys.modules if m.split('.')[0] in ('detection', 'numpy', 'torch'))"
    assert _run(f"import sys, detection; print({imported})") == "['detection']\n"
    light = ["detection", "detection.errors", "detection.names", "detection.system_errors"]
    assert _run(f"import sys; from detection import UserError; print({imported})") == f"{light}\n"


def test_no_public_name_is_a_module_s():
    """Which an import of that module would put in its place."""
    assert not set(detection.__all__) & {path.stem for path in Path(detection.__file__).parent.iterdir()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'detection' has no attribute 'FasterRCNN'"):
        _ = detection.FasterRCNN
    with pytest.raises(ImportError, match="FasterRCNN"):
        from detection import FasterRCNN  # noqa: F401


USAGES = ROOT / "tests" / "usages.py"
NAMES = ["__version__", *detection.__all__]


@pytest.fixture(scope="module")
def diagnostics(tmp_path_factory):
    """What pyright finds in `USAGES` and in a file that asks for the type of each name, as (severity, message)."""
    pytest.importorskip("pyright")
    asking = tmp_path_factory.mktemp("pyright") / "names.py"
    asking.write_text("\n".join(["import detection", *(f"reveal_type(detection.{name})" for name in NAMES)]))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", USAGES, asking]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 2
    by_file = {USAGES.name: [], asking.name: []}
    for diagnostic in found["generalDiagnostics"]:
        by_file[Path(diagnostic["file"]).name].append((diagnostic["severity"], diagnostic["message"]))
    return by_file


def test_usages_have_the_types_that_they_assert(diagnostics):
    assert diagnostics["usages.py"] == []
    assert {name for name, module in _imports(USAGES) if module == "detection"} == set(detection.__all__)


def test_no_public_name_is_any(diagnostics):
    revealed = diagnostics["names.py"]
    assert [severity for severity, _ in revealed] == ["information"] * len(NAMES)
    for name, (_, message) in zip(NAMES, revealed, strict=True):
        kind = message.removeprefix(f'Type of "detection.{name}" is ').strip('"')
        returned = kind.rpartition("-> ")[2]
        assert kind != message and returned not in ("Any", "Unknown", "Module"), message
