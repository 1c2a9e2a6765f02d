"""BUILD is the import graph as text: every module is a target, its deps are its imports."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "tf_direct_opt"

# The rooms of the library from the top of the data flow down; imports point to earlier ones.
ROOMS = (
    "types", "perturbation", "files", "solvers", "direct", "labels", "gibbs", "tables",
    "losses", "schedules", "seeds", "metrics", "estimators", "layers", "models", "callbacks",
)  # fmt: skip


def sources():
    """Every Python file of the project, by the name of its target."""
    paths = [ROOT / "conftest.py"]
    for folder in (PACKAGE, "examples", "benchmarks", "tests"):
        paths += sorted((ROOT / folder).rglob("*.py"))
    return {target_of(path): path for path in paths}


def target_of(path):
    path = path.relative_to(ROOT).with_suffix("")
    parts = path.parts[:-1] if path.name == "__init__" else path.parts
    return ".".join(parts)


def imports_of(path, known):
    """Targets that the file imports, at the top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, attribute in names:
            candidates = [
                f"{prefix}{name}"
                for name in (f"{module}.{attribute}", module)
                for prefix in ("", "examples.", "benchmarks.", "tests.")
            ]
            found |= set([name for name in candidates if name in known][:1])
    return found


def targets():
    """The targets of BUILD: name -> (rule, arguments)."""
    result = {}
    for statement in ast.parse((ROOT / "BUILD").read_text()).body:
        call = getattr(statement, "value", None)
        if isinstance(call, ast.Call) and call.func.id.startswith("py_"):
            arguments = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg in ("name", "srcs", "deps")
            }
            assert arguments["name"] not in result
            result[arguments["name"]] = (call.func.id, arguments)
    return result


def test_every_module_is_a_target_and_every_target_a_module():
    assert set(targets()) == set(sources())


def test_sources_are_the_module():
    for name, (rule, arguments) in targets().items():
        path = str(sources()[name].relative_to(ROOT))
        extra = ["tests/run_pytest.py"] if rule == "py_test" else []
        assert sorted(arguments["srcs"]) == sorted([path, *extra]), name
        is_test = path.startswith("tests/test_")
        assert (rule == "py_test") == is_test, name


def test_deps_are_the_imports():
    known = sources()
    for name, (rule, arguments) in targets().items():
        expected = imports_of(known[name], known) - {name}
        if rule == "py_test":
            expected.add("conftest")
        assert sorted(arguments.get("deps", [])) == sorted(f":{dep}" for dep in expected), name


def test_imports_of_the_library_point_down():
    known = sources()
    for name, path in known.items():
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) == 1:
            continue
        room = ROOMS.index(parts[1])
        for imported in imports_of(path, known):
            assert imported.split(".")[0] == PACKAGE, (name, imported)
            assert ROOMS.index(imported.split(".")[1]) <= room, (name, imported)


def test_the_core_knows_no_keras():
    for room in ROOMS[: ROOMS.index("losses") + 1]:
        for name, path in sources().items():
            if name.startswith(f"{PACKAGE}.{room}"):
                assert "keras" not in path.read_text().replace("No Keras", ""), name
