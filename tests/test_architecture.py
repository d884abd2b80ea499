"""What the folders promise: who imports whom, short files and functions, purity, docstrings that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rljax", "agents", "envs", "experiments")

# A module of the core imports only from the lines above its own.
CORE = (
    ("alias", "base"),
    ("config", "mdp", "statistics"),
    ("data",),
    ("heads", "normalize", "optim", "replay", "store", "horizon", "transfer"),
    ("nets",),
    ("losses", "ssm"),
    ("actor_critic", "evaluate", "loops", "world_model"),
    ("conservative",),
)
LEVEL = {f"rljax.{name}": level for level, names in enumerate(CORE) for name in names}
LIBRARIES = {"jax", "flax", "optax", "distrax", "chex", "numpy"}
EXTRA_LIBRARIES = {
    "rljax.statistics": {"scipy"},
    "rljax.store": {"orbax", "tensorstore"},
    "rljax.data": {"h5py", "minari", "gymnasium"},
    "rljax.horizon": {"scipy"},
}
FILES = {"io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib"}
CONTAINERS = {"Counter", "OrderedDict", "bytearray", "defaultdict", "deque", "dict", "list", "set"}
RUNS = (ast.Expr, ast.For, ast.While, ast.With, ast.Try, ast.AugAssign, ast.Delete)
MAY_TOUCH_FILES = ("rljax", "rljax.store", "rljax.data")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "rljax" else ("rljax", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def group(name: str) -> str:
    """The folder a module lies in; for the core, the module itself, and its package for modules of a subfolder."""
    part = name.split(".")[1] if "." in name else ""
    return part if part in FOLDERS else ".".join(name.split(".")[:2])


def of(*folders: str) -> list[str]:
    """Names of the modules in ``folders``."""
    return [name for name, path in PATHS.items() if path.relative_to(ROOT).parts[0] in folders]


def imports(name: str) -> set[str]:
    """Names of all modules that ``name`` imports, also inside functions; ours by their full name."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: write the import with its full name"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {f if f in PATHS else str(node.module) for f in full}
    return found - {"__future__"}


def lines_of(node: ast.FunctionDef) -> int:
    """Number of lines of a function without its docstring."""
    has_docstring = ast.get_docstring(node) is not None
    docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if has_docstring else 0
    return node.end_lineno - node.lineno + 1 - docstring


def words(name: str) -> set[str]:
    """All names and dotted names in a module's code, and the keywords of its calls but ``allow_pickle=False``."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Name | ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.keyword) and ast.unparse(node) != "allow_pickle=False":
            found.add(str(node.arg))
    return found | imports(name)


def top_level(tree: ast.Module) -> list[ast.stmt]:
    """Statements outside functions and classes."""
    nodes, found = list(tree.body), []
    while nodes:
        found.append(node := nodes.pop())
        nodes += [*node.body, *node.orelse] if isinstance(node, ast.If) else []
    return found


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in CONTAINERS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


@pytest.mark.parametrize("name", sorted(set(of("rljax")) - {"rljax"}))
def test_core_imports_from_below(name):
    assert group(name) in LEVEL, f"say in CORE on which level {group(name)} lies"
    ours = {i for i in imports(name) if i.partition(".")[0] == "rljax"}
    wrong = {i for i in ours if group(i) != group(name) and LEVEL.get(group(i), len(CORE)) >= LEVEL[group(name)]}
    assert not wrong


def test_package_itself_imports_only_experiments():
    assert {i for i in imports("rljax") if i.startswith("rljax")} == {"rljax.experiments.setup", "rljax.experiments.train"}


@pytest.mark.parametrize("name", of("rljax", "agents"))
def test_core_and_agents_import_few_libraries(name):
    roots = {i.partition(".")[0] for i in imports(name)} - {"rljax"}
    assert roots - sys.stdlib_module_names <= LIBRARIES | EXTRA_LIBRARIES.get(group(name), set())


@pytest.mark.parametrize("name", of("agents", "envs"))
def test_agents_and_envs_import_the_core_and_not_each_other(name):
    ours = {i for i in imports(name) if i.startswith("rljax.")}
    own = "envs" if group(name) == "envs" else None  # an adapter may use its neighbours, an agent may not
    assert not {i for i in ours if group(i) in FOLDERS and group(i) != own}


@pytest.mark.parametrize("name", of("rljax", "agents"))
def test_core_and_agents_touch_no_files(name):
    if group(name) not in MAY_TOUCH_FILES:
        assert not {i.partition(".")[0] for i in imports(name)} & FILES
        assert "open" not in words(name)


@pytest.mark.parametrize("name", PATHS)
def test_forbidden_words(name):
    used = words(name)
    assert not {word for word in used if word.endswith("PRNGKey")}, "use jax.random.key"
    assert not {word for word in used if "pickle" in word}, "a file must not be able to run code"
    if group(name) != "experiments":
        assert "print" not in used and "jax.debug.print" not in used, "only experiments print"
        assert not used & {"os.environ", "os.getenv", "environ", "getenv"}, "pass an argument instead"


@pytest.mark.parametrize("name", PATHS)
def test_modules_hold_no_state_and_run_nothing(name):
    for node in top_level(TREES[name]):
        if isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" not in ast.unparse(node):
            assert not is_mutable(node.value), f"line {node.lineno}: use a tuple, a MappingProxyType or a function"
            assert "jnp." not in ast.unparse(node), f"line {node.lineno}: this starts a device on import"
    for node in TREES[name].body:
        value = node.value if isinstance(node, ast.Expr) else None
        documents = isinstance(value, ast.Constant)
        derives = isinstance(value, ast.Call) and ast.unparse(value.func).endswith((".defjvps", ".defvjp"))
        assert documents or derives or not isinstance(node, RUNS), f"line {node.lineno} runs on import"
    assert not [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("name", of("agents"))
def test_agents_are_short(name):
    assert len(PATHS[name].read_text().splitlines()) <= 210


@pytest.mark.parametrize("name", PATHS)
def test_functions_are_short(name):
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef)]
    assert not {f.name: lines_of(f) for f in functions if lines_of(f) > 40}


@pytest.mark.parametrize("name", PATHS)
def test_docstring_is_there_and_its_examples_run(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("name", TREES)
def test_no_data_are_run(name):
    """No module unpickles, evaluates text or starts a shell; only a study, which is a program, is run."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = {a.name.partition(".")[0] for a in node.names} | {getattr(node, "module", None) or ""}
            assert not imported & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, ast.unparse(node)
            assert "runpy" not in imported or name == "rljax.experiments.sweep"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "os.system", "os.popen", "__import__"}, ast.unparse(node)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("shell", "False") == "False"
            assert called != "np.load" or given.get("allow_pickle") == "False", ast.unparse(node)
