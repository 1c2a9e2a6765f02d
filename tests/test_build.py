"""BUILD is the graph of the rooms as text: its targets hold the files, its deps are the imports."""

import ast
import collections
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("tf_direct_opt", "examples", "experiments", "benchmarks", "tests")


def glob(patterns, exclude=()):
    def matching(patterns):
        return {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}

    return sorted(matching(patterns) - matching(exclude))


@functools.cache
def read_build():
    """The targets of BUILD, which is Python without imports: rule -> list of arguments."""
    targets = collections.defaultdict(list)
    rules = {
        name: functools.partial(lambda rule, **arguments: targets[rule].append(arguments), name)
        for name in ("py_binary", "py_library", "py_test")
    }
    others = dict.fromkeys(("load", "package", "licenses"), lambda *_, **__: None)
    exec(compile((ROOT / "BUILD").read_text(), "BUILD", "exec"), {"glob": glob, **rules, **others})
    return targets


def rooms():
    """The libraries in BUILD's order: name -> arguments."""
    return {arguments["name"]: arguments for arguments in read_build()["py_library"]}


@functools.cache
def room_of():
    """Python file -> the room that holds it."""
    return {
        path: name
        for name, arguments in rooms().items()
        for path in arguments["srcs"]
        if path.endswith(".py")
    }


def imported_files(path):
    """Files of the project that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, attribute in names:
            candidates = [
                f"{folder}{name.replace('.', '/')}{suffix}"
                for name in (f"{module}.{attribute}", module)
                for folder in ("", *(f"{folder}/" for folder in FOLDERS))
                for suffix in (".py", "/__init__.py")
            ]
            found |= set([file for file in candidates if file in room_of()][:1])
    return found


def test_every_file_is_in_one_room():
    files = glob([f"{folder}/**/*.py" for folder in FOLDERS])
    held = collections.Counter(path for room in rooms().values() for path in room["srcs"])
    assert [path for path in files if held[path] != 1] == [], "add it to a room of BUILD"


@pytest.mark.parametrize("name", rooms())
def test_deps_are_the_rooms_that_its_files_import(name):
    imported = {room_of()[file] for path in rooms()[name]["srcs"] for file in imported_files(path)}
    names = list(rooms())
    package = names.index("tf_direct_opt")
    library = set(names[: package + 1])
    if names.index(name) > package and imported & library:  # Users depend on all of it.
        imported = imported - library | {"tf_direct_opt"}
    assert rooms()[name].get("deps", []) == sorted(f":{room}" for room in imported - {name})


def test_rooms_depend_on_earlier_rooms_only():
    seen = set()
    for name, arguments in rooms().items():
        assert {dep[1:] for dep in arguments.get("deps", [])} <= seen, name
        seen.add(name)


def test_every_program_and_every_test_is_a_target():
    files = glob([f"{folder}/*.py" for folder in ("examples", "experiments", "benchmarks")])
    programs = {path for path in files if "__main__" in (ROOT / path).read_text()}
    assert programs <= {binary["main"] for binary in read_build()["py_binary"]}
    assert [test["args"] for test in read_build()["py_test"]] == [
        [path] for path in glob(["tests/test_*.py"])
    ]


def test_what_comes_before_the_losses_knows_no_keras():
    for name in rooms():
        if name == "losses":
            break
        for path in rooms()[name]["srcs"]:
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                names = [alias.name for alias in getattr(node, "names", ())]
                names.append(getattr(node, "module", None) or "")
                assert "keras" not in {name.partition(".")[0] for name in names}, path
